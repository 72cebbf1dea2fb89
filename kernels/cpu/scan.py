"""The selective scan on the CPU: numba kernels over 16 channels at a time.

Sixteen neighbouring channels of one direction share B and C and fill the 16 lanes of a vector. Time
is walked in tiles of 64 steps, whose intermediate values stay in the nearest cache. The forward
pass stores the state at the start of each tile; the backward pass recomputes the rest from there,
so the memory beside inputs and outputs is n / 64 of the input and a few partial sums.

How the work is divided into items depends on the shape alone, so results do not depend on the
number of threads. Shapes and arguments are those that `kernels.autograd.Backend` says.
"""

import functools

import torch
from torch import Tensor

from workbench.kernels.cpu.backward import add_images, add_parts
from workbench.kernels.cpu.backward import backward as backward_kernel
from workbench.kernels.cpu.forward import forward as forward_kernel
from workbench.kernels.cpu.lanes import LANES
from workbench.kernels.cpu.memory import addresses, pack
from workbench.kernels.cpu.threads import run
from workbench.kernels.cpu.tiles import TILE

__all__ = ["SAVED", "backward", "backward_like", "forward", "forward_like", "readable"]

SAVED = 1  # the states at the start of each tile

BACKWARD_ITEMS = 16  # aimed at; each costs one partial sum of the gradients of B and C
PARTIAL_SUMS = 1 << 20  # elements, for several parts: those of a longer sequence come in windows


def readable(x: Tensor, order: Tensor | None) -> Tensor:
    """x as the kernels can read it: channels side by side or, without an order, steps."""
    if x.stride(-1) == 1 or x.shape[-1] == 1:
        return x
    if order is None and x.stride(1) == 1:
        return x
    return x.contiguous()


def forward(u, delta, A, B, C, D, delta_bias, order, delta_softplus, merge, save):
    """Return y, the last state and, with `save`, the states at the start of each tile."""
    batch, tokens, directions, channels = delta.shape
    state = A.shape[1]
    table, length, whole = _table(order, directions, tokens)
    y, last, states = forward_like(
        u, delta, A, B, C, D, delta_bias, order, delta_softplus, merge, save
    )
    if not whole:
        y.zero_()
    together = directions if merge else 1
    numbers = pack(
        *addresses(u, delta, A, B, C, D, delta_bias, table, y, last, states),
        *_strides(u), *delta.stride(), *B.stride(), *C.stride(), *_strides(y),
        together, directions, channels, state, length, delta_softplus,
    )  # fmt: skip
    items = batch * directions // together * _blocks(channels)
    run(forward_kernel, items, delta.numel() * state, numbers)
    return y, last, states


def forward_like(u, delta, A, B, C, D, delta_bias, order, delta_softplus, merge, save):
    batch, tokens, directions, channels = delta.shape
    state = A.shape[1]
    tiles = -(-(tokens if order is None else order.shape[1]) // TILE)
    return (
        u.new_empty(batch, tokens, channels) if merge else torch.empty_like(delta),
        u.new_empty(batch, directions, channels, state),
        u.new_empty((batch, directions, _blocks(channels), tiles, state, LANES) if save else 0),
    )


def backward(
    dy, dlast, u, delta, A, B, C, D, delta_bias, order, delta_softplus, merge, needs, states
):
    """Return the gradients of u, delta, A, B, C, D, delta_bias; empty ones where not needed."""
    batch, tokens, directions, channels = delta.shape
    state = A.shape[1]
    dy = readable(dy, order)
    dlast = dlast if dlast is None else dlast.contiguous()
    table, length, whole = _table(order, directions, tokens)
    du, ddelta, dB, dC = (torch.empty_like(x) for x in (u, delta, B, C))
    if not whole:
        for x in (du, ddelta, dB, dC):
            x.zero_()
    dA, dD, dbias = (
        x.new_empty(x.shape) if need else None
        for x, need in zip((A, D, delta_bias), (needs[2], *needs[5:]), strict=True)
    )

    blocks, tiles = _blocks(channels), -(-length // TILE)
    together = directions if u.ndim == 3 else 1
    items = batch * directions // together
    parts = _parts(items, blocks)
    per_tile = parts * batch * directions * state * 2 * TILE
    window = tiles if parts == 1 else min(tiles, max(1, PARTIAL_SUMS // max(1, per_tile)))
    sums = u.new_empty(window * per_tile)
    carried = u.new_empty(batch, directions, blocks, 2 * state + 2, LANES)
    numbers = pack(
        *addresses(dy, u, delta, A, B, C, D, delta_bias, table, dlast, states),
        *addresses(du, ddelta, carried, sums),
        *_strides(dy), *_strides(u), *delta.stride(), *B.stride(), *C.stride(),
        *_strides(du), *ddelta.stride(),
        together, directions, channels, state, length, delta_softplus, batch, parts, 0, 0,
    )  # fmt: skip
    parts_numbers = pack(
        *addresses(sums, table, dB, dC), *dB.stride(), *dC.stride(),
        batch, directions, state, length, parts, 0, 0,
    )  # fmt: skip
    for stop in range(tiles, 0, -window):
        numbers[-2:] = parts_numbers[-2:] = max(0, stop - window), stop
        run(backward_kernel, items * parts, delta.numel() * state, numbers)
        run(add_parts, batch * directions, sums.numel(), parts_numbers)
    images_numbers = pack(*addresses(carried, dA, dD, dbias), batch, directions, channels, state)
    run(add_images, directions * blocks, carried.numel(), images_numbers)

    gradients = (du, ddelta, dA, dB, dC, dD, dbias)
    return tuple(x if need else u.new_empty(0) for x, need in zip(gradients, needs, strict=True))


def backward_like(
    dy, dlast, u, delta, A, B, C, D, delta_bias, order, delta_softplus, merge, needs, states
):
    given = (u, delta, A, B, C, D, delta_bias)
    return tuple(
        torch.empty_like(x) if need else u.new_empty(0)
        for x, need in zip(given, needs, strict=True)
    )


def _strides(x: Tensor) -> tuple[int, ...]:
    """Strides of image, token, direction and channel; (b, l, d) is shared by all directions."""
    if x.ndim == 4:
        return x.stride()
    image, token, channel = x.stride()
    return image, token, 0, channel


def _blocks(channels: int) -> int:
    return -(-channels // LANES)


def _table(order: Tensor | None, directions: int, tokens: int) -> tuple[Tensor, int, bool]:
    """Return the order, its steps, and whether every direction visits all tokens.

    Raises:
        IndexError: when a step leaves the tokens; the kernels do not look.
    """
    if order is None:
        return _in_turn(directions, tokens), tokens, True
    low, high = (x.item() for x in order.aminmax()) if order.numel() else (0, 0)
    if high >= tokens or low < -1:
        raise IndexError(f"order must stay within the {tokens} tokens (or be -1 for no token)")
    return order, order.shape[1], order.shape[1] == tokens and low >= 0


@functools.lru_cache(maxsize=64)
def _in_turn(directions: int, tokens: int) -> Tensor:
    """The order of directions that visit all tokens in turn."""
    return torch.arange(tokens, dtype=torch.int32).repeat(directions, 1)


def _parts(items: int, blocks: int) -> int:
    """How many items share the blocks of channels in the backward pass, from the shape alone."""
    run = -(-items * blocks // BACKWARD_ITEMS)
    return -(-blocks // max(1, min(run, blocks)))
