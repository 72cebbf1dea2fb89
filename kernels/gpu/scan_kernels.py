"""The two GPU kernels of the selective scan, in Triton: forward and backward.

A program owns CHANNELS neighbouring channels of one direction of one image and walks its path in
tiles of STEPS steps (`kernels.gpu.arithmetic` says which tiles there are and why). The states are
taken one after the other, at run time, so that one kernel serves any number of them; what they
carry from tile to tile lies in memory.

- Everything is in token order and channels last: a step reads neighbouring channels of one token,
  whichever way the path goes. The path is read here, and so are B and C along it.
- Sums over channels (the gradients of B and C) and over images (those of A, D and bias) leave as
  partial sums that `finish` adds in order: no atomics, the same bits in every run. So do the
  directions of an output that is summed over them.
- The forward pass keeps the state before each tile; the backward pass recomputes the rest.
- What a program carries in memory it reads from one place and writes to another, with a barrier
  before the places change: a thread may read what another thread of the program has written.
- A long sequence may be cut into segments that run at once (`kernels.gpu.segments`).

Shapes: u, y, delta and their gradients (b, l, k, d); B, C (b, l, k, n); D, bias (k, d); A (k, d, n)
with any strides; order [k, steps]; `_b`, `_l`, `_k`, `_n`, `_d` are strides. Only u, delta, dy, B
and C may be strided; u, delta and dy must have the channels next to each other, and B and C the
same strides along tokens and states. Sums and states are float32.
"""

# pyright: reportGeneralTypeIssues=false

import triton
import triton.language as tl

from workbench.kernels.gpu import arithmetic as ops
from workbench.kernels.gpu.arithmetic import (
    BIAS,
    ENTERED,
    LOG2_E,
    PARAMETERS,
    SAVE,
    SKIP,
    SOFTPLUS,
    SUMMED,
)


