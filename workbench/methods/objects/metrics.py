"""How well a map tells an object from what is around it: arrays in, numbers out."""

import numpy as np


def mask_of(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(h, w) bool: the pixels whose centres lie in one of the boxes (k, 4), edges."""
    row, column = np.arange(size[0])[:, None] + 0.5, np.arange(size[1])[None, :] + 0.5
    mask = np.zeros(size, bool)
    for left, top, right, bottom in boxes:
        mask |= (left <= column) & (column < right) & (top <= row) & (row < bottom)
    return mask


def average_precision(values: np.ndarray, inside: np.ndarray) -> float:
    """Sum over thresholds of precision times the step in recall, as in information retrieval.

    Pixels of equal value pass a threshold together, so that an even map has the share of the
    object as its precision.

    Args:
        values: (h, w). inside: (h, w) bool, some of them.
    """
    order = np.argsort(-values, axis=None, kind="stable")
    ranked, hits = values.ravel()[order], inside.ravel()[order]
    last = np.flatnonzero(np.append(np.diff(ranked) != 0, True))
    found = np.cumsum(hits)[last]
    recall = found / hits.sum()
    return float((np.diff(recall, prepend=0.0) * found / (last + 1)).sum())


def pointing(values: np.ndarray, inside: np.ndarray) -> float:
    """1 where the largest value lies inside (the pointing game, arXiv 1608.00507), else 0; where
    several are largest, the share of them that does.
    """
    return float(inside[values == values.max()].mean())
