"""The selective scan on the CPU: numba kernels over 16 channels at a time.

Sixteen neighbouring channels of one direction share B and C and fill the 16 lanes of a vector. Time
is walked in tiles of 64 steps; a tile is brought into scratch memory, where each step is one vector
and stays in the nearest cache. The forward pass stores the state at the start of each tile; the
backward pass recomputes the rest from there, so the memory beside inputs and outputs is n / 64 of
the input, and partial sums of the gradients of B and C.

One pair of kernels serves both forms of the scan. Inputs are tokens x directions x channels in any
layout, and each direction visits the tokens in its own order, by a table: the cross scan of an
image reads and writes the image in place. Where channels are not neighbours in memory, as in
mamba_ssm's (b, d, l), tiles of 16 x 16 are transposed on the way, and the order must be 0, 1, 2 ...

Work is divided into items: one block of 16 channels each in the forward pass; in the backward pass,
where B and C receive gradients from every channel, a run of blocks. Directions that write to the
same place (a merged output, the gradient of a shared input) belong to one item and come one after
the other. The division depends on the shape alone, so results do not depend on the number of
threads.
"""

import numpy as np
import torch
from numba import types
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from kernels import flops, lanes
from kernels.lanes import LANES
from kernels.softplus_cpu import softplus
from kernels.threads import compiled, register, run, warm_up

__all__ = ["cross_selective_scan", "selective_scan", "softplus", "warm_up"]

TILE = 64  # steps; a multiple of LANES
# Floats from one tile to the next: a plain power of two would put the same step of every tile into
# the same few cache lines.
STRIDE = TILE * LANES + 5 * LANES
BACKWARD_ITEMS = 16  # aimed at; each costs one partial sum of the gradients of B and C

LOG2_E = np.float32(1.4426950408889634)
ZERO = np.float32(0.0)

# Strides of a tensor, in elements, are four numbers in an array: of image, token, direction, and of
# channel or state.
IMAGE, TOKEN, DIRECTION, CHANNEL = 0, 1, 2, 3


