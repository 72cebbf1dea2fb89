"""Numbers of an effective receptive field: how far it reaches, how evenly, in which shape.

Every function takes a non-negative map p (height, width) and, where a centre is needed, the pixel
(row, column) of the output unit's projective centre. Maps are normalised inside, so a constant
factor changes nothing. Shares are of the image area, lengths in pixels.
"""

from functools import lru_cache

import numpy as np

from workbench.statistics import Number, centred_percentile, redraws

THRESHOLDS = (0.2, 0.3, 0.5, 0.99)


@lru_cache(maxsize=8)
def _rings(size: tuple[int, int], centre: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Ring of every pixel, and the area of the square that ends with each ring, in pixels.

    Only the part of the square that lies in the image counts.
    """
    rows, columns = (np.abs(np.arange(n) - c) for n, c in zip(size, centre, strict=True))
    half = np.maximum(rows[:, None], columns[None, :]) + 0.5
    sides, ring = np.unique(np.round(half, 6), return_inverse=True)
    areas = np.ones(len(sides))
    for n, c in zip(size, centre, strict=True):
        areas *= np.minimum(sides, c + 0.5) + np.minimum(sides, n - 0.5 - c)
    return ring.ravel(), areas


def centred_square(p: np.ndarray, centre: tuple[float, float], share: float) -> float:
    """r(t), exact: area of the smallest centred square that holds `share` of the map.

    The square grows continuously around `centre`; the mass of each ring of pixels is taken to lie
    evenly over the ring, and the answer is never below one pixel. Legacy scripts differ in three
    ways (see `legacy_square`). Returns a share of the image area, 1 at most.
    """
    return _centred_squares(p, centre, (share,))[0]


def _centred_squares(
    p: np.ndarray, centre: tuple[float, float], shares: tuple[float, ...]
) -> list[float]:
    ring, areas = _rings(p.shape, tuple(centre))
    mass = np.bincount(ring, weights=p.ravel()).cumsum()
    if mass[-1] <= 0:
        return [float("nan")] * len(shares)
    found = []
    for share in shares:
        at = int(np.searchsorted(mass, share * mass[-1] * (1 - 1e-12)))
        mass_before, area_before = (mass[at - 1], areas[at - 1]) if at else (0.0, 0.0)
        part = (share * mass[-1] - mass_before) / (mass[at] - mass_before)
        area = area_before + min(part, 1.0) * (areas[at] - area_before)
        found.append(float(max(area, 1.0) / p.size))
    return found


def legacy_square(p: np.ndarray, share: float) -> float:
    """r(t) as in RepLKNet's script: an odd square around pixel (height // 2, width // 2).

    It starts at 3 x 3 and stops at height - 1, so it can fail: then nan. Give it the map that the
    protocol evaluates (log10(x + 1) or a power of it). Returns a share of the image area, counted
    as side^2 / (height * width).
    """
    height, width = p.shape
    row, column = height // 2, width // 2
    total = p.sum()
    for i in range(1, height // 2):
        part = p[row - i : row + i + 1, max(column - i, 0) : column + i + 1].sum()
        if part / total > share:
            return (2 * i + 1) ** 2 / p.size
    return float("nan")


def smallest_set(p: np.ndarray, share: float) -> float:
    """A(t): the fewest pixels, wherever they are, that hold `share` of the map, over all pixels."""
    return _smallest_sets(p, (share,))[0]


def _smallest_sets(p: np.ndarray, shares: tuple[float, ...]) -> list[float]:
    mass = np.sort(p, axis=None)[::-1].cumsum(dtype=np.float64)
    if mass[-1] <= 0:
        return [float("nan")] * len(shares)
    wanted = np.array(shares) * mass[-1] * (1 - 1e-12)
    return [float(count) / p.size for count in np.searchsorted(mass, wanted) + 1]


def effective_radius(p: np.ndarray, centre: tuple[float, float]) -> float:
    """sqrt(sum p |x - c|^2): root mean square distance from the centre, in pixels."""
    p = p / p.sum()
    rows = (np.arange(p.shape[0]) - centre[0]) ** 2
    columns = (np.arange(p.shape[1]) - centre[1]) ** 2
    return float(np.sqrt(p.sum(1) @ rows + p.sum(0) @ columns))


def participation(p: np.ndarray) -> float:
    """(sum p)^2 / sum p^2 over the pixels: the share of the image that acts; 1 when uniform."""
    return float(p.sum() ** 2 / np.square(p).sum() / p.size)


def entropy_share(p: np.ndarray) -> float:
    """exp(entropy) over the pixels: 1 when uniform, 1 / pixels for a single pixel."""
    q = p[p > 0] / p.sum()
    return float(np.exp(-(q * np.log(q)).sum()) / p.size)


def anisotropy(p: np.ndarray) -> float:
    """Ratio of the long to the short axis of the map's covariance ellipse; 1 when round."""
    p = p / p.sum()
    rows, columns = np.arange(p.shape[0]), np.arange(p.shape[1])
    row_mass, column_mass = p.sum(1), p.sum(0)
    row, column = row_mass @ rows, column_mass @ columns
    covariance = rows @ p @ columns - row * column
    matrix = np.array(
        [
            [row_mass @ rows**2 - row**2, covariance],
            [covariance, column_mass @ columns**2 - column**2],
        ]
    )
    short, long = np.sqrt(np.clip(np.linalg.eigvalsh(matrix), 1e-12, None))
    return float(long / short)


def band(size: tuple[int, int]) -> float:
    """Half width of the cross through the centre: 2 % of the image's short side, in pixels."""
    return 0.02 * min(size)


def row_share(p: np.ndarray, centre: tuple[float, float]) -> float:
    """Share of the map in the horizontal band through the centre."""
    rows = np.abs(np.arange(p.shape[0]) - centre[0]) <= band(p.shape)
    return float(p[rows].sum() / p.sum())


def column_share(p: np.ndarray, centre: tuple[float, float]) -> float:
    """Share of the map in the vertical band through the centre."""
    columns = np.abs(np.arange(p.shape[1]) - centre[1]) <= band(p.shape)
    return float(p[:, columns].sum() / p.sum())


def crossness(p: np.ndarray, centre: tuple[float, float]) -> float:
    """Mass in the cross through the centre over what the radial profile alone would put there.

    1 for a map that depends on the distance only; above 1 when rows and columns stand out, the
    imprint of raster scans.
    """
    radius, count, cross = _circles(p.shape, tuple(centre))
    profile = np.bincount(radius, weights=p.ravel()) / count
    expected = profile[radius[cross]].sum()
    return float(p.ravel()[cross].sum() / expected) if expected > 0 else float("nan")


@lru_cache(maxsize=8)
def _circles(
    size: tuple[int, int], centre: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rounded radius of every pixel, pixels at each radius (1 at least), and the cross's pixels."""
    rows, columns = (np.arange(n) - c for n, c in zip(size, centre, strict=True))
    radius = np.rint(np.hypot(rows[:, None], columns[None, :])).astype(int).ravel()
    half = band(size)
    cross = (np.abs(rows) <= half)[:, None] | (np.abs(columns) <= half)[None, :]
    return radius, np.maximum(np.bincount(radius), 1), np.flatnonzero(cross)


def numbers(p: np.ndarray, centre: tuple[float, float]) -> dict[str, float]:
    """All numbers of one map, by name; see `UNITS`."""
    squares = _centred_squares(p, centre, THRESHOLDS)
    sets = _smallest_sets(p, THRESHOLDS)
    found = {f"r{t * 100:.0f}": 100 * r for t, r in zip(THRESHOLDS, squares, strict=True)}
    found |= {f"A{t * 100:.0f}": 100 * a for t, a in zip(THRESHOLDS, sets, strict=True)}
    return found | {
        "radius": effective_radius(p, centre),
        "participation": 100 * participation(p),
        "entropy": 100 * entropy_share(p),
        "anisotropy": anisotropy(p),
        "crossness": crossness(p, centre),
        "row_share": 100 * row_share(p, centre),
        "column_share": 100 * column_share(p, centre),
    }


UNITS = {
    **{f"r{t * 100:.0f}": "% of image" for t in THRESHOLDS},
    **{f"A{t * 100:.0f}": "% of image" for t in THRESHOLDS},
    "radius": "px",
    "participation": "% of image",
    "entropy": "% of image",
    "anisotropy": "ratio",
    "crossness": "ratio",
    "row_share": "% of map",
    "column_share": "% of map",
}


def bootstrap(
    maps: np.ndarray,
    weights: np.ndarray,
    centre: tuple[float, float],
    values: dict[str, float],
    resamples: int,
    confidence: float,
    seed: int,
) -> dict[str, Number]:
    """Numbers of the mean map with intervals over images drawn with replacement.

    The intervals are centred, because a resample holds fewer different images, whose mean is less
    even, so that its areas are too small.

    Args:
        maps: (images, height, width); signed maps are averaged first and made positive after.
        weights: (images,), what each map is multiplied with before the mean.
        values: the numbers of the mean map of all images; none has an interval for fewer than two.
    """
    if len(maps) < 2 or resamples < 2:
        return {name: Number(value, unit=UNITS[name]) for name, value in values.items()}
    flat = maps.reshape(len(maps), -1)
    drawn = []
    for places in redraws(len(maps), resamples, seed):
        counts = np.bincount(places, minlength=len(maps))
        p = (counts * weights).astype(flat.dtype) @ flat
        found = numbers(np.abs(p.reshape(maps.shape[1:]), dtype=np.float64), centre)
        drawn.append([found[name] for name in values])
    intervals = {}
    for (name, value), draws in zip(values.items(), np.array(drawn).T, strict=True):
        low, high = centred_percentile(draws, value, confidence)
        intervals[name] = Number(value, float(np.maximum(low, 0)), high, UNITS[name])
    return intervals
