"""softplus and its derivative as GPU kernels, for matrices."""

# pyright: reportGeneralTypeIssues=false

import triton
import triton.language as tl

from workbench.kernels.gpu import arithmetic as ops
from workbench.kernels.gpu.arithmetic import BIAS


@triton.jit
def _tile(rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Rows [ROWS, 1], columns [1, COLUMNS] and mask of this program's tile of a matrix."""
    across = tl.cdiv(columns, COLUMNS)
    pid = tl.program_id(0)
    row = (pid // across).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = (pid % across) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    return row, column, (row < rows) & (column < columns)


@triton.jit
def _shifted(x, shift, row, column, inside, columns, channels, along_rows, flags):
    """x + shift of this tile; along_rows says whether the channels are its rows or its columns."""
    z = tl.load(x + row * columns + column, mask=inside, other=0.0).to(tl.float32)
    channel = tl.where(along_rows != 0, (row % channels).to(tl.int32), column)
    return z + tl.load(shift + channel, mask=inside & ((flags & BIAS) != 0), other=0.0)


@triton.jit
def forward(
    x, shift, y, row_count, columns, channels, along_rows, flags,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """y = softplus(x + shift)."""
    row, column, inside = _tile(row_count, columns, ROWS, COLUMNS)
    z = _shifted(x, shift, row, column, inside, columns, channels, along_rows, flags)
    tl.store(y + row * columns + column, ops.softplus(z), mask=inside)


@triton.jit
def backward(
    x, shift, dy, dx, row_count, columns, channels, along_rows, flags,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """dx = dy sigmoid(x + shift)."""
    row, column, inside = _tile(row_count, columns, ROWS, COLUMNS)
    z = _shifted(x, shift, row, column, inside, columns, channels, along_rows, flags)
    dz = tl.load(dy + row * columns + column, mask=inside, other=0.0).to(tl.float32)
    dz *= ops.softplus_slope(z, ops.softplus(z))
    tl.store(dx + row * columns + column, dz, mask=inside)
