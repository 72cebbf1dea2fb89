"""The backward kernel: the gradients of all inputs, from the states at the start of each tile.

An item of work is a run of blocks of 16 channels, because B and C receive gradients from every
channel. Directions that write to the same place, the gradient of a shared input, belong to one item
and come one after the other.

A call works on a window of tiles, the last window first. What goes from window to window, the
gradient of the state and the sums over time, lies in memory; so the partial sums of the gradients
of B and C need no more room than a window, however long the sequence.
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
    ZERO,
    add_to,
    clear,
    corner,
    count_steps,
    finish_steps,
    read_channels,
    read_states,
    read_tile,
    scratch_order,
    write_channels,
    write_sums,
    write_tile,
)


@compiled
def _one_state(
    u, u_at, u_row, delta, delta_at, delta_row, dy, dy_at, dy_row,
    du, du_at, du_row, ddelta, ddelta_at, ddelta_row, order, first, steps,
    s, step, decay_at, h_at, dB_at, dC_at, B_at, C_at, A_at, skip, shift,
    carried, g_at, dA_at, dD_at, has_D, has_bias, softplus, add,
):  # fmt: skip
    """A tile of a scan with one state: once forwards for the states, once backwards.

    Row `order[first + t]` of u, delta, dy, du and ddelta is step t; a row has 16 channels side by
    side. The state before the tile is at h_at.
    """
    a, bias = lanes.load(s, A_at), lanes.load(s, shift)
    a_log2 = lanes.mul(a, lanes.fill(LOG2_E))
    h = lanes.load(s, h_at)
    for t in range(steps):
        row, i = order[first + t], t * LANES
        soon = order[first + min(t + AHEAD, steps - 1)]
        lanes.prefetch(u, u_at + u_row * soon)
        lanes.prefetch(delta, delta_at + delta_row * soon)
        lanes.prefetch(dy, dy_at + dy_row * row)  # these for the way back
        lanes.prefetch(du, du_at + du_row * row)
        lanes.prefetch(ddelta, ddelta_at + ddelta_row * row)
        u_t = lanes.load(u, u_at + u_row * row)
        step_t = lanes.load(delta, delta_at + delta_row * row)
        if has_bias:
            step_t = lanes.add(step_t, bias)
        if softplus:
            step_t = lanes.softplus(step_t)
        lanes.store(s, step + i, step_t)
        decay = lanes.exp2(lanes.mul(step_t, a_log2))
        lanes.store(s, decay_at + i, decay)
        h = lanes.mul_add(decay, h, lanes.mul(lanes.mul(u_t, step_t), lanes.spread(s, B_at + t)))
        lanes.store(s, h_at + LANES + i, h)

    d, g = lanes.load(s, skip), lanes.load(carried, g_at)  # g: of the state, from the future
    dA, dD, dbias = lanes.fill(ZERO), lanes.fill(ZERO), lanes.fill(ZERO)
    for back in range(steps):
        t = steps - 1 - back
        row, i = order[first + t], t * LANES
        dy_t = lanes.load(dy, dy_at + dy_row * row)
        u_t = lanes.load(u, u_at + u_row * row)
        step_t = lanes.load(s, step + i)
        before = lanes.load(s, h_at + i)
        g = lanes.mul_add(dy_t, lanes.spread(s, C_at + t), g)
        lanes.store(s, dC_at + i, lanes.mul_add(dy_t, h, lanes.load(s, dC_at + i)))
        x_t = lanes.mul(u_t, step_t)
        lanes.store(s, dB_at + i, lanes.mul_add(g, x_t, lanes.load(s, dB_at + i)))
        dx_t = lanes.mul(g, lanes.spread(s, B_at + t))
        g = lanes.mul(lanes.load(s, decay_at + i), g)
        drate = lanes.mul(g, before)  # of delta_t A
        dA = lanes.mul_add(drate, step_t, dA)
        dstep = lanes.mul_add(dx_t, u_t, lanes.mul(drate, a))
        if softplus:
            dstep = lanes.mul(dstep, lanes.softplus_slope(step_t))
        lanes.store(ddelta, ddelta_at + ddelta_row * row, dstep)
        dbias = lanes.add(dbias, dstep)
        dD = lanes.mul_add(dy_t, u_t, dD)
        du_t = lanes.mul(dx_t, step_t)
        if has_D:
            du_t = lanes.mul_add(dy_t, d, du_t)
        to = du_at + du_row * row
        lanes.store(du, to, lanes.add(lanes.load(du, to), du_t) if add else du_t)
        h = before
    lanes.store(carried, g_at, g)
    # Summed per tile first: fewer roundings than one long running sum.
    add_to(carried, dA_at, dA)
    add_to(carried, dD_at, dD)
    add_to(carried, dD_at + LANES, dbias)


@compiled
def _one_of_many_states(
    s, x, step, dy, dx, dstep, steps, decay_at, h_at, dB_at, dC_at, b_at, c_at, A_at,
    carried, g_at, dA_at,
):  # fmt: skip
    """One state of a tile: forwards for its values from the one at h_at, then backwards."""
    a = lanes.load(s, A_at)
    a_log2 = lanes.mul(a, lanes.fill(LOG2_E))
    h = lanes.load(s, h_at)
    for t in range(steps):
        i = t * LANES
        decay = lanes.exp2(lanes.mul(lanes.load(s, step + i), a_log2))
        lanes.store(s, decay_at + i, decay)
        driven = lanes.mul(lanes.load(s, x + i), lanes.spread(s, b_at + t))
        h = lanes.mul_add(decay, h, driven)
        lanes.store(s, h_at + LANES + i, h)

    g = lanes.load(carried, g_at)
    dA = lanes.fill(ZERO)
    for back in range(steps):
        t = steps - 1 - back
        i = t * LANES
        dy_t = lanes.load(s, dy + i)
        x_t = lanes.load(s, x + i)
        before = lanes.load(s, h_at + i)
        g = lanes.mul_add(dy_t, lanes.spread(s, c_at + t), g)
        lanes.store(s, dC_at + i, lanes.mul_add(dy_t, h, lanes.load(s, dC_at + i)))
        lanes.store(s, dB_at + i, lanes.mul_add(g, x_t, lanes.load(s, dB_at + i)))
        b_t = lanes.spread(s, b_at + t)
        lanes.store(s, dx + i, lanes.mul_add(g, b_t, lanes.load(s, dx + i)))
        g = lanes.mul(lanes.load(s, decay_at + i), g)
        drate = lanes.mul(g, before)
        lanes.store(s, dstep + i, lanes.mul_add(drate, a, lanes.load(s, dstep + i)))
        dA = lanes.mul_add(drate, lanes.load(s, step + i), dA)
        h = before
    lanes.store(carried, g_at, g)
    add_to(carried, dA_at, dA)


@compiled
def _two_of_many_states(
    s, x, step, dy, dx, dstep, steps, decay_at, h_at, dB_at, dC_at, b_at, c_at, A_at,
    carried, g_at, dA_at,
):  # fmt: skip
    """Two states of a tile at once, which read and write x, step, dy, dx and dstep once."""
    decay_2, h_2 = decay_at + STRIDE, h_at + STRIDE + LANES
    dB_2, dC_2, b_2, c_2 = dB_at + STRIDE, dC_at + STRIDE, b_at + TILE, c_at + TILE
    a, a2 = lanes.load(s, A_at), lanes.load(s, A_at + LANES)
    log2, log2_2 = lanes.mul(a, lanes.fill(LOG2_E)), lanes.mul(a2, lanes.fill(LOG2_E))
    h, h2 = lanes.load(s, h_at), lanes.load(s, h_2)
    for t in range(steps):
        i = t * LANES
        step_t, x_t = lanes.load(s, step + i), lanes.load(s, x + i)
        decay = lanes.exp2(lanes.mul(step_t, log2))
        decay2 = lanes.exp2(lanes.mul(step_t, log2_2))
        lanes.store(s, decay_at + i, decay)
        lanes.store(s, decay_2 + i, decay2)
        h = lanes.mul_add(decay, h, lanes.mul(x_t, lanes.spread(s, b_at + t)))
        h2 = lanes.mul_add(decay2, h2, lanes.mul(x_t, lanes.spread(s, b_2 + t)))
        lanes.store(s, h_at + LANES + i, h)
        lanes.store(s, h_2 + LANES + i, h2)

    g, g2 = lanes.load(carried, g_at), lanes.load(carried, g_at + LANES)
    dA, dA2 = lanes.fill(ZERO), lanes.fill(ZERO)
    for back in range(steps):
        t = steps - 1 - back
        i = t * LANES
        dy_t, x_t, step_t = lanes.load(s, dy + i), lanes.load(s, x + i), lanes.load(s, step + i)
        before, before2 = lanes.load(s, h_at + i), lanes.load(s, h_2 + i)
        g = lanes.mul_add(dy_t, lanes.spread(s, c_at + t), g)
        g2 = lanes.mul_add(dy_t, lanes.spread(s, c_2 + t), g2)
        lanes.store(s, dC_at + i, lanes.mul_add(dy_t, h, lanes.load(s, dC_at + i)))
        lanes.store(s, dC_2 + i, lanes.mul_add(dy_t, h2, lanes.load(s, dC_2 + i)))
        lanes.store(s, dB_at + i, lanes.mul_add(g, x_t, lanes.load(s, dB_at + i)))
        lanes.store(s, dB_2 + i, lanes.mul_add(g2, x_t, lanes.load(s, dB_2 + i)))
        dx_t = lanes.mul_add(g, lanes.spread(s, b_at + t), lanes.load(s, dx + i))
        lanes.store(s, dx + i, lanes.mul_add(g2, lanes.spread(s, b_2 + t), dx_t))
        g = lanes.mul(lanes.load(s, decay_at + i), g)
        g2 = lanes.mul(lanes.load(s, decay_2 + i), g2)
        drate, drate2 = lanes.mul(g, before), lanes.mul(g2, before2)
        dstep_t = lanes.mul_add(drate, a, lanes.load(s, dstep + i))
        lanes.store(s, dstep + i, lanes.mul_add(drate2, a2, dstep_t))
        dA = lanes.mul_add(drate, step_t, dA)
        dA2 = lanes.mul_add(drate2, step_t, dA2)
        h, h2 = before, before2
    lanes.store(carried, g_at, g)
    lanes.store(carried, g_at + LANES, g2)
    add_to(carried, dA_at, dA)
    add_to(carried, dA_at + LANES, dA2)


@compiled
def _finish(s, u, step, dy, dx, dstep, steps, skip, carried, dD_at, has_D, softplus):
    """Turn the gradients of delta u and of the step into those of u and of delta."""
    d = lanes.load(s, skip)
    dD, dbias = lanes.fill(ZERO), lanes.fill(ZERO)
    for t in range(0, steps * LANES, LANES):
        u_t, dx_t = lanes.load(s, u + t), lanes.load(s, dx + t)
        dy_t, step_t = lanes.load(s, dy + t), lanes.load(s, step + t)
        dstep_t = lanes.mul_add(dx_t, u_t, lanes.load(s, dstep + t))
        if softplus:
            dstep_t = lanes.mul(dstep_t, lanes.softplus_slope(step_t))
        lanes.store(s, dstep + t, dstep_t)
        dbias = lanes.add(dbias, dstep_t)
        dD = lanes.mul_add(dy_t, u_t, dD)
        du_t = lanes.mul(dx_t, step_t)
        if has_D:
            du_t = lanes.mul_add(dy_t, d, du_t)
        lanes.store(s, dx + t, du_t)
    add_to(carried, dD_at, dD)
    add_to(carried, dD_at + LANES, dbias)


@compiled
def backward(first, stop, numbers):
    """Work items first to stop - 1 of a window; `kernels.cpu.scan.backward` lists the numbers.

    An item is one part of the blocks of `together` directions of one image. What is carried from
    window to window, [b, k, block, 2 n + 2, 16], is the gradient of each state, that of each rate,
    and those of D and the bias. sums, [part, b, k, n, 2, step], are those of B and C.
    """
    dy, u, delta = floats(numbers[0]), floats(numbers[1]), floats(numbers[2])
    A, B, C = floats(numbers[3]), floats(numbers[4]), floats(numbers[5])
    D, bias, order = floats(numbers[6]), floats(numbers[7]), ints(numbers[8])
    dlast, states = floats(numbers[9]), floats(numbers[10])
    du, ddelta = floats(numbers[11]), floats(numbers[12])
    carried, sums = floats(numbers[13]), floats(numbers[14])
    has_D, has_bias, has_dlast = numbers[6] != 0, numbers[7] != 0, numbers[9] != 0
    dy_strides, u_strides, delta_strides = numbers[15:19], numbers[19:23], numbers[23:27]
    B_strides, C_strides = numbers[27:31], numbers[31:35]
    du_strides, ddelta_strides = numbers[35:39], numbers[39:43]
    together, directions, channels = numbers[43], numbers[44], numbers[45]
    state, length, softplus = numbers[46], numbers[47], numbers[48] != 0
    images, parts, first_tile, stop_tile = numbers[49], numbers[50], numbers[51], numbers[52]

    in_place = u_strides[CHANNEL] == 1 and delta_strides[CHANNEL] == 1
    in_place = in_place and dy_strides[CHANNEL] == 1
    in_place = in_place and du_strides[CHANNEL] == 1 and ddelta_strides[CHANNEL] == 1
    blocks = (channels + LANES - 1) // LANES
    run = (blocks + parts - 1) // parts
    tiles = (length + TILE - 1) // TILE
    sets = directions // together
    window = (stop_tile - first_tile) * TILE
    # Scratch, in floats: tiles first; h has one step more, the state before the first one.
    u_at, step, dy_at, x = 0, STRIDE, 2 * STRIDE, 3 * STRIDE
    dx, dstep, decay = 4 * STRIDE, 5 * STRIDE, 6 * STRIDE
    h_at = 8 * STRIDE
    dB_at = h_at + 2 * (STRIDE + LANES)
    dC_at = dB_at + state * STRIDE
    B_at = dC_at + state * STRIDE
    C_at = B_at + state * TILE
    # 16 lanes per block of the run (and state).
    A_at = C_at + state * TILE
    D_at = A_at + run * state * LANES
    bias_at = D_at + run * LANES
    s = scratch(bias_at + run * LANES)
    in_scratch = scratch_order()
    entries = (2 * state + 2) * LANES
    for item in range(first, stop):
        part = item % parts
        image = item // parts // sets
        first_direction = item // parts % sets * together
        first_block = part * run
        run_here = min(run, blocks - first_block)
        for k in range(first_direction, first_direction + together):
            count = count_steps(order, k * length, length)
            clear(s, D_at, 2 * run * LANES)
            for i in range(run_here):
                block = first_block + i
                channel, live = k * channels + block * LANES, min(LANES, channels - block * LANES)
                row = image * directions * channels + channel
                for n in range(state):
                    read_channels(
                        A, channel * state + n, state, live, s, A_at + (i * state + n) * LANES
                    )
                if has_D:
                    read_channels(D, channel, 1, live, s, D_at + i * LANES)
                if has_bias:
                    read_channels(bias, channel, 1, live, s, bias_at + i * LANES)
                if stop_tile == tiles:  # the last window is the first to be worked on
                    at = ((image * directions + k) * blocks + block) * entries
                    clear(carried, at, entries)
                    if has_dlast:
                        for n in range(state):
                            read_channels(
                                dlast, row * state + n, state, live, carried, at + n * LANES
                            )

            for tile in range(min(stop_tile, (count + TILE - 1) // TILE) - 1, first_tile - 1, -1):
                begin = tile * TILE
                steps = min(TILE, count - begin)
                now = k * length + begin
                clear(s, dB_at, 2 * state * STRIDE)
                at = corner(B_strides, image, k, 0)
                read_states(B, at, B_strides, order, now, steps, state, s, B_at)
                at = corner(C_strides, image, k, 0)
                read_states(C, at, C_strides, order, now, steps, state, s, C_at)
                for i in range(run_here):
                    block = first_block + i
                    live = min(LANES, channels - block * LANES)
                    u_from = corner(u_strides, image, k, block)
                    delta_from = corner(delta_strides, image, k, block)
                    dy_from = corner(dy_strides, image, k, block)
                    du_to = corner(du_strides, image, k, block)
                    ddelta_to = corner(ddelta_strides, image, k, block)
                    add = k > first_direction
                    skip, shift = D_at + i * LANES, bias_at + i * LANES
                    row = (image * directions + k) * blocks + block
                    saved = (row * tiles + tile) * state * LANES
                    g_at = row * entries
                    dA_at = g_at + state * LANES
                    dD_at = dA_at + state * LANES
                    if state == 1:
                        lanes.store(s, h_at, lanes.load(states, saved))
                        if in_place and live == LANES:
                            _one_state(
                                u, u_from, u_strides[TOKEN], delta, delta_from,
                                delta_strides[TOKEN], dy, dy_from, dy_strides[TOKEN],
                                du, du_to, du_strides[TOKEN], ddelta, ddelta_to,
                                ddelta_strides[TOKEN], order, now, steps,
                                s, step, decay, h_at, dB_at, dC_at, B_at, C_at, A_at + i * LANES,
                                skip, shift, carried, g_at, dA_at, dD_at,
                                has_D, has_bias, softplus, add,
                            )  # fmt: skip
                            continue
                    read_tile(u, u_from, u_strides, order, now, begin, live, steps, s, u_at)
                    read_tile(
                        delta, delta_from, delta_strides, order, now, begin, live, steps, s, step
                    )
                    read_tile(dy, dy_from, dy_strides, order, now, begin, live, steps, s, dy_at)
                    if state == 1:
                        _one_state(
                            s, u_at, LANES, s, step, LANES, s, dy_at, LANES,
                            s, dx, LANES, s, dstep, LANES, in_scratch, 0, steps,
                            s, step, decay, h_at, dB_at, dC_at, B_at, C_at, A_at + i * LANES,
                            skip, shift, carried, g_at, dA_at, dD_at,
                            has_D, has_bias, softplus, False,
                        )  # fmt: skip
                    else:
                        finish_steps(s, step, steps, shift, has_bias, softplus)
                        for t in range(0, steps * LANES, LANES):
                            x_t = lanes.mul(lanes.load(s, u_at + t), lanes.load(s, step + t))
                            lanes.store(s, x + t, x_t)
                        clear(s, dx, steps * LANES)
                        clear(s, dstep, steps * LANES)
                        for n in range(0, state - 1, 2):
                            lanes.store(s, h_at, lanes.load(states, saved + n * LANES))
                            h_next = lanes.load(states, saved + (n + 1) * LANES)
                            lanes.store(s, h_at + STRIDE + LANES, h_next)
                            _two_of_many_states(
                                s, x, step, dy_at, dx, dstep, steps, decay, h_at,
                                dB_at + n * STRIDE, dC_at + n * STRIDE,
                                B_at + n * TILE, C_at + n * TILE, A_at + (i * state + n) * LANES,
                                carried, g_at + n * LANES, dA_at + n * LANES,
                            )  # fmt: skip
                        for n in range(state - state % 2, state):
                            lanes.store(s, h_at, lanes.load(states, saved + n * LANES))
                            _one_of_many_states(
                                s, x, step, dy_at, dx, dstep, steps, decay, h_at,
                                dB_at + n * STRIDE, dC_at + n * STRIDE,
                                B_at + n * TILE, C_at + n * TILE, A_at + (i * state + n) * LANES,
                                carried, g_at + n * LANES, dA_at + n * LANES,
                            )  # fmt: skip
                        _finish(
                            s, u_at, step, dy_at, dx, dstep, steps, skip, carried, dD_at,
                            has_D, softplus,
                        )  # fmt: skip
                    write_tile(du, du_to, du_strides, order, now, begin, live, steps, s, dx, add)
                    write_tile(
                        ddelta, ddelta_to, ddelta_strides, order, now, begin, live, steps, s,
                        dstep, False,
                    )  # fmt: skip

                at = ((part * images + image) * directions + k) * state * 2 * window
                at += begin - first_tile * TILE
                write_sums(sums, at, 2 * window, steps, state, s, dB_at)
                write_sums(sums, at + window, 2 * window, steps, state, s, dC_at)


@compiled
def add_parts(first, stop, numbers):
    """dB and dC at the tokens of a window: the parts' sums added in order, for (image, k) items."""
    sums, order = floats(numbers[0]), ints(numbers[1])
    dB, dC = floats(numbers[2]), floats(numbers[3])
    dB_strides, dC_strides = numbers[4:8], numbers[8:12]
    images, directions, state, length = numbers[12], numbers[13], numbers[14], numbers[15]
    parts, first_tile, stop_tile = numbers[16], numbers[17], numbers[18]
    window = (stop_tile - first_tile) * TILE
    size = images * directions * state * 2 * window
    total = scratch(LANES)
    for item in range(first, stop):
        image, k = item // directions, item % directions
        now = k * length + first_tile * TILE
        steps = min(count_steps(order, k * length, length) - first_tile * TILE, window)
        for n in range(state):
            for gradient, at, token, source in (
                (dB, corner(dB_strides, image, k, 0) + n * dB_strides[CHANNEL],
                 dB_strides[TOKEN], (item * state + n) * 2 * window),
                (dC, corner(dC_strides, image, k, 0) + n * dC_strides[CHANNEL],
                 dC_strides[TOKEN], ((item * state + n) * 2 + 1) * window),
            ):  # fmt: skip
                for t in range(0, steps, LANES):
                    x = lanes.load(sums, source + t)
                    for part in range(1, parts):
                        x = lanes.add(x, lanes.load(sums, source + part * size + t))
                    lanes.store(total, 0, x)
                    for lane in range(min(LANES, steps - t)):
                        gradient[at + token * order[now + t + lane]] = total[lane]


