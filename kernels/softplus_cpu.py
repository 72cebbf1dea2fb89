"""softplus on the CPU: numba kernels, differentiable twice."""

import numpy as np
import torch
from numba import types
from torch import Tensor

from kernels import lanes
from kernels.lanes import LANES
from kernels.threads import compiled, register, run

__all__ = ["softplus"]


@compiled
def _softplus(first, stop, x, bias, y, length):
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
def _softplus_backward(first, stop, dy, y, dx, length):
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


_FLAT = types.float32[::1]
register(_softplus, (*[types.intp] * 2, *[_FLAT] * 3, types.intp))
register(_softplus_backward, (*[types.intp] * 2, *[_FLAT] * 3, types.intp))


def softplus(x: Tensor, bias: Tensor | None = None) -> Tensor:
    """log(1 + exp(x + bias[:, None])) for float32 x (b, d, l) and bias (d)."""
    return _softplus_op(x.contiguous(), bias)


@torch.library.custom_op(
    "vssm::softplus_cpu",
    mutates_args=(),
    device_types="cpu",
    schema="(Tensor x, Tensor? bias) -> Tensor",
)
def _softplus_op(x, bias):
    y = x.new_empty(x.shape)
    rows, length = (x.shape[0] * x.shape[1], x.shape[2])
    if bias is None:
        rows, length = _long_rows(x)
    run(_softplus, rows, x.numel(), *_flat(x, bias, y), length)
    return y


@_softplus_op.register_fake
def _(x, bias):
    return x.new_empty(x.shape)


@torch.library.custom_op(
    "vssm::softplus_cpu_backward",
    mutates_args=(),
    device_types="cpu",
    schema="(Tensor dy, Tensor y) -> Tensor",
)
def _softplus_backward_op(dy, y):
    dx = y.new_empty(y.shape)
    rows, length = _long_rows(y)
    run(_softplus_backward, rows, y.numel(), *_flat(dy, y, dx), length)
    return dx


@_softplus_backward_op.register_fake
def _(dy, y):
    return y.new_empty(y.shape)


def _softplus_setup(ctx, inputs, output) -> None:
    ctx.save_for_backward(output)


def _softplus_grad(ctx, dy):
    (y,) = ctx.saved_tensors
    dx = _softplus_backward_op(dy, y)
    return dx, dx.sum((0, 2)) if ctx.needs_input_grad[1] else None


def _softplus_backward_setup(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _softplus_double_grad(ctx, ddx):
    dy, y = ctx.saved_tensors
    stay = torch.exp(-y)  # dx = dy (1 - exp(-y))
    return ddx * -torch.expm1(-y), ddx * dy * stay


_softplus_op.register_autograd(_softplus_grad, setup_context=_softplus_setup)
_softplus_backward_op.register_autograd(
    _softplus_double_grad, setup_context=_softplus_backward_setup
)


def _long_rows(x: Tensor) -> tuple[int, int]:
    """Split contiguous memory into 64 rows where that is possible, so that threads can share."""
    size = x.numel()
    return (64, size // 64) if size % 64 == 0 else (1, size)


def _flat(*tensors: Tensor | None) -> list[np.ndarray]:
    """Contiguous flat arrays, an empty one for None: the kernels take arrays only."""
    given = [torch.empty(0) if x is None else x.detach().contiguous() for x in tensors]
    return [x.view(-1).numpy() for x in given]