@compiled
def _scratch(size):
    """Uninitialised float32 memory that starts at a cache line."""
    memory = np.empty(size + LANES, np.float32)
    return memory[(-(memory.ctypes.data // 4)) % LANES :]


@compiled
def _read_tile(source, at, strides, order, first, begin, live, steps, tile, to):
    """tile[to + 16 t + lane] = channel `lane` at step begin + t; zero in lanes from `live` on.

    `order[first + t]` is the token of that step; `at` is the first channel of token 0.
    """
    if strides[CHANNEL] == 1:
        if live == LANES:
            for t in range(steps):
                token = at + strides[TOKEN] * order[first + t]
                lanes.store(tile, to + t * LANES, lanes.load(source, token))
        else:
            for t in range(steps):
                token = at + strides[TOKEN] * order[first + t]
                for lane in range(live):
                    tile[to + t * LANES + lane] = source[token + lane]
                for lane in range(live, LANES):
                    tile[to + t * LANES + lane] = ZERO
    else:
        row = strides[CHANNEL]
        start = at + begin
        whole = steps // LANES if live == LANES else 0
        for i in range(whole):
            lanes.transpose(source, start + i * LANES, row, tile, to + i * LANES * LANES, LANES)
        for t in range(whole * LANES, steps):
            for lane in range(live):
                tile[to + t * LANES + lane] = source[start + row * lane + t]
            for lane in range(live, LANES):
                tile[to + t * LANES + lane] = ZERO


@compiled
def _write_tile(target, at, strides, order, first, begin, live, steps, tile, to, add):
    """The reverse of `_read_tile`; with `add`, to what is there (channels side by side only)."""
    if strides[CHANNEL] == 1:
        if live == LANES:
            if add:
                for t in range(steps):
                    token = at + strides[TOKEN] * order[first + t]
                    x = lanes.add(lanes.load(target, token), lanes.load(tile, to + t * LANES))
                    lanes.store(target, token, x)
            else:
                for t in range(steps):
                    token = at + strides[TOKEN] * order[first + t]
                    lanes.store(target, token, lanes.load(tile, to + t * LANES))
        else:
            for t in range(steps):
                token = at + strides[TOKEN] * order[first + t]
                for lane in range(live):
                    x = tile[to + t * LANES + lane]
                    target[token + lane] = target[token + lane] + x if add else x
    else:
        row = strides[CHANNEL]
        start = at + begin
        whole = steps // LANES if live == LANES else 0
        for i in range(whole):
            lanes.transpose(tile, to + i * LANES * LANES, LANES, target, start + i * LANES, row)
        for t in range(whole * LANES, steps):
            for lane in range(live):
                target[start + row * lane + t] = tile[to + t * LANES + lane]


@compiled
def _read_states(source, at, strides, order, first, steps, state, tile, to):
    """tile[to + 64 n + t] = state n of the token at step t."""
    for n in range(state):
        here = at + strides[CHANNEL] * n
        for t in range(steps):
            tile[to + n * TILE + t] = source[here + strides[TOKEN] * order[first + t]]


@compiled
def _write_sums(target, at, strides, order, first, steps, state, tile, to):
    """State n of the token at step t = the sum of the lanes of step t; the tile is overwritten."""
    for n in range(state):
        here = at + strides[CHANNEL] * n
        for i in range(0, steps, LANES):
            lanes.store(tile, to, lanes.row_sums(tile, to + n * STRIDE + i * LANES))
            for t in range(min(LANES, steps - i)):
                target[here + strides[TOKEN] * order[first + i + t]] = tile[to + t]


@compiled
def _read_channels(source, start, stride, live, tile, at):
    """tile[at + lane] = source[start + stride lane], a number per channel; zero if not live."""
    for lane in range(LANES):
        tile[at + lane] = source[start + stride * lane] if lane < live else ZERO


@compiled
def _write_channels(target, start, stride, live, tile, at):
    for lane in range(live):
        target[start + stride * lane] = tile[at + lane]


@compiled
def _clear(tile, at, size):
    """tile[at : at + size] = 0 for a size that is a multiple of 16."""
    for i in range(at, at + size, LANES):
        lanes.store(tile, i, lanes.fill(ZERO))


@compiled
def _finish_steps(tile, at, steps, bias, has_bias, softplus):
    """Turn the raw step sizes of a tile into those of the recurrence."""
    shift = lanes.load(tile, bias)
    if softplus:
        for t in range(at, at + steps * LANES, LANES):
            lanes.store(tile, t, lanes.softplus(lanes.add(lanes.load(tile, t), shift)))
    elif has_bias:
        for t in range(at, at + steps * LANES, LANES):
            lanes.store(tile, t, lanes.add(lanes.load(tile, t), shift))


@compiled
def _steps(order, first, length):
    """How many steps a direction takes: its row of the order, without the padding at the end."""
    while length > 0 and order[first + length - 1] < 0:
        length -= 1
    return length


@compiled
def _forward(
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
    s = _scratch(C_at + state * TILE)
    for item in range(first, stop):
        block = item % blocks
        image = item // blocks // sets
        first_direction = item // blocks % sets * together
        live = min(LANES, channels - block * LANES)
        for k in range(first_direction, first_direction + together):
            channel = k * channels + block * LANES
            row = image * directions * channels + channel
            count = _steps(order, k * length, length)
            for n in range(state):
                _read_channels(A, channel * state + n, state, live, s, rate + n * LANES)
                a = lanes.mul(lanes.load(s, rate + n * LANES), lanes.fill(LOG2_E))
                lanes.store(s, rate + n * LANES, a)
            if D.size > 0:
                _read_channels(D, channel, 1, live, s, skip)
            _clear(s, shift, LANES)
            if bias.size > 0:
                _read_channels(bias, channel, 1, live, s, shift)
            _clear(s, h_at, state * LANES)
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
                _read_tile(delta, at, delta_strides, order, now, begin, live, steps, s, step)
                at = image * u_strides[IMAGE] + k * u_strides[DIRECTION]
                at += block * LANES * u_strides[CHANNEL]
                _read_tile(u, at, u_strides, order, now, begin, live, steps, s, x)
                at = image * B_strides[IMAGE] + k * B_strides[DIRECTION]
                _read_states(B, at, B_strides, order, now, steps, state, s, B_at)
                at = image * C_strides[IMAGE] + k * C_strides[DIRECTION]
                _read_states(C, at, C_strides, order, now, steps, state, s, C_at)
                _finish_steps(s, step, steps, shift, bias.size > 0, softplus)
                if D.size > 0:
                    d = lanes.load(s, skip)
                    for t in range(0, steps * LANES, LANES):
                        lanes.store(s, out + t, lanes.mul(lanes.load(s, x + t), d))
                else:
                    _clear(s, out, steps * LANES)
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
                _write_tile(
                    y, at, y_strides, order, now, begin, live, steps, s, out, k > first_direction
                )
            for n in range(state):
                _write_channels(last, row * state + n, state, live, s, h_at + n * LANES)


@compiled
def _backward(
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
    s = _scratch(bias_at + run * LANES)
    for item in range(first, stop):
        part = item % parts
        image = item // parts // sets
        first_direction = item // parts % sets * together
        first_block = part * run
        run_here = min(run, blocks - first_block)
        for direction in range(together):
            k = first_direction + direction
            count = _steps(order, k * length, length)
            _clear(s, g_at, bias_at + run * LANES - g_at)
            for i in range(run_here):
                offset = (first_block + i) * LANES
                channel, live = k * channels + offset, min(LANES, channels - offset)
                row = image * directions * channels + channel
                for n in range(state):
                    entry = (i * state + n) * LANES
                    _read_channels(A, channel * state + n, state, live, s, A_at + entry)
                    if dlast.size > 0:
                        _read_channels(dlast, row * state + n, state, live, s, g_at + entry)
                if D.size > 0:
                    _read_channels(D, channel, 1, live, s, D_at + i * LANES)
                if bias.size > 0:
                    _read_channels(bias, channel, 1, live, s, bias_at + i * LANES)

            for tile in range((count + TILE - 1) // TILE - 1, -1, -1):
                begin = tile * TILE
                steps = min(TILE, count - begin)
                now = k * length + begin
                _clear(s, dB_at, 2 * state * STRIDE)
                at = image * B_strides[IMAGE] + k * B_strides[DIRECTION]
                _read_states(B, at, B_strides, order, now, steps, state, s, B_at)
                at = image * C_strides[IMAGE] + k * C_strides[DIRECTION]
                _read_states(C, at, C_strides, order, now, steps, state, s, C_at)
                for i_block in range(run_here):
                    block = first_block + i_block
                    live = min(LANES, channels - block * LANES)
                    at = image * u_strides[IMAGE] + k * u_strides[DIRECTION]
                    at += block * LANES * u_strides[CHANNEL]
                    _read_tile(u, at, u_strides, order, now, begin, live, steps, s, u_at)
                    at = image * delta_strides[IMAGE] + k * delta_strides[DIRECTION]
                    at += block * LANES * delta_strides[CHANNEL]
                    _read_tile(delta, at, delta_strides, order, now, begin, live, steps, s, step)
                    at = image * dy_strides[IMAGE] + k * dy_strides[DIRECTION]
                    at += block * LANES * dy_strides[CHANNEL]
                    _read_tile(dy, at, dy_strides, order, now, begin, live, steps, s, dy_at)
                    shift = bias_at + i_block * LANES
                    _finish_steps(s, step, steps, shift, bias.size > 0, softplus)
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
                    _write_tile(
                        du, at, du_strides, order, now, begin, live, steps, s, dx, direction > 0
                    )
                    at = image * ddelta_strides[IMAGE] + k * ddelta_strides[DIRECTION]
                    at += block * LANES * ddelta_strides[CHANNEL]
                    _write_tile(
                        ddelta, at, ddelta_strides, order, now, begin, live, steps, s, dstep, False
                    )

                at = part * images_in_dB + image * dB_strides[IMAGE] + k * dB_strides[DIRECTION]
                _write_sums(dB, at, dB_strides, order, now, steps, state, s, dB_at)
                at = part * images_in_dC + image * dC_strides[IMAGE] + k * dC_strides[DIRECTION]
                _write_sums(dC, at, dC_strides, order, now, steps, state, s, dC_at)

            for i in range(run_here):
                offset = (first_block + i) * LANES
                live = min(LANES, channels - offset)
                row = image * directions * channels + k * channels + offset
                for n in range(state):
                    entry = (i * state + n) * LANES
                    _write_channels(dA, row * state + n, state, live, s, dA_at + entry)
                if D.size > 0:
                    _write_channels(dD, row, 1, live, s, dD_at + i * LANES)
                if bias.size > 0:
                    _write_channels(dbias, row, 1, live, s, dbias_at + i * LANES)


_FLAT, _TABLE, _STRIDES = types.float32[::1], types.int32[::1], types.int64[::1]
register(
    _forward,
    (
        *[types.intp] * 2, *[_FLAT] * 7, _TABLE, types.boolean, *[_FLAT] * 3,
        *[_STRIDES] * 5, *[types.intp] * 5,
    ),
)  # fmt: skip
register(
    _backward,
    (
        *[types.intp] * 2, *[_FLAT] * 9, _TABLE, types.boolean, *[_FLAT] * 8,
        *[_STRIDES] * 9, *[types.intp] * 6,
    ),
)  # fmt: skip


def _flat(x: Tensor | None) -> np.ndarray:
    """The memory under a tensor of any strides as one array; an empty one for None."""
    if x is None or not x.numel():
        return np.empty(0, np.float32)
    span = 1 + sum((n - 1) * stride for n, stride in zip(x.shape, x.stride(), strict=True))
    return x.detach().as_strided((span,), (1,)).numpy()


def _strides(x: Tensor) -> np.ndarray:
    return np.array(x.stride(), np.int64)


def _table(order: Tensor | None, directions: int, tokens: int) -> tuple[np.ndarray, int, bool]:
    """Return the order as a flat array, its steps, and whether every direction visits all tokens.

    Raises:
        IndexError: when a step leaves the tokens; the kernels do not look.
    """
    if order is None:
        table = np.tile(np.arange(tokens, dtype=np.int32), directions)
        return table, tokens, True
    table = order.contiguous().numpy()
    if table.size and (table.max() >= tokens or table.min() < -1):
        raise IndexError(f"order must stay within the {tokens} tokens (or be -1 for no token)")
    return table.reshape(-1), table.shape[1], table.shape[1] == tokens and table.min() >= 0


def _parts(items: int, blocks: int) -> int:
    """How many items share the blocks of channels in the backward pass, from the shape alone."""
    run = -(-items * blocks // BACKWARD_ITEMS)
    return -(-blocks // max(1, min(run, blocks)))


def _empty_like(x: Tensor, whole: bool) -> Tensor:
    """Memory in the layout of x, without its gaps (whole: every element will be written)."""
    return torch.empty_like(x) if whole else torch.zeros_like(x)


_SCHEMA = (
    "Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? delta_bias, "
    "Tensor? order, bool delta_softplus"
)


@torch.library.custom_op(
    "vssm::selective_scan_cpu",
    mutates_args=(),
    device_types="cpu",
    schema=f"({_SCHEMA}, bool merge, bool save) -> (Tensor, Tensor, Tensor)",
)
def _scan(u, delta, A, B, C, D, delta_bias, order, delta_softplus, merge, save):
    """Return y, the last state and, with `save`, the states that the backward pass starts from.

    Shapes: u (b, l, d) or (b, l, k, d); delta (b, l, k, d); A (k d, n); B, C (b, l, k, n);
    D, delta_bias (k d); order (k, s). y is (b, l, d) with `merge`, else (b, l, k, d).
    """
    batch, tokens, directions, channels = delta.shape
    state = A.shape[1]
    table, length, whole = _table(order, directions, tokens)
    y, last, states = _scan_fake(
        u, delta, A, B, C, D, delta_bias, order, delta_softplus, merge, save
    )
    if not whole:
        y.zero_()
    blocks = -(-channels // LANES)
    together = directions if merge else 1
    u, y_ = _with_directions(u, directions), _with_directions(y, directions)
    run(
        _forward, batch * directions // together * blocks, delta.numel() * state,
        *map(_flat, (u, delta, A, B, C, D, delta_bias)), table, delta_softplus,
        *map(_flat, (y, last, states)), *map(_strides, (u, delta, B, C, y_)),
        together, directions, channels, state, length,
    )  # fmt: skip
    return y, last, states


@_scan.register_fake
def _scan_fake(u, delta, A, B, C, D, delta_bias, order, delta_softplus, merge, save):
    batch, tokens, directions, channels = delta.shape
    state = A.shape[1]
    blocks = -(-channels // LANES)
    tiles = -(-(tokens if order is None else order.shape[1]) // TILE)
    return (
        u.new_empty(batch, tokens, channels) if merge else _empty_like(delta, whole=True),
        u.new_empty(batch, directions * channels, state),
        u.new_empty((batch, directions, blocks, tiles, state, LANES) if save else 0),
    )


@torch.library.custom_op(
    "vssm::selective_scan_cpu_backward",
    mutates_args=(),
    device_types="cpu",
    schema=f"(Tensor dy, Tensor? dlast, {_SCHEMA}, Tensor states) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _scan_backward(dy, dlast, u, delta, A, B, C, D, delta_bias, order, delta_softplus, states):
    """Return the gradients of u, delta, A, B, C, D, delta_bias; empty ones for a missing input."""
    batch, tokens, directions, channels = delta.shape
    state = A.shape[1]
    table, length, whole = _table(order, directions, tokens)
    blocks = -(-channels // LANES)
    shared = u.ndim == 3 and directions > 1
    together = directions if shared else 1
    items = batch * directions // together
    parts = _parts(items, blocks)
    if u.ndim == 3:
        du = u.new_empty(u.shape) if whole else u.new_zeros(u.shape)
    else:
        du = _empty_like(u, whole)
    ddelta = _empty_like(delta, whole)
    dA = u.new_empty(batch, directions * channels, state)
    dB = _partial_sums(B, parts, whole)
    dC = _partial_sums(C, parts, whole)
    dD = u.new_empty((batch, directions * channels) if D is not None else 0)
    dbias = u.new_empty((batch, directions * channels) if delta_bias is not None else 0)
    dy, u, du_ = (_with_directions(x, directions) for x in (dy, u, du))
    run(
        _backward, items * parts, delta.numel() * state,
        *map(_flat, (dy, dlast, u, delta, A, B, C, D, delta_bias)), table, delta_softplus,
        *map(_flat, (states, du, ddelta, dA, dB, dC, dD, dbias)),
        *map(_strides, (dy, u, delta, B, C, du_, ddelta, dB[0], dC[0])),
        together, parts, directions, channels, state, length,
    )  # fmt: skip
    dA, dB, dC = dA.sum(0), dB.sum(0), dC.sum(0)
    return du, ddelta, dA, dB, dC, *(x.sum(0) if x.ndim == 2 else x for x in (dD, dbias))


@_scan_backward.register_fake
def _(dy, dlast, u, delta, A, B, C, D, delta_bias, order, delta_softplus, states):
    du = u.new_empty(u.shape) if u.ndim == 3 else _empty_like(u, whole=True)
    dB, dC = (_partial_sums(x, 1, whole=True).sum(0) for x in (B, C))
    optional = (u.new_empty(0 if x is None else x.shape) for x in (D, delta_bias))
    return du, _empty_like(delta, whole=True), A.new_empty(A.shape), dB, dC, *optional


def _with_directions(x: Tensor, directions: int) -> Tensor:
    """(b, l, d) that all directions share as (b, l, k, d)."""
    return x if x.ndim == 4 else x.unsqueeze(2).expand(-1, -1, directions, -1)


def _partial_sums(x: Tensor, parts: int, whole: bool) -> Tensor:
    """Memory for `parts` gradients of B or C; neighbouring steps stay neighbours in memory."""
    batch, tokens, directions, state = x.shape
    shape = (parts, batch, directions, state, tokens)
    y = x.new_empty(shape) if whole else x.new_zeros(shape)
    return y.permute(0, 1, 4, 2, 3)


def _scan_setup(ctx, inputs, output) -> None:
    *tensors, ctx.delta_softplus, ctx.merge, ctx.save = inputs
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(output[2])
    ctx.save_for_backward(*tensors, output[2])


def _scan_grad(ctx, dy, dlast, _):
    if not ctx.save:
        raise RuntimeError("the scan ran without saving what its backward pass needs")
    *tensors, states = ctx.saved_tensors
    delta, D, delta_bias = tensors[1], tensors[5], tensors[6]
    if dy is None:
        dy = torch.zeros_like(delta[:, :, 0] if ctx.merge else delta)
    dy = _readable(dy, tensors[7])
    dlast = dlast if dlast is None else dlast.contiguous()
    *grads, dD, dbias = _scan_backward(dy, dlast, *tensors, ctx.delta_softplus, states)
    dD = None if D is None else dD
    dbias = None if delta_bias is None else dbias
    return *grads, dD, dbias, None, None, None, None


def _scan_double_grad(ctx, *grads):
    raise RuntimeError(
        'the scan is differentiable once with backend="cpu"; '
        'use backend="reference" for second derivatives'
    )


_scan.register_autograd(_scan_grad, setup_context=_scan_setup)
_scan_backward.register_autograd(_scan_double_grad)


@register_flop_formula(torch.ops.vssm.selective_scan_cpu)
def _(u, delta, A, B, C, D=None, delta_bias=None, order=None, *args, **kwargs) -> int:
    return flops.forward(delta, A, D, order)


@register_flop_formula(torch.ops.vssm.selective_scan_cpu_backward)
def _(dy, dlast, u, delta, A, B, C, D=None, delta_bias=None, order=None, *args, **kwargs) -> int:
    return flops.backward(delta, A, D, order)


def _readable(x: Tensor, order: Tensor | None) -> Tensor:
    """x as the kernels can read it: channels side by side or, without an order, steps."""
    if x.stride(-1) == 1 or x.shape[-1] == 1:
        return x
    if order is None and x.stride(1) == 1:
        return x
    return x.contiguous()


def _saves(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return y (b, d, l) and the last state (b, d, n), as `kernels.reference.selective_scan` does.

    Float32 only. Shapes: u, delta (b, d, l); A (d, n); B, C (b, g, n, l); D, delta_bias (d).
    """
    save = _saves(u, delta, A, B, C, D, delta_bias)
    groups = B.shape[1]
    # Groups are directions that all walk the same way.
    u, delta = (
        _readable(x.unflatten(1, (groups, -1)).permute(0, 3, 1, 2), None) for x in (u, delta)
    )
    B, C = (x.permute(0, 3, 1, 2) for x in (B, C))
    A = A.contiguous()
    D, delta_bias = (x if x is None else x.contiguous() for x in (D, delta_bias))
    y, last_state, _ = _scan(u, delta, A, B, C, D, delta_bias, None, delta_softplus, False, save)
    return y.permute(0, 2, 3, 1).flatten(1, 2), last_state


def cross_selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    order: Tensor,
    merge: bool,
) -> Tensor:
    """As `kernels.cross_selective_scan`, float32 only."""
    save = _saves(u, delta, A, B, C, D, delta_bias)
    u, delta = (_readable(x, order) for x in (u, delta))
    A = A.contiguous()
    D, delta_bias = (x if x is None else x.contiguous() for x in (D, delta_bias))
    y, _, _ = _scan(u, delta, A, B, C, D, delta_bias, order, delta_softplus, merge, save)
    return y
