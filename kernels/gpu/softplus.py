"""softplus on the GPU, by the code of the scan; computed in float32, from half precision too."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from workbench.kernels import reference
from workbench.kernels.gpu import compiling, fallback
from workbench.kernels.gpu import variants as of
from workbench.kernels.gpu.arithmetic import BIAS

__all__ = ["backward", "forward", "forward_like"]


def forward(x: Tensor, bias: Tensor | None) -> Tensor:
    """log(1 + exp(x + bias[:, None])) for x (b, d, l) and bias (d)."""
    y = forward_like(x, bias)
    try:
        _elementwise(False, x, bias, y)
    except compiling.Unusable as problem:
        fallback.warn(problem)
        y.copy_(reference.softplus(x, bias))
    return y


def forward_like(x: Tensor, bias: Tensor | None) -> Tensor:
    """Memory for the result: contiguous as x is, else channels last."""
    return x.new_empty(x.shape) if x.is_contiguous() else x.new_empty(x.mT.shape).mT


def backward(dy: Tensor, x: Tensor, bias: Tensor | None, y: Tensor) -> Tensor:
    """dy sigmoid(x + bias[:, None])."""
    dx = forward_like(x, bias)
    try:
        _elementwise(True, x, bias, dy, dx)
    except compiling.Unusable:
        z = x if bias is None else x + bias[:, None]
        dx.copy_(dy * torch.sigmoid(z))
    return dx


@functools.cache
def _runner(backward: bool, dtype: torch.dtype, device: torch.device, programs: int) -> Callable:
    name = of.DTYPES[dtype]
    compiling.ready("softplus", name, device)
    variant = of.of_group("softplus", name)[backward]
    return compiling.runner(variant, device, (programs, 1, 1))


def _elementwise(backward: bool, x: Tensor, bias: Tensor | None, *tensors: Tensor) -> None:
    """Launch a kernel over matrices whose rows or, where x is not contiguous, columns are channels.

    The last of the tensors is written to; it has the layout of `forward_like`.
    """
    if x.numel() == 0:
        return
    channels, along_rows = x.shape[1], x.is_contiguous()
    if not along_rows:
        x, tensors = x.mT, tuple(tensor.mT for tensor in tensors)
    rows, columns = x.shape[0] * x.shape[1], x.shape[2]
    programs = -(-rows // of.MATRIX["ROWS"]) * -(-columns // of.MATRIX["COLUMNS"])
    x, tensors = x.contiguous(), tuple(tensor.contiguous() for tensor in tensors)
    shift = x if bias is None else bias.float().contiguous()
    flags = 0 if bias is None else BIAS.value
    run = _runner(backward, x.dtype, x.device, programs)
    run(x, shift, *tensors, rows, columns, channels, int(along_rows), flags)
