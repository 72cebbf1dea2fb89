"""Numbers of a resolution curve: agreement, similarity, growth, refitted accuracy."""

import math

import numpy as np
from scipy import optimize

from workbench.statistics import Number, student


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """(n, k) -> (n, k) log probabilities in float64."""
    x = logits.astype(np.float64)
    x = x - x.max(axis=1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))


def divergence(reference: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """KL(reference || logits) of each image in nats: (n,), >= 0."""
    p, q = log_softmax(reference), log_softmax(logits)
    return np.maximum((np.exp(p) * (p - q)).sum(axis=1), 0.0)


def margin(reference: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Probability left to the reference's prediction over that of the next best class, (n,).

    In [-1, 1]; negative where the prediction changed.
    """
    p = np.exp(log_softmax(logits))
    rows, chosen = np.arange(len(p)), reference.argmax(axis=1)
    own = p[rows, chosen]
    p[rows, chosen] = -np.inf
    return own - p.max(axis=1) if p.shape[1] > 1 else own


def in_top(logits: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """Whether fewer than k classes have a larger logit than the label's: (n,) bool."""
    own = np.take_along_axis(logits, labels[:, None], axis=1)
    return (logits > own).sum(axis=1) < k


def cka(x: np.ndarray, y: np.ndarray) -> float:
    """Linear centred kernel alignment of features (n, c) and (n, d) of the same n >= 4 images.

    Kornblith et al. (ICML 2019) with the unbiased estimator of Song et al. (JMLR 2012, eq. 5): 1
    for features that differ by a rotation, a shift or a factor, and about 0 for unrelated ones
    however few the images. nan for fewer than 4 images or constant features.
    """
    if len(x) < 4:
        return math.nan
    x, y = (v.astype(np.float64) - v.mean(axis=0, dtype=np.float64) for v in (x, y))
    both, own_x, own_y = _hsic(x, y), _hsic(x, x), _hsic(y, y)
    return float(both / math.sqrt(own_x * own_y)) if own_x > 0 and own_y > 0 else math.nan


def _hsic(x: np.ndarray, y: np.ndarray) -> float:
    """n (n - 3) times the unbiased estimator, from features; no matrix of images by images."""
    n = len(x)
    diagonals = [np.square(v).sum(axis=1) for v in (x, y)]
    # row sums of the kernel matrices without their diagonals
    rows = [v @ v.sum(axis=0) - d for v, d in zip((x, y), diagonals, strict=True)]
    trace = np.square(x.T @ y).sum() - diagonals[0] @ diagonals[1]
    total = rows[0].sum() * rows[1].sum() / ((n - 1) * (n - 2))
    return float(trace + total - 2 / (n - 2) * (rows[0] @ rows[1]))


def exponent(pixels: np.ndarray, cost: np.ndarray, confidence: float = 0.95) -> Number:
    """b of cost ~ pixels^b, by least squares of the logarithms, with Student's interval.

    1 is a cost that is linear in the image, 2 that of attention over all pairs. The interval holds
    what a single power leaves unexplained: noise, and a law that is not one power. It needs three
    sizes, the exponent two.
    """
    good = np.isfinite(cost) & (cost > 0)
    x, y = np.log(pixels[good].astype(np.float64)), np.log(cost[good].astype(np.float64))
    return student(x, y, confidence)


def refit(
    features: np.ndarray, labels: np.ndarray, folds: int, penalty: float = 1e-3
) -> np.ndarray:
    """Classes that linear heads predict for images they were not fitted to: (n,), -1 unlabelled.

    Images are dealt to `folds` groups, class by class in their order; the head for a group is
    fitted to all others: softmax regression on standardised features with `penalty` times the
    squared weights, a convex problem with one answer.

    Args:
        features: (n, c).
        labels: (n,), -1 for images without one.

    Raises:
        ValueError: for fewer than two folds or labelled images.
    """
    known = np.flatnonzero(labels >= 0)
    if not 2 <= folds <= len(known):
        raise ValueError(
            f"{folds} folds cannot be made of {len(known)} labelled images; give 2 or more folds "
            "and as many images, or 0 for no refitted head"
        )
    classes, targets = np.unique(labels[known], return_inverse=True)
    group = np.empty(len(known), int)
    start = 0
    for k in range(len(classes)):
        members = np.flatnonzero(targets == k)
        group[members] = (start + np.arange(len(members))) % folds
        start += len(members)
    x = features[known].astype(np.float64)
    found = np.full(len(labels), -1)
    for fold in range(folds):
        held = group == fold
        weights, bias = _softmax_regression(x[~held], targets[~held], len(classes), penalty)
        found[known[held]] = classes[(x[held] @ weights + bias).argmax(axis=1)]
    return found


def _softmax_regression(
    x: np.ndarray, targets: np.ndarray, classes: int, penalty: float
) -> tuple[np.ndarray, np.ndarray]:
    """Weights (c, classes) and bias (classes,) for features (n, c)."""
    centre, spread = x.mean(axis=0), x.std(axis=0)
    spread[spread == 0] = 1
    z = (x - centre) / spread
    # Features are correlated. In these directions, each scaled by Boehning's bound of the Hessian
    # (Ann. Inst. Stat. Math. 1992), the loss is nearly round: L-BFGS needs a fifth of the steps.
    values, directions = np.linalg.eigh(z.T @ z / len(z))
    basis = directions / np.sqrt(np.maximum(values, 0) / 2 + 2 * penalty)
    z = np.concatenate([z @ basis, np.ones((len(x), 1))], axis=1)
    weight = penalty * np.square(basis).sum(axis=0)[:, None]  # |basis @ w|^2: columns orthogonal
    wanted = np.eye(classes)[targets]

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        w = flat.reshape(-1, classes)
        logp = log_softmax(z @ w)
        gradient = z.T @ (np.exp(logp) - wanted) / len(z)
        gradient[:-1] += 2 * weight * w[:-1]
        value = -(wanted * logp).sum() / len(z) + (weight * np.square(w[:-1])).sum()
        return float(value), gradient.ravel()

    start = np.zeros(z.shape[1] * classes)
    w = optimize.minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 200}).x
    w = w.reshape(-1, classes)
    weights = basis @ w[:-1] / spread[:, None]
    return weights, w[-1] - centre @ weights
