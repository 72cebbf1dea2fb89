"""softplus on the CPU: numba kernels over rows of 16 lanes."""

import numpy as np
import torch
from numba import types
from torch import Tensor

from kernels.cpu import lanes
from kernels.cpu.compiling import FLOATS, compiled, register
from kernels.cpu.lanes import LANES
from kernels.cpu.threads import run

__all__ = ["backward", "forward", "forward_like"]


@compiled
def softplus(first, stop, x, bias, y, length):
    """y = softplus(x + bias) for the rows first to stop - 1; an empty bias means there is none."""
    padded = np.empty(LANES, np.float32)
    for row in range(first, stop):
        shift = lanes.fill(bias[row % bias.size] if bias.size > 0 else np.float32(0.0))
        start, end = row * length, (row + 1) * length
        i = start
        while i + LANES <= end:
            lanes.store(y, i, lanes.softplus(lanes.add(lanes.load(x, i), shift)))
            i += LANES
        if i < end:
            for lane in range(LANES):
                padded[lane] = x[min(i + lane, end - 1)]
            lanes.store(padded, 0, lanes.softplus(lanes.add(lanes.load(padded, 0), shift)))
            for lane in range(end - i):
                y[i + lane] = padded[lane]


@compiled
def softplus_backward(first, stop, dy, y, dx, length):
    """dx = dy sigmoid(x), the sigmoid from y = softplus(x), for the rows first to stop - 1."""
    padded = np.empty(LANES, np.float32)
    for i in range(first * length, stop * length - LANES + 1, LANES):
        lanes.store(dx, i, lanes.mul(lanes.load(dy, i), lanes.softplus_slope(lanes.load(y, i))))
    end = stop * length
    rest = end - (end - first * length) % LANES
    if rest < end:
        for lane in range(LANES):
            padded[lane] = y[min(rest + lane, end - 1)]
        lanes.store(padded, 0, lanes.softplus_slope(lanes.load(padded, 0)))
        for lane in range(end - rest):
            dx[rest + lane] = dy[rest + lane] * padded[lane]


register(softplus, (*[types.intp] * 2, *[FLOATS] * 3, types.intp))
register(softplus_backward, (*[types.intp] * 2, *[FLOATS] * 3, types.intp))


def forward(x: Tensor, bias: Tensor | None) -> Tensor:
    """log(1 + exp(x + bias[:, None])) for float32 x (b, d, l) and bias (d)."""
    y = forward_like(x, bias)
    rows, length = (x.shape[0] * x.shape[1], x.shape[2])
    if bias is None:
        rows, length = _long_rows(x)
    run(softplus, rows, x.numel(), *_flat(x, bias, y), length)
    return y


def forward_like(x: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(x.shape)


def backward(dy: Tensor, x: Tensor, bias: Tensor | None, y: Tensor) -> Tensor:
    """dy sigmoid(x + bias[:, None]), from y alone."""
    dx = y.new_empty(y.shape)
    rows, length = _long_rows(y)
    run(softplus_backward, rows, y.numel(), *_flat(dy, y, dx), length)
    return dx


def _long_rows(x: Tensor) -> tuple[int, int]:
    """Split contiguous memory into 64 rows where that is possible, so that threads can share."""
    size = x.numel()
    return (64, size // 64) if size % 64 == 0 else (1, size)


def _flat(*tensors: Tensor | None) -> list[np.ndarray]:
    """Contiguous flat arrays, an empty one for None: the kernels take arrays only."""
    given = [torch.empty(0) if x is None else x.detach().contiguous() for x in tensors]
    return [x.view(-1).numpy() for x in given]
