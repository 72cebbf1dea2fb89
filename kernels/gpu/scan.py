"""The selective scan on the GPU, along sequences and along paths over an image.

One pair of kernels (`kernels.gpu.scan_kernels`) serves both: a scan with g groups is a scan in g
directions that visit the tokens in turn. It wants the channels next to each other in memory: a
(b, d, l) tensor that is a transposed (b, l, d) is read as it lies, any other layout is copied once.

Shapes and arguments are those that `kernels.autograd.Backend` says; u, delta, B and C may be
float32, bfloat16 or float16, A, D and delta_bias are float32. Where the kernels do not run, the
definition takes their place (`kernels.gpu.fallback`).
"""

import torch
from torch import Tensor

from workbench.kernels.gpu import fallback
from workbench.kernels.gpu.arithmetic import ENTERED, ORDERED, PARAMETERS, SAVE, SUMMED
from workbench.kernels.gpu.compiling import Unusable
from workbench.kernels.gpu.plan import Cut, Division, Layout, bits_of, plan

__all__ = ["SAVED", "backward", "backward_like", "forward", "forward_like", "readable"]

SAVED = 1  # the states before each tile
WIDE_STRIDE = 2**31  # strides between tokens, and offsets in B and C of one image, take 32 bits


def readable(x: Tensor, order: Tensor | None = None) -> Tensor:
    """x with the channels side by side."""
    return x if x.stride(-1) == 1 and x.stride(1) < WIDE_STRIDE else x.contiguous()


