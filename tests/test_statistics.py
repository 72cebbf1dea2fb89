"""Intervals against closed forms and against the experiment that they speak of."""

import math

import numpy as np
import pytest

from workbench.statistics import (
    NONE,
    Number,
    Resamples,
    centred_percentile,
    counts,
    difference,
    mean,
    paired_means,
    percentile,
    redrawn_means,
    relative_change,
    share,
    student,
    wilson,
)

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
    # only images on which they differ matter: the standard error is that of a share of 1/4
    width = (there.high - there.low) / (2 * 1.96)
    assert width == pytest.approx(math.sqrt(0.25 * 0.75 / 100), rel=0.1)
    mirrored = (-there.value, -there.high, -there.low)
    assert (back.value, back.low, back.high) == pytest.approx(mirrored, abs=0.02)
    assert difference(a, a) == relative_change(b, b) == Number(0.0, 0.0, 0.0)
    assert relative_change(a, b).value == pytest.approx(0.5)
    assert relative_change(a, np.zeros(100, int)).as_dict()["value"] is None
    with pytest.raises(ValueError, match="paired"):
        difference(a, b[1:])


def test_all_ways_to_draw_give_the_same_interval_but_for_chance() -> None:
    a, b = RNG.integers(0, 2, 60), RNG.integers(0, 2, 60)
    expected = difference(a, b, resamples=20000)
    wanted = pytest.approx((expected.low, expected.high), abs=0.02)
    assert percentile(redrawn_means(a - b, 20000, 1), 0.95) == wanted
    assert percentile(np.subtract(*paired_means(np.stack([a, b]), 20000, 1).T), 0.95) == wanted
    draw = Resamples(60, 20000, 0.95, 1)
    entry = draw.mean(a - b, "points")
    assert (entry["low"], entry["high"]) == wanted


def test_blocks_of_counts_are_the_counts_of_one_draw() -> None:
    n = 1500
    blocks = list(counts(n, 4000, 3))
    whole = np.random.default_rng(3).multinomial(n, np.full(n, 1 / n), 4000)
    assert len(blocks) > 1 and np.array_equal(np.concatenate(blocks), whole)


def test_a_mean_needs_two_images_for_an_interval() -> None:
    values = RNG.normal(3, 2, 400)
    found = mean(values)
    assert found.value == pytest.approx(values.mean())
    assert (found.high - found.low) / (2 * 1.96) == pytest.approx(values.std() / 20, rel=0.1)
    for single in (mean(values[:1]).as_dict(), Resamples(1, 50, 0.95, 0).mean(values[:1], "")):
        assert (single["value"], single["low"], single["high"]) == (values[0], None, None)


def test_percentiles_leave_out_what_is_not_defined_and_can_be_centred() -> None:
    drawn = np.append(np.arange(101.0), [np.nan, np.inf])
    assert percentile(drawn, 0.9) == pytest.approx((5, 95))
    assert all(np.isnan(end) for end in percentile(drawn[-2:], 0.9)) and np.isnan(NONE).all()
    assert centred_percentile(drawn[:-1], 60.0, 0.9) == pytest.approx((15, 105))
