"""The forward kernel: y, the last state, and the states that the backward kernel starts from.

An item of work is one block of 16 channels. Directions that write to the same place, a merged
output, belong to one item and come one after the other.
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
    clear,
    count_steps,
    finish_steps,
    read_channels,
    read_states,
    read_tile,
    scratch,
    write_channels,
    write_tile,
)


@compiled
def forward(
    first, stop, u, delta, A, B, C, D, bias, order, softplus, y, last, states,
    u_strides, delta_strides, B_strides, C_strides, y_strides,
    together, directions, channels, state, length,
):  # fmt: skip
    """Work items first to stop - 1; an empty D, bias or states means there is none."""
    blocks = (channels + LANES - 1) // LANES
    tiles = (length + TILE - 1) // TILE
    sets = directions // together
    # Scratch, in floats: three tiles, then 16 lanes per entry, then B and C of a tile.
    step, x, out = 0, STRIDE, 2 * STRIDE
    h_at = 3 * STRIDE
    rate = h_at + state * LANES
    skip = rate + state * LANES
    shift = skip + LANES
    B_at = shift + LANES
    C_at = B_at + state * TILE
    s = scratch(C_at + state * TILE)
    for item in range(first, stop):
        block = item % blocks
        image = item // blocks // sets
        first_direction = item // blocks % sets * together
        live = min(LANES, channels - block * LANES)
        for k in range(first_direction, first_direction + together):
            channel = k * channels + block * LANES
            row = image * directions * channels + channel
            count = count_steps(order, k * length, length)
            for n in range(state):
                read_channels(A, channel * state + n, state, live, s, rate + n * LANES)
                a = lanes.mul(lanes.load(s, rate + n * LANES), lanes.fill(LOG2_E))
                lanes.store(s, rate + n * LANES, a)
            if D.size > 0:
                read_channels(D, channel, 1, live, s, skip)
            clear(s, shift, LANES)
            if bias.size > 0:
                read_channels(bias, channel, 1, live, s, shift)
            clear(s, h_at, state * LANES)
            for tile in range((count + TILE - 1) // TILE):
                begin = tile * TILE
                steps = min(TILE, count - begin)
                now = k * length + begin
                if states.size > 0:
                    saved = (((image * directions + k) * blocks + block) * tiles + tile) * state
                    for n in range(state):
                        lanes.store(states, (saved + n) * LANES, lanes.load(s, h_at + n * LANES))
                at = image * delta_strides[IMAGE] + k * delta_strides[DIRECTION]
                at += block * LANES * delta_strides[CHANNEL]
                read_tile(delta, at, delta_strides, order, now, begin, live, steps, s, step)
                at = image * u_strides[IMAGE] + k * u_strides[DIRECTION]
                at += block * LANES * u_strides[CHANNEL]
                read_tile(u, at, u_strides, order, now, begin, live, steps, s, x)
                at = image * B_strides[IMAGE] + k * B_strides[DIRECTION]
                read_states(B, at, B_strides, order, now, steps, state, s, B_at)
                at = image * C_strides[IMAGE] + k * C_strides[DIRECTION]
                read_states(C, at, C_strides, order, now, steps, state, s, C_at)
                finish_steps(s, step, steps, shift, bias.size > 0, softplus)
                if D.size > 0:
                    d = lanes.load(s, skip)
                    for t in range(0, steps * LANES, LANES):
                        lanes.store(s, out + t, lanes.mul(lanes.load(s, x + t), d))
                else:
                    clear(s, out, steps * LANES)
                for t in range(0, steps * LANES, LANES):
                    x_t = lanes.mul(lanes.load(s, x + t), lanes.load(s, step + t))
                    lanes.store(s, x + t, x_t)
                for n in range(state):
                    h = lanes.load(s, h_at + n * LANES)
                    a = lanes.load(s, rate + n * LANES)
                    b_at, c_at = B_at + n * TILE, C_at + n * TILE
                    for t in range(steps):
                        i = t * LANES
                        decay = lanes.exp2(lanes.mul(lanes.load(s, step + i), a))
                        driven = lanes.mul(lanes.load(s, x + i), lanes.spread(s, b_at + t))
                        h = lanes.mul_add(decay, h, driven)
                        seen = lanes.mul_add(h, lanes.spread(s, c_at + t), lanes.load(s, out + i))
                        lanes.store(s, out + i, seen)
                    lanes.store(s, h_at + n * LANES, h)
                at = image * y_strides[IMAGE] + k * y_strides[DIRECTION]
                at += block * LANES * y_strides[CHANNEL]
                write_tile(
                    y, at, y_strides, order, now, begin, live, steps, s, out, k > first_direction
                )
            for n in range(state):
                write_channels(last, row * state + n, state, live, s, h_at + n * LANES)


register(
    forward,
    (
        *[types.intp] * 2, *[FLOATS] * 7, INTS, types.boolean, *[FLOATS] * 3,
        *[STRIDES] * 5, *[types.intp] * 5,
    ),
)  # fmt: skip
