"""A model at another image size than its own."""

import copy
import warnings
from dataclasses import replace

from torch import nn

from workbench.images import Images, Preprocessing, preprocessing_for
from workbench.methods.resolution.config import PointConfig
from workbench.models import Adaptation, backbone_of


def native_size(model: nn.Module) -> int:
    """Side of the images a model was made for, in pixels."""
    return preprocessing_for(model).size[0]


def settled(config: PointConfig, model: nn.Module, images: Images, labelled: bool) -> PointConfig:
    """The configuration with `native` and `classes` filled in.

    Raises:
        ValueError: when the labels do not fit the head, or `classes` are none of the head's.
    """
    heads = getattr(model, "num_classes", None)
    targets = images.targets_of(model)
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


def adapted(model: nn.Module, size: int, config: PointConfig) -> nn.Module:
    """A copy of `model` that takes images of `size` x `size`, with the same weights."""
    other = copy.deepcopy(model)
    factor = size / (config.native or native_size(model))
    kernels = config.kernels if config.object_size == "grows" else "fixed"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # timm's, about its own indexing
        backbone_of(other).adapt(
            Adaptation(size, factor, config.positions, config.windows, kernels)
        )
    return other


def preprocessing_at(model: nn.Module, size: int, config: PointConfig) -> Preprocessing:
    """How images are brought to `size` by the protocol."""
    preprocessing = preprocessing_for(model, size)
    if config.object_size == "grows":
        return preprocessing
    native = config.native or native_size(model)
    return replace(preprocessing, object_size=(native, native))
