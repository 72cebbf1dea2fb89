"""The forward kernel: y, the last state, and the states that the backward kernel starts from.

An item of work is one block of 16 channels. Directions that write to the same place, a merged
output, belong to one item and come one after the other.
"""

from workbench.kernels.cpu import lanes
from workbench.kernels.cpu.compiling import compiled, register
from workbench.kernels.cpu.lanes import LANES
from workbench.kernels.cpu.memory import floats, ints, scratch
from workbench.kernels.cpu.tiles import (
    AHEAD,
    CHANNEL,
    LOG2_E,
    STRIDE,
    TILE,
    TOKEN,
    clear,
    corner,
    count_steps,
    finish_steps,
    read_channels,
    read_states,
    read_tile,
    scratch_order,
    write_channels,
    write_tile,
)


@compiled
def _one_state(
    u, u_at, u_row, delta, delta_at, delta_row, y, y_at, y_row, order, first, steps,
    s, h_at, rate, B_at, C_at, skip, shift, has_D, has_bias, softplus, add,
):  # fmt: skip
    """A tile of a scan with one state: nothing but that state goes from step to step.

    Row `order[first + t]` of u, delta and y is step t; a row has 16 channels side by side.
    """
    h, a = lanes.load(s, h_at), lanes.load(s, rate)
    d, bias = lanes.load(s, skip), lanes.load(s, shift)
    for t in range(steps):
        row = order[first + t]
        soon = order[first + min(t + AHEAD, steps - 1)]
        lanes.prefetch(u, u_at + u_row * soon)
        lanes.prefetch(delta, delta_at + delta_row * soon)
        lanes.prefetch(y, y_at + y_row * soon)
        u_t = lanes.load(u, u_at + u_row * row)
        step = lanes.load(delta, delta_at + delta_row * row)
        if has_bias:
            step = lanes.add(step, bias)
        if softplus:
            step = lanes.softplus(step)
        driven = lanes.mul(lanes.mul(u_t, step), lanes.spread(s, B_at + t))
        h = lanes.mul_add(lanes.exp2(lanes.mul(step, a)), h, driven)
        c = lanes.spread(s, C_at + t)
        seen = lanes.mul_add(h, c, lanes.mul(u_t, d)) if has_D else lanes.mul(h, c)
        to = y_at + y_row * row
        lanes.store(y, to, lanes.add(lanes.load(y, to), seen) if add else seen)
    lanes.store(s, h_at, h)


@compiled
def _many_states(s, u, step, out, steps, state, h_at, rate, B_at, C_at, skip, has_D):
    """A tile of a scan with several states, one after the other; u becomes delta u."""
    if has_D:
        d = lanes.load(s, skip)
        for t in range(0, steps * LANES, LANES):
            lanes.store(s, out + t, lanes.mul(lanes.load(s, u + t), d))
    else:
        clear(s, out, steps * LANES)
    for t in range(0, steps * LANES, LANES):
        lanes.store(s, u + t, lanes.mul(lanes.load(s, u + t), lanes.load(s, step + t)))
    for n in range(state):
        h = lanes.load(s, h_at + n * LANES)
        a = lanes.load(s, rate + n * LANES)
        b_at, c_at = B_at + n * TILE, C_at + n * TILE
        for t in range(steps):
            i = t * LANES
            decay = lanes.exp2(lanes.mul(lanes.load(s, step + i), a))
            driven = lanes.mul(lanes.load(s, u + i), lanes.spread(s, b_at + t))
            h = lanes.mul_add(decay, h, driven)
            seen = lanes.mul_add(h, lanes.spread(s, c_at + t), lanes.load(s, out + i))
            lanes.store(s, out + i, seen)
        lanes.store(s, h_at + n * LANES, h)


