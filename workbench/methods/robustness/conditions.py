"""What images, or the scans that look at them, are put to: each condition has a name, makes the
images and may change the scans.

A name is group/series/level, such as attack/pgd/2, corruption/fog/3, drop/row/0.25; or clean.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from workbench.attacks.in_pixels import InPixels
from workbench.attacks.pixels import attack, pixel_ball
from workbench.attacks.projected_gradient import random_direction
from workbench.methods.robustness.config import ATTACKS, ON_SCANS, PERTURBATIONS, RobustnessConfig
from workbench.perturbations import patches
from workbench.perturbations.corruptions import chosen, corrupt
from workbench.perturbations.scan_order import reordered, without_state
from workbench.perturbations.shifts import check_shift, shift
from workbench.perturbations.symmetries import VIEWS
from workbench.trace import scans

ORDERS = ("random", "salient", "radial", "radial-reversed")
"""In which patches are taken away whether or not a model scans."""


@dataclass(frozen=True)
class Subject:
    """A model and labelled images.

    Attributes:
        network: takes images in [0, 1].
        x: (b, 3, h, w) in [0, 1].
        pictures: (b, h, w, 3) uint8, the same images.
        labels: (b,) int64.
        indices: places of the images in their source.
    """

    network: InPixels
    x: Tensor
    pictures: np.ndarray
    labels: Tensor
    indices: tuple[int, ...]


@dataclass(frozen=True)
class Condition:
    """One thing that images are put to; `make` gives (b, 3, h, w) in [0, 1] of a subject, and the
    network answers inside `around`.
    """

    make: Callable[[Subject], Tensor]
    group: str
    series: str = ""
    level: float | None = None
    around: Callable[[], AbstractContextManager] = nullcontext

    @property
    def name(self) -> str:
        level = "" if self.level is None else f"{self.level:g}"
        return "/".join(filter(None, (self.group, self.series, level)))


def conditions(
    config: RobustnessConfig, network: InPixels, size: tuple[int, int]
) -> tuple[list[Condition], dict[str, str]]:
    """What images of a size are put to, clean ones first; and what does not apply, and why.

    Raises:
        ValueError: for a grid that does not divide the image, a shift as long as a side.
    """
    found = [Condition(_as_it_is, "clean")]
    found += [*_attacks(config), *_corruptions(config)]
    wanted = [p for p in PERTURBATIONS if p in config.probes or "all" in config.probes]
    directions = directions_of(network)
    missing = {}
    for kind in wanted:
        if kind in ON_SCANS and not directions:
            model = type(network.model).__name__
            missing[kind] = f"{model} has no selective scan whose order could be followed"
        elif kind == "views":
            views = dict(VIEWS)
            if size[0] != size[1]:
                del views["transposition"]
                missing["transposition"] = "it needs square images"
            found += [Condition(partial(_seen, view), "view", view) for view in views]
        elif kind == "shuffle":
            found += _shuffles(config, size)
        elif kind == "shift":
            found += _shifts(config, size)
        elif kind == "scan":
            model, sites = network.model, scans(network.model, size)
            if all(site.path for site in sites):
                around = partial(reordered, model, sites, config.seed)
                found.append(Condition(_as_it_is, "scan", "random-order", around=around))
            else:
                missing["random-order"] = "it needs scans that say which cells they visit"
            around = partial(without_state, model)
            found.append(Condition(_as_it_is, "scan", "without-state", around=around))
        else:
            patches.check_grid(config.grid, *size)
            if kind == "information":
                found += _losses(config, directions)
            else:
                found += _drops(config, ORDERS if kind == "drop" else directions)
    return found, missing


def directions_of(network: InPixels) -> tuple[str, ...]:
    """The scan paths of a model, each once, in order."""
    names = (site.direction.partition("#")[0] for site in scans(network))
    return tuple(dict.fromkeys(names))


def _attacks(config: RobustnessConfig) -> Iterator[Condition]:
    kinds = [kind for kind in ATTACKS if kind in config.attacks]
    for eps in config.eps_255 if kinds else ():
        yield Condition(partial(_changed_at_random, config, eps), "attack", "random", eps)
    for kind in kinds:
        distances = config.eps_255
        if kind == "autoattack":
            distances = config.autoattack_eps_255 or (max(config.eps_255),)
        for eps in distances:
            yield Condition(partial(_attacked, config, kind, eps), "attack", kind, eps)


def _corruptions(config: RobustnessConfig) -> Iterator[Condition]:
    for name in chosen(config.corruptions):
        for severity in config.severities:
            make = partial(_corrupted, config, name, severity)
            yield Condition(make, "corruption", name, severity)


def _drops(config: RobustnessConfig, orders: Sequence[str]) -> Iterator[Condition]:
    for order in orders:
        for share in config.dropped:
            yield Condition(partial(_dropped, config, order, share), "drop", order, share)


def _losses(config: RobustnessConfig, directions: Sequence[str]) -> Iterator[Condition]:
    ways = [("even", "even", directions[0])]
    for profile in ("rise", "middle", "ends"):
        for path in directions:
            there = path.removesuffix("-reversed")
            # what rises and falls evenly is the same on the way back
            if profile == "rise" or there == path or there not in directions:
                ways.append((f"{profile} {path}", profile, path))
    for series, profile, path in ways:
        for share in config.lost:
            make = partial(_lost, config, profile, path, share)
            yield Condition(make, "information", series, share)


def _shuffles(config: RobustnessConfig, size: tuple[int, int]) -> Iterator[Condition]:
    fitting = [grid for grid in patches.GRIDS if not (size[0] % grid or size[1] % grid)]
    for grid in config.grids or fitting:
        patches.check_grid(grid, *size)
        yield Condition(partial(_shuffled, config, grid), "shuffle", "patches", grid)


def _shifts(config: RobustnessConfig, size: tuple[int, int]) -> Iterator[Condition]:
    for pixels in config.shifts:
        check_shift(pixels, *size)
        yield Condition(partial(_shifted, config, pixels), "shift", "pixels", pixels)


def _as_it_is(subject: Subject) -> Tensor:
    return subject.x


def _changed_at_random(config: RobustnessConfig, eps: float, subject: Subject) -> Tensor:
    """As large as an attack's, in a direction that knows nothing of the model."""
    states = (np.random.SeedSequence((config.seed, i)) for i in subject.indices)
    seeds = [int(state.generate_state(1)[0]) for state in states]
    (delta,) = random_direction([pixel_ball(subject.x, eps / 255, config.norm)], seeds)
    return subject.x + delta


