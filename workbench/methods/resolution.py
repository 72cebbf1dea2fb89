"""Resolution: what models predict at other image sizes, what it costs, how far scans remember.

This file measures one model at one size; `workbench.sweep` goes over sizes and
`workbench.methods.resolution_curve` makes the curve of their points. Resize protocols are never
mixed: with object_size="grows" the whole picture is scaled to the size, as the papers do, so that
things appear larger at larger sizes (which helps by itself: Touvron et al., FixRes, NeurIPS 2019);
with "constant" things keep the pixels they have at the training size.
"""

import copy
import warnings
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from workbench.images import Batch, Images, Preprocessing, preprocessing_for
from workbench.methods import cost
from workbench.methods.resolution_numbers import refit
from workbench.methods.scan_statistics import horizon_quantiles
from workbench.models import S4ND, MambaVision, Vim
from workbench.results import ResolutionPoint
from workbench.trace import record, scans

name = "resolution"

# pixels that a CPU takes at once: with more, what a layer hands to the next leaves the caches
_AT_ONCE = 8 * 224**2


@dataclass(frozen=True)
class ResolutionConfig:
    """How a model is measured at a size.

    Attributes:
        object_size: grows (the picture is scaled to the size) or constant (its scale stays that of
            the native size: less of it is seen at smaller sizes, and more of it, then the mean
            colour, at larger ones).
        native: the training size in pixels; the model's own by default.
        positions: how Vim's position embedding is resized: class-aware, or official (the published
            code, which takes a spatial row for the class token).
        windows: of MambaVision: fixed (as published, padded to whole windows) or scaled with the
            size.
        kernels: of S4ND: resampled where objects grow, its own way to another size, or fixed.
        restrict: let a head of 1000 ImageNet classes choose among the classes of the data only,
            where those are known by their ImageNet numbers.
        classes: the classes of the head to choose among, by number; by default all, or what
            `restrict` says.
        folds: groups of images for the refitted head, 0 for none.
        probes: images, the first ones, that are also measured one by one: time, memory, FLOPs and
            the scans' memory horizon.
        chunk: images measured at a time.
    """

    object_size: str = "grows"
    native: int | None = None
    positions: str = "class-aware"
    windows: str = "fixed"
    kernels: str = "resampled"
    restrict: bool = True
    classes: tuple[int, ...] | None = None
    folds: int = 5
    probes: int = 5
    chunk: int = 32

    def __post_init__(self) -> None:
        choices = {
            "object_size": ("grows", "constant"),
            "positions": ("class-aware", "official"),
            "windows": ("fixed", "scaled"),
            "kernels": ("resampled", "fixed"),
        }
        for field, allowed in choices.items():
            if getattr(self, field) not in allowed:
                raise ValueError(
                    f"{field} must be {' or '.join(allowed)}, not {getattr(self, field)!r}"
                )
        lowest = {"native": 1, "folds": 0, "probes": 0, "chunk": 1}
        for field, least in lowest.items():
            value = getattr(self, field)
            if value is not None and value < least:
                raise ValueError(f"{field} must be at least {least}, not {value}")
        if self.folds == 1:
            raise ValueError("folds must be 0 (no refitted head) or at least 2, not 1")


def native_size(model: nn.Module) -> int:
    """Side of the images a model was made for, in pixels."""
    return preprocessing_for(model).size[0]


def settled(
    config: ResolutionConfig, model: nn.Module, images: Images, labelled: bool
) -> ResolutionConfig:
    """The configuration with `native` and `classes` filled in.

    Raises:
        ValueError: when the labels do not fit the head, or `classes` are none of the head's.
    """
    heads = getattr(model, "num_classes", None)
    targets = images.targets(heads) if heads else images.labels
    if labelled and not any(k >= 0 for k in targets or ()):
        have = f"{len(images.classes)} classes" if images.classes else "no labels"
        raise ValueError(
            f"{type(model).__name__} tells {heads or 'unknown'} classes apart, but "
            f"{images.title} has {have}, so right answers cannot be counted; give a model with the "
            "classes of the data, or compare predictions over sizes without labels (--images)"
        )
    classes = config.classes
    if labelled and config.restrict and not classes and heads == 1000 and images.classes:
        classes = tuple(sorted({k for k in targets or () if k >= 0}))
    if classes and heads and not all(0 <= k < heads for k in classes):
        raise ValueError(f"classes {classes} are not all among the {heads} of the head")
    return replace(config, native=config.native or native_size(model), classes=classes)


