"""softplus on the CPU: numba kernels over rows of 16 lanes."""

import numpy as np
from torch import Tensor

from workbench.kernels.cpu import lanes
from workbench.kernels.cpu.compiling import compiled, register
from workbench.kernels.cpu.lanes import LANES
from workbench.kernels.cpu.memory import addresses, floats, pack
from workbench.kernels.cpu.threads import run

__all__ = ["backward", "forward", "forward_like"]


@compiled
def softplus(first, stop, numbers):
    """y = softplus(x + bias) for the rows first to stop - 1 of the addresses of x, bias and y."""
    x, bias, y = floats(numbers[0]), floats(numbers[1]), floats(numbers[2])
    channels, length = numbers[3], numbers[4]
    padded = np.empty(LANES, np.float32)
    for row in range(first, stop):
        shift = lanes.fill(bias[row % channels] if numbers[1] != 0 else np.float32(0.0))
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
def softplus_backward(first, stop, numbers):
    """dx = dy sigmoid(x), the sigmoid from y = softplus(x), for the rows first to stop - 1."""
    dy, y, dx = floats(numbers[0]), floats(numbers[1]), floats(numbers[2])
    length = numbers[3]
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


register(softplus)
register(softplus_backward)


def forward(x: Tensor, bias: Tensor | None) -> Tensor:
    """log(1 + exp(x + bias[:, None])) for float32 x (b, d, l) and bias (d)."""
    x, y = x.contiguous(), forward_like(x, bias)
    batch, channels, length = x.shape
    rows = batch * channels
    if bias is None:
        rows, length = _long_rows(x)
    else:
        bias = bias.contiguous()
    run(softplus, rows, x.numel(), pack(*addresses(x, bias, y), channels, length))
    return y


def forward_like(x: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(x.shape)


def backward(dy: Tensor, x: Tensor, bias: Tensor | None, y: Tensor) -> Tensor:
    """dy sigmoid(x + bias[:, None]), from y alone."""
    dy, y, dx = dy.contiguous(), y.contiguous(), y.new_empty(y.shape)
    rows, length = _long_rows(y)
    run(softplus_backward, rows, y.numel(), pack(*addresses(dy, y, dx), length))
    return dx


def _long_rows(x: Tensor) -> tuple[int, int]:
    """Split contiguous memory into 64 rows where that is possible, so that threads can share."""
    size = x.numel()
    return (64, size // 64) if size % 64 == 0 else (1, size)
