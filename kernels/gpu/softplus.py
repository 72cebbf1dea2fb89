"""softplus on the GPU, by the code of the scan; computed in float32, from half precision too."""

from torch import Tensor

from kernels.gpu import passes
from kernels.gpu.scan import launch, matrix, on

__all__ = ["backward", "forward", "forward_like"]


def forward(x: Tensor, bias: Tensor | None) -> Tensor:
    """log(1 + exp(x + bias[:, None])) for x (b, d, l) and bias (d)."""
    y = forward_like(x, bias)
    _elementwise(passes.softplus_forward, x, bias, y)
    return y


def forward_like(x: Tensor, bias: Tensor | None) -> Tensor:
    """Memory for the result: contiguous as x is, else channels last."""
    return x.new_empty(x.shape) if x.is_contiguous() else x.new_empty(x.mT.shape).mT


def backward(dy: Tensor, x: Tensor, bias: Tensor | None, y: Tensor) -> Tensor:
    """dy sigmoid(x + bias[:, None])."""
    dx = forward_like(x, bias)
    _elementwise(passes.softplus_backward, x, bias, dy, dx)
    return dx


def _elementwise(kernel, x: Tensor, bias: Tensor | None, *tensors: Tensor) -> None:
    """Launch a kernel over matrices whose rows or, where x is not contiguous, columns are channels.

    The last of the tensors is written to; it has the layout of `forward_like`.
    """
    if x.numel() == 0:
        return
    along = "rows"
    channels = x.shape[1]
    if not x.is_contiguous():
        along, x, tensors = "columns", x.mT, tuple(tensor.mT for tensor in tensors)
    rows, columns = x.shape[0] * x.shape[1], x.shape[2]
    grid, tile = matrix(rows, columns)
    x, tensors = x.contiguous(), tuple(tensor.contiguous() for tensor in tensors)
    along, bias = (None, x) if bias is None else (along, bias.contiguous())
    with on(x.device):
        launch(kernel, grid, x, bias, *tensors, rows, columns, channels, BIAS=along, **tile)
