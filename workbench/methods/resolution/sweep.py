"""A model over image sizes: one stored point for each, so that a stopped sweep goes on, points show
as they arrive, and a size that does not fit in memory costs no other.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from workbench.images import Images
from workbench.memory import out_of_memory
from workbench.methods import erf
from workbench.methods.erf import ErfConfig
from workbench.methods.method import Method, Run
from workbench.methods.resolution.adapt import adapted, preprocessing_at, settled
from workbench.methods.resolution.config import PointConfig, ResolutionConfig
from workbench.methods.resolution.curve import curve
from workbench.results import Erf, Resolution, ResolutionPoint


@dataclass(frozen=True)
class Step:
    """What came of one size: the point and perhaps a receptive field, or the reason why not."""

    size: int
    point: ResolutionPoint | None = None
    field: Erf | None = None
    reason: str | None = None


def check_classes(images: Images) -> None:
    """Raise ValueError when a class has no image: its place would count among the classes."""
    if images.empty_classes:
        names = ", ".join(images.empty_classes[:5])
        raise ValueError(
            f"{images.title} has no image of {names}; remove the empty class or fill it, as its "
            "place would count among the classes"
        )


def check_sizes(
    model: nn.Module,
    sizes: Sequence[int],
    config: PointConfig,
    device: str | torch.device | None = None,
) -> None:
    """Run one blank image of each size, smallest first.

    Raises:
        ValueError: for no sizes or for sizes that the model cannot take, with its reason.
    """
    if not sizes:
        raise ValueError("give at least one size in pixels")
    for size in sorted(set(sizes)):
        if size < 1:
            raise ValueError(f"size {size} is not a number of pixels from 1 up")
        try:
            other = adapted(model, size, config).eval().to(device or "cpu")
            first = next(other.parameters())
            with torch.no_grad():
                other(torch.zeros(1, 3, size, size, device=first.device, dtype=first.dtype))
        except (ValueError, AssertionError, RuntimeError, MemoryError) as error:
            if out_of_memory(error):
                return  # the larger ones too: the sweep says so of each
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ValueError(
                f"{type(model).__name__} cannot take images of {size} x {size} pixels ({reason}); "
                "leave this size out"
            ) from error


def sweep(
    run: Run,
    method: Method,
    model: nn.Module,
    images: Images,
    config: ResolutionConfig,
    labelled: bool = False,
) -> Iterator[Step]:
    """Measure the native size and then `config.sizes`, smallest first; yield each as it is done.

    Everything that can be wrong with the input is looked for at the call, before the first step.

    Args:
        method: measures a size.
        model: built for its native size, as `create_model` does.
        labelled: count right answers; else labels are left out, and predictions are compared with
            those at the native size.

    Raises:
        ValueError: as `settled` and `check_sizes`, and for a class without images.
    """
    check_classes(images)
    if not labelled:
        images = _without_labels(images)
    at = settled(config.point, model, images, labelled)
    assert at.native is not None
    if labelled and at.folds > len(images):
        raise ValueError(
            f"{at.folds} folds cannot be made of {len(images)} images; give fewer folds, or 0"
        )
    native = at.native
    sizes = config.sizes or [round(native * factor) for factor in (0.5, 0.75, 1, 1.5, 2, 3)]
    ordered = [native, *(size for size in sorted(set(sizes)) if size != native)]
    check_sizes(model, ordered, at)
    seen = images.subset(range(min(config.erf_images, len(images))))
    return _steps(run, method, model, images, ordered, at, seen)


def _steps(
    run: Run,
    method: Method,
    model: nn.Module,
    images: Images,
    sizes: Sequence[int],
    config: PointConfig,
    field_images: Images,
) -> Iterator[Step]:
    full: int | None = None
    for size in sizes:
        if full is not None and size > full:
            yield Step(size, reason=f"not tried, as {full} px did not fit in memory")
            continue
        other = adapted(model, size, config)
        options = {"preprocessing": preprocessing_at(model, size, config), "folder": "points"}
        try:
            found = run(method, other, images, config, **options)
        except MemoryError as error:
            full = size if full is None else min(full, size)
            yield Step(size, reason=str(error))
            continue
        assert isinstance(found, ResolutionPoint)
        # what a receptive field is stored under must tell the settings apart too
        settings = {key: getattr(config, key) for key in ("positions", "windows", "kernels")}
        settings |= {"native": config.native, "object_size": config.object_size}
        options["facts"] = {"settings": settings}
        yield Step(size, found, _field(run, other, field_images, options))


def _without_labels(images: Images) -> Images:
    bare = images.subset(range(len(images)))
    bare.labels = bare.classes = bare.imagenet_index = None
    return bare


def _field(run: Run, model: nn.Module, images: Images, options: dict) -> Erf | None:
    """The receptive field, or None where it does not fit in memory or every gradient is zero."""
    if not len(images):
        return None
    try:
        found = run(erf.method, model, images, ErfConfig(chunk=1), **options)
    except (MemoryError, ValueError):
        return None
    assert isinstance(found, Erf)
    return found


def curve_of(
    steps: Sequence[Step],
    confidence: float = 0.95,
) -> Resolution:
    """The curve of the steps so far; see `workbench.methods.resolution.curve.curve`."""
    return curve(
        [step.point for step in steps if step.point is not None],
        {step.size: step.field for step in steps if step.field is not None},
        {step.size: step.reason for step in steps if step.reason is not None},
        confidence,
    )
