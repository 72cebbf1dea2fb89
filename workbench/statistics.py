"""Numbers with intervals: what a number of some images says of the images they were drawn from.

Intervals speak of the population of images, of one trained network, never of an architecture. How
often each kind holds the truth is simulated in `benchmarks/coverage.py`; docs/statistics.md has
the table and the reasons.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np
from scipy import stats

Interval = tuple[float, float]
NONE = (math.nan, math.nan)

FEWEST = 10
"""Images below which a mean or a number of a mean map has no interval."""
FEWEST_SKEWED = 50
"""The same for ratios of means, and for means that a few images can carry (cosines, half-lives)."""
FEWEST_HEAVY = 100
"""The same where it takes one image in dozens: ceilings, class tokens, likeness of layers."""
NEVER = sys.maxsize
"""The same for means that a few of hundreds can carry (shares of rare outliers, divergences)."""


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
        """Value and bounds multiplied with a factor."""
        value, low, high = (
            None if x is None else factor * x for x in (self.value, self.low, self.high)
        )
        return replace(self, value=value, low=low, high=high)


def finite(value: float | None) -> float | None:
    """The value, or None where JSON has no word for it."""
    return None if value is None or not math.isfinite(value) else float(value)


# Intervals


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
    half = _t(freedom, confidence) * error
    return Number(slope, slope - half, slope + half)


# Numbers


def share(hits: np.ndarray, confidence: float, unit: str = "%") -> Number:
    """How many of (n,) are 1, in %, with Wilson's interval."""
    if not len(hits):
        return Number(math.nan, unit=unit)
    low, high = wilson(int(hits.sum()), len(hits), confidence)
    return Number(100 * float(hits.mean()), 100 * low, 100 * high, unit)


def mean(values: np.ndarray, confidence: float = 0.95, fewest: int = FEWEST) -> Number:
    """Mean over images (n,) with Student's interval; none of fewer than `fewest` images."""
    if not len(values):
        return Number(math.nan)
    value = float(values.mean())
    if len(values) < max(fewest, 2):
        return Number(value)
    half = _t(len(values) - 1, confidence) * float(values.std(ddof=1)) / math.sqrt(len(values))
    return Number(value, value - half, value + half)


