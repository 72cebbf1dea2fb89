"""Numbers of robustness: accuracy, agreement and margin under each condition, against clean.

Shares are in % and differences in percentage points.
"""

from typing import Any

import numpy as np

from workbench.statistics import Sample


def condition_numbers(
    correct: np.ndarray,
    predictions: np.ndarray,
    margins: np.ndarray,
    confidence: float,
) -> list[dict[str, dict[str, Any]]]:
    """For each condition, the first being clean: `accuracy`, its `change` from clean on the
    same images, `agreement` with the clean predictions, and the mean `margin`.

    Args:
        correct, predictions, margins: (k, n), of the images with labels; correct is 0 or 1.
        confidence: of the intervals, see docs/statistics.md.
    """
    sample = Sample(confidence)
    return [
        {
            "accuracy": sample.share(correct[i]),
            "change": sample.points(correct[i], correct[0]),
            "agreement": sample.share(predictions[i] == predictions[0]),
            "margin": sample.mean(margins[i], "logits"),
        }
        for i in range(len(correct))
    ]


def mean_error(errors: np.ndarray, confidence: float) -> dict[str, Any]:
    """Mean over conditions and images (k, n) of 1 for wrong, in %."""
    return Sample(confidence).mean(100.0 * errors.mean(axis=0), "% wrong")
