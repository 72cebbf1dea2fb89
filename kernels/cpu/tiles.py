"""Tiles of a scan: 64 steps of 16 channels, brought into scratch memory and back.

In a tile each step is one vector of 16 lanes. Inputs are tokens x directions x channels in any
layout, and each direction visits the tokens in its own order, by a table: the cross scan of an
image reads and writes the image in place. Where channels are not neighbours in memory, as in
mamba_ssm's (b, d, l), tiles of 16 x 16 are transposed on the way, and the order must be 0, 1, 2 ...

Scratch memory is one flat array; where a piece of it begins is an offset in elements.
"""

import numpy as np

from workbench.kernels.cpu import lanes
from workbench.kernels.cpu.compiling import compiled
from workbench.kernels.cpu.lanes import LANES

TILE = 64  # steps; a multiple of LANES
# Floats from one tile to the next: a plain power of two would put the same step of every tile into
# the same few cache lines.
STRIDE = TILE * LANES + 5 * LANES

AHEAD = 8  # steps that memory is asked for before it is read, where steps are far apart

ZERO = np.float32(0.0)
LOG2_E = np.float32(1.4426950408889634)

# Strides of a tensor, in elements, are four numbers in an array: of image, token, direction, and of
# channel or state.
IMAGE, TOKEN, DIRECTION, CHANNEL = 0, 1, 2, 3


@compiled
def corner(strides, image, direction, block):
    """The place of channel 0 of a block of 16 at token 0."""
    at = image * strides[IMAGE] + direction * strides[DIRECTION]
    return at + block * LANES * strides[CHANNEL]


@compiled
def scratch_order():
    """The order of the steps of a tile in scratch memory."""
    return np.arange(TILE).astype(np.int32)


@compiled
def read_tile(source, at, strides, order, first, begin, live, steps, tile, to):
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
def write_tile(target, at, strides, order, first, begin, live, steps, tile, to, add):
    """The reverse of `read_tile`; with `add`, to what is there (channels side by side only)."""
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
def read_states(source, at, strides, order, first, steps, state, tile, to):
    """tile[to + 64 n + t] = state n of the token at step t."""
    for n in range(state):
        here = at + strides[CHANNEL] * n
        for t in range(steps):
            tile[to + n * TILE + t] = source[here + strides[TOKEN] * order[first + t]]


@compiled
def write_sums(target, at, row, steps, state, tile, to):
    """target[at + row n + t] = the sum of the lanes of step t and state n of a tile.

    Whole vectors are written, for up to 15 steps behind the last one too.
    """
    for n in range(state):
        for i in range(0, steps, LANES):
            sums = lanes.row_sums(tile, to + n * STRIDE + i * LANES)
            lanes.store(target, at + n * row + i, sums)


@compiled
def read_channels(source, start, stride, live, tile, at):
    """tile[at + lane] = source[start + stride lane], a number per channel; zero if not live."""
    for lane in range(LANES):
        tile[at + lane] = source[start + stride * lane] if lane < live else ZERO


@compiled
def write_channels(target, start, stride, live, tile, at):
    for lane in range(live):
        target[start + stride * lane] = tile[at + lane]


@compiled
def clear(tile, at, size):
    """tile[at : at + size] = 0 for a size that is a multiple of 16."""
    for i in range(at, at + size, LANES):
        lanes.store(tile, i, lanes.fill(ZERO))


@compiled
def add_to(tile, at, x):
    lanes.store(tile, at, lanes.add(lanes.load(tile, at), x))


@compiled
def finish_steps(tile, at, steps, bias, has_bias, softplus):
    """Turn the raw step sizes of a tile into those of the recurrence."""
    shift = lanes.load(tile, bias)
    if softplus:
        for t in range(at, at + steps * LANES, LANES):
            lanes.store(tile, t, lanes.softplus(lanes.add(lanes.load(tile, t), shift)))
    elif has_bias:
        for t in range(at, at + steps * LANES, LANES):
            lanes.store(tile, t, lanes.add(lanes.load(tile, t), shift))


@compiled
def count_steps(order, first, length):
    """How many steps a direction takes: its row of the order, without the padding at the end."""
    while length > 0 and order[first + length - 1] < 0:
        length -= 1
    return length
