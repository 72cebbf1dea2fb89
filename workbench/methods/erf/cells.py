"""The fields of all cells of a stage on one image, many in one pass: what follows the mouse."""

import gzip
import json
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workbench.geometry import feature_map
from workbench.methods.erf.config import ErfConfig
from workbench.methods.erf.measure import protocol, size_of

__all__ = ["coarse_first", "fields", "payload", "small"]


def coarse_first(rows: int, columns: int) -> list[tuple[int, int]]:
    """All cells, so ordered that the first ones already lie all over the grid."""

    def coarseness(cell: tuple[int, int]) -> int:
        either = cell[0] - rows // 2 | cell[1] - columns // 2
        return either & -either or 1 << 30  # the largest power of two that divides both

    every = [(row, column) for row in range(rows) for column in range(columns)]
    return sorted(every, key=coarseness, reverse=True)


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


def payload(cells: Sequence[tuple[int, int]], maps: np.ndarray, left: int, level: int = 9) -> bytes:
    """What the browser reads, compressed: a line of JSON, then maps (m, h, w), a byte a pixel.

    Args:
        left: how many cells are still to come.
        level: of compression, 1 where it has to be quick.
    """
    told = {"cells": cells, "side": maps.shape[1:], "left": left}
    return gzip.compress(json.dumps(told).encode() + b"\n" + maps.tobytes(), level, mtime=0)
