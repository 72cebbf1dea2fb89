"""The selective scan on the CPU: numba kernels over 16 channels at a time.

Sixteen neighbouring channels of one group share B and C and fill the 16 lanes of a vector. Time is
walked in tiles of 64 steps; a tile of 16 rows is transposed into scratch memory, so that each step
is one vector, and stays in the nearest cache. The forward pass stores the state at the start of
each tile; the backward pass recomputes the rest from there, so the memory beside inputs and outputs
is n / 64 of the input, and partial sums of the gradients of B and C.

Work is divided into items: one block of 16 channels each in the forward pass; in the backward pass,
where B and C receive gradients from every channel, a run of blocks of one group. The division
depends on the shape alone, so results do not depend on the number of threads.
"""

import ctypes
import functools
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numba import njit, types
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from kernels import lanes
from kernels.lanes import LANES

__all__ = ["selective_scan", "softplus", "warm_up"]

TILE = 64  # steps; a multiple of LANES
# Floats from one tile to the next: a plain power of two would put the same step of every tile into
# the same few cache lines.
STRIDE = TILE * LANES + 5 * LANES
BACKWARD_ITEMS = 16  # aimed at; each costs one partial sum of the gradients of B and C
SMALL = 1 << 15  # state updates or elements below which a second thread does not pay

LOG2_E = np.float32(1.4426950408889634)
ZERO = np.float32(0.0)

# No fast-math: NaN and infinity must come through. `lanes` allows fused multiply-add by itself.
_compiled = njit(nogil=True, cache=True, error_model="numpy")


