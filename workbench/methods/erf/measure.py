"""Effective receptive field: which pixels one output unit depends on (Luo et al., NIPS 2016).

A unit's map is the size of the gradient of its feature to every input pixel. What is summed, over
what and how it is averaged is in `ErfConfig`.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, replace

import numpy as np
import torch
from torch import Tensor, nn

from workbench.geometry import feature_map, grid_of, resolve_position
from workbench.images import Batch
from workbench.methods.erf.config import PRESETS, ErfConfig
from workbench.methods.erf.display import display
from workbench.methods.erf.metrics import FEWEST, THRESHOLDS, estimates, legacy_square, numbers
from workbench.methods.erf.routes import directions, only_direction, only_route, routes
from workbench.methods.method import Partial
from workbench.models import backbone_of
from workbench.results import Erf
from workbench.statistics import finite


def protocol(config: ErfConfig, model: nn.Module | None = None) -> ErfConfig:
    """The configuration with its preset's settings filled in."""
    if config.preset is None:
        return config
    preset = PRESETS[config.preset]
    found = replace(config, **preset.changes)
    behind = preset.normed_last and model is not None and backbone_of(model).normed_last
    return replace(found, norm=True) if behind else found


def _score(model: nn.Module, x: Tensor, config: ErfConfig) -> tuple[Tensor, dict]:
    """The scalar of every image, summed, and where its unit lies."""
    features = feature_map(model, x, config.stage, config.layer, config.norm)
    size = (x.shape[-2], x.shape[-1])
    grid = grid_of(model, features, size, x.shape[1])
    if config.position == "legacy":
        cell = (grid.cells[0] // 2, grid.cells[1] // 2)
    elif config.position == "openerf":
        embeds = any(name == "patch_embed" for name, _ in model.named_children())
        cell = ((grid.cells[0] - embeds) // 2, (grid.cells[1] - embeds) // 2)
    else:
        cell = resolve_position(config.position, grid, size)
    values = features[:, :, cell[0], cell[1]]
    values = values.relu() if config.score == "relu" else values
    return values.sum(), {"cells": grid.cells, "cell": cell, "centre": grid.centre(cell)}


def gradient(model: nn.Module, x: Tensor, config: ErfConfig) -> tuple[Tensor, dict]:
    """Gradient of the unit's score to the input: (n, 3, h, w) and where the unit lies.

    Raises:
        ValueError: for a model that keeps no graph from the image to the unit.
    """
    score, found, place = _gradient(model, x, config)
    if not score.requires_grad:
        raise ValueError(
            f"{type(model).__name__} gives its features without a gradient to the image: its "
            "forward runs in torch.no_grad or inference_mode, or detaches or rounds them; leave "
            "that out, or name a layer before it with --layer"
        )
    return found, place


def _gradient(model: nn.Module, x: Tensor, config: ErfConfig) -> tuple[Tensor, Tensor, dict]:
    """The score, its gradient (zero where it has none), and where the unit lies."""
    x = x.detach().clone().requires_grad_()  # the clone of one of inference mode is none
    with torch.enable_grad():
        score, place = _score(model, x, config)
        found = None
        if score.requires_grad:
            (found,) = torch.autograd.grad(score, x, allow_unused=True)
    return score, torch.zeros_like(x) if found is None else found, place


def split_gradients(model: nn.Module, x: Tensor, config: ErfConfig) -> Iterator[tuple[str, Tensor]]:
    """Yield (route, gradient (n, 3, h, w)) for each direction or route.

    With `split_layer` the routes and the `rest`, which goes around that scan, sum to the whole
    gradient. Without it a route is kept open in all layers at once; such maps do not add up.
    """
    layer = config.split_layer or "*"
    if config.split == "direction":
        names: list[str] = directions(model)
        keep: Callable[[str | None], AbstractContextManager] = lambda route: only_direction(  # noqa: E731
            model, route, layer
        )
        rest_route = None
    elif config.split == "route":
        names = [route for route in routes(model) if route != "residual" or layer == "*"]
        keep = lambda route: only_route(model, route, layer)  # noqa: E731
        rest_route = "residual"
    else:
        return
    rest = None
    if layer != "*":
        with keep(rest_route):
            _, rest, _ = _gradient(model, x, config)
        yield "rest", rest
    for route in names:
        with keep(route):
            _, found, _ = _gradient(model, x, config)
        yield route, found if rest is None else found - rest


def size_of(g: Tensor, measure: str) -> Tensor:
    """(n, 3, h, w) gradient -> (n, h, w): its size at a pixel, summed over colours.

    In float32 at least, as squares of half precision underflow.
    """
    g = g.to(torch.promote_types(g.dtype, torch.float32))
    if measure == "abs":
        g = g.abs()
    elif measure == "square":
        g = g.square()
    elif measure == "relu":
        g = g.relu()
    g = g.sum(dim=1)
    return g.relu() if measure == "sum-relu" else g


def measure(model: nn.Module, batch: Batch, config: ErfConfig) -> Partial:
    """Maps of a batch: `maps` (n, h, w) float32 and `split:<route>` alike.

    Constants: `cells`, `cell` and `centre` of the unit, the `routes` in their order, and the number
    of branches `closed` by a scale of zero.
    """
    config = protocol(config, model)
    found, place = gradient(model, batch.tensor, config)
    splits = {
        route: size_of(g, config.measure).cpu().numpy()
        for route, g in split_gradients(model, batch.tensor, config)
    }
    arrays = {
        "maps": size_of(found, config.measure).cpu().numpy(),
        # Only the first image is shown; the others would grow the memory with their number.
        "pictures": batch.pictures if 0 in batch.indices else batch.pictures[:0],
        **{f"split:{route}": maps for route, maps in splits.items()},
    }
    return Partial(arrays, {**place, "routes": list(splits), "closed": closed_branches(model)})


def closed_branches(model: nn.Module) -> int:
    """How many norms and layer scales are zero in every channel, as residual branches start that
    are to begin with the shortcut alone (zero-init): nothing passes them, forward or backward.
    """
    scales = (p for name, p in model.named_parameters() if not name.endswith("bias"))
    return sum(p.ndim == 1 and p.numel() > 1 and not p.any() for p in scales)


def weights_of(maps: np.ndarray, config: ErfConfig) -> np.ndarray:
    """What each image's map (n, h, w) is multiplied with before the mean: (n,) float64."""
    if config.average == "raw":
        return np.ones(len(maps))
    totals = maps.sum(axis=(1, 2), dtype=np.float64)
    return np.divide(1.0, totals, out=np.zeros(len(maps)), where=totals > 0)


def mean_map(maps: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted mean of maps (n, h, w), summing to 1, in float64; one map in memory at a time."""
    mean = np.zeros(maps.shape[1:])
    for p, weight in zip(maps, weights, strict=True):
        mean += weight * p.astype(np.float64)
    mean = np.abs(mean)  # only signed maps have anything negative
    return mean / mean.sum() if mean.any() else mean


def combine(measured: Partial, config: ErfConfig, meta: dict) -> Erf:
    """One `Erf` of all images.

    Raises:
        ValueError: when no image has a finite, non-zero map.
    """
    settled = protocol(config)
    maps, pictures, place = measured["maps"], measured["pictures"], measured.constants
    good = np.array([bool(np.isfinite(p).all() and p.any()) for p in maps])
    if not good.any():
        raise ValueError(
            "the unit's gradient is zero or not finite for every image, so there is no receptive "
            "field to show; choose another position, layer or score"
        )
    maps = maps if good.all() else maps[good]
    weights = weights_of(maps, settled)
    mean = mean_map(maps, weights)
    centre = tuple(place["centre"])
    values, intervals = numbers(mean, centre), (config.resamples, config.confidence)
    fewest = FEWEST.get(settled.measure, len(maps) + 1)
    found = estimates(maps, weights, centre, values, *intervals, fewest)
    raw = maps.mean(axis=0, dtype=np.float64)
    transform = PRESETS[config.preset].display if config.preset else "x ** 0.25"
    legacy = display(np.abs(raw), transform if config.preset else "log10(x + 1)")
    splits = None
    if place["routes"]:
        split = (measured[f"split:{route}"][good] for route in place["routes"])
        whole = maps.sum(dtype=np.float64)
        splits = np.stack([s.sum(axis=0, dtype=np.float64) / whole for s in split])
    meta = {
        **meta,
        "config": asdict(config),
        "protocol": asdict(settled),
        "cells": list(place["cells"]),
        "cell": list(place["cell"]),
        "centre": list(centre),
        "closed_branches": place.get("closed", 0),
        "images_used": int(good.sum()),
        "intervals_from": FEWEST.get(settled.measure),
        "images_without_map": int((~good).sum()),
        "display": transform,
        "quirks": list(PRESETS[config.preset].quirks) if config.preset else [],
        "splits": place["routes"],
        "numbers": {key: number.as_dict() for key, number in found.items()},
        "legacy": {
            "map": transform if config.preset else "log10(x + 1)",
            **{f"r{t * 100:.0f}": finite(100 * legacy_square(legacy, t)) for t in THRESHOLDS},
        },
    }
    return Erf(
        meta=meta,
        map=mean,
        maps=maps,
        splits=splits,
        picture=pictures[0] if len(pictures) else None,
    )
