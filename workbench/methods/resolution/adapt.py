"""A model at another image size than its own."""

import copy
import warnings
from dataclasses import replace

from torch import nn

from workbench.images import Preprocessing, preprocessing_for
from workbench.methods.resolution.config import PointConfig, native_size
from workbench.models import Adaptation, backbone_of


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
