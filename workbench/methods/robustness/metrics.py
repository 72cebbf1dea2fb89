"""Numbers of robustness: accuracy, agreement and margin under each condition, against clean.

Shares are in % and differences in percentage points.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from workbench.statistics import Number, paired_means, percentile, share


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
    drawn = paired_means(np.concatenate([changes, margins]), resamples, seed).T
    intervals = [percentile(row, level) for row in drawn]
    found = []
    for i in range(len(correct)):
        numbers = {
            "accuracy": share(correct[i], level),
            "change": Number(changes[i].mean(), *intervals[i], "points"),
            "agreement": share(predictions[i] == predictions[0], level),
            "margin": Number(margins[i].mean(), *intervals[len(correct) + i], "logits"),
        }
        found.append({name: number.as_dict() for name, number in numbers.items()})
    return found


def mean_error(errors: np.ndarray, statistics: Mapping[str, Any]) -> dict[str, Any]:
    """Mean over conditions and images (k, n) of 1 for wrong, in %, bootstrap over images."""
    rate = 100.0 * errors.mean(axis=0, keepdims=True)
    drawn = paired_means(rate, statistics["resamples"], statistics["seed"])[:, 0]
    interval = percentile(drawn, statistics["confidence"])
    return Number(rate.mean(), *interval, "% wrong").as_dict()
