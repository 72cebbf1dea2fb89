"""Frequency bands of an image, for attacks that stay in one of them.

Filtering a finished perturbation, as published frequency attacks do, understates what a band can
do. Here gradient and perturbation are brought back into the band in every step.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

BANDS = ("low", "mid", "high")


def dct_matrix(n: int, like: Tensor) -> Tensor:
    """(n, n): the orthonormal DCT-II; row k is the cosine of k half periods over n samples."""
    k = torch.arange(n, dtype=torch.float64)
    matrix = torch.cos(math.pi / n * k[:, None] * (k + 0.5)) * math.sqrt(2 / n)
    matrix[0] /= math.sqrt(2)
    return matrix.to(like)


def band_mask(size: tuple[int, int], band: str, cuts: tuple[float, float]) -> Tensor:
    """(h, w) bool: the DCT coefficients of a band.

    The frequency of coefficient (i, j) is the length of (i / h, j / w), where 1 is the highest that
    pixels along one axis can show. low lies below the first cut, high from the second on, and mid
    between them, so that every coefficient is in exactly one band.
    """
    rows, columns = (torch.arange(n, dtype=torch.float64) / n for n in size)
    frequency = torch.hypot(rows[:, None], columns)
    low, high = frequency < cuts[0], frequency >= cuts[1]
    return {"low": low, "mid": ~(low | high), "high": high}[band]


def band_filter(
    x: Tensor, band: str, cuts: tuple[float, float] = (0.15, 0.5)
) -> Callable[[Tensor], Tensor]:
    """The orthogonal projection of images (b, c, h, w), of the size of x, into a band."""
    height, width = x.shape[-2:]
    mask = band_mask((height, width), band, cuts).to(x)
    rows, columns = dct_matrix(height, x), dct_matrix(width, x)

    def within(images: Tensor) -> Tensor:
        return rows.T @ (mask * (rows @ images @ columns.T)) @ columns

    return within


def outside(delta: Tensor, within: Callable[[Tensor], Tensor]) -> Tensor:
    """(b,): the share of a perturbation's energy that lies outside the band; 0 for none at all."""
    left, energy = ((d**2).flatten(1).sum(1) for d in (delta - within(delta), delta))
    return torch.where(energy == 0, 0, left / energy)
