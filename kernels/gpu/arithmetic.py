"""What the GPU kernels are made of: softplus, steps of a path, scans over the rows of a tile.

A tile is [STEPS, CHANNELS]: rows are steps of a path, columns neighbouring channels. A kernel is
compiled for one of two shapes (`kernels.gpu.variants`):

- low and wide for one warp: a thread holds one channel and all rows, so that a scan over the rows
  is a plain chain of multiply-adds in every thread, without a word to the others;
- tall and narrow for eight warps: a scan goes across threads and warps.

Nothing is unrolled by hand. The compiler's time grows with the square of the number of memory
operations, and a tile is one operation. Multiply-adds are written out as `tl.fma`, so that results
do not depend on what the compiler fuses.
"""

# pyright: reportGeneralTypeIssues=false

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
LOG2_E_REST = tl.constexpr(1.9259629911266175e-08)  # LOG2_E - float32(LOG2_E)
LN_2 = tl.constexpr(0.6931471805599453)

# Flags of a call. They are read at run time: a variant for each would be compiled on its own.
SOFTPLUS = tl.constexpr(1)
BIAS = tl.constexpr(2)
SKIP = tl.constexpr(4)  # there is a D
ORDERED = tl.constexpr(8)  # along `order`; without it, step t is token t
SAVE = tl.constexpr(16)  # the state before every tile
SUMMED = tl.constexpr(32)  # directions are added up by `finish`, and stay in float32 until then
ENTERED = tl.constexpr(64)  # the state after the last step has a gradient
PARAMETERS = tl.constexpr(128)  # gradients of A, D and bias are wanted
CLEAR = tl.constexpr(256)  # tokens that a path leaves out are to be zeroed


@triton.jit
def exp(x):
    """exp(x) for x <= 0, also where x is large: what rounding x log2(e) loses is put back."""
    x = tl.maximum(x, -128.0, propagate_nan=tl.PropagateNan.ALL)  # -inf - -inf would be NaN
    z = x * LOG2_E
    rest = tl.fma(x, LOG2_E_REST, tl.fma(x, LOG2_E, -z))
    y = tl.exp2(z)
    return tl.fma(y, rest * LN_2, y)


@triton.jit
def softplus(x):
    """log(1 + exp(x)) = max(x, 0) + log1p(exp(-|x|)), right to 3e-7 for every x.

    The polynomial is log1p(e) / e on [0, 1] with the least relative error (5e-9).
    """
    e = exp(-tl.abs(x))
    p = tl.fma(e, -0.0032440247014164925, 0.01985146291553974)
    p = tl.fma(e, p, -0.05695953965187073)
    p = tl.fma(e, p, 0.10603655874729156)
    p = tl.fma(e, p, -0.15305593609809875)
    p = tl.fma(e, p, 0.1967594027519226)
    p = tl.fma(e, p, -0.24954134225845337)
    p = tl.fma(e, p, 0.3332996368408203)
    p = tl.fma(e, p, -0.4999990165233612)
    p = tl.fma(e, p, 1.0)
    return tl.fma(e, p, tl.maximum(x, 0.0))


@triton.jit
def softplus_slope(x, y):
    """sigmoid(x) for y = softplus(x); 1 - exp(-y) would cancel where y is small."""
    return exp(x - y)


