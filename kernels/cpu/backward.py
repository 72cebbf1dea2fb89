"""The backward kernel: the gradients of all inputs, from the states at the start of each tile.

An item of work is a run of blocks of 16 channels, because B and C receive gradients from every
channel. Directions that write to the same place, the gradient of a shared input, belong to one item
and come one after the other.
"""

from numba import types

from kernels.cpu import lanes
from kernels.cpu.compiling import FLOATS, INTS, STRIDES, compiled, register
from kernels.cpu.lanes import LANES
from kernels.cpu.tiles import (
    CHANNEL,
    DIRECTION,
    IMAGE,
    LOG2_E,
    STRIDE,
    TILE,
    ZERO,
    clear,
    count_steps,
    finish_steps,
    read_channels,
    read_states,
    read_tile,
    scratch,
    write_channels,
    write_sums,
    write_tile,
)


@compiled
def backward(
    first, stop, dy, dlast, u, delta, A, B, C, D, bias, order, softplus, states,
    du, ddelta, dA, dB, dC, dD, dbias,
    dy_strides, u_strides, delta_strides, B_strides, C_strides,
    du_strides, ddelta_strides, dB_strides, dC_strides,
    together, parts, directions, channels, state, length,
):  # fmt: skip
    """Work items first to stop - 1; an empty D, bias or dlast means there is none.

    An item is one part of the blocks of `together` directions of one image. dA, dD and dbias are
    per image, dB and dC per image and part: the caller adds them up.
    """
    blocks = (channels + LANES - 1) // LANES
    run = (blocks + parts - 1) // parts
    tiles = (length + TILE - 1) // TILE
    sets = directions // together
    images_in_dB, images_in_dC = dB.size // parts, dC.size // parts
    # Scratch, in floats: tiles first; h and the two sums have one entry per step and state.
    u_at, step, dy_at, x = 0, STRIDE, 2 * STRIDE, 3 * STRIDE
    dx, dstep, decay_at = 4 * STRIDE, 5 * STRIDE, 6 * STRIDE
    h_at = 7 * STRIDE  # one step more than a tile: the state before the first one
    dB_at = h_at + STRIDE + LANES
    dC_at = dB_at + state * STRIDE
    B_at = dC_at + state * STRIDE
    C_at = B_at + state * TILE
    # 16 lanes per block of the run (and state).
    g_at = C_at + state * TILE
    dA_at = g_at + run * state * LANES
    A_at = dA_at + run * state * LANES
    dD_at = A_at + run * state * LANES
    dbias_at = dD_at + run * LANES
    D_at = dbias_at + run * LANES
    bias_at = D_at + run * LANES
    s = scratch(bias_at + run * LANES)
    for item in range(first, stop):
        part = item % parts
        image = item // parts // sets
        first_direction = item // parts % sets * together
        first_block = part * run
        run_here = min(run, blocks - first_block)
        for direction in range(together):
            k = first_direction + direction
            count = count_steps(order, k * length, length)
            clear(s, g_at, bias_at + run * LANES - g_at)
            for i in range(run_here):
                offset = (first_block + i) * LANES
                channel, live = k * channels + offset, min(LANES, channels - offset)
                row = image * directions * channels + channel
                for n in range(state):
                    entry = (i * state + n) * LANES
                    read_channels(A, channel * state + n, state, live, s, A_at + entry)
                    if dlast.size > 0:
                        read_channels(dlast, row * state + n, state, live, s, g_at + entry)
                if D.size > 0:
                    read_channels(D, channel, 1, live, s, D_at + i * LANES)
                if bias.size > 0:
                    read_channels(bias, channel, 1, live, s, bias_at + i * LANES)

            for tile in range((count + TILE - 1) // TILE - 1, -1, -1):
                begin = tile * TILE
                steps = min(TILE, count - begin)
                now = k * length + begin
                clear(s, dB_at, 2 * state * STRIDE)
                at = image * B_strides[IMAGE] + k * B_strides[DIRECTION]
                read_states(B, at, B_strides, order, now, steps, state, s, B_at)
                at = image * C_strides[IMAGE] + k * C_strides[DIRECTION]
                read_states(C, at, C_strides, order, now, steps, state, s, C_at)
                for i_block in range(run_here):
                    block = first_block + i_block
                    live = min(LANES, channels - block * LANES)
                    at = image * u_strides[IMAGE] + k * u_strides[DIRECTION]
                    at += block * LANES * u_strides[CHANNEL]
                    read_tile(u, at, u_strides, order, now, begin, live, steps, s, u_at)
                    at = image * delta_strides[IMAGE] + k * delta_strides[DIRECTION]
                    at += block * LANES * delta_strides[CHANNEL]
                    read_tile(delta, at, delta_strides, order, now, begin, live, steps, s, step)
                    at = image * dy_strides[IMAGE] + k * dy_strides[DIRECTION]
                    at += block * LANES * dy_strides[CHANNEL]
                    read_tile(dy, at, dy_strides, order, now, begin, live, steps, s, dy_at)
                    shift = bias_at + i_block * LANES
                    finish_steps(s, step, steps, shift, bias.size > 0, softplus)
                    for t in range(0, steps * LANES, LANES):
                        u_t, step_t = lanes.load(s, u_at + t), lanes.load(s, step + t)
                        lanes.store(s, x + t, lanes.mul(u_t, step_t))
                        lanes.store(s, dx + t, lanes.fill(ZERO))
                        lanes.store(s, dstep + t, lanes.fill(ZERO))

                    saved = (((image * directions + k) * blocks + block) * tiles + tile) * state
                    for n in range(state):
                        entry = (i_block * state + n) * LANES
                        b_at, c_at = B_at + n * TILE, C_at + n * TILE
                        a = lanes.load(s, A_at + entry)
                        a_log2 = lanes.mul(a, lanes.fill(LOG2_E))
                        h = lanes.load(states, (saved + n) * LANES)
                        lanes.store(s, h_at, h)
                        for t in range(steps):
                            i = t * LANES
                            decay = lanes.exp2(lanes.mul(lanes.load(s, step + i), a_log2))
                            lanes.store(s, decay_at + i, decay)
                            driven = lanes.mul(lanes.load(s, x + i), lanes.spread(s, b_at + t))
                            h = lanes.mul_add(decay, h, driven)
                            lanes.store(s, h_at + LANES + i, h)

                        g = lanes.load(s, g_at + entry)  # gradient of the state, from the future
                        dA_tile = lanes.fill(ZERO)
                        for back in range(steps):
                            t = steps - 1 - back
                            i = t * LANES
                            dy_t = lanes.load(s, dy_at + i)
                            x_t = lanes.load(s, x + i)
                            g = lanes.mul_add(dy_t, lanes.spread(s, c_at + t), g)
                            to = dC_at + n * STRIDE + i
                            h_t = lanes.load(s, h_at + LANES + i)
                            lanes.store(s, to, lanes.mul_add(dy_t, h_t, lanes.load(s, to)))
                            to = dB_at + n * STRIDE + i
                            lanes.store(s, to, lanes.mul_add(g, x_t, lanes.load(s, to)))
                            to = dx + i
                            b_t = lanes.spread(s, b_at + t)
                            lanes.store(s, to, lanes.mul_add(g, b_t, lanes.load(s, to)))
                            g = lanes.mul(lanes.load(s, decay_at + i), g)
                            drate = lanes.mul(g, lanes.load(s, h_at + i))  # of delta_t A
                            to = dstep + i
                            lanes.store(s, to, lanes.mul_add(drate, a, lanes.load(s, to)))
                            dA_tile = lanes.mul_add(drate, lanes.load(s, step + i), dA_tile)
                        lanes.store(s, g_at + entry, g)
                        # Summed per tile first: fewer roundings than one long running sum.
                        to = dA_at + entry
                        lanes.store(s, to, lanes.add(lanes.load(s, to), dA_tile))

                    d = lanes.load(s, D_at + i_block * LANES)
                    dD_tile, dbias_tile = lanes.fill(ZERO), lanes.fill(ZERO)
                    for t in range(0, steps * LANES, LANES):
                        u_t, dx_t = lanes.load(s, u_at + t), lanes.load(s, dx + t)
                        dy_t, step_t = lanes.load(s, dy_at + t), lanes.load(s, step + t)
                        dstep_t = lanes.mul_add(dx_t, u_t, lanes.load(s, dstep + t))
                        if softplus:
                            dstep_t = lanes.mul(dstep_t, lanes.softplus_slope(step_t))
                        lanes.store(s, dstep + t, dstep_t)
                        dbias_tile = lanes.add(dbias_tile, dstep_t)
                        dD_tile = lanes.mul_add(dy_t, u_t, dD_tile)
                        du_t = lanes.mul(dx_t, step_t)
                        if D.size > 0:
                            du_t = lanes.mul_add(dy_t, d, du_t)
                        lanes.store(s, dx + t, du_t)
                    to = dD_at + i_block * LANES
                    lanes.store(s, to, lanes.add(lanes.load(s, to), dD_tile))
                    to = dbias_at + i_block * LANES
                    lanes.store(s, to, lanes.add(lanes.load(s, to), dbias_tile))
                    at = image * du_strides[IMAGE] + k * du_strides[DIRECTION]
                    at += block * LANES * du_strides[CHANNEL]
                    write_tile(
                        du, at, du_strides, order, now, begin, live, steps, s, dx, direction > 0
                    )
                    at = image * ddelta_strides[IMAGE] + k * ddelta_strides[DIRECTION]
                    at += block * LANES * ddelta_strides[CHANNEL]
                    write_tile(
                        ddelta, at, ddelta_strides, order, now, begin, live, steps, s, dstep, False
                    )

                at = part * images_in_dB + image * dB_strides[IMAGE] + k * dB_strides[DIRECTION]
                write_sums(dB, at, dB_strides, order, now, steps, state, s, dB_at)
                at = part * images_in_dC + image * dC_strides[IMAGE] + k * dC_strides[DIRECTION]
                write_sums(dC, at, dC_strides, order, now, steps, state, s, dC_at)

            for i in range(run_here):
                offset = (first_block + i) * LANES
                live = min(LANES, channels - offset)
                row = image * directions * channels + k * channels + offset
                for n in range(state):
                    entry = (i * state + n) * LANES
                    write_channels(dA, row * state + n, state, live, s, dA_at + entry)
                if D.size > 0:
                    write_channels(dD, row, 1, live, s, dD_at + i * LANES)
                if bias.size > 0:
                    write_channels(dbias, row, 1, live, s, dbias_at + i * LANES)


register(
    backward,
    (
        *[types.intp] * 2, *[FLOATS] * 9, INTS, types.boolean, *[FLOATS] * 8,
        *[STRIDES] * 9, *[types.intp] * 6,
    ),
)  # fmt: skip
