"""An attack that asks for logits only: random squares of the image, after Square (Andriushchenko
et al., ECCV 2020, arXiv 1912.00049). What hides gradients does not hinder it."""

import numpy as np
import torch
from torch import Tensor

from workbench.attacks.in_pixels import InPixels, margins
from workbench.attacks.projected_gradient import Ball


def random_search(
    model: InPixels, x: Tensor, labels: Tensor, ball: Ball, queries: int = 200, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Keep a random change of a random square wherever it lowers the margin.

    The change is plus or minus the radius everywhere, at first in stripes of one column; squares
    shrink from 0.8 to 0.1 of the image's side. Image i draws from (seed, i).

    Args:
        x: (b, 3, h, w) in [0, 1]. ball: of changes of x. queries: forward passes.

    Returns:
        the change (b, 3, h, w) and the margin there, (b,).
    """
    rngs = [np.random.default_rng((seed, i)) for i in range(len(x))]
    height, width = x.shape[-2:]

    def signs(columns: int) -> Tensor:
        drawn = [rng.choice((-1.0, 1.0), (x.shape[1], 1, columns)) for rng in rngs]
        return torch.from_numpy(np.stack(drawn)).to(x)

    def ask(pattern: Tensor) -> tuple[Tensor, Tensor]:
        change = ball.fill(pattern)
        with torch.no_grad():
            return change, margins(model(x + change), labels)

    pattern = signs(width).expand_as(x)
    delta, best = ask(pattern)
    for query in range(1, queries):
        side = max(1, round(min(height, width) * 0.8 ** (1 + 10 * query / queries)))
        tried = pattern.clone()
        for image, rng, sign in zip(tried, rngs, signs(1), strict=True):
            top, left = (int(rng.integers(n - side + 1)) for n in (height, width))
            image[:, top : top + side, left : left + side] = sign
        change, found = ask(tried)
        better = found < best
        best = torch.where(better, found, best)
        keep = better.view(-1, 1, 1, 1)
        pattern, delta = torch.where(keep, tried, pattern), torch.where(keep, change, delta)
    return delta, best
