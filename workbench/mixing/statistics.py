"""What the coefficients of a scan say by themselves: how long it remembers, how far that is in the
image, and how much each direction gives to the output.
"""

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from workbench.paths import ScanPath

_BLOCK = 2**22  # entries sorted at once


def token_statistics(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Statistics of every token, (b, l) each.

    `delta`: mean of the step size over channels. `B`, `C`: Euclidean norm over states. `horizon`:
    median over channels and states of ln 2 / (delta |A|), the tokens after which half of a state
    is forgotten at this step size. `output`: Euclidean norm of y over channels.

    Args:
        tensors: delta, y (b, d, l), A (d, n), B, C (b, n, l), as `workbench.record` gives them.
    """
    return {
        "delta": tensors["delta"].mean(dim=1),
        "B": tensors["B"].norm(dim=1),
        "C": tensors["C"].norm(dim=1),
        "horizon": horizons(tensors["delta"], tensors["A"]),
        "output": tensors["y"].norm(dim=1),
    }


def horizons(delta: Tensor, A: Tensor) -> Tensor:
    """The `horizon` of `token_statistics`, (b, l)."""
    steps = delta.transpose(1, 2).flatten(0, 1)  # (b * l, d)
    block = max(1, _BLOCK // A.numel())
    rates = [
        (part[:, :, None] * A.abs()).flatten(1).median(dim=1).values for part in steps.split(block)
    ]
    tiny = torch.finfo(torch.float32).tiny
    return (math.log(2) / torch.cat(rates).clamp(min=tiny)).unflatten(0, delta[:, 0].shape)


def half_lives(delta: Tensor, A: Tensor) -> Tensor:
    """(d, n) float64: ln 2 / (delta |A|) of every channel and state, in tokens, at the channel's
    mean step size.

    Args:
        delta: (..., d, l) or (b, d, l), averaged over everything but the channels.
        A: (d, n).
    """
    mean = delta.double().movedim(-2, 0).flatten(1).mean(dim=1)
    rates = mean[:, None] * A.double().abs()
    return math.log(2) / rates.clamp(min=torch.finfo(torch.float32).tiny)


def horizon_quantiles(
    delta: Tensor, A: Tensor, quantiles: tuple[float, ...] = (0.1, 0.5, 0.9)
) -> np.ndarray:
    """Quantiles of `half_lives` over channels and states: the memory horizon in tokens."""
    return np.quantile(half_lives(delta, A).numpy(), quantiles)


def pixels(path: ScanPath, tokens: float, stride: tuple[float, float]) -> tuple[float, float]:
    """How far a number of tokens reaches in the image: (along the path, across it), in pixels.

    Along counts every step as long as the path's median step. Across is the width of the
    rows (columns) that so many tokens fill; nan for a path that does not fill one after the other.

    Args:
        stride: pixels from one cell to the next, (rows, columns).
    """
    cells = path.order[path.order >= 0].astype(np.int64)
    rows, columns = np.divmod(cells, path.width)
    if len(cells) < 2:
        return 0.0, float("nan")
    steps = np.hypot(np.diff(rows) * stride[0], np.diff(columns) * stride[1])
    along = tokens * float(np.median(steps))
    for line, width, distance in ((rows, path.width, stride[0]), (columns, path.height, stride[1])):
        if len(line) % width == 0 and not np.ptp(line.reshape(-1, width), axis=1).any():
            return along, tokens / width * distance
    return along, float("nan")


def shares(outputs: list[Tensor]) -> list[float]:
    """Share of each direction in a layer's output: its Frobenius norm over the sum of all."""
    norms = [float(y.double().norm()) for y in outputs]
    total = sum(norms)
    return [norm / total if total else float("nan") for norm in norms]
