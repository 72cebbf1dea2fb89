"""The fields of all cells of a stage on one image, many in one pass: what follows the mouse."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workbench.geometry import feature_map
from workbench.methods.erf.config import ErfConfig
from workbench.methods.erf.measure import protocol, size_of

__all__ = ["fields", "small"]


def fields(
    model: nn.Module, x: Tensor, config: ErfConfig, cells: Sequence[tuple[int, int]]
) -> Tensor:
    """The maps that `erf` measures one by one.

    Args:
        x: (1, 3, h, w), preprocessed.
        config: what is measured where, but for its position.
        cells: m of the map, (row, column).

    Returns:
        (m, h, w): the size of the gradient at every pixel.
    """
    config = protocol(config, model)
    x = x.expand(len(cells), -1, -1, -1).detach().clone().requires_grad_()
    with torch.enable_grad():
        features = feature_map(model, x, config.stage, config.layer, config.norm)
        rows, columns = torch.tensor(cells, device=features.device).T
        units = features[torch.arange(len(cells), device=features.device), :, rows, columns]
        (found,) = torch.autograd.grad((units.relu() if config.score == "relu" else units).sum(), x)
    return size_of(found, config.measure).abs()


def small(maps: Tensor, most: int = 112) -> np.ndarray:
    """Maps as pictures of at most `most` pixels a side.

    Returns:
        uint8 (m, h', w'), 255 (map / its largest value) ** 0.25 of means over blocks.
    """
    height, width = maps.shape[-2:]
    factor = -(-max(height, width) // most)
    side = max(height // factor, 1), max(width // factor, 1)
    blocks = F.adaptive_avg_pool2d(maps[:, None].float(), side)[:, 0]
    largest = blocks.amax(dim=(1, 2))
    shares = blocks / largest.clamp_min(torch.finfo(torch.float32).tiny)[:, None, None]
    return (255 * shares**0.25).round().byte().cpu().numpy()