@_compiled
def _scratch(size):
    """Uninitialised float32 memory that starts at a cache line."""
    memory = np.empty(size + LANES, np.float32)
    return memory[(-(memory.ctypes.data // 4)) % LANES :]


@_compiled
def _read_tile(source, start, row, live, steps, tile, at):
    """tile[at + 16 t + lane] = source[start + row lane + t]; zero in lanes from `live` on."""
    whole = steps // LANES if live == LANES else 0
    for i in range(whole):
        lanes.transpose(source, start + i * LANES, row, tile, at + i * LANES * LANES, LANES)
    for t in range(whole * LANES, steps):
        for lane in range(live):
            tile[at + t * LANES + lane] = source[start + row * lane + t]
        for lane in range(live, LANES):
            tile[at + t * LANES + lane] = ZERO


@_compiled
def _write_tile(target, start, row, live, steps, tile, at):
    """The reverse of `_read_tile`."""
    whole = steps // LANES if live == LANES else 0
    for i in range(whole):
        lanes.transpose(tile, at + i * LANES * LANES, LANES, target, start + i * LANES, row)
    for t in range(whole * LANES, steps):
        for lane in range(live):
            target[start + row * lane + t] = tile[at + t * LANES + lane]


@_compiled
def _read_channels(source, start, stride, live, tile, at):
    """tile[at + lane] = source[start + stride lane], a number per channel; zero if not live."""
    for lane in range(LANES):
        tile[at + lane] = source[start + stride * lane] if lane < live else ZERO


@_compiled
def _write_channels(target, start, stride, live, tile, at):
    for lane in range(live):
        target[start + stride * lane] = tile[at + lane]


@_compiled
def _clear(tile, at, size):
    """tile[at : at + size] = 0 for a size that is a multiple of 16."""
    for i in range(at, at + size, LANES):
        lanes.store(tile, i, lanes.fill(ZERO))


@_compiled
def _finish_steps(tile, at, steps, bias, has_bias, softplus):
    """Turn the raw step sizes of a tile into those of the recurrence."""
    shift = lanes.load(tile, bias)
    if softplus:
        for t in range(at, at + steps * LANES, LANES):
            lanes.store(tile, t, lanes.softplus(lanes.add(lanes.load(tile, t), shift)))
    elif has_bias:
        for t in range(at, at + steps * LANES, LANES):
            lanes.store(tile, t, lanes.add(lanes.load(tile, t), shift))


@_compiled
def _forward(
    first, stop, u, delta, A, B, C, D, bias, softplus,
    y, last, states, groups, channels, state, length,
):  # fmt: skip
    """Work items first to stop - 1; an empty D, bias or states means there is none."""
    blocks = (channels + LANES - 1) // LANES
    tiles = (length + TILE - 1) // TILE
    # Scratch, in floats: three tiles, then 16 lanes per entry.
    step, x, out = 0, STRIDE, 2 * STRIDE
    h_at = 3 * STRIDE
    rate = h_at + state * LANES
    skip = rate + state * LANES
    shift = skip + LANES
    s = _scratch(shift + LANES)
    for item in range(first, stop):
        block = item % blocks
        pair = item // blocks  # of batch and group
        channel = (pair % groups) * channels + block * LANES
        live = min(LANES, channels - block * LANES)
        row = (pair // groups) * groups * channels + channel
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
        for tile in range(tiles):
            begin = tile * TILE
            steps = min(TILE, length - begin)
            if states.size > 0:
                for n in range(state):
                    saved = ((item * tiles + tile) * state + n) * LANES
                    lanes.store(states, saved, lanes.load(s, h_at + n * LANES))
            _read_tile(delta, row * length + begin, length, live, steps, s, step)
            _read_tile(u, row * length + begin, length, live, steps, s, x)
            _finish_steps(s, step, steps, shift, bias.size > 0, softplus)
            if D.size > 0:
                d = lanes.load(s, skip)
                for t in range(0, steps * LANES, LANES):
                    lanes.store(s, out + t, lanes.mul(lanes.load(s, x + t), d))
            else:
                _clear(s, out, steps * LANES)
            for t in range(0, steps * LANES, LANES):
                lanes.store(s, x + t, lanes.mul(lanes.load(s, x + t), lanes.load(s, step + t)))
            for n in range(state):
                h = lanes.load(s, h_at + n * LANES)
                a = lanes.load(s, rate + n * LANES)
                token = (pair * state + n) * length + begin
                for t in range(steps):
                    i = t * LANES
                    decay = lanes.exp2(lanes.mul(lanes.load(s, step + i), a))
                    driven = lanes.mul(lanes.load(s, x + i), lanes.spread(B, token + t))
                    h = lanes.mul_add(decay, h, driven)
                    seen = lanes.mul_add(h, lanes.spread(C, token + t), lanes.load(s, out + i))
                    lanes.store(s, out + i, seen)
                lanes.store(s, h_at + n * LANES, h)
            _write_tile(y, row * length + begin, length, live, steps, s, out)
        for n in range(state):
            _write_channels(last, row * state + n, state, live, s, h_at + n * LANES)


@_compiled
def _backward(
    first, stop, dy, dlast, u, delta, A, B, C, D, bias, softplus, states,
    du, ddelta, dA, dB, dC, dD, dbias, parts, groups, channels, state, length,
):  # fmt: skip
    """Work items first to stop - 1; an empty D, bias or dlast means there is none.

    An item is one part of the blocks of a group of one image. dA, dD and dbias are per image, dB
    and dC per image and part: the caller adds them up.
    """
    blocks = (channels + LANES - 1) // LANES
    run = (blocks + parts - 1) // parts
    tiles = (length + TILE - 1) // TILE
    # Scratch, in floats: tiles first; h and the two sums have one entry per step and state.
    u_at, step, dy_at, x = 0, STRIDE, 2 * STRIDE, 3 * STRIDE
    dx, dstep, decay_at = 4 * STRIDE, 5 * STRIDE, 6 * STRIDE
    h_at = 7 * STRIDE  # one step more than a tile: the state before the first one
    dB_at = h_at + STRIDE + LANES
    dC_at = dB_at + state * STRIDE
    # 16 lanes per block of the run (and state).
    g_at = dC_at + state * STRIDE
    dA_at = g_at + run * state * LANES
    A_at = dA_at + run * state * LANES
    dD_at = A_at + run * state * LANES
    dbias_at = dD_at + run * LANES
    D_at = dbias_at + run * LANES
    bias_at = D_at + run * LANES
    s = _scratch(bias_at + run * LANES)
    for item in range(first, stop):
        part = item % parts
        pair = item // parts  # of batch and group
        image = pair // groups
        first_block = part * run
        run_here = min(run, blocks - first_block)
        group_channel = (pair % groups) * channels
        _clear(s, g_at, bias_at + run * LANES - g_at)
        for k in range(run_here):
            offset = (first_block + k) * LANES
            channel, live = group_channel + offset, min(LANES, channels - offset)
            row = image * groups * channels + channel
            for n in range(state):
                i = (k * state + n) * LANES
                _read_channels(A, channel * state + n, state, live, s, A_at + i)
                if dlast.size > 0:
                    _read_channels(dlast, row * state + n, state, live, s, g_at + i)
            if D.size > 0:
                _read_channels(D, channel, 1, live, s, D_at + k * LANES)
            if bias.size > 0:
                _read_channels(bias, channel, 1, live, s, bias_at + k * LANES)

        for tile in range(tiles - 1, -1, -1):
            begin = tile * TILE
            steps = min(TILE, length - begin)
            _clear(s, dB_at, 2 * state * STRIDE)
            for k in range(run_here):
                offset = (first_block + k) * LANES
                live = min(LANES, channels - offset)
                start = (image * groups * channels + group_channel + offset) * length + begin
                _read_tile(u, start, length, live, steps, s, u_at)
                _read_tile(delta, start, length, live, steps, s, step)
                _read_tile(dy, start, length, live, steps, s, dy_at)
                _finish_steps(s, step, steps, bias_at + k * LANES, bias.size > 0, softplus)
                for t in range(0, steps * LANES, LANES):
                    u_t, step_t = lanes.load(s, u_at + t), lanes.load(s, step + t)
                    lanes.store(s, x + t, lanes.mul(u_t, step_t))
                    lanes.store(s, dx + t, lanes.fill(ZERO))
                    lanes.store(s, dstep + t, lanes.fill(ZERO))

                saved = (((pair * blocks + first_block + k) * tiles + tile) * state) * LANES
                for n in range(state):
                    entry = (k * state + n) * LANES
                    token = (pair * state + n) * length + begin
                    a = lanes.load(s, A_at + entry)
                    a_log2 = lanes.mul(a, lanes.fill(LOG2_E))
                    h = lanes.load(states, saved + n * LANES)
                    lanes.store(s, h_at, h)
                    for t in range(steps):
                        i = t * LANES
                        decay = lanes.exp2(lanes.mul(lanes.load(s, step + i), a_log2))
                        lanes.store(s, decay_at + i, decay)
                        driven = lanes.mul(lanes.load(s, x + i), lanes.spread(B, token + t))
                        h = lanes.mul_add(decay, h, driven)
                        lanes.store(s, h_at + LANES + i, h)

                    g = lanes.load(s, g_at + entry)  # the gradient of the state, from the future
                    dA_tile = lanes.fill(ZERO)
                    for back in range(steps):
                        t = steps - 1 - back
                        i = t * LANES
                        dy_t = lanes.load(s, dy_at + i)
                        x_t = lanes.load(s, x + i)
                        g = lanes.mul_add(dy_t, lanes.spread(C, token + t), g)
                        to = dC_at + n * STRIDE + i
                        h_t = lanes.load(s, h_at + LANES + i)
                        lanes.store(s, to, lanes.mul_add(dy_t, h_t, lanes.load(s, to)))
                        to = dB_at + n * STRIDE + i
                        lanes.store(s, to, lanes.mul_add(g, x_t, lanes.load(s, to)))
                        to = dx + i
                        b_t = lanes.spread(B, token + t)
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

                d = lanes.load(s, D_at + k * LANES)
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
                to = dD_at + k * LANES
                lanes.store(s, to, lanes.add(lanes.load(s, to), dD_tile))
                to = dbias_at + k * LANES
                lanes.store(s, to, lanes.add(lanes.load(s, to), dbias_tile))
                _write_tile(du, start, length, live, steps, s, dx)
                _write_tile(ddelta, start, length, live, steps, s, dstep)

            for n in range(state):
                token = ((part * (dB.size // (parts * state * length)) + pair) * state + n) * length
                _write_sums(dB, token + begin, steps, s, dB_at + n * STRIDE)
                _write_sums(dC, token + begin, steps, s, dC_at + n * STRIDE)

        for k in range(run_here):
            offset = (first_block + k) * LANES
            live = min(LANES, channels - offset)
            row = image * groups * channels + group_channel + offset
            for n in range(state):
                i = (k * state + n) * LANES
                _write_channels(dA, row * state + n, state, live, s, dA_at + i)
            if D.size > 0:
                _write_channels(dD, row, 1, live, s, dD_at + k * LANES)
            if bias.size > 0:
                _write_channels(dbias, row, 1, live, s, dbias_at + k * LANES)


@_compiled
def _write_sums(target, start, steps, tile, at):
    """target[start + t] = the sum of the lanes of step t; the tile is overwritten."""
    whole = steps // LANES
    for i in range(whole):
        lanes.store(target, start + i * LANES, lanes.row_sums(tile, at + i * LANES * LANES))
    rest = whole * LANES
    if rest < steps:
        lanes.store(tile, at, lanes.row_sums(tile, at + rest * LANES))
        for t in range(rest, steps):
            target[start + t] = tile[at + t - rest]


@_compiled
def _softplus(first, stop, x, bias, y, length):
    """y = softplus(x + bias) for the rows first to stop - 1; an empty bias means there is none."""
    padded = _scratch(LANES)
    for row in range(first, stop):
        shift = lanes.fill(bias[row % bias.size] if bias.size > 0 else ZERO)
        start, end = row * length, (row + 1) * length
        i = start
        while i + LANES <= end:
            lanes.store(y, i, lanes.softplus(lanes.add(lanes.load(x, i), shift)))
            i += LANES
        if i < end:
            for lane in range(LANES):
                padded[lane] = x[min(i + lane, end - 1)]
            lanes.store(padded, 0, lanes.softplus(lanes.add(lanes.load(padded, 0), shift)))
            for lane in range(end - i):
                y[i + lane] = padded[lane]


@_compiled
def _softplus_backward(first, stop, dy, y, dx, length):
    """dx = dy sigmoid(x), the sigmoid from y = softplus(x), for the rows first to stop - 1."""
    padded = _scratch(LANES)
    for i in range(first * length, stop * length - LANES + 1, LANES):
        lanes.store(dx, i, lanes.mul(lanes.load(dy, i), lanes.softplus_slope(lanes.load(y, i))))
    end = stop * length
    rest = end - (end - first * length) % LANES
    if rest < end:
        for lane in range(LANES):
            padded[lane] = y[min(rest + lane, end - 1)]
        lanes.store(padded, 0, lanes.softplus_slope(lanes.load(padded, 0)))
        for lane in range(end - rest):
            dx[rest + lane] = dy[rest + lane] * padded[lane]


_FLAT = types.float32[::1]
_SIGNATURES = {
    _forward: (
        *[types.intp] * 2, *[_FLAT] * 7, types.boolean, *[_FLAT] * 3, *[types.intp] * 4,
    ),
    _backward: (
        *[types.intp] * 2, *[_FLAT] * 9, types.boolean, *[_FLAT] * 8, *[types.intp] * 5,
    ),
    _softplus: (*[types.intp] * 2, *[_FLAT] * 3, types.intp),
    _softplus_backward: (*[types.intp] * 2, *[_FLAT] * 3, types.intp),
}  # fmt: skip
_compiling = threading.Lock()
_ready = False


def warm_up() -> None:
    """Compile every kernel, or load it from numba's disk cache; later calls return at once.

    The first scan does this by itself. Call it to choose the moment, behind a spinner for example.
    """
    global _ready
    if _ready:
        return
    with _compiling:
        if _ready:
            return
        notice = threading.Timer(
            1.0,
            print,
            ["Compiling the CPU scan for this machine (once, about 10 s) ..."],
            {"file": sys.stderr, "flush": True},
        )
        notice.daemon = True
        notice.start()
        try:
            for kernel, signature in _SIGNATURES.items():
                kernel.compile(signature)
                kernel.disable_compile()
        finally:
            notice.cancel()
        _ready = True


@functools.lru_cache(maxsize=1)
def _helpers(process: int, count: int) -> ThreadPoolExecutor:
    """The threads beside the caller's; `process` makes a forked child start its own."""
    return ThreadPoolExecutor(count, thread_name_prefix="scan")


_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_STARTED_IN = os.getpid()


@functools.cache
def _torch_team() -> Callable | None:
    """libgomp's entry to the very threads that torch uses; None where torch has another runtime.

    Threads of our own would fight with torch's, which go on spinning for a while after each of its
    operations.
    """
    for library in sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*")):
        try:
            team = ctypes.CDLL(str(library)).GOMP_parallel
        except (OSError, AttributeError):
            continue
        team.argtypes = [_CALLBACK, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        team.restype = None
        return team
    return None


def _run(kernel: Callable, items: int, work: int, *args) -> None:
    """Call kernel(first, stop, *args) over all items, on torch.get_num_threads() threads."""
    warm_up()
    arrays = [x.detach().numpy().reshape(-1) if isinstance(x, Tensor) else x for x in args]
    threads = min(torch.get_num_threads(), items)
    if threads < 2 or work < SMALL:
        kernel(0, items, *arrays)
        return

    # Twice as many shares as threads, so that a thread held up elsewhere can be helped out.
    bounds = np.linspace(0, items, min(items, 2 * threads) + 1).astype(int).tolist()
    shares = deque(pairwise(bounds))
    errors: list[BaseException] = []

    def take_shares(_: object = None) -> None:
        try:
            while True:
                kernel(*shares.popleft(), *arrays)
        except IndexError:  # nothing is left to do
            pass
        except BaseException as error:  # Ctrl-C too: nothing may unwind through libgomp
            errors.append(error)

    # libgomp's threads do not survive a fork, so a child goes on with threads of its own.
    team = _torch_team() if os.getpid() == _STARTED_IN else None
    if team is not None:
        team(_CALLBACK(take_shares), None, threads, 0)
    else:
        pool = _helpers(os.getpid(), threads - 1)
        others = [pool.submit(take_shares) for _ in range(threads - 1)]
        take_shares()
        # A helper that has not started has nothing left to do; the others must finish.
        for other in [other for other in others if not other.cancel()]:
            other.result()
    if errors:
        raise errors[0]


def _parts(batch: int, groups: int, blocks: int) -> int:
    """How many items share the blocks of a group in the backward pass, from the shape alone."""
    run = -(-batch * groups * blocks // BACKWARD_ITEMS)
    return -(-blocks // max(1, min(run, blocks)))


@torch.library.custom_op(
    "vssm::selective_scan_cpu",
    mutates_args=(),
    device_types="cpu",
    schema="(Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? delta_bias, "
    "bool delta_softplus, bool save) -> (Tensor, Tensor, Tensor)",
)
def _scan(u, delta, A, B, C, D, delta_bias, delta_softplus, save):
    """Return y, the last state and, with `save`, the states that the backward pass starts from."""
    y, last, states = _scan_fake(u, delta, A, B, C, D, delta_bias, delta_softplus, save)
    dim, length = u.shape[1:]
    groups, state = B.shape[1:3]
    blocks = -(-(dim // groups) // LANES)
    _run(
        _forward, len(u) * groups * blocks, u.numel() * state,
        *_contiguous(u, delta, A, B, C, D, delta_bias), delta_softplus,
        y, last, states, groups, dim // groups, state, length,
    )  # fmt: skip
    return y, last, states


@_scan.register_fake
def _scan_fake(u, delta, A, B, C, D, delta_bias, delta_softplus, save):
    batch, dim, length = u.shape
    groups, state = B.shape[1:3]
    blocks = -(-(dim // groups) // LANES)
    tiles = -(-length // TILE)
    return (
        u.new_empty(u.shape),
        u.new_empty(batch, dim, state),
        u.new_empty((batch, groups, blocks, tiles, state, LANES) if save else 0),
    )


@torch.library.custom_op(
    "vssm::selective_scan_cpu_backward",
    mutates_args=(),
    device_types="cpu",
    schema="(Tensor dy, Tensor? dlast, Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, "
    "Tensor? D, Tensor? delta_bias, bool delta_softplus, Tensor states) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _scan_backward(dy, dlast, u, delta, A, B, C, D, delta_bias, delta_softplus, states):
    """Return the gradients of u, delta, A, B, C, D, delta_bias; empty ones for a missing input."""
    batch, dim, length = u.shape
    groups, state = B.shape[1:3]
    blocks = -(-(dim // groups) // LANES)
    parts = _parts(batch, groups, blocks)
    du, ddelta = u.new_empty(u.shape), u.new_empty(u.shape)
    dA = u.new_empty(batch, dim, state)
    dB, dC = u.new_empty(parts, *B.shape), u.new_empty(parts, *C.shape)
    dD = u.new_empty((batch, dim) if D is not None else 0)
    dbias = u.new_empty((batch, dim) if delta_bias is not None else 0)
    _run(
        _backward, batch * groups * parts, u.numel() * state,
        *_contiguous(dy, dlast, u, delta, A, B, C, D, delta_bias), delta_softplus, states,
        du, ddelta, dA, dB, dC, dD, dbias, parts, groups, dim // groups, state, length,
    )  # fmt: skip
    dA, dB, dC = dA.sum(0), dB.sum(0), dC.sum(0)
    return du, ddelta, dA, dB, dC, *(x.sum(0) if x.ndim == 2 else x for x in (dD, dbias))


@_scan_backward.register_fake
def _(dy, dlast, u, delta, A, B, C, D, delta_bias, delta_softplus, states):
    shaped = [x.new_empty(x.shape) for x in (u, delta, A, B, C)]
    return (*shaped, *(u.new_empty(0 if x is None else x.shape) for x in (D, delta_bias)))


def _scan_setup(ctx, inputs, output) -> None:
    *tensors, ctx.delta_softplus, ctx.save = inputs
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(output[2])
    ctx.save_for_backward(*tensors, output[2])


def _scan_grad(ctx, dy, dlast, _):
    if not ctx.save:
        raise RuntimeError("the scan ran without saving what its backward pass needs")
    *tensors, states = ctx.saved_tensors
    u, D, delta_bias = tensors[0], tensors[5], tensors[6]
    if dy is None:
        dy = torch.zeros_like(u)
    *grads, dD, dbias = _scan_backward(dy, dlast, *tensors, ctx.delta_softplus, states)
    dD = None if D is None else dD
    dbias = None if delta_bias is None else dbias
    return *grads, dD, dbias, None, None


def _scan_double_grad(ctx, *grads):
    raise RuntimeError(
        'the scan is differentiable once with backend="cpu"; '
        'use backend="reference" for second derivatives'
    )


_scan.register_autograd(_scan_grad, setup_context=_scan_setup)
_scan_backward.register_autograd(_scan_double_grad)


@register_flop_formula(torch.ops.vssm.selective_scan_cpu)
def _scan_flops(u, delta, A, B, C, D=None, *args, **kwargs) -> int:
    """9 per state update, the count VMamba publishes, and 2 per element for D."""
    return _elements(u) * (9 * A[1] + (0 if D is None else 2))


@register_flop_formula(torch.ops.vssm.selective_scan_cpu_backward)
def _scan_backward_flops(dy, dlast, u, delta, A, B, C, D=None, *args, **kwargs) -> int:
    """5 to recompute a state and 14 for its six gradients; 4 per element for D."""
    return _elements(u) * (19 * A[1] + (0 if D is None else 4))


def _elements(shape: tuple[int, ...]) -> int:
    return shape[0] * shape[1] * shape[2]


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
    tensors = (u, delta, A, B, C, D, delta_bias)
    save = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)
    # Contiguous here and not in the operator, so that the backward pass shares the copies.
    tensors = (x if x is None else x.contiguous() for x in tensors)
    y, last_state, _ = _scan(*tensors, delta_softplus, save)
    return y, last_state


def softplus(x: Tensor, bias: Tensor | None = None) -> Tensor:
    """log(1 + exp(x + bias[:, None])) for float32 x (b, d, l) and bias (d)."""
    return _softplus_op(x.contiguous(), bias)


@torch.library.custom_op(
    "vssm::softplus_cpu",
    mutates_args=(),
    device_types="cpu",
    schema="(Tensor x, Tensor? bias) -> Tensor",
)
def _softplus_op(x, bias):
    y = x.new_empty(x.shape)
    rows, length = (x.shape[0] * x.shape[1], x.shape[2])
    if bias is None:
        rows, length = _long_rows(x)
    _run(_softplus, rows, x.numel(), *_contiguous(x, bias), y, length)
    return y


@_softplus_op.register_fake
def _(x, bias):
    return x.new_empty(x.shape)


@torch.library.custom_op(
    "vssm::softplus_cpu_backward",
    mutates_args=(),
    device_types="cpu",
    schema="(Tensor dy, Tensor y) -> Tensor",
)
def _softplus_backward_op(dy, y):
    dx = y.new_empty(y.shape)
    rows, length = _long_rows(y)
    _run(_softplus_backward, rows, y.numel(), *_contiguous(dy, y), dx, length)
    return dx


@_softplus_backward_op.register_fake
def _(dy, y):
    return y.new_empty(y.shape)


def _softplus_setup(ctx, inputs, output) -> None:
    ctx.save_for_backward(output)


def _softplus_grad(ctx, dy):
    (y,) = ctx.saved_tensors
    dx = _softplus_backward_op(dy, y)
    return dx, dx.sum((0, 2)) if ctx.needs_input_grad[1] else None


def _softplus_backward_setup(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _softplus_double_grad(ctx, ddx):
    dy, y = ctx.saved_tensors
    stay = torch.exp(-y)  # dx = dy (1 - exp(-y))
    return ddx * -torch.expm1(-y), ddx * dy * stay


_softplus_op.register_autograd(_softplus_grad, setup_context=_softplus_setup)
_softplus_backward_op.register_autograd(
    _softplus_double_grad, setup_context=_softplus_backward_setup
)


def _long_rows(x: Tensor) -> tuple[int, int]:
    """Split contiguous memory into 64 rows where that is possible, so that threads can share."""
    size = x.numel()
    return (64, size // 64) if size % 64 == 0 else (1, size)


def _contiguous(*tensors: Tensor | None) -> list[Tensor]:
    """Contiguous tensors, an empty one for None: the kernels take arrays only."""
    return [torch.empty(0) if x is None else x.contiguous() for x in tensors]
