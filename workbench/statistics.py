"""Numbers with intervals: how images are drawn again, and what interval their draws give.

A bootstrap draws as many images as there are, with replacement, and asks how far the number
moves. There are two ways to draw: image by image (`redraws`), for statistics of whichever images
were drawn, and how often each image comes (`counts`), for means of several rows at once. Their
random numbers differ, and every method keeps the one that its stored results were made with.
"""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np
from scipy import stats

Interval = tuple[float, float]
NONE = (math.nan, math.nan)

_AT_ONCE = 4_000_000  # drawn numbers, 8 bytes each


@dataclass(frozen=True)
class Number:
    """A value with the bounds of its interval; nan or None where there is none.

    Attributes:
        unit: None where it is said elsewhere.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    unit: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """As results hold it: None for what is not finite, no unit where none is said."""
        found: dict[str, Any] = asdict(self)
        unit = found.pop("unit")
        found = {key: finite(value) for key, value in found.items()}
        return found if unit is None else {**found, "unit": unit}

    def times(self, factor: float) -> "Number":
        """Value and bounds, none of them None, multiplied with a factor."""
        value, low, high = (factor * x for x in (self.value, self.low, self.high))
        return replace(self, value=value, low=low, high=high)


def finite(value: float | None) -> float | None:
    """The value, or None where JSON has no word for it."""
    return None if value is None or not math.isfinite(value) else float(value)


# Intervals


def percentile(drawn: np.ndarray, confidence: float) -> Interval:
    """The middle share `confidence` of draws (resamples,), those that are not finite left out."""
    drawn = drawn[np.isfinite(drawn)]
    if not len(drawn):
        return NONE
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return float(low), float(high)


def centred_percentile(drawn: np.ndarray, value: float, confidence: float) -> Interval:
    """The same without nan, moved so that the median of the draws is the value itself."""
    tail = (1 - confidence) / 2
    low, middle, high = np.nanquantile(drawn, [tail, 0.5, 1 - tail])
    return float(low - middle + value), float(high - middle + value)


def wilson(successes: int, count: int, confidence: float = 0.95) -> Interval:
    """Score interval of a proportion (Wilson, JASA 1927, 22:209)."""
    if count == 0:
        return NONE
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    p = successes / count
    middle = p + z**2 / (2 * count)
    half = z * math.sqrt(p * (1 - p) / count + z**2 / (4 * count**2))
    scale = 1 + z**2 / count
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


def student(x: np.ndarray, y: np.ndarray, confidence: float) -> Number:
    """Slope of y over x, both (n,), by least squares, with Student's interval.

    The slope needs two different x, the interval three points.
    """
    if len(np.unique(x)) < 2:
        return Number(math.nan)
    x, y = x - x.mean(), y - y.mean()
    slope = float(x @ y / (x @ x))
    freedom = len(x) - 2
    if freedom < 1:
        return Number(slope)
    error = math.sqrt(np.square(y - slope * x).sum() / freedom / (x @ x))
    half = float(stats.t.ppf(0.5 + confidence / 2, freedom)) * error
    return Number(slope, slope - half, slope + half)


# Draws


def redraws(count: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Image by image: the places (count,) of the images of each resample."""
    rng = np.random.default_rng(seed)
    for _ in range(resamples):  # one at a time, as all of them at once need count * resamples
        yield rng.integers(count, size=count)


