"""Intervals against closed forms and against the experiment that they speak of."""

import math

import numpy as np
import pytest
from scipy import stats

from workbench.statistics import (
    Number,
    difference,
    groups,
    jackknife,
    mean,
    median,
    ratio,
    relative_change,
    share,
    student,
    wilson,
)  # fmt: skip

RNG = np.random.default_rng(0)


def test_a_number_says_none_where_json_has_no_word() -> None:
    assert Number(np.float32(2), math.nan, math.inf, "px").as_dict() == {
        "value": 2.0, "low": None, "high": None, "unit": "px",
    }  # fmt: skip
    assert Number(1.0, 0.5, 2.0).times(100).as_dict() == {"value": 100, "low": 50, "high": 200}


@pytest.mark.parametrize(
    ("successes", "count", "low", "high"),
    [(8, 10, 0.4901625, 0.9433178), (0, 10, 0.0, 0.2775328), (10, 10, 0.7224672, 1.0)],
)
def test_wilson(successes: int, count: int, low: float, high: float) -> None:
    assert wilson(successes, count) == pytest.approx((low, high), abs=1e-6)
    hits = np.arange(count) < successes
    wanted = [100 * successes / count, 100 * low, 100 * high]
    assert list(share(hits, 0.95).as_dict().values())[:3] == pytest.approx(wanted, abs=1e-4)


def test_wilsons_ends_are_where_the_score_test_just_rejects() -> None:
    z = 2.5758293  # 99 %
    for p in wilson(37, 120, 0.99):
        assert (37 / 120 - p) ** 2 == pytest.approx(z**2 * p * (1 - p) / 120, rel=1e-6)
    assert all(math.isnan(end) for end in wilson(0, 0))


def test_students_interval_holds_the_slope_as_often_as_it_says() -> None:
    x, hits = np.log([224.0, 320, 448, 640, 1024]), 0
    for _ in range(200):
        found = student(x, 2 * x + RNG.normal(0, 0.1, len(x)), 0.95)
        hits += found.low <= 2 <= found.high
    assert 180 <= hits <= 199  # 95 % of 200 are 190


def test_paired_difference_and_relative_change() -> None:
    a, b = np.array([1, 1, 1, 0] * 25), np.array([1, 1, 0, 0] * 25)
    there, back = difference(a, b), difference(b, a)
    assert there.value == 0.25 and there.low < 0.25 < there.high
    assert (back.value, back.low, back.high) == (-there.value, -there.high, -there.low)
    # Bonett & Price: 26 of 102 one way, 1 the other
    p, q = 26 / 102, 1 / 102
    half = 1.959964 * math.sqrt((p + q - (p - q) ** 2) / 102)
    assert (there.low, there.high) == pytest.approx((p - q - half, p - q + half), abs=1e-6)
    assert relative_change(a, b).value == pytest.approx(0.5)
    assert relative_change(b, b) == Number(0.0, 0.0, 0.0)
    assert relative_change(a, np.zeros(100, int)).as_dict()["value"] is None
    with pytest.raises(ValueError, match="paired"):
        difference(a, b[1:])


def test_a_mean_has_students_interval_from_ten_images_on() -> None:
    values = RNG.normal(3, 2, 400)
    found = mean(values)
    assert (found.low, found.high) == pytest.approx(
        stats.ttest_1samp(values, 0).confidence_interval()
    )
    for few in (values[:1], values[:9]):
        assert mean(few).as_dict() == {"value": few.mean(), "low": None, "high": None}
    assert mean(values[:10]).low is not None and mean(values[:10], fewest=50).low is None


def test_a_ratio_is_the_mean_of_its_linear_values() -> None:
    below = RNG.exponential(1, 80)
    above = 2 * below + RNG.normal(0, 0.1, 80)
    found = ratio(above, below)
    assert found.value == pytest.approx(above.mean() / below.mean())
    assert ratio(3 * above, below).high == pytest.approx(3 * found.high)
    assert ratio(above[:40], below[:40]).low is None
    left_out = (above.sum() - above) / (below.sum() - below)
    _, half = jackknife(np.array(found.value), left_out, groups(80, 80), 0.95)
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.05)


def test_a_median_lies_between_order_statistics_that_hold_it() -> None:
    # Conover: 2nd and 9th of 10 hold the median with 97.9 %, 3rd and 8th with 89 %
    values = RNG.permutation(np.append(np.arange(1.0, 10), np.inf))
    assert median(values) == Number(5.5, 2.0, 9.0)
    assert median(np.exp(values)) == Number((np.exp(5) + np.exp(6)) / 2, np.exp(2), np.exp(9))
    assert math.isnan(median(values[:5]).low)


def test_the_jackknife_is_exact_where_the_bias_is_of_order_one_over_n() -> None:
    # the square of a mean of n is too large by variance / n; left out, the variance is unbiased
    x = RNG.normal(1, 2, 30)
    left_out = np.array([np.delete(x, i).mean() ** 2 for i in range(30)])
    found, half = jackknife(np.array(x.mean() ** 2), left_out, groups(30, 30), 0.95)
    assert found == pytest.approx(x.mean() ** 2 - x.var(ddof=1) / 30)
    found, half = jackknife(x.mean(), (x.sum() - x) / 29, groups(30, 30), 0.95)
    assert found == pytest.approx(x.mean()) and found + half == pytest.approx(mean(x).high)


def test_groups_of_any_sizes_leave_a_mean_unbiased() -> None:
    x = RNG.normal(1, 2, 31)
    parts = groups(31, 10)
    assert [part.stop - part.start for part in parts] == [4] * 7 + [3]
    left_out = np.array([np.delete(x, part).mean() for part in parts])
    found, half = jackknife(x.mean(), left_out, parts, 0.95)
    assert found == pytest.approx(x.mean())
    assert half == pytest.approx((mean(x).high - x.mean()), rel=0.5)