def _attacked(config: RobustnessConfig, kind: str, eps: float, subject: Subject) -> Tensor:
    settings = config.attack(kind, eps)
    return attack(subject.network, subject.x, subject.labels, settings, subject.indices).x


def _corrupted(config: RobustnessConfig, name: str, severity: int, subject: Subject) -> Tensor:
    changed = [
        corrupt(picture, name, severity, config.seed, index)
        for picture, index in zip(subject.pictures, subject.indices, strict=True)
    ]
    return in_unit(np.stack(changed)).to(subject.x)


def _seen(view: str, subject: Subject) -> Tensor:
    return VIEWS[view](subject.x)


def _shuffled(config: RobustnessConfig, grid: int, subject: Subject) -> Tensor:
    return patches.shuffle(subject.x, grid, subject.indices, config.seed)


def _shifted(config: RobustnessConfig, pixels: int, subject: Subject) -> Tensor:
    return shift(subject.x, pixels, subject.indices, config.seed)


def _dropped(config: RobustnessConfig, name: str, share: float, subject: Subject) -> Tensor:
    if name == "random":
        order = patches.random_order(subject.indices, config.grid, config.seed)
    elif name == "salient":
        order = patches.salient_order(subject.network, subject.x, subject.labels, config.grid)
    else:
        order = patches.path_order(name, config.grid, len(subject.x))
    return patches.drop(subject.x, _instead(config, subject), order, share)


def _lost(
    config: RobustnessConfig, profile: str, path: str, share: float, subject: Subject
) -> Tensor:
    order = patches.path_order(path, config.grid, len(subject.x))
    instead = _instead(config, subject)
    return patches.lose_pixels(
        subject.x, instead, order, profile, share, subject.indices, config.seed
    )


def _instead(config: RobustnessConfig, subject: Subject) -> Tensor:
    return patches.filling(subject.x, config.fill, subject.network.mean.flatten().tolist())


def in_unit(pictures: np.ndarray) -> Tensor:
    """(b, h, w, 3) uint8 -> (b, 3, h, w) float32 in [0, 1]."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
