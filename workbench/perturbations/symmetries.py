"""What a four-route cross-scan cannot tell apart, and what it can.

Transposing an image swaps rows and columns, so a VMamba whose direction weights are permuted
0 <-> 1, 2 <-> 3, and whose kernels are transposed, gives the transposed features. A rotation by 180
degrees runs every route backwards: 0 <-> 2, 1 <-> 3, kernels rotated. A single flip maps no route
onto another, so no permutation of weights undoes it. The model as it is shares none of this: how
its predictions move under the four views is to be measured.
"""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from workbench.models import VMamba
from workbench.models.vmamba import SS2D, PatchMerging
from workbench.paths import CROSS

VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposition": lambda x: x.transpose(-2, -1),
    "rotation": lambda x: x.flip(-2, -1),
    "horizontal-flip": lambda x: x.flip(-1),
    "vertical-flip": lambda x: x.flip(-2),
}
"""Name -> how images or maps (..., h, w) are turned; every one is its own inverse. Rotation is by
180 degrees."""

_ROUTES = {"transposition": (1, 0, 3, 2), "rotation": (2, 3, 0, 1)}
_PHASES = {
    "transposition": (0, 2, 1, 3),
    "rotation": (3, 2, 1, 0),
}  # cells that patch merging joins


@torch.no_grad()
def turned(model: nn.Module, view: str) -> VMamba:
    """A copy of a VMamba that does to the turned image what `model` does to the image.

    Exact where every strided layer samples the turned image at the turned places. Patches do so
    wherever they fit the image. A 3x3 convolution of stride 2 does under transposition always, and
    under rotation only if its input has an odd side: for a model made of them the side must be a
    multiple of the last stage's stride, plus 1 (such as 65 px for three stages).

    Args:
        view: transposition or rotation.

    Raises:
        ValueError: for another view, or a model without the four-route cross-scan.
    """
    if view not in _ROUTES:
        raise ValueError(f"{view!r} is no symmetry of the cross-scan; {' and '.join(_ROUTES)} are")
    if not isinstance(model, VMamba) or any(
        module.scan.directions != CROSS for module in model.modules() if isinstance(module, SS2D)
    ):
        raise ValueError(
            f"{type(model).__name__} does not scan along {', '.join(CROSS)}, so its weights cannot "
            "be permuted to undo a turn of the image; give a VMamba with the cross-scan"
        )
    turn, other = VIEWS[view], copy.deepcopy(model)
    for module in other.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.copy_(turn(module.weight).clone())
        elif isinstance(module, SS2D):
            for parameter in (
                module.x_proj_weight,
                module.dt_projs_weight,
                module.dt_projs_bias,
                module.A_logs,
                module.Ds,
            ):
                _permute(parameter, 0, _ROUTES[view])
        elif isinstance(module, PatchMerging):
            for parameter in (module.norm.weight, module.norm.bias, module.reduction.weight):
                _permute(parameter, parameter.ndim - 1, _PHASES[view])
    return other


def _permute(parameter: Tensor, axis: int, order: tuple[int, ...]) -> None:
    """Put the four equal parts along an axis in another order."""
    parts = parameter.chunk(4, dim=axis)
    parameter.copy_(torch.cat([parts[i] for i in order], dim=axis))


@torch.no_grad()
def deviation(model: nn.Module, x: Tensor, view: str) -> float:
    """Largest difference between the features of the turned model on the turned image and the
    turned features of `model`, relative to the largest feature; 0 for an exact symmetry.

    Args:
        x: (b, 3, h, w), as the model takes them.

    Raises:
        ValueError: as `turned`.
    """
    other = turned(model, view)
    expected = VIEWS[view](model.as_map(model.forward_features(x)))
    found = other.as_map(other.forward_features(VIEWS[view](x)))
    return float((found - expected).abs().max() / expected.abs().max())
