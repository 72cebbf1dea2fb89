"""Where in a state dict a model's weights lie: under which prefix, beside what else.

Wrappers (Lightning, torch.compile, FSDP, EMA, a detector) put words before every name. Which ones
is not known, but where they end is: there the names of the model begin.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from workbench.files import printable

_DEEPEST = 12
"""Words of a name that may belong to wrappers."""


@dataclass(frozen=True)
class Match:
    """The part of a state dict that is a model's.

    state: its tensors, under the model's names.
    left_out: names of what is not its own.
    notes: what to say of that.
    """

    state: dict[str, Tensor]
    left_out: list[str]
    notes: list[str]


def match(
    state: Mapping[str, Tensor],
    target: Mapping[str, Tensor],
    translate: Callable[[dict[str, Tensor]], dict[str, Tensor]],
) -> Match:
    """Find the weights of the model whose state dict is `target`.

    Args:
        translate: from older names of a family to those of the model.
    """
    found: list[tuple[tuple[int, int], str, dict[str, Tensor]]] = []
    for prefix, inner in parts(state, len(target) // 2):
        plain = _without_wrappers(inner, target)
        for tensors in (inner, plain, translate(plain)):
            fitting = sum(_fits(key, value, target) for key, value in tensors.items())
            strange = sum(key not in target for key in tensors)
            if fitting:
                found.append(((fitting, -strange), prefix, tensors))
    most = max((entry[0] for entry in found), default=None)
    best = [entry for entry in found if entry[0] == most]
    if not best:
        return Match(translate(dict(state)), [], [])
    _, prefix, own = best[0]
    outside = [key for key in state if not key.startswith(prefix)]
    # a part that was put on outside the wrapper, such as a classifier on a backbone
    added = {k: state[k] for k in outside if k not in own and _fits(k, state[k], target)}
    counters = [k for k, v in own.items() if k not in target and v.numel() <= 1]
    own = {key: value for key, value in {**own, **added}.items() if key not in counters}
    left_out = [key for key in outside if key not in added] + counters
    notes = []
    others = [p for _, p, _ in best[1:] if not (p.startswith(prefix) or prefix.startswith(p))]
    if others:
        alike = ", ".join(dict.fromkeys(printable(p.rstrip("."), 60) for p in (prefix, *others)))
        notes.append(
            f"the file has the model's weights several times ({alike}): the first is taken"
        )
    if left_out:
        shown = ", ".join(printable(key, 60) for key in left_out[:3])
        more = ", ..." if len(left_out) > 3 else ""
        notes.append(f"{len(left_out)} tensors beside the model's are left out ({shown}{more})")
    return Match(own, left_out, notes)


def parts(state: Mapping[str, Tensor], least: int = 0) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """What lies under each prefix with at least so many names, under names without it; shortest
    prefixes first.
    """
    counts: Counter[str] = Counter()
    for name in state:
        words = name[:1000].split(".", _DEEPEST)[:-1]
        counts.update("".join(f"{word}." for word in words[:i]) for i in range(len(words) + 1))
    for prefix in sorted(counts, key=len):
        if counts[prefix] >= least:
            yield prefix, {k.removeprefix(prefix): state[k] for k in state if k.startswith(prefix)}


def _without_wrappers(state: Mapping[str, Tensor], target: Iterable[str]) -> dict[str, Tensor]:
    """Wrappers of parts of a model add private words (`_orig_mod`, `_fsdp_wrapped_module`) inside
    its names.
    """
    known = {word for name in target for word in name.split(".")}
    plain = {}
    for name, value in state.items():
        words = [w for w in name.split(".") if not w.startswith("_") or w in known]
        plain[".".join(words)] = value
    return plain if len(plain) == len(state) else dict(state)


def _fits(name: str, value: Tensor, target: Mapping[str, Tensor]) -> bool:
    return name in target and value.shape == target[name].shape