def median(values: np.ndarray, confidence: float = 0.95) -> Number:
    """Median over images (n,), between the order statistics that hold it whatever the distribution
    (binomial), so infinite values may stand for what was not reached. At 95 % from 6 images on.
    """
    if not len(values):
        return Number(math.nan)
    n, ordered = len(values), np.sort(values)
    beyond = int(stats.binom.ppf((1 - confidence) / 2, n, 0.5))
    interval = (float(ordered[beyond - 1]), float(ordered[n - beyond])) if beyond else NONE
    return Number(float(ordered[[(n - 1) // 2, n // 2]].mean()), *interval)


def ratio(
    above: np.ndarray, below: np.ndarray, confidence: float = 0.95, fewest: int = FEWEST_SKEWED
) -> Number:
    """Mean of `above` over mean of `below`, both (n,), with Student's interval of `linear`; none
    where fewer than `fewest` images are not 0 below.
    """
    if not below.any():
        return Number(math.nan)
    enough = np.count_nonzero(below) >= fewest
    return mean(linear(above, below), confidence, 2 if enough else len(below) + 1)


def linear(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Values (n,) whose mean is the ratio of means and whose spread is, to first order, its own."""
    value = above.sum() / below.sum()
    return value + (above - value * below) / below.mean()


def difference(a: np.ndarray, b: np.ndarray, confidence: float = 0.95) -> Number:
    """Mean of a less mean of b on the same images, with the interval of Bonett & Price (Br. J.
    Math. Stat. Psychol. 2012, 65:479): two images more, one for either side.

    Args:
        a, b: (n,) 1 for right and 0 for wrong, or shares of several answers.

    Raises:
        ValueError: when a and b do not belong to the same images.
    """
    _check_paired(a, b)
    if not len(a):
        return Number(math.nan)
    values, n = np.subtract(a, b, dtype=np.float64), len(a) + 2
    middle = values.sum() / n
    spread = math.sqrt(((np.square(values).sum() + 2) / n - middle**2) / n)
    half = NormalDist().inv_cdf(0.5 + confidence / 2) * spread
    return Number(float(values.mean()), max(-1.0, middle - half), min(1.0, middle + half))


def relative_change(a: np.ndarray, b: np.ndarray, confidence: float = 0.95) -> Number:
    """Hits of a over those of b on the same images, minus 1; interval as `ratio`.

    Raises:
        ValueError: as `difference`.
    """
    _check_paired(a, b)
    a, b = a.astype(np.float64), b.astype(np.float64)
    return ratio(a - b, b, confidence)


def _check_paired(a: np.ndarray, b: np.ndarray) -> None:
    if a.shape != b.shape:
        raise ValueError(f"{len(a)} and {len(b)} answers cannot be paired")


def _t(freedom: int, confidence: float) -> float:
    return float(stats.t.ppf(0.5 + confidence / 2, freedom))


# Trainings


def pooled(groups: Sequence[Sequence[float]]) -> tuple[float, int]:
    """Standard deviation within groups, taken to be the same in all, and its degrees of freedom;
    nan and 0 where no group has two values.
    """
    freedom = sum(max(len(group) - 1, 0) for group in groups)
    if not freedom:
        return math.nan, 0
    squares = sum(float(np.square(np.subtract(g, np.mean(g))).sum()) for g in groups if len(g))
    return math.sqrt(squares / freedom), freedom


def of_trainings(
    values: Sequence[float], groups: Sequence[Sequence[float]], confidence: float = 0.95
) -> Number:
    """Mean over trainings of one network that differ in the seed alone, with Student's interval.

    How much trainings differ is pooled over several networks, as two or three of one say little.

    Args:
        values: of this network's trainings.
        groups: the same of all networks, this one among them; without two trainings of any there
            is no interval.
    """
    if not len(values):
        return Number(math.nan)
    value, (spread, freedom) = float(np.mean(values)), pooled(groups)
    if not freedom:
        return Number(value)
    half = _t(freedom, confidence) * spread / math.sqrt(len(values))
    return Number(value, value - half, value + half)


def least_difference(groups: Sequence[Sequence[float]], confidence: float = 0.95) -> float | None:
    """The difference between two single trainings that seeds alone exceed in 1 - confidence of all
    pairs (Fisher's least significant difference, of one pair chosen beforehand); None where it
    cannot be told. `groups` as of `of_trainings`.
    """
    spread, freedom = pooled(groups)
    return _t(freedom, confidence) * spread * math.sqrt(2) if freedom else None


# Leaving images out


def groups(n: int, most: int) -> list[slice]:
    """n images in at most so many groups of neighbours, as equal as they can be."""
    size = math.ceil(n / most)
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def jackknife(
    whole: np.ndarray, left_out: np.ndarray, parts: Sequence[slice], confidence: float
) -> tuple[np.ndarray, np.ndarray]:
    """A statistic corrected for its bias of order 1/n, and half the width of Student's interval.

    Groups of different sizes weigh as in Busing, Meijer & van der Leeden (Stat. Comput. 1999, 9:3).

    Args:
        whole: (...) of all images. left_out: (groups, ...), each of all images but one group's.
    """
    sizes = np.array([part.stop - part.start for part in parts])
    times = (sizes.sum() / sizes).reshape(-1, *[1] * whole.ndim)
    pseudo = times * whole - (times - 1) * left_out
    found = (pseudo / times).sum(axis=0)
    variance = (np.square(pseudo - found) / (times - 1)).mean(axis=0)
    return found, _t(len(parts) - 1, confidence) * np.sqrt(variance)


class Sample:
    """Numbers of images as results hold them, at one level of confidence."""

    def __init__(self, confidence: float) -> None:
        self.confidence = confidence

    def mean(self, values: np.ndarray, unit: str, fewest: int = FEWEST) -> dict[str, Any]:
        return replace(mean(values, self.confidence, fewest), unit=unit).as_dict()

    def median(self, values: np.ndarray, unit: str) -> dict[str, Any]:
        return replace(median(values, self.confidence), unit=unit).as_dict()

    def ratio(self, above: np.ndarray, below: np.ndarray, unit: str) -> dict[str, Any]:
        return replace(ratio(above, below, self.confidence), unit=unit).as_dict()

    def points(self, a: np.ndarray, b: np.ndarray) -> dict[str, Any]:
        """`difference`, in points of percent."""
        found = difference(a, b, self.confidence).times(100)
        return replace(found, unit="points").as_dict()

    def share(self, hits: np.ndarray) -> dict[str, Any]:
        """How many of (n,) are 1, in %, with Wilson's interval."""
        return share(hits, self.confidence).as_dict()
