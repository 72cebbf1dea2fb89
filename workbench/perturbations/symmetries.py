"""What a four-route cross-scan cannot tell apart, and what it can.

Transposing an image swaps rows and columns, so a VMamba whose direction weights are permuted
0 <-> 1, 2 <-> 3, and whose kernels are transposed, gives the transposed features. A rotation by 180
degrees runs every route backwards: 0 <-> 2, 1 <-> 3, kernels rotated. A single flip maps no route
onto another, so no permutation of weights undoes it. The model as it is shares none of this: how
its predictions move under the four views is to be measured.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from workbench.models import backbone_of

VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposition": lambda x: x.transpose(-2, -1),
    "rotation": lambda x: x.flip(-2, -1),
    "horizontal-flip": lambda x: x.flip(-1),
    "vertical-flip": lambda x: x.flip(-2),
}
"""Name -> how images or maps (..., h, w) are turned; every one is its own inverse. Rotation is by
180 degrees."""

SYMMETRIES = ("transposition", "rotation")


def turned(model: nn.Module, view: str) -> nn.Module:
    """A copy of a model with the cross-scan that does to the turned image what `model` does to the
    image.

    Exact where every strided layer samples the turned image at the turned places. Patches do so
    wherever they fit the image. A 3x3 convolution of stride 2 does under transposition always, and
    under rotation only if its input has an odd side: for a model made of them the side must be a
    multiple of the last stage's stride, plus 1 (such as 65 px for three stages).

    Args:
        view: transposition or rotation.

    Raises:
        ValueError: for another view, or a model without the four-route cross-scan.
    """
    if view not in SYMMETRIES:
        raise ValueError(
            f"{view!r} is no symmetry of the cross-scan; {' and '.join(SYMMETRIES)} are"
        )
    other = copy.deepcopy(model)
    backbone_of(other).turn(view)
    return other


@torch.no_grad()
def deviation(model: Any, x: Tensor, view: str) -> float:
    """Largest difference between the features of the turned model on the turned image and the
    turned features of `model`, relative to the largest feature; 0 for an exact symmetry.

    Args:
        x: (b, 3, h, w), as the model takes them.

    Raises:
        ValueError: as `turned`.
    """
    other: Any = turned(model, view)
    expected = VIEWS[view](model.as_map(model.forward_features(x)))
    found = other.as_map(other.forward_features(VIEWS[view](x)))
    return float((found - expected).abs().max() / expected.abs().max())
