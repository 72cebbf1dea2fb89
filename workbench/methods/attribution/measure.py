"""Attribution: which pixels a prediction rests on, by captum's methods and by the maps of
HiddenMambaAttn, and how faithful such a map is.

Grad-CAM works on every family because a layer's tokens are brought to the grid by the model's own
geometry (`workbench.geometry.as_map`).
"""

from dataclasses import asdict
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workbench.geometry import stages
from workbench.hooks import hooks
from workbench.images import Batch
from workbench.layout import layout_of
from workbench.methods.attribution import faithfulness, randomisation
from workbench.methods.attribution.config import METHODS, AttributionConfig
from workbench.methods.method import Partial
from workbench.methods.scan_maps.published_views import class_maps, quirks
from workbench.models import backbone_of
from workbench.results import Attribution
from workbench.statistics import Sample

_CLASS_MAPS = {"raw-attention": "raw", "rollout": "rollout", "mamba-attribution": "attribution"}


def targets_of(model: nn.Module, batch: Batch, config: AttributionConfig) -> Tensor:
    """The class asked about for every image, (n).

    Raises:
        ValueError: for a class that the model does not have, labels that are not known, and a
            model that is no classifier.
    """
    with torch.no_grad():
        logits = model(batch.tensor)
    if not (isinstance(logits, Tensor) and logits.ndim == 2):
        raise ValueError(
            f"{type(model).__name__} gives no scores (images, classes), so there is no class to "
            "ask about; give a model with a classifier"
        )
    classes = logits.shape[1]
    if config.target == "predicted":
        return logits.argmax(dim=1)
    if config.target == "label":
        if batch.labels is None or min(batch.labels) < 0:
            raise ValueError(
                "these images have no labels in the model's classes; choose target predicted"
            )
        return torch.tensor(batch.labels, device=logits.device)
    number = int(config.target)
    if number >= classes:
        raise ValueError(f"the model has classes 0 to {classes - 1}, so there is no class {number}")
    return torch.full((len(logits),), number, device=logits.device)


def explain(model: nn.Module, x: Tensor, targets: Tensor, config: AttributionConfig) -> Tensor:
    """The attribution of every input value: (n, c, h, w), signed unless the method is not.

    Methods that give one value for a pixel have it spread evenly over the colours.

    Args:
        x: (n, c, h, w), normalised. targets: (n), classes.

    Raises:
        ValueError: where the model does not fit the method.
    """
    from captum import attr  # here, because it takes a second to import

    x = x.detach().requires_grad_()
    base = faithfulness.baseline(model, x.detach(), config.baseline)
    with torch.enable_grad():
        if config.method == "saliency":
            found = attr.Saliency(model).attribute(x, target=targets, abs=True)
        elif config.method == "input-x-gradient":
            found = attr.InputXGradient(model).attribute(x, target=targets)
        elif config.method == "integrated-gradients":
            found = attr.IntegratedGradients(model).attribute(
                x, base, targets, n_steps=config.steps, internal_batch_size=max(8, len(x))
            )
        elif config.method == "occlusion":
            found = _occlusion(model, x.detach(), base, targets, config)
        elif config.method == "grad-cam":
            found = _spread(grad_cam(model, x, targets, config.stage, config.layer), x)
        else:
            maps = class_maps(
                model,
                x.detach(),
                _CLASS_MAPS[config.method],
                config.start,
                targets,
                config.as_published,
            )
            found = _spread(maps[:, None].to(x.device), x)
    return torch.as_tensor(found).detach().to(x.dtype)


def _spread(maps: Tensor, x: Tensor) -> Tensor:
    """(n, 1, rows, columns) -> (n, c, h, w), bilinear, each colour an equal part."""
    size = (x.shape[-2], x.shape[-1])
    wide = F.interpolate(maps, size, mode="bilinear")
    return wide.expand_as(x) / x.shape[1]


