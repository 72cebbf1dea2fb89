"""The selective scan on the CPU: numba kernels over 16 channels at a time.

Sixteen neighbouring channels of one direction share B and C and fill the 16 lanes of a vector. Time
is walked in tiles of 64 steps; a tile is brought into scratch memory, where each step is one vector
and stays in the nearest cache. The forward pass stores the state at the start of each tile; the
backward pass recomputes the rest from there, so the memory beside inputs and outputs is n / 64 of
the input, and partial sums of the gradients of B and C.

How the work is divided into items depends on the shape alone, so results do not depend on the
number of threads. Shapes and arguments are those that `kernels.autograd.Backend` says.
"""

import numpy as np
import torch
from torch import Tensor

from kernels.cpu.backward import backward as backward_kernel
from kernels.cpu.forward import forward as forward_kernel
from kernels.cpu.lanes import LANES
from kernels.cpu.threads import run
from kernels.cpu.tiles import TILE

__all__ = ["SAVED", "backward", "backward_like", "forward", "forward_like", "readable"]

SAVED = 1  # the states at the start of each tile

BACKWARD_ITEMS = 16  # aimed at; each costs one partial sum of the gradients of B and C


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
    blocks = -(-channels // LANES)
    together = directions if merge else 1
    u, y_ = _with_directions(u, directions), _with_directions(y, directions)
    run(
        forward_kernel, batch * directions // together * blocks, delta.numel() * state,
        *map(_flat, (u, delta, A, B, C, D, delta_bias)), table, delta_softplus,
        *map(_flat, (y, last, states)), *map(_strides, (u, delta, B, C, y_)),
        together, directions, channels, state, length,
    )  # fmt: skip
    return y, last, states


def forward_like(u, delta, A, B, C, D, delta_bias, order, delta_softplus, merge, save):
    batch, tokens, directions, channels = delta.shape
    state = A.shape[1]
    blocks = -(-channels // LANES)
    tiles = -(-(tokens if order is None else order.shape[1]) // TILE)
    return (
        u.new_empty(batch, tokens, channels) if merge else _empty_like(delta, whole=True),
        u.new_empty(batch, directions, channels, state),
        u.new_empty((batch, directions, blocks, tiles, state, LANES) if save else 0),
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
        backward_kernel, items * parts, delta.numel() * state,
        *map(_flat, (dy, dlast, u, delta, A, B, C, D, delta_bias)), table, delta_softplus,
        *map(_flat, (states, du, ddelta, dA, dB, dC, dD, dbias)),
        *map(_strides, (dy, u, delta, B, C, du_, ddelta, dB[0], dC[0])),
        together, parts, directions, channels, state, length,
    )  # fmt: skip
    sums = {2: dA, 3: dB, 4: dC, 5: dD, 6: dbias}
    gradients = [du, ddelta, *sums.values()]
    for i, need in enumerate(needs):
        if not need:
            gradients[i] = u.new_empty(0)
        elif i in sums:
            gradients[i] = gradients[i].sum(0)
    return tuple(gradients)


def backward_like(
    dy, dlast, u, delta, A, B, C, D, delta_bias, order, delta_softplus, merge, needs, states
):
    gradients = (
        u.new_empty(u.shape) if u.ndim == 3 else _empty_like(u, whole=True),
        _empty_like(delta, whole=True),
        A.new_empty(A.shape),
        *(_partial_sums(x, 1, whole=True).sum(0) for x in (B, C)),
        *(u.new_empty(0 if x is None else x.shape) for x in (D, delta_bias)),
    )
    return tuple(x if need else u.new_empty(0) for x, need in zip(gradients, needs, strict=True))


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


def _with_directions(x: Tensor, directions: int) -> Tensor:
    """(b, l, d) that all directions share as (b, l, k, d)."""
    return x if x.ndim == 4 else x.unsqueeze(2).expand(-1, -1, directions, -1)


def _partial_sums(x: Tensor, parts: int, whole: bool) -> Tensor:
    """Memory for `parts` gradients of B or C; neighbouring steps stay neighbours in memory."""
    batch, tokens, directions, state = x.shape
    shape = (parts, batch, directions, state, tokens)
    y = x.new_empty(shape) if whole else x.new_zeros(shape)
    return y.permute(0, 1, 4, 2, 3)
