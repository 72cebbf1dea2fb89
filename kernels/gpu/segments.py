"""A long sequence cut into segments that run at once, where there would be few programs.

`ends` finds what each segment adds to the state (backwards: to its gradient), `carry` hands that on
from segment to segment, and the kernels of `scan_kernels` start from there. That is about twice the
exponentials and 1.7 times the bytes, for as many times the programs as there are segments.
"""

# pyright: reportGeneralTypeIssues=false

import triton
import triton.language as tl

from workbench.kernels.gpu import arithmetic as ops
from workbench.kernels.gpu.arithmetic import BIAS, ENTERED, LOG2_E, SOFTPLUS


@triton.jit
def ends(
    source, delta, weights, A, bias, order, ends, sums,
    source_b, source_k, delta_b, delta_k, weights_b, weights_k,
    source_l, delta_l, weights_l, weights_n, A_d, A_n,
    blocks, directions, segments, segment_tiles, dim, state, steps, tiles, flags, backward,
    STEPS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """What a segment adds to the state that enters it, and the sum of its step sizes.

    Forward, the source is u, the weights are B, and every segment but the last starts from a state
    of zero. Backward, they are the gradient of y and C, and every segment but the first starts at
    its end from a gradient of zero. ends [b, k, segments - 1, 2, n, d], of which the kernel takes
    turns to write the two; the result is at place [..., 0]. sums [b, k, segments - 1, d].
    """
    block, k, segment, image = ops.program(blocks, directions, segments - 1)
    row = tl.arange(0, STEPS)
    channel = block * CHANNELS + tl.arange(0, CHANNELS)
    here = channel < dim
    pair = image * directions + k
    entry = pair * (segments - 1) + segment
    first = (segment + backward) * segment_tiles
    count = tl.minimum(segment_tiles, tiles - first)

    source += image * source_b + k * source_k
    delta += image * delta_b + k * delta_k
    weights += image * weights_b + k * weights_k
    ends += entry * 2 * state * dim + channel
    A += (k * dim + channel) * A_d
    shift = tl.load(bias + k * dim + channel, mask=here & ((flags & BIAS) != 0), other=0.0)
    total = tl.zeros([CHANNELS], tl.float32)
    row = tl.where(backward != 0, STEPS - 1 - row, row)

    for i in range(count):
        tile = first + tl.where(backward != 0, count - 1 - i, i)
        token = ops.tokens(order, k, steps, tile * STEPS + row, flags)
        live = token >= 0
        step = ops.rows(delta, token, delta_l, channel, here) + shift[None, :]
        x = ops.rows(source, token, source_l, channel, here)
        if (flags & SOFTPLUS) != 0:
            step = ops.softplus(step)
        step = tl.where(live[:, None], step, 0.0)
        x = tl.where(live[:, None], x, 0.0)
        total += tl.sum(step, 0)
        at = tl.maximum(token, 0) * weights_l
        to = ((count - 1 - i) % 2) * state * dim  # 0 for the last tile
        before = state * dim - to
        mask = ops.only_if(i > 0, channel, dim)
        for n in range(state):
            rate = tl.load(A + n * A_n, mask=here, other=0.0) * LOG2_E
            h = tl.load(ends + before + n * dim, mask=mask, other=0.0)
            w = tl.load(weights + (at + n * weights_n), mask=live, other=0.0).to(tl.float32)
            decay = tl.exp2(step * rate[None, :])
            # Forward h = decay h + step w x, backward h = decay (h + w x).
            drive = tl.where(backward != 0, decay, step) * x * w[:, None]
            h = ops.row_of(ops.states_after(decay, drive, h), STEPS - 1)
            tl.store(ends + to + n * dim, h, mask=here)
        tl.debug_barrier()  # the ends written here are read in the next tile
    tl.store(sums + entry * dim + channel, total, mask=here)


@triton.jit
def carry(
    ends, sums, A, start, slots, start_pair,
    A_d, A_n, directions, segments, dim, state, slots_of_pair, slots_of_segment, flags, backward,
    STEPS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """The state that enters each segment; backwards, the gradient of the state at its end.

    One program per (image, direction), state and block of channels. With ENTERED, start
    [b, k, n, d] enters the first (backwards: the last) segment, else zero does. What enters segment
    s goes to slot s * slots_of_segment of slots [b, k, slots_of_pair, n, d]. Rows of a tile are
    STEPS segments: all of them are read at once, as waiting takes longer than all of the work.
    """
    pair = tl.program_id(0).to(tl.int64)
    n = tl.program_id(1)
    channel = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)
    here = channel < dim
    row = tl.arange(0, STEPS)
    k = pair % directions
    rate = tl.load(A + (k * dim + channel) * A_d + n * A_n, mask=here, other=0.0) * LOG2_E
    at = n * dim + channel
    mask = ops.only_if((flags & ENTERED) != 0, channel, dim)
    h = tl.load(start + pair * start_pair + at, mask=mask, other=0.0)
    ends += pair * (segments - 1) * 2 * state * dim
    sums += pair * (segments - 1) * dim
    slots += pair * slots_of_pair * state * dim
    for begin in range(0, segments, STEPS):
        entry = begin + row
        segment = tl.where(backward != 0, segments - 1 - entry, entry)
        entry = tl.where(backward != 0, segments - 2 - entry, entry)
        inside = (begin + row < segments - 1)[:, None] & here[None, :]
        entry = tl.maximum(entry, 0).to(tl.int64)[:, None]
        end = tl.load(ends + entry * (2 * state * dim) + at[None, :], mask=inside, other=0.0)
        total = tl.load(sums + entry * dim + channel[None, :], mask=inside, other=0.0)
        decay = tl.exp2(total * rate[None, :])
        before = ops.states_before(decay, end, h, False)
        inside = (begin + row < segments)[:, None] & here[None, :]
        slot = tl.maximum(segment, 0).to(tl.int64)[:, None] * (slots_of_segment * state * dim)
        tl.store(slots + slot + at[None, :], before, mask=inside)
        h = ops.row_of(tl.fma(decay, before, end), STEPS - 1)