def _occlusion(
    model: nn.Module, x: Tensor, base: Tensor, targets: Tensor, config: AttributionConfig
) -> Tensor:
    from captum import attr  # here, because it takes a second to import

    height, width = x.shape[-2:]
    patch = config.patch or max(1, min(height, width) // 8)
    if patch > min(height, width):
        raise ValueError(f"patch {patch} is larger than the image of {height} x {width} pixels")
    step = max(1, patch // 2)
    with torch.no_grad():
        found = attr.Occlusion(model).attribute(
            x,
            (x.shape[1], patch, patch),
            (x.shape[1], step, step),
            base,
            targets,
            perturbations_per_eval=8,
        )
    return torch.as_tensor(found)


# Grad-CAM


class _Tap(nn.Module):
    """Where captum listens: a map (b, c, rows, columns) passes through it unchanged."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps.clone()  # another tensor, so that it has a gradient of its own


def grad_cam(
    model: nn.Module,
    x: Tensor,
    targets: Tensor,
    stage: int | None = None,
    layer: str | None = None,
) -> Tensor:
    """Grad-CAM (Selvaraju et al., arXiv 1610.02391) of a stage or layer of any family.

    Args:
        x: (n, c, h, w). targets: (n), classes.
        stage, layer: as in `AttributionConfig`.

    Returns:
        (n, 1, rows, columns), non-negative, on the layer's own grid.

    Raises:
        ValueError: for a stage or layer that the model does not have, that is no map, or that the
            prediction does not depend on.
    """
    from captum import attr  # here, because it takes a second to import

    module, label, before, axes = _cam_layer(model, stage, layer)
    layout = layout_of(model, label, x, axes, before, stage)
    tap = _Tap()
    summed = not before and backbone_of(model).block_output

    def replaced(output: Any) -> Any:
        taken = summed(label, output) if summed else output
        maps = layout.map_of(taken)
        change = tap(maps) - maps
        if taken is output:
            return layout.plus(output, change)
        return (layout.plus(output[0], change), *output[1:])  # parts of a sum

    tapped = (
        hooks([module], before=lambda _, args, kwargs: ((replaced(args[0]), *args[1:]), kwargs))
        if before
        else hooks([module], after=lambda _, args, kwargs, output: replaced(output))
    )

    with tapped:
        found = attr.LayerGradCam(model, tap).attribute(
            x.detach().requires_grad_(), targets, relu_attributions=False
        )
    cam = torch.as_tensor(found).detach()
    if not cam.any():
        raise ValueError(
            f"the prediction does not depend on the map of {label}; choose an earlier one"
        )
    return cam.relu()


def _cam_layer(
    model: nn.Module, stage: int | None, layer: str | None
) -> tuple[nn.Module, str, bool, str | None]:
    """The module, its name, whether the map is its input (else its output), and its axes."""
    modules = dict(model.named_modules())
    if layer is not None:
        layer, _, axes = layer.partition(":")
        if layer not in modules:
            raise ValueError(f"{type(model).__name__} has no layer {layer!r}")
        return modules[layer], layer, False, axes or None
    known = stages(model)
    if not known:
        raise ValueError(f"{type(model).__name__} has no stages known here; name a layer")
    if stage is not None and not 1 <= stage <= len(known):
        raise ValueError(
            f"{type(model).__name__} has stages 1 to {len(known)}, so there is no stage {stage}"
        )
    label, before = backbone_of(model).stage_tap(stage)
    return modules[label], label, before, None


# The method


def measure(model: nn.Module, batch: Batch, config: AttributionConfig) -> Partial:
    """Maps and faithfulness of a batch.

    Returns:
        maps: (n, h, w) float32, signed sum over colours; target (n); probability (n) of it;
        deletion, insertion: (n, 4, fractions + 1), the probability of the target while pixels go
        or come, by this map and by the maps of `faithfulness.REFERENCES`, or empty; infidelity and
        sensitivity (n) and randomised (n, `randomisation.SHARES`), nan where they are left out.
    """
    x = batch.tensor
    targets = targets_of(model, batch, config)
    attributions = explain(model, x, targets, config)
    maps = attributions.sum(dim=1)
    count = len(x)
    with torch.no_grad():
        probabilities = model(x).softmax(dim=1).gather(1, targets[:, None])[:, 0]
    arrays = {
        "maps": maps.float().cpu().numpy(),
        "pictures": batch.pictures,
        "target": targets.cpu().numpy(),
        "probability": probabilities.float().cpu().numpy(),
        "deletion": np.empty((0,), np.float32),
        "insertion": np.empty((0,), np.float32),
        "infidelity": np.full(count, np.nan, np.float32),
        "sensitivity": np.full(count, np.nan, np.float32),
        "randomised": np.full((count, len(randomisation.SHARES)), np.nan, np.float32),
    }
    if config.faithfulness:
        base = faithfulness.baseline(model, x, config.baseline)
        curves = faithfulness.compare(
            model, x, maps, targets, base, config.fractions, config.seed, batch.indices
        )
        arrays["deletion"], arrays["insertion"] = curves
    if config.randomisation:

        def mapped(other: nn.Module) -> Tensor:
            return explain(other, x, targets, config).sum(dim=1)

        arrays["randomised"] = randomisation.similarity(model, maps, mapped, config.seed)
    if config.perturbations:
        for i in range(count):
            own = slice(i, i + 1)
            measured = _robustness(
                model, x[own], attributions[own], targets[own], config, batch.indices[i]
            )
            arrays["infidelity"][i], arrays["sensitivity"][i] = measured
    return Partial(arrays)


def _robustness(
    model: nn.Module,
    x: Tensor,
    attributions: Tensor,
    target: Tensor,
    config: AttributionConfig,
    index: int,
) -> tuple[float, float]:
    """Infidelity and max-sensitivity (Yeh et al., arXiv 1901.09392) of one image's attribution.

    Infidelity is of Gaussian noise of a tenth of a standard deviation, with the attribution scaled
    to fit best; max-sensitivity is within 0.02 of every normalised value, relative to the map.
    """
    from captum import metrics  # here, because it takes a second to import

    def noise(inputs: Any) -> tuple[Tensor, Tensor]:
        inputs = inputs[0] if isinstance(inputs, tuple) else inputs
        change = 0.1 * torch.randn(inputs.shape).to(inputs)
        return change, inputs - change

    def explained(inputs: Any) -> tuple[Tensor]:
        inputs = inputs[0] if isinstance(inputs, tuple) else inputs
        return (explain(model, inputs, target.expand(len(inputs)), config),)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed + index)
        with torch.no_grad():
            fidelity = metrics.infidelity(
                model,
                noise,
                x,
                attributions,
                target=target,
                n_perturb_samples=config.perturbations,
                max_examples_per_batch=min(16, config.perturbations),
                normalize=True,
            )
        sensitivity = metrics.sensitivity_max(
            explained,
            x,
            n_perturb_samples=config.perturbations,
            max_examples_per_batch=min(4, config.perturbations),
        )
    return float(fidelity), float(sensitivity)


def combine(measured: Partial, config: AttributionConfig, meta: dict) -> Attribution:
    """One `Attribution` of all images."""
    values: dict[str, tuple[np.ndarray, str]] = {}
    for curve in ("deletion", "insertion"):
        if measured[curve].size:
            areas = faithfulness.area(measured[curve])
            for k, of in enumerate((config.method, *faithfulness.REFERENCES)):
                values[f"{curve}/{of}"] = (areas[:, k], "area")
            values[f"{curve} - random"] = (areas[:, 0] - areas[:, 1], "area")
    for key in ("infidelity", "sensitivity"):
        if np.isfinite(measured[key]).any():
            values[key] = (measured[key].astype(np.float64), "")
    for share, alike in zip(randomisation.SHARES, measured["randomised"].T, strict=True):
        if np.isfinite(alike).any():
            values[f"randomised {share:.0%}"] = (alike.astype(np.float64), "correlation")
    sample = Sample(config.confidence)
    meta = {
        **meta,
        "config": asdict(config),
        "shows": METHODS[config.method],
        "quirks": _quirks(config),
        "references": list(faithfulness.REFERENCES),
        "fractions": np.linspace(0, 1, config.fractions + 1).tolist(),
        "targets": measured["target"].tolist(),
        "probabilities": measured["probability"].tolist(),
        "numbers": {
            key: sample.mean(value[np.isfinite(value)], unit)
            for key, (value, unit) in values.items()
        },
    }
    return Attribution(
        meta=meta,
        maps=measured["maps"][: config.keep],
        pictures=measured["pictures"][: config.keep],
        deletion=measured["deletion"] if measured["deletion"].size else None,
        insertion=measured["insertion"] if measured["insertion"].size else None,
    )


def _quirks(config: AttributionConfig) -> list[str]:
    view = _CLASS_MAPS.get(config.method)
    if view is None:
        return []
    published = (f"{view} as published", "class row as published") if config.as_published else ()
    return quirks(view, *published)