@compiled
def add_images(first, stop, numbers):
    """dA, dD and dbias: what the images carried out, added in order, for blocks as items.

    A gradient whose address is 0 is not wanted.
    """
    carried, dA = floats(numbers[0]), floats(numbers[1])
    dD, dbias = floats(numbers[2]), floats(numbers[3])
    images, directions, channels, state = numbers[4], numbers[5], numbers[6], numbers[7]
    blocks = (channels + LANES - 1) // LANES
    entries = (2 * state + 2) * LANES
    total = scratch(entries)
    for item in range(first, stop):
        k, block = item // blocks, item % blocks
        live, channel = min(LANES, channels - block * LANES), k * channels + block * LANES
        clear(total, 0, entries)
        for image in range(images):
            at = ((image * directions + k) * blocks + block) * entries
            for i in range(state * LANES, entries, LANES):
                lanes.store(total, i, lanes.add(lanes.load(total, i), lanes.load(carried, at + i)))
        if numbers[1] != 0:
            for n in range(state):
                write_channels(dA, channel * state + n, state, live, total, (state + n) * LANES)
        if numbers[2] != 0:
            write_channels(dD, channel, 1, live, total, 2 * state * LANES)
        if numbers[3] != 0:
            write_channels(dbias, channel, 1, live, total, (2 * state + 1) * LANES)


register(backward)
register(add_parts)
register(add_images)
