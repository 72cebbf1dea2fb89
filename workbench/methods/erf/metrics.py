"""Numbers of an effective receptive field: how far it reaches, how evenly, in which shape.

Every function takes a non-negative map p (height, width) and, where a centre is needed, the pixel
(row, column) of the output unit's projective centre. Maps are normalised inside, so a constant
factor changes nothing. Shares are of the image area, lengths in pixels.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from workbench.statistics import Number, groups, jackknife

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
    return _reached(*_squares(p, centre), share) / p.size


def _squares(p: np.ndarray, centre: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Share of the map in each centred square, and the squares' areas in pixels."""
    ring, areas = _rings(p.shape, tuple(centre))
    mass = np.bincount(ring, weights=p.ravel()).cumsum()
    return mass / (mass[-1] or np.nan), areas


def _sets(p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Share of the map in its 1, 2, 3 ... brightest pixels, and these numbers."""
    mass = np.sort(p, axis=None)[::-1].cumsum(dtype=np.float64)
    return mass / (mass[-1] or np.nan), np.arange(1.0, p.size + 1)


def _reached(shares: np.ndarray, areas: np.ndarray, share: float) -> float:
    """The area at which growing shares reach one, linear in between, one pixel at least."""
    if np.isnan(shares[-1]):
        return float("nan")
    grown = np.concatenate([[0.0], np.maximum.accumulate(shares)])
    return max(1.0, float(np.interp(share * (1 - 1e-12), grown, np.concatenate([[0.0], areas]))))


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
    """A(t): the fewest pixels, wherever they are, that hold `share` of the map, over all pixels.

    The last pixel counts in part, and the answer is never below one pixel.
    """
    return _reached(*_sets(p), share) / p.size


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
    return _numbers(p, centre, _squares(p, centre), _sets(p))


def _numbers(
    p: np.ndarray,
    centre: tuple[float, float],
    squares: tuple[np.ndarray, np.ndarray],
    sets: tuple[np.ndarray, np.ndarray],
) -> dict[str, float]:
    areas = {
        f"{kind}{t * 100:.0f}": 100 * _reached(*curve, t) / p.size
        for kind, curve in (("r", squares), ("A", sets))
        for t in THRESHOLDS
    }
    return areas | {
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

FEWEST = {"abs": 10, "relu": 25, "sum-relu": 25, "square": 50}
"""Images from which on numbers are estimates with intervals, by measure: the more a map is made of
single bright pixels, the more images. Signed maps never have any: their noise, made positive after
the mean, is no bias of order 1/n."""
_AREAS = (0.2, 0.3, 0.5)
"""Areas are as rough functions of the maps as these shares of an area are smooth ones, so the
jackknife takes the shares; at 99 %, where the share hardly grows, the area itself."""
_LOGARITHMS = ("r99", "A99", "radius", "participation", "entropy", "crossness", "row_share",
               "column_share")  # fmt: skip
_GRID = 1000
"""So many of the brightest pixels' shares are kept of every map."""


def estimates(
    maps: np.ndarray,
    weights: np.ndarray,
    centre: tuple[float, float],
    values: dict[str, float],
    most: int,
    confidence: float,
    fewest: int = 10,
) -> dict[str, Number]:
    """Numbers of the mean map of the population that images were drawn from, with intervals.

    A mean of few maps is less even than that of all images: its areas, entropy and participation
    are too small. The jackknife, leaving out at most `most` groups of images in turn, takes the
    bias of order 1/n away and gives Student intervals: of logarithms, and for the areas at 20, 30
    and 50 % where the bounds of the share that an area holds reach that share. The ratio of axes
    is at its least for a round map, where no such interval holds, so it stays as it is.

    Args:
        maps: (images, height, width); signed maps are averaged first and made positive after.
        weights: (images,), what each map is multiplied with before the mean.
        values: the numbers of the mean map, which stay as they are without intervals for fewer
            than `fewest` images (see `FEWEST`) or two groups.
    """
    plain = {name: Number(value, unit=UNITS[name]) for name, value in values.items()}
    if len(maps) < fewest or most < 2:
        return plain
    parts = groups(len(maps), most)
    sums = [np.tensordot(weights[part], maps[part].astype(np.float64), 1) for part in parts]
    total = np.sum(sums, axis=0)
    ring_areas = _rings(total.shape, tuple(centre))[1]
    counts = np.unique(np.geomspace(1, total.size, _GRID).round().astype(int))

    def features(p: np.ndarray) -> np.ndarray:
        squares, sets = _squares(p, centre), _sets(p)
        found = _numbers(p, centre, squares, sets)
        with np.errstate(divide="ignore"):
            logarithms = np.log([found[name] for name in _LOGARITHMS])
        return np.concatenate([logarithms, squares[0], sets[0][counts - 1]])

    whole = features(np.abs(total))
    left_out = np.array([features(np.abs(total - own)) for own in sums])
    with np.errstate(invalid="ignore"):
        middle, half = jackknife(whole, left_out, parts, confidence)
    first = len(_LOGARITHMS)
    curves = {"r": (slice(first, first + len(ring_areas)), ring_areas),
              "A": (slice(first + len(ring_areas), None), counts)}  # fmt: skip

    def number(name: str) -> Sequence[float]:
        if name in _LOGARITHMS:
            at = _LOGARITHMS.index(name)
            return np.exp(middle[at] + np.array([0, -1, 1]) * half[at]).tolist()
        (at, areas), share = curves[name[0]], float(name[1:]) / 100
        bounds = ((middle + side * half)[at] for side in (0, 1, -1))
        return [100 * _reached(shares, areas, share) / total.size for shares in bounds]

    names = (*_LOGARITHMS, *(f"{kind}{t * 100:.0f}" for kind in "rA" for t in _AREAS))
    most_of = {name: 100.0 if "%" in unit else np.inf for name, unit in UNITS.items()}
    corrected = {name: np.minimum(number(name), most_of[name]).tolist() for name in names}
    return plain | {
        name: Number(*found, UNITS[name])
        for name, found in corrected.items()
        if np.isfinite(found).all()
    }