@triton.jit
def forward(
    u, delta, A, B, C, D, bias, order, y, each, last, states,
    u_b, u_k, delta_b, delta_k, B_b, B_k, C_b, C_k,
    u_l, delta_l, B_l, B_n, A_d, A_n,
    blocks, directions, segments, segment_tiles, dim, state, length, steps, tiles, flags,
    STEPS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """y, or `each` (b, l, k, d) where directions are SUMMED, and the last state [b, k, n, d].

    states [b, k, slot, n, d] has a slot per tile with SAVE, and two per segment to take turns
    without. The first slot of every segment but the first holds the state that enters it.
    """
    block, k, segment, image = ops.program(blocks, directions, segments)
    row = tl.arange(0, STEPS)
    channel = block * CHANNELS + tl.arange(0, CHANNELS)
    here = channel < dim
    pair = image * directions + k
    first = segment * segment_tiles
    stop = tl.minimum(first + segment_tiles, tiles)
    save = (flags & SAVE) != 0
    summed = (flags & SUMMED) != 0

    slot = tl.where(save, pair * tiles + first, (pair * segments + segment) * 2)
    states += slot * state * dim + channel
    last += pair * state * dim + channel
    u += image * u_b + k * u_k
    delta += image * delta_b + k * delta_k
    B += image * B_b + k * B_k
    C += image * C_b + k * C_k
    A += (k * dim + channel) * A_d
    width = directions * dim
    y += (image * length * directions + k) * dim
    each += (image * length * directions + k) * dim
    shift = tl.load(bias + k * dim + channel, mask=here & ((flags & BIAS) != 0), other=0.0)
    skip = tl.load(D + k * dim + channel, mask=here & ((flags & SKIP) != 0), other=0.0)

    mask = ops.only_if(save & (first == 0), channel, dim)
    for n in range(state):  # nothing enters the first tile, but no output may hold what it finds
        tl.store(states + n * dim, tl.zeros([CHANNELS], tl.float32), mask=mask)
    if ops.padded(order, k, steps, length, flags):
        nothing = tl.zeros([STEPS, CHANNELS], tl.float32)
        for begin in range(0, length, STEPS):
            token = begin + row
            at = token.to(tl.int64)[:, None] * width + channel[None, :]
            inside = (token < length)[:, None] & here[None, :]
            tl.store(each + at, nothing, mask=inside & summed)
            tl.store(y + at, nothing, mask=inside & (not summed))
        tl.debug_barrier()  # or a thread would clear what another has written below

    token = ops.tokens(order, k, steps, first * STEPS + row, flags)
    raw = ops.rows(delta, token, delta_l, channel, here)
    x = ops.rows(u, token, u_l, channel, here)
    for i in range(stop - first):
        tile = first + i
        # The next tile is under way from memory while this one is computed.
        t = tile * STEPS + row
        next_token = ops.tokens(order, k, steps, tl.where(tile + 1 < stop, t + STEPS, t), flags)
        next_raw = ops.rows(delta, next_token, delta_l, channel, here)
        next_x = ops.rows(u, next_token, u_l, channel, here)

        live = token >= 0
        step = raw + shift[None, :]
        if (flags & SOFTPLUS) != 0:
            step = ops.softplus(step)
        step = tl.where(live[:, None], step, 0.0)
        drive = tl.where(live[:, None], step * x, 0.0)
        out = skip[None, :] * x
        ahead = tl.where(save | (i % 2 == 0), state * dim, -state * dim)  # to the next slot
        at = tl.maximum(token, 0) * B_l
        for n in range(state):
            rate = tl.load(A + n * A_n, mask=here, other=0.0) * LOG2_E
            mask = ops.only_if(tile > 0, channel, dim)
            h = tl.load(states + n * dim, mask=mask, other=0.0)
            b = tl.load(B + (at + n * B_n), mask=live, other=0.0).to(tl.float32)
            c = tl.load(C + (at + n * B_n), mask=live, other=0.0).to(tl.float32)
            decay = tl.exp2(step * rate[None, :])
            after = ops.states_after(decay, drive * b[:, None], h)
            out = tl.fma(after, ops.fill_across(c, CHANNELS), out)
            h = ops.row_of(after, STEPS - 1)
            mask = ops.only_if(tile + 1 < stop, channel, dim)
            tl.store(states + ahead + n * dim, h, mask=mask)
            tl.store(last + n * dim, h, mask=ops.only_if(tile + 1 == tiles, channel, dim))

        at = tl.maximum(token, 0).to(tl.int64)[:, None] * width + channel[None, :]
        inside = live[:, None] & here[None, :]
        tl.store(each + at, out, mask=inside & summed)
        tl.store(y + at, out, mask=inside & (not summed))
        states += ahead
        token = next_token
        raw = next_raw
        x = next_x
        tl.debug_barrier()  # the next tile reads the states written here


@triton.jit
def backward(
    dy, u, delta, A, B, C, D, bias, order, states, dlast, du, ddelta, dB, dC, scratch,
    at_each, at_partial, at_sums, at_carried, partial_block,
    dy_b, dy_k, u_b, u_k, delta_b, delta_k, B_b, B_k, C_b, C_k,
    dy_l, u_l, delta_l, B_l, B_n, A_d, A_n,
    blocks, directions, segments, segment_tiles, dim, state, length, steps, tiles, flags,
    STEPS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """du (or each direction's, where they are SUMMED), ddelta, and what `finish` sums.

    With ENTERED, dlast [b, k, segment, n, d] is the gradient of the state at the end of each
    segment. In `scratch`, from at_each, at_partial, at_sums and at_carried on:

        each     (b, l, k, d): du of each direction
        partial  [block, b, k, n, tile, 2, STEPS]: of dB and dC
        sums     [b, segment, k, n + 2, d]: of the gradients of A, then D and bias
        carried  [b, k, segment, 2, 2, n, d]: gradient of the state and sum for A, in turns

    dB and dC are only zeroed here, where a path leaves tokens out.
    """
    block, k, segment, image = ops.program(blocks, directions, segments)
    row = tl.arange(0, STEPS)
    lane = tl.arange(0, CHANNELS)
    channel = block * CHANNELS + lane
    here = channel < dim
    pair = image * directions + k
    entry = pair * segments + segment
    first = segment * segment_tiles
    stop = tl.minimum(first + segment_tiles, tiles)
    summed = (flags & SUMMED) != 0

    states += (pair * tiles + stop - 1) * state * dim + channel
    dlast += entry * state * dim + channel
    each = scratch + at_each + (image * length * directions + k) * dim
    partial = scratch + at_partial + block * partial_block + pair * state * tiles * (2 * STEPS)
    sums = scratch + at_sums + channel
    sums += ((image * segments + segment) * directions + k) * (state + 2) * dim
    carried = scratch + at_carried + entry * 4 * state * dim + channel
    dy += image * dy_b + k * dy_k
    u += image * u_b + k * u_k
    delta += image * delta_b + k * delta_k
    B += image * B_b + k * B_k
    C += image * C_b + k * C_k
    A += (k * dim + channel) * A_d
    width = directions * dim
    du += (image * length * directions + k) * dim
    ddelta += (image * length * directions + k) * dim
    shift = tl.load(bias + k * dim + channel, mask=here & ((flags & BIAS) != 0), other=0.0)
    skip = tl.load(D + k * dim + channel, mask=here & ((flags & SKIP) != 0), other=0.0)
    dshift = tl.zeros([CHANNELS], tl.float32)
    dskip = tl.zeros([CHANNELS], tl.float32)

    if ops.padded(order, k, steps, length, flags):
        nothing = tl.zeros([STEPS, CHANNELS], tl.float32)
        corner = (image * length * directions + k) * state
        for begin in range(0, length, STEPS):
            token = begin + row
            at = token.to(tl.int64)[:, None] * width + channel[None, :]
            inside = (token < length)[:, None] & here[None, :]
            tl.store(each + at, nothing, mask=inside & summed)
            tl.store(du + at, nothing, mask=inside & (not summed))
            tl.store(ddelta + at, nothing, mask=inside)
            for n in range(state):
                to = corner + token.to(tl.int64) * (directions * state) + n
                mask = ops.only_if(block == 0, token, length)
                tl.store(dB + to, tl.zeros([STEPS], tl.float32), mask=mask)
                tl.store(dC + to, tl.zeros([STEPS], tl.float32), mask=mask)
        tl.debug_barrier()  # or a thread would clear what another has written below

    for i in range(stop - first):
        tile = stop - 1 - i
        token = ops.tokens(order, k, steps, tile * STEPS + row, flags)
        live = token >= 0
        raw = ops.rows(delta, token, delta_l, channel, here)
        x = ops.rows(u, token, u_l, channel, here)
        dout = tl.where(live[:, None], ops.rows(dy, token, dy_l, channel, here), 0.0)
        step = raw + shift[None, :]
        if (flags & SOFTPLUS) != 0:
            step = ops.softplus(step)
        step = tl.where(live[:, None], step, 0.0)
        drive = tl.where(live[:, None], step * x, 0.0)
        ddrive = tl.zeros([STEPS, CHANNELS], tl.float32)
        dstep = tl.zeros([STEPS, CHANNELS], tl.float32)
        at = tl.maximum(token, 0) * B_l
        now = (i % 2) * (2 * state * dim)
        next_ = 2 * state * dim - now
        again = ops.only_if(i > 0, channel, dim)
        more = ops.only_if(tile > first, channel, dim)
        for n in range(state):
            a = tl.load(A + n * A_n, mask=here, other=0.0)
            mask = ops.only_if(tile > 0, channel, dim)
            h = tl.load(states + n * dim, mask=mask, other=0.0)
            g = tl.load(carried + now + n * dim, mask=again, other=0.0)
            mask = ops.only_if((i == 0) & ((flags & ENTERED) != 0), channel, dim)
            g += tl.load(dlast + n * dim, mask=mask, other=0.0)
            b = tl.load(B + (at + n * B_n), mask=live, other=0.0).to(tl.float32)
            decay = tl.exp2(step * (a * LOG2_E)[None, :])
            drive_b = drive * b[:, None]
            before = ops.states_before(decay, drive_b, h, False)
            dc = dout * tl.fma(decay, before, drive_b)

            # The gradient of the state after each step is that of the output, and what comes from
            # the step behind it: the "state" before each step of a scan that goes backwards.
            if STEPS == 8:
                dc = ops.sum_lanes(dc, lane, 0)
                # B is loaded again: the compiler would keep all of it in registers otherwise.
                tl.debug_barrier()
                b = tl.load(B + (at + n * B_n), mask=live, other=0.0).to(tl.float32)
            else:
                dc = tl.sum(dc, 1)
            c = tl.load(C + (at + n * B_n), mask=live, other=0.0).to(tl.float32)
            add = dout * c[:, None]
            if STEPS == 8:
                turned = ops.upside_down(decay)
                behind = ops.states_before(turned, ops.upside_down(decay * add), g, False)
                behind = ops.upside_down(behind)
            else:
                behind = ops.states_before(decay, decay * add, g, True)
            dh = add + behind
            db = dh * drive
            ddrive = tl.fma(dh, ops.fill_across(b, CHANNELS), ddrive)
            dh = decay * dh  # now of the state before the step
            dexponent = dh * before
            dstep = tl.fma(dexponent, ops.fill_down(a, STEPS), dstep)
            tl.store(carried + next_ + n * dim, ops.row_of(dh, 0), mask=more)

            total = tl.load(carried + now + (state + n) * dim, mask=again, other=0.0)
            total += tl.sum(dexponent * step, 0)
            tl.store(carried + next_ + (state + n) * dim, total, mask=more)
            done = (tile == first) & ((flags & PARAMETERS) != 0)
            tl.store(sums + n * dim, total, mask=ops.only_if(done, channel, dim))
            to = partial + (n * tiles + tile) * (2 * STEPS)
            if STEPS == 8:
                both = ops.exchange(ops.sum_lanes(db, lane, 0), dc, lane, 3)
                both += tl.gather(both, lane ^ 16, 0)
                tl.store(to + lane, both, mask=lane < 2 * STEPS)
            else:
                tl.store(to + row, tl.sum(db, 1))
                tl.store(to + STEPS + row, dc)

        # Loaded again, rather than kept in registers all the while.
        token = ops.tokens(order, k, steps, tile * STEPS + row, flags)
        raw = ops.rows(delta, token, delta_l, channel, here)
        x = ops.rows(u, token, u_l, channel, here)
        live = token >= 0
        inside = live[:, None] & here[None, :]
        at = tl.maximum(token, 0).to(tl.int64)[:, None] * width + channel[None, :]
        dx = tl.fma(ddrive, step, dout * skip[None, :])
        tl.store(each + at, dx, mask=inside & summed)
        tl.store(du + at, dx, mask=inside & (not summed))
        dx = tl.fma(ddrive, x, dstep)
        if (flags & SOFTPLUS) != 0:
            dx *= ops.softplus_slope(raw + shift[None, :], step)
        tl.store(ddelta + at, dx, mask=inside)
        dshift += tl.sum(tl.where(live[:, None], dx, 0.0), 0)
        dskip += tl.sum(tl.where(live[:, None], dout * x, 0.0), 0)
        states -= state * dim
        tl.debug_barrier()  # what is carried in memory is read in the next tile

    mask = ops.only_if((flags & PARAMETERS) != 0, channel, dim)
    tl.store(sums + state * dim, dskip, mask=mask)
    tl.store(sums + (state + 1) * dim, dshift, mask=mask)
