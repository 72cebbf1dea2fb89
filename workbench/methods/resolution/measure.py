"""One model at one size: what it predicts, what it costs, how far its scans remember."""

import numpy as np
import torch
from torch import Tensor, nn

from workbench.hooks import hooks
from workbench.images import Batch
from workbench.methods.method import Partial
from workbench.methods.resolution import cost
from workbench.methods.resolution.config import PointConfig
from workbench.methods.resolution.metrics import refit
from workbench.mixing.statistics import horizon_quantiles
from workbench.results import ResolutionPoint
from workbench.trace import record, scans

# pixels that a CPU takes at once: with more, what a layer hands to the next leaves the caches
_AT_ONCE = 8 * 224**2


def head_of(model: nn.Module) -> nn.Module:
    """The layer that turns pooled features into logits.

    Raises:
        ValueError: when there is none.
    """
    found = model.get_classifier() if hasattr(model, "get_classifier") else None
    found = found[0] if isinstance(found, tuple | list) else found
    if found is None:
        linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
        found = linear[-1] if linear else None
    if found is None or isinstance(found, nn.Identity):
        raise ValueError(f"{type(model).__name__} has no classifier, so it predicts nothing")
    return found


def _predict(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, float]:
    """Logits (n, k), the head's input (n, c) and the seconds that passed."""
    seen: list[Tensor] = []
    with hooks([head_of(model)], before=lambda _, args, __: seen.append(args[0])):
        logits, times = cost.timed(model, x)
    features = seen[0] if seen else logits
    if features.ndim > 2:  # a head over tokens, or a 1x1 convolution
        features = features.mean(dim=1) if features.ndim == 3 else features.mean(dim=(2, 3))
    return logits, features, times.wall


def measure(model: nn.Module, batch: Batch, config: PointConfig) -> Partial:
    """Logits and features of a batch, the time it took, and the probes of its first images.

    `logits` (n, k), `features` (n, c), `seconds` (n,), with labels `labels` (n,). `cost` (n, 4):
    FLOPs, peak bytes, wall and processor seconds; `waiting` (n,) seconds; `horizons` (n, layers, 3)
    and `lengths` (n, layers) in steps; nan rows for images that are not probed.
    """
    n = len(batch)
    at_once = n if batch.tensor.is_cuda else max(1, _AT_ONCE // batch.tensor[0, 0].numel())
    parts = [_predict(model, x) for x in batch.tensor.split(at_once)]
    logits, features = (torch.cat([part[i] for part in parts]).float().cpu() for i in (0, 1))
    columns = list(config.classes) if config.classes else list(range(logits.shape[1]))
    arrays = {
        "logits": logits[:, columns].numpy(),
        "features": features.numpy(),
        "seconds": np.concatenate([np.full(len(y), wall / len(y)) for y, _, wall in parts]),
    }
    if batch.labels is not None:
        place = {label: column for column, label in enumerate(columns)}
        arrays["labels"] = np.array([place.get(label, -1) for label in batch.labels])
    layers = len({site.layer for site in scans(model)})
    probed = {
        "cost": np.full((n, 4), np.nan),
        "waiting": np.full(n, np.nan),
        "horizons": np.full((n, layers, 3), np.nan),
        "lengths": np.full((n, layers), np.nan),
    }
    for row, index in enumerate(batch.indices):
        if index < config.probes:
            x = batch.tensor[row : row + 1]
            counted = cost.count(model, x)  # which also warms up
            _, times = cost.timed(model, x)
            probed["cost"][row] = *counted, times.wall, times.cpu
            probed["waiting"][row] = times.waiting
            if layers:
                probed["horizons"][row], probed["lengths"][row] = _horizons(model, x)
    return Partial(arrays | probed)


def _horizons(model: nn.Module, x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """(layers, 3) quantiles 10, 50, 90 % of the steps in which a state halves, and (layers,) steps.

    ln 2 / (delta |A|) over directions, channels and states, with delta averaged over tokens: a
    state decays by the product of the steps, so their mean is what counts.
    """
    with torch.no_grad(), record(model, "delta", "A") as tensors:
        model(x)
    layers: dict[int, list[dict[str, Tensor]]] = {}
    for site in scans(model):
        layers.setdefault(site.layer, []).append(tensors[site.name])
    quantiles, lengths = [], []
    for directions in layers.values():
        delta = torch.cat([d["delta"] for d in directions], dim=-2)
        quantiles.append(horizon_quantiles(delta, torch.cat([d["A"] for d in directions])))
        lengths.append(delta.shape[-1])
    return np.array(quantiles), np.array(lengths)


def combine(measured: Partial, config: PointConfig, meta: dict) -> ResolutionPoint:
    """The point of one size, of all images."""
    probed = np.isfinite(measured["cost"][:, 0])
    flops, peak, latency, cpu = measured["cost"][probed].T
    labels = measured.arrays.get("labels")
    refitted = None
    if labels is not None and config.folds and (labels >= 0).sum() >= config.folds:
        refitted = refit(measured["features"], labels, config.folds)
    meta = {
        **meta,
        "size": meta["preprocessing"]["size"][0],
        "classes": config.classes and list(config.classes),
        "flops": int(flops[0]) if len(flops) else None,
        "peak_bytes": int(peak[0]) if len(peak) else None,
    }
    return ResolutionPoint(
        meta=meta,
        logits=measured["logits"],
        features=measured["features"],
        labels=labels,
        refit=refitted,
        seconds=measured["seconds"],
        latency=latency,
        cpu_seconds=cpu,
        waiting_seconds=measured["waiting"][probed],
        horizons=measured["horizons"][probed].mean(axis=0) if probed.any() else np.empty((0, 3)),
        lengths=measured["lengths"][probed][0] if probed.any() else np.empty(0),
    )
