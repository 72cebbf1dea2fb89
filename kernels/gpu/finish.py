"""The last kernel of both passes: the sums that many programs of a scan have a share in.

One launch does up to three things, each by programs of its own, and each sum in a fixed order.
"""

# pyright: reportGeneralTypeIssues=false

import triton
import triton.language as tl

from workbench.kernels.gpu import arithmetic as ops
from workbench.kernels.gpu.arithmetic import BIAS, SKIP


@triton.jit
def finish(
    scratch, out, order, dB, dC, dA, dD, dbias,
    at_each, at_partial, at_sums, partial_block,
    merges, projections, dim, directions, row_count, state, length, steps, tiles, tile_steps,
    blocks, sum_count, flags,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """`merges` programs merge, `projections` programs write dB and dC, the others parameters.

    `scratch` is that of `scan_kernels.backward`, or holds `each` alone.
    """
    pid = tl.program_id(0)
    if pid < merges:
        _merge(scratch + at_each, out, pid, dim, directions, row_count, ROWS, COLUMNS)
    elif pid < merges + projections:
        _project(
            scratch + at_partial, partial_block, order, dB, dC, pid - merges, dim, directions,
            state, length, steps, tiles, tile_steps, blocks, flags, ROWS * COLUMNS,
        )  # fmt: skip
    else:
        pid -= merges + projections
        _sum(
            scratch + at_sums, dA, dD, dbias, pid, dim, directions, state, sum_count, flags,
            ROWS, COLUMNS,
        )  # fmt: skip


@triton.jit
def _merge(each, out, pid, dim, directions, row_count, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """out (b l, d) = each[:, 0] + each[:, 1] + ..., in this order, for each (b l, k, d)."""
    across = tl.cdiv(dim, COLUMNS)
    row = (pid // across).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = (pid % across) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    inside = (row < row_count) & (column < dim)
    each += row * directions * dim + column
    total = tl.load(each, mask=inside, other=0.0)
    for _ in range(1, directions):
        each += dim
        total += tl.load(each, mask=inside, other=0.0)
    tl.store(out + row * dim + column, total, mask=inside)


@triton.jit
def _project(
    partial, partial_block, order, dB, dC, pid, dim, directions,
    state, length, steps, tiles, tile_steps, blocks, flags, SIZE: tl.constexpr,
):  # fmt: skip
    """dB, dC (b, l, k, n): the partial sums of all blocks, added in order, at their tokens.

    partial [block, b, k, n, tile, 2, tile_steps]. A program takes SIZE (step, state) of one path.
    """
    parts = tl.cdiv(steps * state, SIZE)
    pair = (pid // parts).to(tl.int64)
    image, k = pair // directions, pair % directions
    index = (pid % parts) * SIZE + tl.arange(0, SIZE)
    t = index // state
    n = index % state
    token = ops.tokens(order, k, steps, t, flags)
    live = token >= 0
    partial += pair * state * tiles * (2 * tile_steps)
    at = (n * tiles + t // tile_steps) * (2 * tile_steps) + t % tile_steps
    db = tl.zeros([SIZE], tl.float32)
    dc = tl.zeros([SIZE], tl.float32)
    for _ in range(blocks):
        db += tl.load(partial + at, mask=live, other=0.0)
        dc += tl.load(partial + at + tile_steps, mask=live, other=0.0)
        partial += partial_block
    to = ((image * length + token) * directions + k) * state + n
    tl.store(dB + to, db, mask=live)
    tl.store(dC + to, dc, mask=live)


@triton.jit
def _sum(
    sums, dA, dD, dbias, pid, dim, directions, state, count, flags,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """dA (k, d, n), dD and dbias (k, d) from sums [count, k, n + 2, d].

    A program takes COLUMNS of the last three axes.
    """
    columns = directions * (state + 2) * dim
    column = pid * COLUMNS + tl.arange(0, COLUMNS)
    row = tl.arange(0, ROWS)
    total = tl.zeros([COLUMNS], tl.float32)
    for begin in range(0, count, ROWS):
        at = (begin + row).to(tl.int64)[:, None] * columns + column[None, :]
        inside = (begin + row < count)[:, None] & (column < columns)[None, :]
        total += tl.sum(tl.load(sums + at, mask=inside, other=0.0), 0)
    which = (column // dim) % (state + 2)
    channel = column // (dim * (state + 2)) * dim + column % dim
    inside = column < columns
    skip, bias = (flags & SKIP) != 0, (flags & BIAS) != 0
    tl.store(dA + channel * state + which, total, mask=inside & (which < state))
    tl.store(dD + channel, total, mask=inside & (which == state) & skip)
    tl.store(dbias + channel, total, mask=inside & (which == state + 1) & bias)