@compiled
def forward(first, stop, numbers):
    """Work items first to stop - 1 of a scan; `kernels.cpu.scan.forward` lists the numbers."""
    u, delta, A, B, C = (
        floats(numbers[0]), floats(numbers[1]), floats(numbers[2]), floats(numbers[3]),
        floats(numbers[4]),
    )  # fmt: skip
    D, bias, order = floats(numbers[5]), floats(numbers[6]), ints(numbers[7])
    y, last, states = floats(numbers[8]), floats(numbers[9]), floats(numbers[10])
    has_D, has_bias, save = numbers[5] != 0, numbers[6] != 0, numbers[10] != 0
    u_strides, delta_strides = numbers[11:15], numbers[15:19]
    B_strides, C_strides, y_strides = numbers[19:23], numbers[23:27], numbers[27:31]
    together, directions, channels = numbers[31], numbers[32], numbers[33]
    state, length, softplus = numbers[34], numbers[35], numbers[36] != 0
    in_place = u_strides[CHANNEL] == 1 and delta_strides[CHANNEL] == 1 and y_strides[CHANNEL] == 1

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
    in_scratch = scratch_order()
    for item in range(first, stop):
        block = item % blocks
        image = item // blocks // sets
        first_direction = item // blocks % sets * together
        live = min(LANES, channels - block * LANES)
        for k in range(first_direction, first_direction + together):
            channel = k * channels + block * LANES
            row = image * directions * channels + channel
            count = count_steps(order, k * length, length)
            u_at = corner(u_strides, image, k, block)
            delta_at = corner(delta_strides, image, k, block)
            y_at = corner(y_strides, image, k, block)
            add = k > first_direction
            for n in range(state):
                read_channels(A, channel * state + n, state, live, s, rate + n * LANES)
                a = lanes.mul(lanes.load(s, rate + n * LANES), lanes.fill(LOG2_E))
                lanes.store(s, rate + n * LANES, a)
            if has_D:
                read_channels(D, channel, 1, live, s, skip)
            clear(s, shift, LANES)
            if has_bias:
                read_channels(bias, channel, 1, live, s, shift)
            clear(s, h_at, state * LANES)
            for tile in range((count + TILE - 1) // TILE):
                begin = tile * TILE
                steps = min(TILE, count - begin)
                now = k * length + begin
                if save:
                    saved = (((image * directions + k) * blocks + block) * tiles + tile) * state
                    for n in range(state):
                        lanes.store(states, (saved + n) * LANES, lanes.load(s, h_at + n * LANES))
                at = corner(B_strides, image, k, 0)
                read_states(B, at, B_strides, order, now, steps, state, s, B_at)
                at = corner(C_strides, image, k, 0)
                read_states(C, at, C_strides, order, now, steps, state, s, C_at)
                if state == 1 and in_place and live == LANES:
                    _one_state(
                        u, u_at, u_strides[TOKEN], delta, delta_at, delta_strides[TOKEN],
                        y, y_at, y_strides[TOKEN], order, now, steps,
                        s, h_at, rate, B_at, C_at, skip, shift, has_D, has_bias, softplus, add,
                    )  # fmt: skip
                    continue
                read_tile(u, u_at, u_strides, order, now, begin, live, steps, s, x)
                read_tile(delta, delta_at, delta_strides, order, now, begin, live, steps, s, step)
                if state == 1:
                    _one_state(
                        s, x, LANES, s, step, LANES, s, out, LANES, in_scratch, 0, steps,
                        s, h_at, rate, B_at, C_at, skip, shift, has_D, has_bias, softplus, False,
                    )  # fmt: skip
                else:
                    finish_steps(s, step, steps, shift, has_bias, softplus)
                    _many_states(s, x, step, out, steps, state, h_at, rate, B_at, C_at, skip, has_D)
                write_tile(y, y_at, y_strides, order, now, begin, live, steps, s, out, add)
            for n in range(state):
                write_channels(last, row * state + n, state, live, s, h_at + n * LANES)


register(forward)
