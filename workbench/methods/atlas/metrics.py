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
    return _of_groups(maps[:, None])[0]


def _of_groups(parts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`similarity` of all examples, (layers, layers), and of all but one group's, for each group.

    A group's part of X^T Y is taken from the whole instead of summing the rest once more.

    Args:
        parts: (layers, groups, examples, features) float64, nan where a group has fewer examples.
    """
    counts = np.isfinite(parts[0, :, :, 0]).sum(axis=1)
    even = 1e-12 * np.nansum(np.square(parts), axis=(1, 2, 3))  # less than that is rounding
    mean = np.nanmean(parts, axis=(1, 2), keepdims=True)
    centred = np.nan_to_num(parts - mean)
    sums = centred.sum(axis=2)
    layers, rest = len(parts), counts.sum() - counts
    found = np.zeros((1 + len(counts), layers, layers))
    for a, b in zip(*np.triu_indices(layers), strict=True):
        own = centred[a].swapaxes(1, 2) @ centred[b]
        whole = own.sum(axis=0)
        moved_mean = sums[a][:, :, None] * sums[b][:, None, :] / np.maximum(rest, 1)[:, None, None]
        found[0, a, b] = found[0, b, a] = np.square(whole).sum()
        found[1:, a, b] = found[1:, b, a] = np.square(whole - own - moved_mean).sum(axis=(1, 2))
    norms = np.sqrt(found.diagonal(axis1=1, axis2=2))
    norms = np.where(norms <= even, np.nan, norms)
    found = found / norms[:, :, None] / norms[:, None, :]
    return found[0], found[1:]


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
    layers, count, queries, features = maps.shape
    if count < max(fewest, 2) or most < 2:
        return similarity(maps.reshape(layers, -1, features)), None
    parts = groups(count, most)
    size = max(part.stop - part.start for part in parts)
    grouped = np.full((layers, len(parts) * size, queries, features), np.nan)
    grouped[:, :count] = maps  # only the last group can be smaller
    whole, left_out = _of_groups(grouped.reshape(layers, len(parts), -1, features))
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
