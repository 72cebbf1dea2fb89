"""Attacks on images in [0, 1]: the smallest margin within a distance of every image."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from workbench.attacks.autoattack import autoattack
from workbench.attacks.band import BANDS, band_filter, outside
from workbench.attacks.in_pixels import LOSSES, InPixels, losses, margins, towards
from workbench.attacks.patch import PLACES, patch_mask
from workbench.attacks.projected_gradient import NORMS, Ball, projected_gradient

KINDS = ("fgsm", "pgd", "autoattack", "patch", "band")


@dataclass(frozen=True)
class AttackConfig:
    """How images are attacked.

    The distance is given in one of two units, never in normalised values. Gradient steps start at a
    random point of the ball.

    Attributes:
        kind: fgsm (one step from the image), pgd, autoattack, patch (pgd in a few squares) or band
            (pgd in a frequency band).
        eps_255: the distance in units of 1 / 255. By default 4 in linf, 128 in l2, and for patch in
            linf 255, which is no bound but black and white.
        eps_pixels: the same in units of pixels in [0, 1].
        norm: of the distance, linf (every pixel and colour) or l2 (the whole image).
        steps: of pgd, patch and band.
        step_size: length of these steps relative to the distance, such as the usual 2.5 / steps; by
            default they shrink evenly from 1, which finds more.
        restarts: random starts; the worst for each image counts.
        targets: images that withstand all of this are driven to so many other classes in turn, the
            likeliest first, until one is reached (MultiTargeted, Gowal et al., arXiv 1910.09338).
            Not for fgsm and autoattack.
        loss: what is raised: margin (minus the label's logit plus the largest other, which does not
            saturate) or cross-entropy.
        seed: of every random draw.
        patch: where the squares lie: first, middle or last on the way of a scan, centre, random or
            gradient.
        patch_side: of a square, in pixels.
        patches: how many squares.
        patch_scan: the scan direction that first, middle and last follow, as a pattern of names.
        band: low, mid or high.
        band_cuts: the frequencies between the bands; 1 is the highest along an axis.
    """

    kind: str = "pgd"
    eps_255: float | None = None
    eps_pixels: float | None = None
    norm: str = "linf"
    steps: int = 20
    step_size: float | None = None
    restarts: int = 1
    targets: int = 9
    loss: str = "margin"
    seed: int = 0
    patch: str = "gradient"
    patch_side: int = 16
    patches: int = 1
    patch_scan: str = "*"
    band: str = "low"
    band_cuts: tuple[float, float] = (0.15, 0.5)

    def __post_init__(self) -> None:
        choices = {"kind": KINDS, "norm": NORMS, "loss": LOSSES, "patch": PLACES, "band": BANDS}
        for name, allowed in choices.items():
            value = getattr(self, name)
            if value not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, not {value!r}")
        for name in ("steps", "restarts", "patch_side", "patches"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.step_size is not None and not self.step_size > 0:
            raise ValueError(f"step_size must be above 0, not {self.step_size:g}")
        for name in ("seed", "targets"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, not {getattr(self, name)}")
        if not 0 < self.band_cuts[0] < self.band_cuts[1]:
            raise ValueError(
                f"band_cuts must be two rising frequencies above 0, not {self.band_cuts}"
            )
        if self.eps_255 is not None and self.eps_pixels is not None:
            raise ValueError(
                f"eps_255={self.eps_255:g} and eps_pixels={self.eps_pixels:g} are two spellings of "
                "one distance; give one of them"
            )
        if not 0 <= self.eps < float("inf"):
            raise ValueError(f"the distance of an attack must be 0 or more, not {self.eps:g}")
        if self.norm == "linf" and self.eps > 1:
            if self.eps_pixels is not None:
                raise ValueError(
                    f"eps_pixels={self.eps_pixels:g} is more than from black to white; if units of "
                    f"1/255 were meant, write eps_255={self.eps_pixels:g}"
                )
            raise ValueError(f"eps_255={self.eps_255:g} is more than from black to white, 255")

    @property
    def eps(self) -> float:
        """The distance in units of pixels in [0, 1]."""
        if self.eps_pixels is not None:
            return self.eps_pixels
        if self.eps_255 is not None:
            return self.eps_255 / 255
        default = {"linf": 4, "l2": 128}[self.norm]
        return (255 if self.kind == "patch" and self.norm == "linf" else default) / 255


@dataclass(frozen=True)
class Attacked:
    """Images after an attack.

    Attributes:
        x: (b, 3, h, w) in [0, 1], within the distance of the images.
        value: (b,), the margin of x; below 0 the model errs.
        clean: (b,), the margin of the images as they were.
        history: (restarts, steps + 1, b), the loss at every iterate that had no target; empty for
            autoattack.
        zero_gradients: (b,), share of gradient entries that are zero or not finite at the first
            step; empty for autoattack.
        mask: (b, 1, h, w), the pixels that a patch attack may change.
        outside: (b,), the share of energy of the change that left its band where pixels ended.
        notes: what was done to the model, and what AutoAttack warns of.
    """

    x: Tensor
    value: Tensor
    clean: Tensor
    history: Tensor
    zero_gradients: Tensor
    mask: Tensor | None = None
    outside: Tensor | None = None
    notes: tuple[str, ...] = ()

    @property
    def success(self) -> Tensor:
        """(b,) bool: whether the model errs."""
        return self.value < 0


def attack(
    model: nn.Module,
    x: Tensor,
    labels: Tensor | Sequence[int],
    config: AttackConfig | None = None,
    indices: Sequence[int] | None = None,
) -> Attacked:
    """Attack images.

    Args:
        model: takes normalised images, with the normalisation it was trained with; or `InPixels`.
        x: (b, 3, h, w) in [0, 1], not normalised.
        labels: (b,), classes.
        indices: places of the images in their source, so that random draws of an image do not
            depend on how images are batched.

    Raises:
        ValueError: for values outside [0, 1], labels that the model does not have, or patches that
            do not fit.
        ImportError: for autoattack without the package pyautoattack.
    """
    config = config or AttackConfig()
    model = model if isinstance(model, InPixels) else InPixels(model)
    x = x.detach().to(model.mean.device, torch.float32)
    labels = torch.as_tensor(labels, device=x.device)
    clean = _clean_margins(model, x, labels)
    places = range(len(x)) if indices is None else indices
    seeds = _seeds(config, places, 0)
    if config.kind == "autoattack":
        found, warnings = autoattack(model, x, labels, config.eps, config.norm, config.seed)
        found = _inside(found, x, config)
        value = _margins(model, found, labels)
        empty = x.new_empty(0)
        return Attacked(found, value, clean, empty, empty, notes=(*model.notes, *warnings))
    mask = None
    if config.kind == "patch":
        mask = patch_mask(
            model,
            x,
            labels,
            config.patch,
            config.patch_side,
            config.patches,
            config.patch_scan,
            seeds,
        )
    within = _within(config, x, mask)
    one_step = config.kind == "fgsm"
    ascent = projected_gradient(
        lambda deltas: losses(model(x + deltas[0]), labels, config.loss),
        [pixel_ball(x, config.eps, config.norm, within)],
        steps=1 if one_step else config.steps,
        step_size=None if one_step else config.step_size,
        restarts=1 if one_step else config.restarts,
        start="zero" if one_step else "random",
        seed=seeds,
    )
    found = _inside(x + ascent.deltas[0], x, config)
    value = _margins(model, found, labels)
    if not one_step:
        found, value = _driven(model, x, labels, config, places, mask, found, value)
    return Attacked(
        found,
        value,
        clean,
        ascent.history,
        ascent.zero_gradients,
        mask,
        outside(found - x, within) if config.kind == "band" else None,
        model.notes,
    )


def _driven(
    model: InPixels,
    x: Tensor,
    labels: Tensor,
    config: AttackConfig,
    places: Sequence[int],
    mask: Tensor | None,
    found: Tensor,
    value: Tensor,
) -> tuple[Tensor, Tensor]:
    """`found` and its margins after the images with a margin of at least 0 were driven to other
    classes; images that withstand this too stay as found."""
    with torch.no_grad():
        logits = model(x).scatter(1, labels[:, None], -torch.inf)
    likeliest = logits.argsort(dim=1, descending=True, stable=True)[:, :-1]
    found, value = found.clone(), value.clone()
    for number, targets in enumerate(likeliest.T[: config.targets], start=1):
        left = (value >= 0).nonzero()[:, 0]
        if not len(left):
            break
        some, own, target = x[left], labels[left], targets[left]
        within = _within(config, some, None if mask is None else mask[left])
        ascent = projected_gradient(
            lambda deltas, some=some, own=own, target=target: towards(
                model(some + deltas[0]), own, target
            ),
            [pixel_ball(some, config.eps, config.norm, within)],
            steps=config.steps,
            step_size=config.step_size,
            seed=_seeds(config, [places[i] for i in left.tolist()], number),
        )
        changed = _inside(some + ascent.deltas[0], some, config)
        reached = _margins(model, changed, own)
        worse = reached < 0
        found[left[worse]], value[left[worse]] = changed[worse], reached[worse]
    return found, value


def _within(
    config: AttackConfig, x: Tensor, mask: Tensor | None
) -> Callable[[Tensor], Tensor] | None:
    """The projection that keeps changes of x in the patches, or in the band."""
    if config.kind == "band":
        return band_filter(x, config.band, config.band_cuts)
    return None if mask is None else mask.mul


def _seeds(config: AttackConfig, places: Sequence[int], number: int) -> list[int]:
    """One for each image: 0 for what needs no target, from 1 on for the targets."""
    words = [(config.seed, place, number)[: 3 if number else 2] for place in places]
    return [int(np.random.SeedSequence(word).generate_state(1)[0]) for word in words]


def pixel_ball(
    x: Tensor,
    eps: float,
    norm: str = "linf",
    within: Callable[[Tensor], Tensor] | None = None,
) -> Ball:
    """Changes of x (b, 3, h, w) by at most eps that leave every pixel in [0, 1]."""
    scale = 1.0 if norm == "linf" else x[0].numel() ** -0.5  # for a plain l2 norm
    return Ball(tuple(x.shape), eps, scale, norm, low=-x, high=1 - x, within=within)


def _clean_margins(model: InPixels, x: Tensor, labels: Tensor) -> Tensor:
    if not bool(((x >= 0) & (x <= 1)).all()):
        raise ValueError(
            f"attacked images hold values from {x.min():.3g} to {x.max():.3g}; give pixels in "
            "[0, 1], not normalised"
        )
    if labels.shape != (len(x),) or labels.is_floating_point():
        raise ValueError(
            f"labels have shape {tuple(labels.shape)} and type {labels.dtype}; give one class "
            f"number for each of the {len(x)} images"
        )
    with torch.no_grad():
        logits = model(x)
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < logits.shape[1]:
        raise ValueError(
            f"labels reach from {labels.min()} to {labels.max()}, but the model has classes 0 to "
            f"{logits.shape[1] - 1}"
        )
    return margins(logits, labels)


def _margins(model: InPixels, x: Tensor, labels: Tensor) -> Tensor:
    with torch.no_grad():
        return margins(model(x), labels)


def _inside(found: Tensor, x: Tensor, config: AttackConfig) -> Tensor:
    """`found` in ball and [0, 1] to the last bit, which the float32 sum x + delta is not."""
    change = found.clamp(0, 1).double() - x.double()
    if config.norm == "linf":
        change = change.clamp(-config.eps, config.eps)
    else:
        lengths = change.flatten(1).norm(dim=1).clamp_min(1e-300).view(-1, 1, 1, 1)
        change = change * (config.eps * (1 - 1e-12) / lengths).clamp(max=1)
    wanted = x.double() + change
    rounded = wanted.to(x)
    beyond = (rounded - x.double()).abs() > change.abs()
    return torch.where(beyond, torch.nextafter(rounded, x), rounded)