def _alike(B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    """B and C with the same strides along tokens and states, and offsets that take 32 bits."""
    strides = B.stride()
    _, length, _, state = B.shape
    reach = (length - 1) * strides[1] + (state - 1) * strides[3]
    if strides[1::2] == C.stride()[1::2] and reach < WIDE_STRIDE:
        return B, C
    return B.contiguous(), C.contiguous()


def _steps(delta: Tensor, order: Tensor | None) -> int:
    return delta.shape[1] if order is None else order.shape[1]


def _read(u, delta, B, C) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The tensors as the kernels read them: in one dtype, and laid out as they expect."""
    if not u.dtype == delta.dtype == B.dtype == C.dtype:
        u, delta, B, C = (x.float() for x in (u, delta, B, C))
    return readable(u), readable(delta), *_alike(B, C)


def _rates(A: Tensor, division: Division) -> Tensor:
    """A in the layout of the kernels."""
    return A.t().contiguous() if division.transposed else A


def forward(u, delta, A, B, C, D, delta_bias, order, delta_softplus, merge, save):
    """Return y, the last state and, with `save`, the states [b, k, tile, n, d] before each tile."""
    given = u, delta, A, B, C, D, delta_bias, order, delta_softplus, merge
    if delta.numel() == 0:
        return forward_like(*given, save)
    dtype = u.dtype
    u, delta, B, C = _read(u, delta, B, C)
    summed = merge and delta.shape[2] > 1
    flags = bits_of(D, delta_bias, order, delta_softplus)
    flags |= (SUMMED.value if summed else 0) | (SAVE.value if save else 0)
    strides = u.stride(), delta.stride(), B.stride(), C.stride()
    layout = Layout(
        u.device, u.dtype, delta.shape, A.shape[1], _steps(delta, order), strides, flags
    )
    try:
        made = plan(layout)
    except Unusable as problem:
        fallback.warn(problem)
        return fallback.forward(forward_like(*given, save), *given)
    division = made.division
    y = u.new_empty((division.batch, division.length, division.dim) if merge else division.outputs)
    last = A.new_empty((division.batch, division.directions, division.state, division.dim))
    states = A.new_empty(division.states(division.tiles if save else 2 * division.segments))
    each = A.new_empty(made.scratch) if summed else A
    if division.segments > 1 and order is not None:  # a program does not know of the others
        (each if summed else y).zero_()
    A = _rates(A, division)
    D, delta_bias, order = (A if x is None else x for x in (D, delta_bias, order))
    if made.cut is not None:
        slots = states, states.shape[2], division.segment_tiles if save else 2
        _enter(division, made.cut, u, delta, B, A, delta_bias, order, None, *slots)
    made.run(u, delta, A, B, C, D, delta_bias, order, y, each, last, states, *made.numbers)
    if made.finish is not None:
        made.finish(each, y, order, y, y, A, A, A)
    y = y if y.dtype == dtype else y.to(dtype)
    return y, last.mT, states if save else A.new_empty(0)


def _enter(
    division: Division, cut: Cut, source, delta, weights, A, bias, order, start,
    slots, of_pair: int, of_segment: int
) -> None:  # fmt: skip
    """Fill in what enters each segment: the state, or backwards the gradient of that at its end.

    source and weights are u and B, or backwards the gradient of y and C. start [b, k, n, d] enters
    the first segment, or backwards the last. slots [b, k, of_pair, n, d] has one for every segment,
    of_segment apart.
    """
    ends = A.new_empty(2 * division.pairs * (division.segments - 1) * division.state * division.dim)
    sums = A.new_empty(division.pairs * (division.segments - 1) * division.dim)
    cut.ends(source, delta, weights, A, bias, order, ends, sums)
    A_d, A_n = cut.ends.numbers[10:12]
    cut.carry(
        ends, sums, A, A if start is None else start, slots,
        division.state * division.dim, A_d, A_n, division.directions, division.segments,
        division.dim, division.state, of_pair, of_segment,
        0 if start is None else ENTERED.value, cut.backward,
    )  # fmt: skip


def forward_like(u, delta, A, B, C, D, delta_bias, order, delta_softplus, merge, save):
    division = Division.of(delta.shape, A.shape[1], _steps(delta, order))
    y = u.new_empty((division.batch, division.length, division.dim) if merge else division.outputs)
    last = A.new_empty((division.batch, division.directions, division.state, division.dim)).mT
    return y, last, A.new_empty(division.states(division.tiles) if save else 0)


def backward(
    dy, dlast, u, delta, A, B, C, D, delta_bias, order, delta_softplus, merge, needs, states
):
    """Return the gradients of u, delta, A, B, C, D, delta_bias; empty ones where not needed."""
    given = u, delta, A, B, C, D, delta_bias
    if delta.numel() == 0:
        return tuple(
            torch.zeros_like(x) if need else A.new_empty(0)
            for x, need in zip(given, needs, strict=True)
        )
    u, delta, B, C = _read(u, delta, B, C)
    dy = readable(dy if dy.dtype == u.dtype else dy.to(u.dtype))
    summed = u.ndim == 3 and delta.shape[2] > 1
    wanted = needs[2] or needs[5] or needs[6]
    flags = bits_of(D, delta_bias, order, delta_softplus)
    flags |= (SUMMED.value if summed else 0) | (PARAMETERS.value if wanted else 0)
    strides = u.stride(), delta.stride(), B.stride(), C.stride(), dy.stride()
    layout = Layout(
        u.device, u.dtype, delta.shape, A.shape[1], _steps(delta, order), strides, flags
    )
    try:
        made = plan(layout)
    except Unusable:
        return fallback.backward(dy, dlast, given, order, delta_softplus, merge, needs)
    division = made.division
    cut = made.cut
    du, ddelta, dB, dC = (x.new_empty(x.shape) for x in (u, delta, B, C))
    scratch = A.new_empty(made.scratch)
    dA, dD, dbias = (
        A.new_empty(x.shape if wanted and x is not None else 0) for x in (A, D, delta_bias)
    )
    if cut is not None and flags & ORDERED.value:  # a program does not know of the others
        for x in (scratch if summed else du, ddelta, dB, dC):
            x.zero_()
    A = _rates(A, division)
    D, delta_bias, order = (A if x is None else x for x in (D, delta_bias, order))
    entering = A
    if dlast is not None:
        entering = dlast.mT.contiguous()
    if cut is not None:
        start = None if dlast is None else entering
        entering = A.new_empty(division.states(division.segments))
        slots = entering, division.segments, 1
        _enter(division, cut, dy, delta, C, A, delta_bias, order, start, *slots)
    numbers = made.numbers
    if cut is not None or dlast is not None:
        numbers = (*numbers[:-1], numbers[-1] | ENTERED.value)
    made.run(
        dy, u, delta, A, B, C, D, delta_bias, order, states, entering, du, ddelta, dB, dC, scratch,
        *numbers,
    )  # fmt: skip
    if made.finish is not None:
        made.finish(scratch, du, order, dB, dC, dA, dD, dbias)
    found = du, ddelta, dA, dB, dC, dD, dbias
    return tuple(
        (x if x.dtype == like.dtype else x.to(like.dtype)) if need else A.new_empty(0)
        for x, like, need in zip(found, given, needs, strict=True)
    )


def backward_like(
    dy, dlast, u, delta, A, B, C, D, delta_bias, order, delta_softplus, merge, needs, states
):
    given = u, delta, A, B, C, D, delta_bias
    return tuple(
        x.new_empty(x.shape) if need else A.new_empty(0)
        for x, need in zip(given, needs, strict=True)
    )
