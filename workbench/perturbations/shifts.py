"""Images moved by a few pixels: what a network with strides answers differently to.

Zhang, ICML 2019, arXiv 1904.11486, measures how often two shifts of an image get one answer.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

WAYS = tuple((y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0))
"""The eight ways to go, as steps of rows and columns."""


def check_shift(pixels: int, height: int, width: int) -> None:
    """Raise ValueError unless an image reflected at its edges fills what such a move leaves."""
    if not 0 <= pixels < min(height, width):
        raise ValueError(
            f"{height} x {width} pixels cannot be moved by {pixels}; choose shifts below "
            f"{min(height, width)}"
        )


def shift(x: Tensor, pixels: int, indices: Sequence[int], seed: int = 0) -> Tensor:
    """x moved by so many pixels in one of `WAYS`, drawn for each image by its index, at every
    distance the same. What enters at the edges is the image reflected there.

    Args:
        x: (b, c, h, w).

    Raises:
        ValueError: for a distance below 0 or not below both sides of the image.
    """
    height, width = x.shape[-2:]
    check_shift(pixels, height, width)
    wide = F.pad(x, (pixels,) * 4, mode="reflect")
    moved = []
    for image, index in zip(wide, indices, strict=True):
        down, right = WAYS[np.random.default_rng((seed, index, 1)).integers(len(WAYS))]
        top, left = pixels * (1 - down), pixels * (1 - right)
        moved.append(image[:, top : top + height, left : left + width])
    return torch.stack(moved)
