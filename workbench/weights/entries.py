"""Which of the dictionaries in a checkpoint is the weights."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from workbench.files import printable

ENTRIES = ("model", "state_dict", "model_ema", "state_dict_ema", "module")
"""Usual names, the first best."""

_DEEPEST = 4


def dictionaries(content: Mapping, path: str = "", depth: int = 0) -> dict[str, dict[str, Tensor]]:
    """The dictionaries with tensors by name, by their keys joined by dots; "" for the whole."""
    own = {k: v for k, v in content.items() if isinstance(k, str) and isinstance(v, Tensor)}
    found = {path: own} if own else {}
    for key, value in content.items():
        if isinstance(key, str) and isinstance(value, Mapping) and depth < _DEEPEST:
            inner = f"{path}.{key}" if path else key
            found |= dictionaries(value, inner, depth + 1)
    return found


def choose(
    file: str, content: Mapping[Any, Any], entry: str | None
) -> tuple[str | None, dict[str, Tensor], list[str]]:
    """The entry that is meant, its tensors, and all there are.

    Args:
        entry: its keys joined by dots, or a word that names in an entry begin with; None for the
            first of `ENTRIES` that is there, else the only one that is not much smaller than
            another.

    Raises:
        ValueError: when there is none, or several could be meant.
    """
    found = dictionaries(content)
    names = [name for name in found if name]
    listed = (
        f"it has {', '.join(printable(n, 60) for n in names[:20])}"
        if names
        else ("it has no entries")
    )
    if entry is not None:
        if entry in found:
            return entry, found[entry], names
        for tensors in found.values():
            if inner := {k: v for k, v in tensors.items() if k.startswith(f"{entry}.")}:
                return entry, inner, names
        raise ValueError(f"{file} has no weights under {printable(entry, 60)!r}: {listed}")
    if not found:
        raise ValueError(f"{file} has no tensors in it")
    # optimisers, metrics and losses have dictionaries too, of few tensors
    largest = max(map(len, found.values()))
    full = {name: tensors for name, tensors in found.items() if 2 * len(tensors) >= largest}
    usual = [n for wanted in ENTRIES for n in full if n.rpartition(".")[2] == wanted]
    only = [""] if "" in full else list(full) if len(full) == 1 else []
    choice = next(iter([*usual, *only]), None)
    if choice is None:
        raise ValueError(
            f"{file} has several dictionaries that could be the weights: {listed}, name one with "
            "entry= (--entry)"
        )
    return choice or None, found[choice], names
