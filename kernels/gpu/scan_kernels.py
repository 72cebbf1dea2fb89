"""The GPU kernels of the selective scan, in Triton. `kernels.gpu.scan` launches them.

A program is one warp. It owns 32 neighbouring channels of one direction of one image, a channel per
thread, and walks the steps in chunks of 16. The values of a chunk live in registers, as tuples of
16 vectors, so that the recurrence inside a chunk is a plain chain of multiply-adds in every thread:
no scan across threads, no shared memory. The states are taken one after the other; what they carry
from chunk to chunk lies in memory.

- Everything is in token order and channels last: a step reads 32 neighbouring channels of one
  token, 128 bytes of float32, whichever way the path goes. `read_path` turns the path into tables.
- `read_path` also gathers B and C along the path into pairs: one load of 8 bytes brings both, with
  no address arithmetic, for 2 n floats per token beside the 3 d of the scan itself.
- The gradients of B and C are sums over channels. A chunk of both is added up over the 32 threads
  in 31 exchanges (`_sum_chunk`) rather than 32 times 5, and stored as one partial sum per block
  that `scatter_sums` adds in order: no atomics, the same bits in every run.
- The forward pass keeps the state before each chunk, n / 16 floats per element; the backward pass
  recomputes the rest.
- A long sequence may be cut into segments that run at once: `segment_ends` finds what each segment
  adds to the state (backwards: to its gradient), `carry` hands that on from segment to segment, and
  the main kernels start from there. That is about twice the exponentials and 1.7 times the bytes,
  for as many times the programs as there are segments.

Shapes: u, y, delta and their gradients (b, l, k, d); B, C (b, l, k, n); D, bias (k, d);
A (k, n, d); tables: tokens [k, chunks, CHUNK], counts [k, chunks], pairs
[b, k, n, chunks, CHUNK, 2]. Only u, delta, dy, B and C may be strided, and all but B and C must
have the channels next to each other. Sums and states are float32. Multiply-adds are written out as
`tl.fma`, so that results do not depend on what the compiler fuses.
"""

# Triton knows `+` on tuples but no `*`, and `tl.static_range` only while it compiles.
# ruff: noqa: RUF005
# pyright: reportGeneralTypeIssues=false

import triton
import triton.language as tl

CHUNK = 16  # steps; a chunk of dB and one of dC fill the threads of a warp
BLOCK = 32  # channels of a program, one per thread

LOG2_E = tl.constexpr(1.4426950408889634)
LOG2_E_REST = tl.constexpr(1.9259629911266175e-08)  # LOG2_E - float32(LOG2_E)
LN_2 = tl.constexpr(0.6931471805599453)

# No kernel runs faster for knowing that one of these is 1 or a multiple of 16, and each such case
# would be compiled on its own.
INTEGERS = (
    *(f"{x}_{axis}" for x in ("dy", "u", "delta", "source") for axis in "blk"),
    *(f"{x}_{axis}" for x in "BC" for axis in "blkn"),
    "blocks", "directions", "segments", "segment_chunks", "dim", "length", "steps", "chunks",
    "rows", "columns", "channels", "dpairs_block", "slots_of_pair", "slots_of_segment", "parts",
)  # fmt: skip


@triton.jit
def _exp(x):
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
    e = _exp(-tl.abs(x))
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
    return _exp(x - y)