@triton.jit
def program(blocks, directions, segments):
    """(block, direction, segment, image) of this program; neighbours share the image's tokens."""
    pid = tl.program_id(0)
    block = pid % blocks
    pid //= blocks
    k = pid % directions
    pid //= directions
    return block, k.to(tl.int64), pid % segments, (pid // segments).to(tl.int64)


@triton.jit
def only_if(condition, index, width):
    """The mask index < width, or of nothing.

    The plain `(index < width) & condition` has the wrong type in Triton 3.9's interpreter.
    """
    return index < tl.where(condition, width, 0)


@triton.jit
def tokens(order, k, steps, t, flags):
    """The tokens at steps t of path k; -1 for none."""
    ordered = (flags & ORDERED) != 0
    token = tl.load(order + k * steps + t, mask=only_if(ordered, t, steps), other=-1)
    return tl.where(ordered, token.to(tl.int32), tl.where(t < steps, t, -1))


@triton.jit
def padded(order, k, steps, length, flags):
    """Whether path k leaves tokens out. Padding stands at its end, so its last entry tells."""
    end = tl.load(order + k * steps + steps - 1, mask=(flags & ORDERED) != 0, other=0)
    return ((flags & CLEAR) != 0) & ((steps < length) | (end < 0))


@triton.jit
def rows(x, token, stride, channel, here):
    """Float32 tile of the channels of these tokens; where there is no token, those of token 0."""
    at = tl.maximum(token, 0).to(tl.int64) * stride
    return tl.load(x + at[:, None] + channel[None, :], mask=here[None, :], other=0.0).to(tl.float32)


@triton.jit
def fill_down(x, ROWS: tl.constexpr):
    """[CHANNELS] as a tile of equal rows."""
    return tl.broadcast_to(x[None, :], [ROWS, x.shape[0]])


@triton.jit
def fill_across(x, COLUMNS: tl.constexpr):
    """[STEPS] as a tile of equal columns."""
    return tl.broadcast_to(x[:, None], [x.shape[0], COLUMNS])


@triton.jit
def then(a1, b1, a2, b2):
    """h -> a1 h + b1, then h -> a2 h + b2."""
    return a1 * a2, tl.fma(a2, b1, b2)


@triton.jit
def then_before(a1, b1, p1, q1, a2, b2, p2, q2):
    """`then`, and (p, q): the same for all of the steps but the last.

    A scan that starts with p = 1 and q = 0 so finds the state before each step along with that
    after it. Where a thread holds all rows that costs one addition a step.
    """
    return a1 * a2, tl.fma(a2, b1, b2), a1 * p2, tl.fma(p2, b1, q2)


@triton.jit
def states_after(decay, drive, h):
    """The states after each row of the recurrence h = decay h + drive, from h [CHANNELS]."""
    first = (tl.arange(0, decay.shape[0]) == 0)[:, None]
    entered = tl.fma(decay, fill_down(h, decay.shape[0]), drive)
    _, after = tl.associative_scan((decay, tl.where(first, entered, drive)), 0, then)
    return after


@triton.jit
def states_before(decay, drive, h, BACKWARDS: tl.constexpr):
    """The states before each row; BACKWARDS from the last row to the first."""
    ROWS: tl.constexpr = decay.shape[0]
    first = (tl.arange(0, ROWS) == (ROWS - 1 if BACKWARDS else 0))[:, None]
    h = fill_down(h, ROWS)
    drive = tl.where(first, tl.fma(decay, h, drive), drive)
    one = tl.full(decay.shape, 1.0, tl.float32)
    start = tl.where(first, h, 0.0)
    _, _, _, before = tl.associative_scan(
        (decay, drive, one, start), 0, then_before, reverse=BACKWARDS
    )
    return before


@triton.jit
def row_of(x, row: tl.constexpr):
    """One row of a tile, [CHANNELS]."""
    return tl.sum(tl.where((tl.arange(0, x.shape[0]) == row)[:, None], x, 0.0), 0)


# For the low and wide tile alone: a thread has all rows of a channel, and what moves rows about
# only renames registers.


@triton.jit
def halves(x):
    """The even and the odd rows of a tile."""
    x = tl.reshape(x, [x.shape[0] // 2, 2, x.shape[1]])
    return tl.split(tl.trans(x, 0, 2, 1))


@triton.jit
def _swap(x, GROUPS: tl.constexpr):
    """A tile with the two halves of each of GROUPS groups of its rows exchanged."""
    WIDTH: tl.constexpr = x.shape[0] * x.shape[1] // (2 * GROUPS)
    upper, lower = tl.split(tl.trans(tl.reshape(x, [GROUPS, 2, WIDTH]), 0, 2, 1))
    return tl.reshape(tl.trans(tl.join(lower, upper), 0, 2, 1), x.shape)


@triton.jit
def upside_down(x):
    """A tile of 8 rows, the last one first.

    A scan with `reverse` would turn the lanes of the warp about as well: 5 exchanges a value.
    """
    return _swap(_swap(_swap(x, 4), 2), 1)


@triton.jit
def exchange(even, odd, lane, LEVEL: tl.constexpr):
    """Lanes with bit LEVEL go on with `odd`, the others with `even`, each with its partner's share.

    The partner's lane differs in that bit: two vectors become one for one exchange.
    """
    upper = ((lane >> LEVEL) & 1) == 1
    keep = tl.where(upper, odd, even)
    send = tl.where(upper, even, odd)
    return keep + tl.gather(send, lane ^ (1 << LEVEL), 0)


@triton.jit
def sum_lanes(x, lane, LEVEL: tl.constexpr):
    """Lane i is the sum of row i % 8 over the lanes that differ from i in bits 0 to 2.

    7 exchanges for the 8 rows; adding up each row on its own would take 3 for each.
    """
    even, odd = halves(x)
    if x.shape[0] == 2:
        even = tl.reshape(even, [x.shape[1]])
        odd = tl.reshape(odd, [x.shape[1]])
    else:
        even = sum_lanes(even, lane, LEVEL + 1)
        odd = sum_lanes(odd, lane, LEVEL + 1)
    return exchange(even, odd, lane, LEVEL)
