"""Numbers of robustness: accuracy, agreement and margin under each condition, against clean.

Shares are in % and differences in percentage points. Every number is {"value", "low", "high",
"unit"} with None for what is not defined.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from workbench.methods.resolution.metrics import wilson

_AT_ONCE = 4_000_000  # drawn numbers, 8 bytes each


def resampled_means(values: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """(resamples, k): means of (k, n) over images drawn with replacement, for all rows the same
    images, so that differences of rows are paired.
    """
    rng, count = np.random.default_rng(seed), values.shape[1]
    found = np.empty((resamples, len(values)))
    block = max(1, _AT_ONCE // count)
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        draws = rng.multinomial(count, np.full(count, 1 / count), size)
        found[start : start + size] = draws @ values.T / count
    return found


def number(value: float, drawn: np.ndarray, confidence: float, unit: str) -> dict[str, Any]:
    """A number as results hold it, with the percentile interval of its bootstrap draws."""
    drawn = drawn[np.isfinite(drawn)]
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail]) if len(drawn) else (np.nan, np.nan)
    return _entry(value, low, high, unit)


def share(hits: np.ndarray, confidence: float) -> dict[str, Any]:
    """How many of (n,) are 1, in %, with Wilson's interval."""
    low, high = wilson(int(hits.sum()), len(hits), confidence)
    return _entry(100 * hits.mean(), 100 * low, 100 * high, "%")


def _entry(value: float, low: float, high: float, unit: str) -> dict[str, Any]:
    numbers = {"value": value, "low": low, "high": high}
    return {k: float(x) if np.isfinite(x) else None for k, x in numbers.items()} | {"unit": unit}


def condition_numbers(
    correct: np.ndarray,
    predictions: np.ndarray,
    margins: np.ndarray,
    statistics: Mapping[str, Any],
) -> list[dict[str, dict[str, Any]]]:
    """For each condition, the first being clean: `accuracy`, its `change` from clean (paired
    bootstrap over images), `agreement` with the clean predictions, and the mean `margin`
    (bootstrap).

    Args:
        correct, predictions, margins: (k, n), of the images with labels; correct is 0 or 1.
        statistics: confidence, resamples and seed.
    """
    level, resamples, seed = (statistics[key] for key in ("confidence", "resamples", "seed"))
    changes = 100.0 * (correct - correct[0])
    drawn = resampled_means(np.concatenate([changes, margins]), resamples, seed).T
    return [
        {
            "accuracy": share(correct[i], level),
            "change": number(changes[i].mean(), drawn[i], level, "points"),
            "agreement": share(predictions[i] == predictions[0], level),
            "margin": number(margins[i].mean(), drawn[len(correct) + i], level, "logits"),
        }
        for i in range(len(correct))
    ]


def mean_error(errors: np.ndarray, statistics: Mapping[str, Any]) -> dict[str, Any]:
    """Mean over conditions and images (k, n) of 1 for wrong, in %, bootstrap over images."""
    rate = 100.0 * errors.mean(axis=0, keepdims=True)
    drawn = resampled_means(rate, statistics["resamples"], statistics["seed"])
    return number(rate.mean(), drawn[:, 0], statistics["confidence"], "% wrong")
