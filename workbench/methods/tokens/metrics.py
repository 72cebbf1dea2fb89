"""Numbers of norm maps: arrays in, arrays out."""

import numpy as np
from scipy import stats

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


def outliers(norms: np.ndarray, mad: float) -> np.ndarray:
    """Which norms (..., cells) lie above the median by more than `mad` median absolute deviations:
    (..., cells) bool.

    What differs from the median by less than a millionth of it is rounding.
    """
    median = np.median(norms, axis=-1, keepdims=True)
    deviation = np.median(np.abs(norms - median), axis=-1, keepdims=True)
    return norms - median > mad * deviation + 1e-6 * median


def mean_over(values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Mean of values over the chosen ones of the last axis; nan where none is chosen."""
    count = chosen.sum(axis=-1)
    total = np.where(chosen, values, 0).sum(axis=-1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def eccentricity(rows: int, columns: int) -> np.ndarray:
    """(rows * columns,) how far cells are from the centre, in half diagonals of the image."""
    y, x = ((2 * np.arange(n) + 1) / n - 1 for n in (rows, columns))
    return np.hypot(y[:, None], x[None, :]).ravel() / np.sqrt(2)


def flat(contrast: np.ndarray) -> np.ndarray:
    """1 for cells of less contrast than half of the image's cells, 0 for more, 1/2 for as much:
    (..., cells), with the mean 1/2 whatever the image.
    """
    ranks = stats.rankdata(contrast, axis=-1)
    middle = (contrast.shape[-1] + 1) / 2
    return 0.5 - 0.5 * np.sign(ranks - middle)


def correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pearson's correlation of maps (n, rows, columns) image by image: (n,); nan for even maps.

    The finer map is averaged over the cells of the coarser one.
    """
    grid = tuple(min(sides) for sides in zip(a.shape[1:], b.shape[1:], strict=True))
    x, y = (pooled(maps, grid).reshape(len(maps), -1) for maps in (a, b))
    x, y = (v - v.mean(axis=1, keepdims=True) for v in (x, y))
    scale = np.sqrt((x * x).sum(axis=1) * (y * y).sum(axis=1))
    return np.where(scale > 0, (x * y).sum(axis=1) / np.where(scale > 0, scale, 1), np.nan)


def pooled(maps: np.ndarray, grid: tuple[int, ...]) -> np.ndarray:
    """(n, rows, columns) averaged over cells that share the map evenly: (n, *grid) float64."""
    found = maps.astype(np.float64)
    for axis, cells in enumerate(grid, 1):
        found = np.moveaxis(
            np.tensordot(_shares(maps.shape[axis], cells), found, (1, axis)), 0, axis
        )
    return found


def _shares(fine: int, coarse: int) -> np.ndarray:
    """(coarse, fine): the part of each fine cell in each coarse one; rows sum to 1."""
    edges = np.arange(fine + 1) / fine * coarse
    cell = np.arange(coarse)[:, None]
    inside = np.clip(np.minimum(edges[1:], cell + 1) - np.maximum(edges[:-1], cell), 0, None)
    return inside / inside.sum(axis=1, keepdims=True)
