"""Numbers of maps around queries: arrays in, arrays out."""

import numpy as np

from workbench.statistics import groups, jackknife


def distances(
    cells: tuple[int, int], query: tuple[int, int], stride: tuple[float, float]
) -> np.ndarray:
    """(rows, columns): pixels from the query to each cell."""
    rows, columns = ((np.arange(cells[i]) - query[i]) * stride[i] for i in (0, 1))
    return np.hypot(rows[:, None], columns[None, :])


def around(maps: np.ndarray, queries: list[tuple[int, int]]) -> np.ndarray:
    """Mean of maps (q, rows, columns), each moved so that its query lies in the middle.

    Returns:
        (2 rows - 1, 2 columns - 1): each entry the mean over the queries that have a cell there,
        nan where none has.
    """
    rows, columns = maps.shape[1:]
    total, count = np.zeros((2, 2 * rows - 1, 2 * columns - 1))
    for values, (row, column) in zip(maps, queries, strict=True):
        top, left = rows - 1 - row, columns - 1 - column
        place = slice(top, top + rows), slice(left, left + columns)
        total[place] += values
        count[place] += 1
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def moved(values: np.ndarray, at: tuple[float, float]) -> np.ndarray:
    """A map (rows, columns) with the place `at`, in cells, in the middle of twice as many cells
    less one, each of which takes its share of what lies in it: (2 rows - 1, 2 columns - 1).
    """
    down, across = (_moving(n, x) for n, x in zip(values.shape, at, strict=True))
    return down @ values @ across.T


def _moving(cells: int, at: float) -> np.ndarray:
    """(2 cells - 1, cells): the part of each cell that lies in each cell around `at`."""
    shift = np.arange(2 * cells - 1)[:, None] - (cells - 1) - (np.arange(cells)[None, :] - at)
    # what a fractional place pushes over the edge stays on it
    shift[0], shift[-1] = np.minimum(shift[0], 0), np.maximum(shift[-1], 0)
    return np.clip(1 - np.abs(shift), 0, 1)


def similarity(maps: np.ndarray) -> np.ndarray:
    """Linear centred kernel alignment (Kornblith et al., arXiv 1905.00414) of every two layers:
    (layers, layers) in [0, 1]; nan where the maps of a layer are all the same.

    With X (examples, features) of one layer and Y of another, their means over examples taken off,
    it is |X^T Y|^2 / (|X^T X| |Y^T Y|) in Frobenius norms.

    Args:
        maps: (layers, examples, features) float64.
    """
    centred = maps - maps.mean(axis=1, keepdims=True)
    if maps.shape[1] < maps.shape[2]:  # |X^T Y|^2 is the product of the smaller X X^T and Y Y^T
        grams = (centred @ centred.transpose(0, 2, 1)).reshape(len(maps), -1)
        products = grams @ grams.T
    else:
        products = np.array([[np.square(x.T @ y).sum() for y in centred] for x in centred])
    norms = np.sqrt(products.diagonal())
    # what is left of maps that are all the same is rounding
    even = norms <= 1e-12 * np.square(maps).sum(axis=(1, 2))
    norms = np.where(even, np.nan, norms)
    return products / norms[:, None] / norms[None, :]


def estimated(
    maps: np.ndarray, fewest: int, most: int, confidence: float
) -> tuple[np.ndarray, np.ndarray | None]:
    """`similarity` of every two layers, (layers, layers), and half the width of its interval.

    Of few images it is too high. From `fewest` images on the jackknife takes that bias away and
    gives the interval; below, the similarity is that of these images, and has none.

    Args:
        maps: (layers, images, queries, features).
        most: groups of images, at most, that are left out in turn.
    """

    def of(chosen: np.ndarray) -> np.ndarray:
        return similarity(maps[:, chosen].reshape(len(maps), -1, maps.shape[-1]))

    count = maps.shape[1]
    whole = of(np.ones(count, bool))
    if count < max(fewest, 2) or most < 2:
        return whole, None
    parts, places = groups(count, most), np.arange(count)
    left_out = np.array([of((places < p.start) | (places >= p.stop)) for p in parts])
    found, half = jackknife(whole, left_out, parts, confidence)
    return found.clip(0, 1), half


def principal(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first two principal components of points (n, features): (n, 2), and their shares of the
    variance (2,); the largest entry of each axis is positive, so that it does not turn by chance.
    """
    centred = points - points.mean(axis=0)
    _, sizes, axes = np.linalg.svd(centred, full_matrices=False)
    axes = (
        axes[:2] * np.sign(axes[np.arange(len(axes[:2])), np.abs(axes[:2]).argmax(axis=1)])[:, None]
    )
    found, share = np.zeros((len(points), 2)), np.zeros(2)
    found[:, : len(axes)] = centred @ axes.T
    total = np.square(sizes).sum()
    share[: len(axes)] = np.square(sizes[:2]) / total if total > 0 else 0
    return found, share
