"""Is a model robust, or does it only hide its gradient? The signs of gradient masking (Athalye et
al., arXiv 1802.00420; Carlini et al., arXiv 1902.06705; Pintor et al., arXiv 2106.09947), each
tried on the model at hand.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from workbench.attacks.autoattack import autoattack
from workbench.attacks.black_box import random_search
from workbench.attacks.in_pixels import InPixels, losses, margins
from workbench.attacks.pixels import AttackConfig, Attacked, attack, pixel_ball
from workbench.attacks.projected_gradient import random_direction

TOLERANCE = 0.02
"""Share of the images by which one accuracy may exceed another before it counts as larger."""

NOISE = 5
"""Random perturbations of each image; the worst counts."""


@dataclass(frozen=True)
class Check:
    """One sign of masking: `passed` when it is absent, and on what evidence, as a sentence and as
    numbers."""

    name: str
    passed: bool
    evidence: str
    numbers: dict[str, Any]


@dataclass(frozen=True)
class Verdict:
    """All checks of one model.

    Attributes:
        checks: in the order in which they were made.
        attack: the settings of the attack that they are about.
        notes: what was done to the model.
    """

    checks: tuple[Check, ...]
    attack: dict[str, Any]
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether no sign of masking was found."""
        return all(check.passed for check in self.checks)

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the checks that did not pass."""
        return tuple(check.name for check in self.checks if not check.passed)

    def as_dict(self) -> dict[str, Any]:
        """The same in lists, numbers and text, for JSON."""
        return {"passed": self.passed, **asdict(self), "notes": list(self.notes)}


def checklist(
    model: nn.Module,
    x: Tensor,
    labels: Tensor | Sequence[int],
    config: AttackConfig | None = None,
    queries: int = 200,
) -> Verdict:
    """Try all signs of gradient masking, on the images that the model classifies correctly.

    The attack in question is pgd on the whole image with the distance, norm, loss, steps, restarts
    and seed of `config`, whatever its kind, and without targets, which could hide that the gradient
    of the loss is masked. Costs about 7 * steps gradients and `queries` (twice as many with
    pyautoattack) forward passes of every image.

    Args:
        x: (b, 3, h, w) in [0, 1]. labels: (b,), classes.

    Raises:
        ValueError: for what `attack` refuses, a distance of 0, or no image classified correctly.
    """
    config = replace(config or AttackConfig(), kind="pgd", targets=0)
    if config.eps == 0:
        raise ValueError("the checks need an attack with a distance above 0")
    model = model if isinstance(model, InPixels) else InPixels(model)
    images = len(x)
    clean = attack(model, x, labels, replace(config, kind="fgsm", eps_255=0, eps_pixels=None))
    right = clean.value >= 0
    if not right.any():
        raise ValueError("the model classifies none of these images correctly; give others")
    x, labels = clean.x[right], torch.as_tensor(labels, device=right.device)[right]
    trial = _Trial(model, x, labels, config, queries)
    checks = (
        Check(
            "correct images alone",
            True,
            f"{len(x)} of {images} images are classified correctly, and all numbers are of these",
            {"images": images, "correct": len(x)},
        ),
        *(check(trial) for check in CHECKS),
    )
    return Verdict(checks, {**asdict(config), "eps": config.eps, "queries": queries}, model.notes)


class _Trial:
    """The model, its correct images, and the attack in question."""

    def __init__(
        self, model: InPixels, x: Tensor, labels: Tensor, config: AttackConfig, queries: int
    ) -> None:
        self.model, self.x, self.labels = model, x, labels
        self.config, self.queries = config, queries
        self.main = self.attacked()

    def attacked(self, eps: float | None = None, **changes: Any) -> Attacked:
        if eps is not None:
            changes |= {"eps_255": None, "eps_pixels": eps}
        return attack(self.model, self.x, self.labels, replace(self.config, **changes))

    def ball(self):
        return pixel_ball(self.x, self.config.eps, self.config.norm)

    def margins(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return margins(self.model(x), self.labels)


def _accuracy(success: Tensor) -> float:
    return 1 - success.double().mean().item()


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def iterative(trial: _Trial) -> Check:
    one = trial.attacked(kind="fgsm")
    lost = (one.success & ~trial.main.success).double().mean().item()
    single, many = _accuracy(one.success), _accuracy(trial.main.success)
    falls = [attacked.value.mean().item() for attacked in (one, trial.main)]
    return Check(
        "many steps beat one",
        lost <= TOLERANCE and falls[1] <= falls[0],
        f"accuracy is {_percent(single)} after one step (mean margin {falls[0]:.3g}) and "
        f"{_percent(many)} after {trial.config.steps} (mean margin {falls[1]:.3g})",
        {"one": single, "many": many, "one_margin": falls[0], "many_margin": falls[1]},
    )


def unbounded(trial: _Trial) -> Check:
    grey = 128 / 255 * (1 if trial.config.norm == "linf" else trial.x[0].numel() ** 0.5)
    eps = max(grey, trial.config.eps)
    left = _accuracy(trial.attacked(eps).success)
    return Check(
        "a large distance leaves nothing",
        left == 0,
        f"accuracy is {_percent(left)} at a distance of {255 * eps:.4g}/255",
        {"eps_255": 255 * eps, "accuracy": left},
    )


def monotone_in_distance(trial: _Trial) -> Check:
    eps = trial.config.eps
    most = 1.0 if trial.config.norm == "linf" else 2 * eps
    at = [eps / 2, eps, min(2 * eps, most)]
    found = [trial.attacked(at[0]), trial.main, trial.attacked(at[2])]
    accuracies = [_accuracy(attacked.success) for attacked in found]
    return Check(
        "more distance, less accuracy",
        _falls(accuracies),
        f"accuracy is {_list(accuracies)} at {', '.join(f'{255 * e:.3g}' for e in at)}/255",
        {"eps_255": [255 * e for e in at], "accuracy": accuracies},
    )


def monotone_in_steps(trial: _Trial) -> Check:
    steps = trial.config.steps
    at = [max(1, steps // 4), steps, 2 * steps]
    found = [trial.attacked(steps=at[0]), trial.main, trial.attacked(steps=at[2])]
    accuracies = [_accuracy(attacked.success) for attacked in found]
    return Check(
        "more steps, no more accuracy",
        _falls(accuracies),
        f"accuracy is {_list(accuracies)} after {', '.join(map(str, at))} steps",
        {"steps": at, "accuracy": accuracies},
    )


def beats_noise(trial: _Trial) -> Check:
    draws = [
        trial.margins(trial.x + random_direction([trial.ball()], trial.config.seed + k)[0])
        for k in range(NOISE)
    ]
    noise = torch.stack(draws).amin(dim=0)
    lost = ((noise < 0) & ~trial.main.success).double().mean().item()
    after = (noise, trial.main.value)
    by_noise, by_gradient = ((trial.main.clean - value).mean().item() for value in after)
    return Check(
        "the gradient beats noise",
        lost <= TOLERANCE and by_gradient > 2 * max(by_noise, 0),
        f"the worst of {NOISE} random perturbations lowers the mean margin by {by_noise:.3g}, the "
        f"attack by {by_gradient:.3g}",
        {"noise": by_noise, "attack": by_gradient, "noise_accuracy": _accuracy(noise < 0)},
    )


def beats_black_box(trial: _Trial) -> Check:
    config = trial.config
    _, found = random_search(
        trial.model, trial.x, trial.labels, trial.ball(), trial.queries, config.seed
    )
    broken, how = found < 0, "random search"
    try:
        changed, _ = autoattack(
            trial.model,
            trial.x,
            trial.labels,
            config.eps,
            config.norm,
            config.seed,
            ["square"],
            trial.queries,
        )
        broken, how = broken | (trial.margins(changed) < 0), "random search and Square"
    except ImportError:
        pass
    lost = (broken & ~trial.main.success).double().mean().item()
    black, white = found.mean().item(), trial.main.value.mean().item()
    return Check(
        "the gradient beats a black box",
        lost <= TOLERANCE and white <= black,
        f"{how} of {trial.queries} queries breaks {_percent(lost)} of the images that the attack "
        f"does not; mean margins are {black:.3g} after random search and {white:.3g} after the "
        "attack",
        {"lost": lost, "black_margin": black, "white_margin": white, "black_box": how},
    )


def levelled_off(trial: _Trial) -> Check:
    history = trial.main.history
    best = history.cummax(dim=1).values.mean(dim=(0, 2))
    tail = max(1, round(0.1 * trial.config.steps))
    whole = (best[-1] - best[0]).item()
    name = "the loss has levelled off"
    if not whole > 0:
        return Check(name, False, "the loss does not rise at all", {"share": None, "rise": 0.0})
    share = (best[-1] - best[-1 - tail]).item() / whole
    return Check(
        name,
        share <= 0.05,
        f"{_percent(share)} of the rise of the loss comes in the last {tail} of "
        f"{trial.config.steps} steps",
        {"share": share, "rise": whole},
    )


def gradients_exist(trial: _Trial) -> Check:
    share = trial.main.zero_gradients
    mean, none = share.double().mean().item(), int((share == 1).sum())
    return Check(
        "gradients are not zero",
        mean <= 0.1 and none == 0,
        f"{_percent(mean)} of the gradient's entries are zero or not finite, and {none} images "
        "have no gradient at all",
        {"share": mean, "without": none},
    )


def precision(trial: _Trial) -> Check:
    with torch.no_grad():
        logits = trial.model.model(trial.model.normalised(trial.x[:1])).dtype
    used = {logits, *(p.dtype for p in trial.model.parameters() if p.is_floating_point())}
    names = sorted(str(dtype).removeprefix("torch.") for dtype in used)
    return Check(
        "single precision",
        used <= {torch.float32, torch.float64},
        f"weights and logits are {' and '.join(names)}",
        {"dtypes": names},
    )


def evaluation_mode(trial: _Trial) -> Check:
    x = trial.x[: min(4, len(trial.x))]
    with torch.no_grad():
        first, again = trial.model(x), trial.model(x)
        alone = torch.cat([trial.model(image[None]) for image in x])
    spread = first.std().item()
    random, neighbours = ((first - other).abs().max().item() for other in (again, alone))
    return Check(
        "evaluation mode",
        max(random, neighbours) <= 1e-3 * spread,
        f"the same images give logits that differ by {random:.2g}, and by {neighbours:.2g} without "
        f"the rest of the batch, where logits spread by {spread:.2g}",
        {"repeated": random, "alone": neighbours, "spread": spread},
    )


def in_range(trial: _Trial) -> Check:
    found = trial.main.x
    low, high = found.min().item(), found.max().item()
    change = (found.double() - trial.x.double()).flatten(1)
    order = torch.inf if trial.config.norm == "linf" else 2
    farthest = change.norm(p=order, dim=1).max().item()
    return Check(
        "inside ball and pixels",
        low >= 0 and high <= 1 and farthest <= trial.config.eps,
        f"pixels lie between {low:.3g} and {high:.3g}, at most {255 * farthest:.4g}/255 from the "
        f"image where {255 * trial.config.eps:.4g}/255 are allowed",
        {"low": low, "high": high, "distance_255": 255 * farthest},
    )


def best_of_restarts(trial: _Trial) -> Check:
    with torch.no_grad():
        found = losses(trial.model(trial.main.x), trial.labels, trial.config.loss)
    reached = trial.main.history.amax(dim=(0, 1))
    gap = ((reached - found) / reached.abs().clamp_min(1)).max().item()
    return Check(
        "the worst restart of each image",
        gap <= 1e-2,
        f"over {trial.config.restarts} restarts no image reached a loss higher than reported by "
        f"more than {_percent(max(gap, 0))}",
        {"gap": gap},
    )


CHECKS: tuple[Callable[[_Trial], Check], ...] = (
    iterative,
    unbounded,
    monotone_in_distance,
    monotone_in_steps,
    beats_noise,
    beats_black_box,
    levelled_off,
    gradients_exist,
    precision,
    evaluation_mode,
    in_range,
    best_of_restarts,
)


def _falls(accuracies: Sequence[float]) -> bool:
    return all(later <= earlier + TOLERANCE for earlier, later in pairwise(accuracies))


def _list(shares: Sequence[float]) -> str:
    return ", ".join(_percent(share) for share in shares)
