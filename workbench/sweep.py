"""A model over image sizes: one stored point for each, so that a stopped sweep goes on, points show
as they arrive, and a size that does not fit in memory costs no other.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import torch
from torch import nn

from workbench.images import Images, open_images
from workbench.methods import erf, resolution
from workbench.methods.erf import ErfConfig
from workbench.methods.resolution import ResolutionConfig, adapted, preprocessing_at, settled
from workbench.methods.resolution_curve import Statistics, curve
from workbench.results import Erf, Resolution, ResolutionPoint, content_hash
from workbench.runner import Progress, file_name, out_of_memory, run


@dataclass(frozen=True)
class Step:
    """What came of one size: the point and perhaps a receptive field, or the reason why not."""

    size: int
    point: ResolutionPoint | None = None
    field: Erf | None = None
    reason: str | None = None


def open_data(source: Any, limit: int | None = None) -> Images:
    """Open labelled images for a sweep; see `open_images`.

    Raises:
        ValueError: when there are fewer images than `limit`, or a class without any.
    """
    images = open_images(source)
    if limit is not None and limit > len(images):
        raise ValueError(f"{limit} images were asked for, but {images.describe()}")
    if images.classes and images.labels is not None:
        empty = sorted(set(range(len(images.classes))) - set(images.labels))
        if empty:
            names = ", ".join(images.classes[k] for k in empty[:5])
            raise ValueError(
                f"{images.title} has no image of {names}; remove the empty class or fill it, as "
                "its place would count among the classes"
            )
    return open_images(images, limit)


def check_sizes(
    model: nn.Module,
    sizes: Sequence[int],
    config: ResolutionConfig,
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
    model: nn.Module,
    images: Images | Any,
    sizes: Sequence[int],
    config: ResolutionConfig | None = None,
    *,
    labelled: bool = False,
    erf_config: ErfConfig | None = None,
    erf_images: int = 4,
    out: str | PurePath | None = None,
    device: str | torch.device | None = None,
    progress: Progress | None = None,
    facts: Mapping[str, Any] | None = None,
    force: bool = False,
) -> Iterator[Step]:
    """Measure the native size and then `sizes`, smallest first; yield each as it is done.

    Everything that can be wrong with the input is looked for at the call, before the first step.

    Args:
        model: built for its native size, as `create_model` does.
        labelled: count right answers; else labels are left out, and predictions are compared with
            those at the native size.
        erf_images: so many of the first images also give a receptive field, 0 for none.
        out: a folder for the stored points; the rest as `run`.

    Raises:
        ValueError: as `settled` and `check_sizes`, and for fewer images than asked for.
    """
    images = images if isinstance(images, Images) else open_images(images)
    if not labelled:
        images = _without_labels(images)
    config = settled(config or ResolutionConfig(), model, images, labelled)
    assert config.native is not None
    if erf_images > len(images):
        raise ValueError(
            f"receptive fields of {erf_images} images were asked for, but there is only "
            f"{images.describe()}"
        )
    if labelled and config.folds > len(images):
        raise ValueError(
            f"{config.folds} folds cannot be made of {len(images)} images; give fewer folds, or 0"
        )
    ordered = [config.native, *(size for size in sorted(set(sizes)) if size != config.native)]
    check_sizes(model, ordered if sizes else (), config, device)
    options = {"out": out, "device": device, "facts": facts, "force": force}
    fields = erf_config or ErfConfig(chunk=1), images.subset(range(erf_images))
    return _steps(model, images, ordered, config, fields, progress, options)


def _steps(
    model: nn.Module,
    images: Images,
    sizes: Sequence[int],
    config: ResolutionConfig,
    fields: tuple[ErfConfig, Images],
    progress: Progress | None,
    options: dict[str, Any],
) -> Iterator[Step]:
    full: int | None = None
    for size in sizes:
        if full is not None and size > full:
            yield Step(size, reason=f"not tried, as {full} px did not fit in memory")
            continue
        other = adapted(model, size, config)
        options["preprocessing"] = preprocessing_at(model, size, config)
        try:
            point = run(resolution, other, images, config, progress=progress, **options)
        except MemoryError as error:
            full = size if full is None else min(full, size)
            yield Step(size, reason=str(error))
            continue
        assert isinstance(point, ResolutionPoint)
        # what a receptive field is stored under must tell the settings apart too
        settings = {key: getattr(config, key) for key in ("positions", "windows", "kernels")}
        settings |= {"native": config.native, "object_size": config.object_size}
        told = {"facts": {**(options["facts"] or {}), "settings": settings}}
        yield Step(size, point, _field(other, *fields, options | told))


def _without_labels(images: Images) -> Images:
    bare = images.subset(range(len(images)))
    bare.labels = bare.classes = bare.imagenet_index = None
    return bare


def _field(model: nn.Module, config: ErfConfig, images: Images, options: dict) -> Erf | None:
    """The receptive field, or None where it does not fit in memory or every gradient is zero."""
    if not len(images):
        return None
    try:
        found = run(erf, model, images, config, **options)
    except (MemoryError, ValueError):
        return None
    assert isinstance(found, Erf)
    return found


def curve_of(
    steps: Sequence[Step],
    statistics: Statistics = Statistics(),  # noqa: B008
) -> Resolution:
    """The curve of the steps so far; see `workbench.methods.resolution_curve.curve`."""
    return curve(
        [step.point for step in steps if step.point is not None],
        {step.size: step.field for step in steps if step.field is not None},
        {step.size: step.reason for step in steps if step.reason is not None},
        statistics,
    )


def save_curve(result: Resolution, out: str | PurePath) -> Path:
    """Write a curve beside its points as `<model>-resolution-<hash8>.npz`; return its path.

    hash8 stands for model, images and protocol, not for the sizes: more go to the same file.
    """
    meta = result.meta
    hash8 = content_hash([meta["facts"], meta["config"], meta["images"], meta["dtype"]])
    return result.save(Path(out) / f"{file_name(meta['model'])}-resolution-{hash8}.npz")