@triton.jit
def _program(blocks, directions, segments):
    """(block, direction, segment, image) of this program; neighbours share the image's tokens."""
    pid = tl.program_id(0)
    block = pid % blocks
    pid //= blocks
    k = pid % directions
    pid //= directions
    return block, k.to(tl.int64), pid % segments, (pid // segments).to(tl.int64)


@triton.jit
def _load(source, mask, ALL: tl.constexpr):
    """Float32 values, zero outside the mask; with ALL the mask is known to hold everywhere."""
    x = tl.load(source) if ALL else tl.load(source, mask=mask, other=0.0)
    return x.to(tl.float32)


@triton.jit
def _row(source, at, mask, GIVEN: tl.constexpr, BLOCK: tl.constexpr):
    """A number per channel, zero where there is none."""
    if GIVEN:
        return tl.load(source + at, mask=mask, other=0.0)
    else:
        return tl.zeros([BLOCK], tl.float32)


@triton.jit
def _load_tokens(tokens, WIDE: tl.constexpr, CHUNK: tl.constexpr):
    """The tokens of a chunk, scalars; WIDE ones, if offsets within an image pass 2^31."""
    out = ()
    for t in tl.static_range(CHUNK):
        token = tl.load(tokens + t)
        if WIDE:
            token = token.to(tl.int64)
        out = out + (token,)
    return out


@triton.jit
def _load_chunk(source, tokens, stride, lane, here, EVEN: tl.constexpr, CHUNK: tl.constexpr):
    """A vector per step of a chunk."""
    out = ()
    for t in tl.static_range(CHUNK):
        out = out + (_load(source + tokens[t] * stride + lane, here, EVEN),)
    return out


@triton.jit
def _only_if(condition, lane, width):
    """The mask of the first `width` lanes, or of none.

    The plain `(lane < width) & condition` has the wrong type in Triton 3.9's interpreter.
    """
    return lane < tl.where(condition, width, 0)


@triton.jit
def _step_sizes(raw, shift, count, SOFTPLUS: tl.constexpr, CHUNK: tl.constexpr):
    """delta of the recurrence, 0 beyond the end of the path: such a step keeps the state."""
    out = ()
    for t in tl.static_range(CHUNK):
        step = raw[t] + shift
        if SOFTPLUS:
            step = softplus(step)
        out = out + (tl.where(t < count, step, 0.0),)
    return out


@triton.jit
def _live(x, count, CHUNK: tl.constexpr):
    """x with zeros beyond the end of the path."""
    out = ()
    for t in tl.static_range(CHUNK):
        out = out + (tl.where(t < count, x[t], 0.0),)
    return out


@triton.jit
def _products(x, y, CHUNK: tl.constexpr):
    out = ()
    for t in tl.static_range(CHUNK):
        out = out + (x[t] * y[t],)
    return out


@triton.jit
def _zeros(CHUNK: tl.constexpr, BLOCK: tl.constexpr):
    out = ()
    for _ in tl.static_range(CHUNK):
        out = out + (tl.zeros([BLOCK], tl.float32),)
    return out


@triton.jit
def _pair(pairs, t):
    """B and C of step t, scalars."""
    both = tl.load(pairs + t)
    b = both.to(tl.int32).to(tl.float32, bitcast=True)
    c = (both >> 32).to(tl.int32).to(tl.float32, bitcast=True)
    return b, c


@triton.jit
def _exchange(even, odd, lane, LEVEL: tl.constexpr):
    """Lanes with bit LEVEL go on with `odd`, the others with `even`, each with its partner's share.

    The partner's lane differs in that bit: two vectors become one for one exchange.
    """
    upper = ((lane >> LEVEL) & 1) == 1
    keep = tl.where(upper, odd, even)
    send = tl.where(upper, even, odd)
    return keep + tl.gather(send, lane ^ (1 << LEVEL), 0)


@triton.jit
def _sum_chunk(values, lane):
    """Lane i of the result is the sum of values[i % 16] over the lanes of its half of the warp."""
    for level in tl.static_range(4):
        merged = ()
        for j in tl.static_range(len(values) // 2):
            merged = merged + (_exchange(values[2 * j], values[2 * j + 1], lane, level),)
        values = merged
    return values[0]


@triton.jit(do_not_specialize=INTEGERS)
def forward(
    u, delta, pairs, A, D, bias, tokens, counts, states, y, last,
    u_b, u_l, u_k, delta_b, delta_l, delta_k,
    blocks, directions, segments, segment_chunks, dim, length, chunks,
    STATE: tl.constexpr, SOFTPLUS: tl.constexpr, HAS_D: tl.constexpr, HAS_BIAS: tl.constexpr,
    EVEN: tl.constexpr, WIDE: tl.constexpr, SAVE: tl.constexpr,
    CHUNK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """y and the last state [b, k, n, d]; with SAVE the state before every chunk.

    states [b, k, slot, n, d] carries the state from chunk to chunk, in a slot per chunk with SAVE,
    in a slot per segment without. `carry` has filled the first slot of every segment but the first,
    which starts from zero.
    """
    block, k, segment, image = _program(blocks, directions, segments)
    lane = tl.arange(0, BLOCK)
    channel = block * BLOCK + lane
    width = BLOCK if EVEN else dim - block * BLOCK
    here = lane < width
    pair = image * directions + k

    first = segment * segment_chunks
    stop = tl.minimum(first + segment_chunks, chunks)
    if SAVE:
        states += (pair * chunks + first) * STATE * dim
        next_slot = STATE * dim
    else:
        states += (pair * segments + segment) * STATE * dim
        next_slot = 0
    last += pair * STATE * dim
    u += image * u_b + k * u_k + block * BLOCK
    delta += image * delta_b + k * delta_k + block * BLOCK
    y += (image * length * directions + k) * dim + block * BLOCK
    y_l = directions * dim
    pairs += (pair * STATE * chunks + first) * CHUNK
    tokens += (k * chunks + first) * CHUNK
    counts += k * chunks
    A += k * STATE * dim
    shift = _row(bias, k * dim + channel, here, HAS_BIAS, BLOCK)
    skip = _row(D, k * dim + channel, here, HAS_D, BLOCK)

    if segment == 0:
        for n in range(STATE):
            tl.store(states + n * dim + channel, tl.zeros([BLOCK], tl.float32), mask=here)
        tl.debug_barrier()  # states written by one thread may be read by another

    token = _load_tokens(tokens, WIDE, CHUNK)
    raw = _load_chunk(delta, token, delta_l, lane, here, EVEN, CHUNK)
    x = _load_chunk(u, token, u_l, lane, here, EVEN, CHUNK)
    for i in range(stop - first):
        chunk = first + i
        # The next chunk is under way from memory while this one is computed.
        tokens += tl.where(chunk + 1 < stop, CHUNK, 0)
        next_token = _load_tokens(tokens, WIDE, CHUNK)
        next_raw = _load_chunk(delta, next_token, delta_l, lane, here, EVEN, CHUNK)
        next_x = _load_chunk(u, next_token, u_l, lane, here, EVEN, CHUNK)

        count = tl.load(counts + chunk)
        step = _step_sizes(raw, shift, count, SOFTPLUS, CHUNK)
        drive = _live(_products(step, x, CHUNK), count, CHUNK)
        out = ()
        for t in tl.static_range(CHUNK):
            out = out + (skip * x[t],)

        for n in range(STATE):
            at = n * dim + channel
            rate = _load(A + at, here, EVEN) * LOG2_E
            h = _load(states + at, here, EVEN)
            sums = ()
            for t in tl.static_range(CHUNK):
                b, c = _pair(pairs + n * chunks * CHUNK, t)
                h = tl.fma(tl.exp2(step[t] * rate), h, drive[t] * b)
                sums = sums + (tl.fma(h, c, out[t]),)
            out = sums
            tl.store(states + next_slot + at, h, mask=_only_if(chunk + 1 < stop, lane, width))
            tl.store(last + at, h, mask=_only_if(chunk + 1 == chunks, lane, width))

        for t in tl.static_range(CHUNK):
            mask = _only_if(t < count, lane, width)
            tl.store(y + token[t] * y_l + lane, out[t], mask=mask)
        states += next_slot
        pairs += CHUNK
        token = next_token
        raw = next_raw
        x = next_x
        tl.debug_barrier()  # the next chunk reads the states written here


@triton.jit(do_not_specialize=INTEGERS)
def backward(
    dy, u, delta, pairs, A, D, bias, tokens, counts, states, dlast,
    du, ddelta, dpairs, dA, dD, dbias,
    dy_b, dy_l, dy_k, u_b, u_l, u_k, delta_b, delta_l, delta_k,
    blocks, directions, segments, segment_chunks, dim, length, chunks, dpairs_block,
    STATE: tl.constexpr, SOFTPLUS: tl.constexpr, HAS_D: tl.constexpr, HAS_BIAS: tl.constexpr,
    EVEN: tl.constexpr, WIDE: tl.constexpr, HAS_LAST: tl.constexpr,
    CHUNK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """All gradients; those of A, D and bias per image and segment, those of B and C per block.

    With HAS_LAST, dlast [b, k, segment, n, d] is the gradient of the state at the end of each
    segment; it is overwritten. dA likewise, dD and dbias [b, k, segment, d], dpairs
    [block, b, k, n, chunks, 2, CHUNK].
    """
    block, k, segment, image = _program(blocks, directions, segments)
    lane = tl.arange(0, BLOCK)
    channel = block * BLOCK + lane
    width = BLOCK if EVEN else dim - block * BLOCK
    here = lane < width
    pair = image * directions + k
    entry = pair * segments + segment

    first = segment * segment_chunks
    stop = tl.minimum(first + segment_chunks, chunks)
    states += (pair * chunks + stop - 1) * STATE * dim
    dlast += entry * STATE * dim
    dA += entry * STATE * dim
    dD += entry * dim
    dbias += entry * dim
    dy += image * dy_b + k * dy_k + block * BLOCK
    u += image * u_b + k * u_k + block * BLOCK
    delta += image * delta_b + k * delta_k + block * BLOCK
    du += (image * length * directions + k) * dim + block * BLOCK
    ddelta += (image * length * directions + k) * dim + block * BLOCK
    du_l = directions * dim
    pairs += (pair * STATE * chunks + stop - 1) * CHUNK
    dpairs += block.to(tl.int64) * dpairs_block
    dpairs += (pair * STATE * chunks + stop - 1) * (2 * CHUNK)
    tokens += (k * chunks + stop - 1) * CHUNK
    counts += k * chunks
    A += k * STATE * dim
    entered = stop if HAS_LAST else stop - 1  # chunks below have a gradient from the next

    for i in range(stop - first):
        chunk = stop - 1 - i
        count = tl.load(counts + chunk)
        token = _load_tokens(tokens, WIDE, CHUNK)
        raw = _load_chunk(delta, token, delta_l, lane, here, EVEN, CHUNK)
        x = _load_chunk(u, token, u_l, lane, here, EVEN, CHUNK)
        dout = _load_chunk(dy, token, dy_l, lane, here, EVEN, CHUNK)
        shift = _row(bias, k * dim + channel, here, HAS_BIAS, BLOCK)
        step = _step_sizes(raw, shift, count, SOFTPLUS, CHUNK)
        drive = _live(_products(step, x, CHUNK), count, CHUNK)
        dout = _live(dout, count, CHUNK)
        ddrive = _zeros(CHUNK, BLOCK)
        dstep = _zeros(CHUNK, BLOCK)

        for n in range(STATE):
            at = n * dim + channel
            a = _load(A + at, here, EVEN)
            rate = a * LOG2_E
            h = _load(states + at, here, EVEN)
            g = tl.load(dlast + at, mask=_only_if(chunk < entered, lane, width), other=0.0)
            decay = ()
            before = ()
            dc = ()
            for t in tl.static_range(CHUNK):
                b, c = _pair(pairs + n * chunks * CHUNK, t)
                decay = decay + (tl.exp2(step[t] * rate),)
                before = before + (h,)
                h = tl.fma(decay[t], h, drive[t] * b)
                dc = dc + (dout[t] * h,)
            dc_sum = _sum_chunk(dc, lane)

            # B and C are loaded again below. With nothing in between, the compiler would keep all
            # of them in registers, and fewer programs would fit on a multiprocessor.
            if STATE > 1:
                tl.debug_barrier()
            da = tl.zeros([BLOCK], tl.float32)
            db = ()
            ddrive_n = ()
            dstep_n = ()
            for t in tl.static_range(CHUNK - 1, -1, -1):
                b, c = _pair(pairs + n * chunks * CHUNK, t)
                g = tl.fma(dout[t], c, g)  # of the state after step t
                db = (g * drive[t],) + db
                ddrive_n = (tl.fma(g, b, ddrive[t]),) + ddrive_n
                g = decay[t] * g  # of the state before it
                dexponent = g * before[t]  # of delta_t A
                dstep_n = (tl.fma(dexponent, a, dstep[t]),) + dstep_n
                da = tl.fma(dexponent, step[t], da)
            ddrive = ddrive_n
            dstep = dstep_n
            tl.store(dlast + at, g, mask=here)
            # Summed per chunk first: fewer roundings than in one long running sum.
            total = tl.load(dA + at, mask=_only_if(chunk + 1 < stop, lane, width), other=0.0)
            tl.store(dA + at, total + da, mask=here)
            both = _exchange(_sum_chunk(db, lane), dc_sum, lane, 4)
            tl.store(dpairs + n * chunks * (2 * CHUNK) + lane, both)

        # Loaded again, rather than kept in registers all the while.
        token = _load_tokens(tokens, WIDE, CHUNK)
        raw = _load_chunk(delta, token, delta_l, lane, here, EVEN, CHUNK)
        x = _load_chunk(u, token, u_l, lane, here, EVEN, CHUNK)
        shift = _row(bias, k * dim + channel, here, HAS_BIAS, BLOCK)
        skip = _row(D, k * dim + channel, here, HAS_D, BLOCK)
        dskip = tl.zeros([BLOCK], tl.float32)
        dshift = tl.zeros([BLOCK], tl.float32)
        for t in tl.static_range(CHUNK):
            mask = _only_if(t < count, lane, width)
            dx = tl.fma(ddrive[t], step[t], dout[t] * skip)
            tl.store(du + token[t] * du_l + lane, dx, mask=mask)
            dx = tl.fma(ddrive[t], x[t], dstep[t])
            if SOFTPLUS:
                dx *= softplus_slope(raw[t] + shift, step[t])
            tl.store(ddelta + token[t] * du_l + lane, dx, mask=mask)
            dshift += tl.where(t < count, dx, 0.0)
            dskip = tl.fma(dout[t], x[t], dskip)
        again = _only_if(chunk + 1 < stop, lane, width)
        if HAS_D:
            total = tl.load(dD + channel, mask=again, other=0.0)
            tl.store(dD + channel, total + dskip, mask=here)
        if HAS_BIAS:
            total = tl.load(dbias + channel, mask=again, other=0.0)
            tl.store(dbias + channel, total + dshift, mask=here)
        states -= STATE * dim
        pairs -= CHUNK
        dpairs -= 2 * CHUNK
        tokens -= CHUNK
        tl.debug_barrier()  # what is carried in memory is read in the next chunk


@triton.jit(do_not_specialize=INTEGERS)
def segment_ends(
    source, delta, pairs, A, bias, tokens, counts, ends, sums,
    source_b, source_l, source_k, delta_b, delta_l, delta_k,
    blocks, directions, segments, segment_chunks, dim, chunks,
    STATE: tl.constexpr, SOFTPLUS: tl.constexpr, HAS_BIAS: tl.constexpr,
    EVEN: tl.constexpr, WIDE: tl.constexpr, BACKWARD: tl.constexpr,
    CHUNK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """What a segment adds to the state that enters it, and the sum of its step sizes.

    Forward, the source is u, and every segment but the last starts from a state of zero. Backward,
    the source is the gradient of y, and every segment but the first starts at its end from a
    gradient of zero. ends [b, k, segments - 1, n, d], sums [b, k, segments - 1, d].
    """
    block, k, segment, image = _program(blocks, directions, segments - 1)
    lane = tl.arange(0, BLOCK)
    channel = block * BLOCK + lane
    width = BLOCK if EVEN else dim - block * BLOCK
    here = lane < width
    pair = image * directions + k
    entry = pair * (segments - 1) + segment

    if BACKWARD:
        segment += 1
    first = segment * segment_chunks
    length = tl.minimum(segment_chunks, chunks - first)
    source += image * source_b + k * source_k + block * BLOCK
    delta += image * delta_b + k * delta_k + block * BLOCK
    pairs += pair * STATE * chunks * CHUNK
    tokens += k * chunks * CHUNK
    counts += k * chunks
    ends += entry * STATE * dim
    A += k * STATE * dim
    shift = _row(bias, k * dim + channel, here, HAS_BIAS, BLOCK)
    total = tl.zeros([BLOCK], tl.float32)

    for i in range(length):
        chunk = first + i
        inside = chunk > first  # of the segment: there is an earlier end to go on from
        if BACKWARD:
            chunk = first + length - 1 - i
        count = tl.load(counts + chunk)
        token = _load_tokens(tokens + chunk * CHUNK, WIDE, CHUNK)
        raw = _load_chunk(delta, token, delta_l, lane, here, EVEN, CHUNK)
        x = _load_chunk(source, token, source_l, lane, here, EVEN, CHUNK)
        step = _step_sizes(raw, shift, count, SOFTPLUS, CHUNK)
        if BACKWARD:
            drive = _live(x, count, CHUNK)
        else:
            drive = _live(_products(step, x, CHUNK), count, CHUNK)
        for t in tl.static_range(CHUNK):
            total += step[t]

        for n in range(STATE):
            at = n * dim + channel
            rate = _load(A + at, here, EVEN) * LOG2_E
            h = tl.load(ends + at, mask=_only_if(inside, lane, width), other=0.0)
            here_pairs = pairs + (n * chunks + chunk) * CHUNK
            if BACKWARD:
                for t in tl.static_range(CHUNK - 1, -1, -1):
                    b, c = _pair(here_pairs, t)
                    h = tl.exp2(step[t] * rate) * tl.fma(drive[t], c, h)
            else:
                for t in tl.static_range(CHUNK):
                    b, c = _pair(here_pairs, t)
                    h = tl.fma(tl.exp2(step[t] * rate), h, drive[t] * b)
            tl.store(ends + at, h, mask=here)
        tl.debug_barrier()  # the ends written here are read in the next chunk
    tl.store(sums + entry * dim + channel, total, mask=here)


@triton.jit(do_not_specialize=INTEGERS)
def carry(
    ends, sums, A, start, slots,
    directions, segments, dim, slots_of_pair, slots_of_segment,
    STATE: tl.constexpr, HAS_START: tl.constexpr, BACKWARD: tl.constexpr, AHEAD: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """The state that enters each segment; backwards, the gradient of the state at its end.

    One program per (image, direction), state and block of channels. `start` [b, k, n, d] enters the
    first (backwards: the last) segment; without HAS_START that is zero. What enters segment s goes
    to slot s * slots_of_segment of slots [b, k, slots_of_pair, n, d].
    """
    pair = tl.program_id(0).to(tl.int64)
    n = tl.program_id(1)
    lane = tl.arange(0, BLOCK)
    channel = tl.program_id(2) * BLOCK + lane
    width = dim - tl.program_id(2) * BLOCK
    here = lane < width
    at = n * dim + channel
    rate = tl.load(A + (pair % directions) * STATE * dim + at, mask=here, other=0.0) * LOG2_E
    h = _row(start, pair * STATE * dim + at, here, HAS_START, BLOCK)
    for group in range(tl.cdiv(segments, AHEAD)):
        # AHEAD segments are read at once: waiting for the memory takes longer than all of the work.
        end = ()
        total = ()
        for j in tl.static_range(AHEAD):
            entry = group * AHEAD + j
            mask = _only_if(entry + 1 < segments, lane, width)
            if BACKWARD:
                entry = segments - 2 - entry
            entry = pair * (segments - 1) + entry
            end = end + (tl.load(ends + entry * STATE * dim + at, mask=mask, other=0.0),)
            total = total + (tl.load(sums + entry * dim + channel, mask=mask, other=0.0),)
        for j in tl.static_range(AHEAD):
            segment = group * AHEAD + j
            mask = _only_if(segment < segments, lane, width)
            if BACKWARD:
                segment = segments - 1 - segment
            slot = pair * slots_of_pair + segment * slots_of_segment
            tl.store(slots + slot * STATE * dim + at, h, mask=mask)
            h = tl.fma(tl.exp2(total[j] * rate), h, end[j])