def counts(count: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each image comes in the resamples: blocks (some resamples, count)."""
    rng, block = np.random.default_rng(seed), max(1, _AT_ONCE // count)
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        yield rng.multinomial(count, np.full(count, 1 / count), size)


def redrawn_means(values: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """(n, ...) -> (resamples, ...): means over images by `redraws`."""
    return np.array([values[at].mean(axis=0) for at in redraws(len(values), resamples, seed)])


def paired_means(values: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """(k, n) -> (resamples, k): means over images by `counts`, for all rows the same images, so
    that differences of rows are paired.
    """
    n = values.shape[1]
    return np.concatenate([drawn @ values.T / n for drawn in counts(n, resamples, seed)])


def _paired_hits(
    a: np.ndarray, b: np.ndarray, resamples: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Hits of a and of b, (n,) of 0 and 1, in resamples of the images: (resamples,) each.

    Only how often (a, b) is (0, 0), (0, 1), (1, 0), (1, 1) matters, so drawing images is drawing
    these four counts.
    """
    joint = np.bincount(2 * a.astype(int) + b.astype(int), minlength=4)
    drawn = np.random.default_rng(seed).multinomial(joint.sum(), joint / joint.sum(), resamples)
    return drawn[:, 2] + drawn[:, 3], drawn[:, 1] + drawn[:, 3]


# Numbers


def share(hits: np.ndarray, confidence: float, unit: str = "%") -> Number:
    """How many of (n,) are 1, in %, with Wilson's interval."""
    low, high = wilson(int(hits.sum()), len(hits), confidence)
    return Number(100 * float(hits.mean()), 100 * low, 100 * high, unit)


def mean(
    values: np.ndarray, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Number:
    """Mean over images (n,) with the percentile interval of `redraws`; none of a single image or
    resample.
    """
    if not len(values):
        return Number(math.nan)
    interval = NONE
    if len(values) > 1 and resamples > 1:
        interval = percentile(redrawn_means(values, resamples, seed), confidence)
    return Number(float(values.mean()), *interval)


def difference(
    a: np.ndarray, b: np.ndarray, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Number:
    """Share of hits of a minus that of b on the same images, with a paired bootstrap interval.

    Args:
        a, b: (n,) 1 for right and 0 for wrong.

    Raises:
        ValueError: when a and b do not belong to the same images.
    """
    _check_paired(a, b)
    if not len(a):
        return Number(math.nan, *NONE)
    hits_a, hits_b = _paired_hits(a, b, resamples, seed)
    interval = percentile((hits_a - hits_b) / len(a), confidence)
    return Number(float(a.mean() - b.mean()), *interval)


def relative_change(
    a: np.ndarray, b: np.ndarray, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Number:
    """Hits of a over those of b, minus 1, with a paired bootstrap interval; as `difference`."""
    _check_paired(a, b)
    if not len(a) or not b.any():
        return Number(math.nan, *NONE)
    hits_a, hits_b = _paired_hits(a, b, resamples, seed)
    ratios = hits_a / np.where(hits_b > 0, hits_b, np.nan)
    return Number(float(a.sum() / b.sum() - 1), *percentile(ratios - 1, confidence))


def _check_paired(a: np.ndarray, b: np.ndarray) -> None:
    if a.shape != b.shape:
        raise ValueError(f"{len(a)} and {len(b)} answers cannot be paired")


class Resamples:
    """The resamples of n images by `counts`, the same for every number, so that all are paired.

    The numbers are as results hold them, with no interval of a single image.
    """

    def __init__(self, n: int, resamples: int, confidence: float, seed: int) -> None:
        self.confidence = confidence
        self.weights = np.concatenate(list(counts(n, resamples, seed))) / n  # (resamples, n)

    def mean(self, values: np.ndarray, unit: str) -> dict[str, Any]:
        """Mean of (n,) values."""
        return self.number(values.mean(), self.weights @ values, unit)

    def ratio(self, above: np.ndarray, below: np.ndarray, unit: str) -> dict[str, Any]:
        """Mean of `above` over mean of `below`, both (n,)."""
        if not below.any():
            return Number(None, unit=unit).as_dict()
        return self.number(above.mean() / below.mean(), self.ratios(above, below), unit)

    def ratios(self, above: np.ndarray, below: np.ndarray) -> np.ndarray:
        """The ratio of means in every resample."""
        under = self.weights @ below
        return (self.weights @ above) / np.where(under > 0, under, np.nan)

    def number(self, value: float, drawn: np.ndarray, unit: str) -> dict[str, Any]:
        """A value with the percentile interval of what the resamples say, (resamples,)."""
        interval = percentile(drawn, self.confidence) if self.weights.shape[1] > 1 else NONE
        return Number(value, *interval, unit).as_dict()

    def share(self, hits: np.ndarray) -> dict[str, Any]:
        """How many of (n,) are 1, in %, with Wilson's interval."""
        return share(hits, self.confidence).as_dict()
