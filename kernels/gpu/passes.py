"""The small GPU kernels around the scan: the tables of its path, sums of its results, softplus."""

# pyright: reportGeneralTypeIssues=false

import triton
import triton.language as tl

from kernels.gpu.scan_kernels import INTEGERS, softplus, softplus_slope


@triton.jit(do_not_specialize=INTEGERS)
def read_path(
    B, C, order, tokens, counts, pairs,
    B_b, B_l, B_k, B_n, C_b, C_l, C_k, C_n, directions, steps, chunks,
    STATE: tl.constexpr, STATES: tl.constexpr, ORDERED: tl.constexpr, STEPS: tl.constexpr,
    CHUNK: tl.constexpr,
):  # fmt: skip
    """The tables of the path and of B and C along it; without ORDERED step t reads token t.

    counts says how many steps of a chunk are on the path. The others get the path's first token,
    which may be read, and zeros for B and C. One program per (image, direction) and STEPS steps.
    """
    pair = tl.program_id(0).to(tl.int64)
    image, k = pair // directions, pair % directions
    t = tl.program_id(1) * STEPS + tl.arange(0, STEPS)
    inside = t < chunks * CHUNK
    live = t < steps
    if ORDERED:
        token = tl.load(order + k * steps + t, mask=live, other=-1)
        live = token >= 0
        token = tl.where(live, token, tl.maximum(tl.load(order + k * steps), 0))
    else:
        token = tl.where(live, t, 0)
    if image == 0:
        tl.store(tokens + k * chunks * CHUNK + t, token, mask=inside)
        count = tl.sum(tl.reshape(live.to(tl.int32), [STEPS // CHUNK, CHUNK]), 1)
        chunk = tl.program_id(1) * (STEPS // CHUNK) + tl.arange(0, STEPS // CHUNK)
        tl.store(counts + k * chunks + chunk, count, mask=chunk < chunks)

    n = tl.arange(0, STATES)[:, None]
    token = token.to(tl.int64)[None, :]
    mask = live[None, :] & (n < STATE)
    b = tl.load(B + image * B_b + k * B_k + token * B_l + n * B_n, mask=mask, other=0.0)
    c = tl.load(C + image * C_b + k * C_k + token * C_l + n * C_n, mask=mask, other=0.0)
    to = pairs + 2 * ((pair * STATE + n) * chunks * CHUNK + t[None, :])
    mask = inside[None, :] & (n < STATE)
    tl.store(to, b.to(tl.float32), mask=mask)
    tl.store(to + 1, c.to(tl.float32), mask=mask)


@triton.jit(do_not_specialize=INTEGERS)
def scatter_sums(
    dpairs, order, dB, dC, blocks, directions, length, steps, chunks, dpairs_block,
    STATE: tl.constexpr, STATES: tl.constexpr, ORDERED: tl.constexpr, STEPS: tl.constexpr,
    CHUNK: tl.constexpr,
):  # fmt: skip
    """dB, dC (b, l, k, n): the partial sums of all blocks, added in order, at their tokens.

    One program per (image, direction) and STEPS steps.
    """
    pair = tl.program_id(0).to(tl.int64)
    image, k = pair // directions, pair % directions
    t = tl.program_id(1) * STEPS + tl.arange(0, STEPS)
    token = t
    live = t < steps
    if ORDERED:
        token = tl.load(order + k * steps + t, mask=live, other=-1)
        live = token >= 0
    n = tl.arange(0, STATES)[:, None]
    mask = live[None, :] & (n < STATE)
    dpairs += ((pair * STATE + n) * chunks + (t // CHUNK)[None, :]) * (2 * CHUNK)
    dpairs += (t % CHUNK)[None, :]
    db = tl.zeros([STATES, STEPS], tl.float32)
    dc = tl.zeros([STATES, STEPS], tl.float32)
    for _ in range(blocks):
        db += tl.load(dpairs, mask=mask, other=0.0)
        dc += tl.load(dpairs + CHUNK, mask=mask, other=0.0)
        dpairs += dpairs_block
    to = ((image * length + token[None, :]) * directions + k) * STATE + n
    tl.store(dB + to, db, mask=mask)
    tl.store(dC + to, dc, mask=mask)


@triton.jit(do_not_specialize=INTEGERS)
def clear_unvisited(x, order, directions, dim, length, steps, parts, BLOCK: tl.constexpr):
    """x[b, :, k] = 0 for x (b, l, k, d), if direction k leaves any token out.

    Padding stands at the end of a path, so its last entry tells. `parts` programs per (image,
    direction) share the tokens.
    """
    pair = tl.program_id(0).to(tl.int64)
    image, k = pair // directions, pair % directions
    if (steps < length) | (tl.load(order + k * steps + steps - 1) < 0):
        for token in range(tl.program_id(1), length, parts):
            row = x + ((image * length + token) * directions + k) * dim
            for begin in range(0, dim, BLOCK):
                channel = begin + tl.arange(0, BLOCK)
                tl.store(row + channel, tl.zeros([BLOCK], tl.float32), mask=channel < dim)


@triton.jit(do_not_specialize=INTEGERS)
def merge(x, y, directions, rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """y (b l, d) = x[:, 0] + x[:, 1] + ..., in this order, for float32 x (b l, k, d).

    A pass of its own: it and the scan's write of x move 8 k + 4 bytes an element. One program that
    walks the k directions of a block in turn and adds to y would move 8 k - 4, but leave 1 / k of
    the programs, and a few warps per multiprocessor cannot keep its memory busy.
    """
    row, column, inside = _tile(rows, columns, ROWS, COLUMNS)
    x += row * directions * columns + column
    total = tl.load(x, mask=inside, other=0.0)
    for _ in range(1, directions):
        x += columns
        total += tl.load(x, mask=inside, other=0.0)
    tl.store(y + row * columns + column, total, mask=inside)


@triton.jit
def _tile(rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Rows [ROWS, 1], columns [1, COLUMNS] and mask of this program's tile of a matrix."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    return row, column, (row < rows) & (column < columns)


@triton.jit
def _shifted(x, bias, row, column, inside, columns, channels, BIAS: tl.constexpr):
    """x + bias of this tile; BIAS says whether channels are its "rows", its "columns" or None."""
    z = tl.load(x + row * columns + column, mask=inside, other=0.0).to(tl.float32)
    if BIAS == "rows":
        z += tl.load(bias + row % channels)
    if BIAS == "columns":
        z += tl.load(bias + column, mask=column < columns, other=0.0)
    return z


@triton.jit(do_not_specialize=INTEGERS)
def softplus_forward(
    x, bias, y, rows, columns, channels,
    BIAS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """y = softplus(x + bias) for matrices."""
    row, column, inside = _tile(rows, columns, ROWS, COLUMNS)
    z = _shifted(x, bias, row, column, inside, columns, channels, BIAS)
    tl.store(y + row * columns + column, softplus(z), mask=inside)


@triton.jit(do_not_specialize=INTEGERS)
def softplus_backward(
    x, bias, dy, dx, rows, columns, channels,
    BIAS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """dx = dy sigmoid(x + bias)."""
    row, column, inside = _tile(rows, columns, ROWS, COLUMNS)
    z = _shifted(x, bias, row, column, inside, columns, channels, BIAS)
    dz = tl.load(dy + row * columns + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(dx + row * columns + column, dz * softplus_slope(z, softplus(z)), mask=inside)