def adapted(model: nn.Module, size: int, config: ResolutionConfig) -> nn.Module:
    """A copy of `model` that takes images of `size` x `size`, with the same weights.

    Models of timm that are built for one size (ViT, Swin) get it by `set_input_size`: position
    embeddings are resized, Swin's windows scaled.
    """
    other = copy.deepcopy(model)
    factor = size / (config.native or native_size(model))
    if isinstance(other, Vim):
        other.pos_embed_resize = config.positions
    if isinstance(other, MambaVision) and config.windows == "scaled":
        for level in other.levels:
            level.window = level.window and max(1, round(level.window * factor))
    if config.kernels == "resampled" and config.object_size == "grows":
        for module in other.modules():
            # a sequence of patches has no one length that a factor in size would mean
            if isinstance(module, S4ND) and len(module.kernel) == 2:
                module.rate = 1 / factor
    resize = getattr(other, "set_input_size", None)
    if resize is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # timm's, about its own indexing
            resize(img_size=(size, size))
    return other


def preprocessing_at(model: nn.Module, size: int, config: ResolutionConfig) -> Preprocessing:
    """How images are brought to `size` by the protocol."""
    preprocessing = preprocessing_for(model, size)
    if config.object_size == "grows":
        return preprocessing
    native = config.native or native_size(model)
    return replace(preprocessing, object_size=(native, native))


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
    inputs: list[Tensor] = []

    def keep(module: nn.Module, args: tuple) -> None:
        inputs.append(args[0])

    handle = head_of(model).register_forward_pre_hook(keep)
    try:
        logits, wall, _ = cost.timed(model, x)
    finally:
        handle.remove()
    features = inputs[0] if inputs else logits
    if features.ndim > 2:  # a head over tokens, or a 1x1 convolution
        features = features.mean(dim=1) if features.ndim == 3 else features.mean(dim=(2, 3))
    return logits, features, wall


def measure(model: nn.Module, batch: Batch, config: ResolutionConfig) -> dict[str, np.ndarray]:
    """Logits and features of a batch, the time it took, and the probes of its first images.

    `logits` (n, k), `features` (n, c), `seconds` (n,), with labels `labels` (n,). `cost` (n, 4):
    FLOPs, peak bytes, wall and processor seconds; `horizons` (n, layers, 3) and `lengths`
    (n, layers) in steps; nan rows for images that are not probed.
    """
    n = len(batch)
    at_once = n if batch.tensor.is_cuda else max(1, _AT_ONCE // batch.tensor[0, 0].numel())
    parts = [_predict(model, x) for x in batch.tensor.split(at_once)]
    logits, features = (torch.cat([part[i] for part in parts]).float().cpu() for i in (0, 1))
    columns = list(config.classes) if config.classes else list(range(logits.shape[1]))
    partial = {
        "logits": logits[:, columns].numpy(),
        "features": features.numpy(),
        "seconds": np.concatenate([np.full(len(y), wall / len(y)) for y, _, wall in parts]),
    }
    if batch.labels is not None:
        place = {label: column for column, label in enumerate(columns)}
        partial["labels"] = np.array([place.get(label, -1) for label in batch.labels])
    layers = len({site.layer for site in scans(model)})
    probed = {
        "cost": np.full((n, 4), np.nan),
        "horizons": np.full((n, layers, 3), np.nan),
        "lengths": np.full((n, layers), np.nan),
    }
    for row, index in enumerate(batch.indices):
        if index < config.probes:
            x = batch.tensor[row : row + 1]
            counted = cost.count(model, x)  # which also warms up
            probed["cost"][row] = *counted, *cost.timed(model, x)[1:]
            if layers:
                probed["horizons"][row], probed["lengths"][row] = _horizons(model, x)
    return partial | probed


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


def combine(
    partials: list[dict[str, np.ndarray]], config: ResolutionConfig, meta: dict
) -> ResolutionPoint:
    """The point of one size from the partial results of all chunks."""
    joined = {key: np.concatenate([p[key] for p in partials]) for key in partials[0]}
    probed = np.isfinite(joined["cost"][:, 0])
    flops, peak, latency, cpu = joined["cost"][probed].T
    labels = joined.get("labels")
    refitted = None
    if labels is not None and config.folds and (labels >= 0).sum() >= config.folds:
        refitted = refit(joined["features"], labels, config.folds)
    meta = {
        **meta,
        "size": meta["preprocessing"]["size"][0],
        "classes": config.classes and list(config.classes),
        "flops": int(flops[0]) if len(flops) else None,
        "peak_bytes": int(peak[0]) if len(peak) else None,
    }
    return ResolutionPoint(
        meta=meta,
        logits=joined["logits"],
        features=joined["features"],
        labels=labels,
        refit=refitted,
        seconds=joined["seconds"],
        latency=latency,
        cpu_seconds=cpu,
        horizons=joined["horizons"][probed].mean(axis=0) if probed.any() else np.empty((0, 3)),
        lengths=joined["lengths"][probed][0] if probed.any() else np.empty(0),
    )
