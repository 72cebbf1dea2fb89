"""The selective scan on the GPU, along sequences and along paths over an image.

One family of kernels (`kernels.gpu.scan_kernels`) serves both: a scan with g groups is a scan in g
directions that visit the tokens in turn. It wants the channels next to each other in memory: a
(b, d, l) tensor that is a transposed (b, l, d) is read as it lies, any other layout is copied once.

The sizes of blocks and segments follow from the shape alone, never from a measurement, so that the
same inputs give the same bits in every run. Shapes and arguments are those that
`kernels.autograd.Backend` says; u, delta, B and C may be float32, bfloat16 or float16, A, D and
delta_bias are float32.
"""

import contextlib
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from kernels.gpu import passes
from kernels.gpu import scan_kernels as scans
from kernels.gpu.scan_kernels import BLOCK, CHUNK

__all__ = ["SAVED", "backward", "backward_like", "forward", "forward_like", "readable"]

SAVED = 4  # the tables tokens, counts and pairs, and the states before each chunk

# A sequence is cut into segments where there are fewer than ENOUGH programs, to make about WANTED
# (an H200 holds 1584 at once). Fewer than LONG chunks are not worth the two extra launches, nor is
# a segment of fewer than SHORTEST chunks.
ENOUGH, WANTED, LONG, SHORTEST = 512, 1024, 32, 4

REGISTERS = 168  # per thread at most, so that 12 warps fit on a multiprocessor
WIDE = 2**31  # offsets within one image from here on take 64 bits; those between images always do
STEPS = 64  # of a path, for one program that reads B and C or writes their gradients


class Plan(NamedTuple):
    """Sizes and the division of the work, from the shapes alone."""

    batch: int
    length: int  # tokens
    directions: int
    dim: int
    state: int
    steps: int  # of the longest path

    @classmethod
    def of(cls, delta: Tensor, A: Tensor, order: Tensor | None) -> "Plan":
        steps = delta.shape[1] if order is None else order.shape[1]
        return cls(*delta.shape, A.shape[1], steps)

    @property
    def chunks(self) -> int:
        return -(-self.steps // CHUNK)

    @property
    def blocks(self) -> int:
        return -(-self.dim // BLOCK)

    @property
    def segment_chunks(self) -> int:
        programs = self.batch * self.directions * self.blocks
        if programs >= ENOUGH or self.chunks < LONG:
            return self.chunks
        return max(-(-self.chunks * programs // WANTED), SHORTEST)

    @property
    def segments(self) -> int:
        return -(-self.chunks // self.segment_chunks)

    @property
    def cut(self) -> tuple[int, ...]:
        """What a kernel with one program per block, direction, segment and image starts from."""
        return self.blocks, self.directions, self.segments, self.segment_chunks, self.dim

    def programs(self, segments: int) -> tuple[int]:
        return (self.batch * segments * self.directions * self.blocks,)

    @property
    def along_paths(self) -> tuple[int, int]:
        """The grid of programs for all directions and STEPS steps each."""
        return self.batch * self.directions, -(-self.chunks * CHUNK // STEPS)

    @property
    def outputs(self) -> tuple[int, ...]:
        """The shape of y, one per direction."""
        return self.batch, self.length, self.directions, self.dim

    def states(self, slots: int) -> tuple[int, ...]:
        return self.batch, self.directions, slots, self.state, self.dim


def launch(kernel, grid: tuple[int, ...], *args, warps=1, registers=None, **constants) -> None:
    kernel[grid](
        *args, **constants, num_warps=warps, num_stages=1, maxnreg=registers, enable_fp_fusion=False
    )


def on(device: torch.device):
    """A context in which kernels go to this device."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def backward_registers(capability: tuple[int, int], constants: dict) -> int:
    """The limit for the backward kernel: REGISTERS where it then still does not spill."""
    simple = constants["EVEN"] and not constants["WIDE"]
    fits = simple and (constants["STATE"] == 1 or capability[0] == 9)
    return REGISTERS if fits else 255


def readable(x: Tensor, order: Tensor | None = None) -> Tensor:
    """x with the channels side by side."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _strides(x: Tensor) -> tuple[int, int, int]:
    """Over image, token and direction, for (b, l, k, d) or (b, l, d) shared by all directions."""
    return x.stride(0), x.stride(1), (x.stride(2) if x.ndim == 4 else 0)


def _constants(plan: Plan, bias: Tensor | None, softplus: bool, *strided: Tensor) -> dict:
    """What the kernels of a scan are compiled for."""
    longest = max(plan.directions * plan.dim, *(x.stride(1) for x in strided))
    return {
        "STATE": plan.state,
        "SOFTPLUS": softplus,
        "HAS_BIAS": bias is not None,
        "EVEN": plan.dim % BLOCK == 0,
        "WIDE": plan.length * longest >= WIDE,
        "CHUNK": CHUNK,
        "BLOCK": BLOCK,
    }


def _by_state(A: Tensor, plan: Plan) -> Tensor:
    """A (k d, n) as [k, n, d]."""
    return A.reshape(plan.directions, plan.dim, plan.state).transpose(1, 2).contiguous()


def _new_tables(plan: Plan, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens [k, chunks, CHUNK], counts [k, chunks], pairs [b, k, n, chunks, CHUNK, 2]."""
    tokens = like.new_empty((plan.directions, plan.chunks, CHUNK), dtype=torch.int32)
    counts = like.new_empty((plan.directions, plan.chunks), dtype=torch.int32)
    pairs = like.new_empty((plan.batch, plan.directions, plan.state, plan.chunks, CHUNK, 2))
    return tokens, counts, pairs


def _clear_unvisited(x: Tensor, order: Tensor | None, plan: Plan) -> None:
    """Zero what x (b, l, k, d) holds for tokens that a direction does not visit."""
    if order is None:
        return
    parts = min(plan.length, 16)
    launch(
        passes.clear_unvisited, (plan.batch * plan.directions, parts),
        x, order, plan.directions, plan.dim, plan.length, plan.steps, parts, BLOCK=128, warps=4,
    )  # fmt: skip


def matrix(rows: int, columns: int) -> tuple[tuple[int, int], dict]:
    """The grid and the tile for a kernel over a matrix: 1024 elements a program."""
    height, width = (8, 128) if columns <= 128 else (4, 256)
    grid = triton.cdiv(rows, height), triton.cdiv(columns, width)
    return grid, {"ROWS": height, "COLUMNS": width, "warps": 4}


def _merge(x: Tensor, y: Tensor) -> None:
    """Write to y (b, l, d) the sum of x (b, l, k, d), in the order of directions."""
    *_, directions, dim = x.shape
    rows = y.numel() // dim
    grid, tile = matrix(rows, dim)
    launch(passes.merge, grid, x, y, directions, rows, dim, **tile)


def _enter_segments(
    source, delta, pairs, rates, bias, tokens, counts, start, slots, plan, constants, backward
) -> None:
    """Fill in what enters each segment: the state, or `backward` the gradient of that at its end.

    source is u, or `backward` the gradient of y. start [b, k, n, d] enters the first segment, or
    `backward` the last. slots [b, k, slot, n, d] has a slot for every segment or for every chunk.
    """
    ends = rates.new_empty(plan.states(plan.segments - 1))
    sums = rates.new_empty((*ends.shape[:3], plan.dim))
    launch(
        scans.segment_ends, plan.programs(plan.segments - 1),
        source, delta, pairs, rates, bias, tokens, counts, ends, sums,
        *_strides(source), *_strides(delta), *plan.cut, plan.chunks,
        **constants, BACKWARD=backward, registers=REGISTERS,
    )  # fmt: skip
    per_segment = 1 if slots.shape[2] == plan.segments else plan.segment_chunks
    launch(
        scans.carry, (plan.batch * plan.directions, plan.state, plan.blocks),
        ends, sums, rates, rates if start is None else start, slots,
        plan.directions, plan.segments, plan.dim, slots.shape[2], per_segment,
        STATE=plan.state, HAS_START=start is not None, BACKWARD=backward, AHEAD=8, BLOCK=BLOCK,
    )  # fmt: skip


def forward(u, delta, A, B, C, D, delta_bias, order, delta_softplus, merge, save):
    """Return y, the last state and, with `save`, what the backward pass needs.

    That is the tables tokens, counts and pairs, and the states [b, k, chunk, n, d] before each
    chunk.
    """
    y, last, *saved = outputs = forward_like(
        u, delta, A, B, C, D, delta_bias, order, delta_softplus, merge, save
    )
    last = last.mT  # [b, k, n, d]
    if delta.numel() == 0:
        return outputs
    plan = Plan.of(delta, A, order)
    if save:
        tokens, counts, pairs, states = saved
    else:
        tokens, counts, pairs = _new_tables(plan, A)
        states = A.new_empty(plan.states(plan.segments))
    u, delta, rates = readable(u), readable(delta), _by_state(A, plan)
    bias = rates if delta_bias is None else delta_bias
    constants = _constants(plan, delta_bias, delta_softplus, u, delta)
    # Directions that will be summed stay in float32 until then.
    summed = merge and plan.directions > 1
    out = A.new_empty(plan.outputs) if summed else y.view(plan.outputs)

    with on(u.device):
        launch(
            passes.read_path, plan.along_paths,
            B, C, tokens if order is None else order, tokens, counts, pairs,
            *B.stride(), *C.stride(), plan.directions, plan.steps, plan.chunks,
            STATE=plan.state, STATES=triton.next_power_of_2(plan.state),
            ORDERED=order is not None, STEPS=STEPS, CHUNK=CHUNK, warps=4,
        )  # fmt: skip
        pairs = pairs.view(torch.int64)
        if plan.segments > 1:
            _enter_segments(
                u, delta, pairs, rates, bias, tokens, counts, None, states, plan, constants, False
            )
        _clear_unvisited(out, order, plan)
        launch(
            scans.forward, plan.programs(plan.segments),
            u, delta, pairs, rates, rates if D is None else D, bias, tokens, counts, states,
            out, last, *_strides(u), *_strides(delta), *plan.cut, plan.length, plan.chunks,
            HAS_D=D is not None, SAVE=save, **constants, registers=REGISTERS,
        )  # fmt: skip
        if summed:
            _merge(out, y)
    return outputs


def forward_like(u, delta, A, B, C, D, delta_bias, order, delta_softplus, merge, save):
    plan = Plan.of(delta, A, order)
    y = u.new_empty((plan.batch, plan.length, plan.dim) if merge else plan.outputs)
    last = A.new_empty((plan.batch, plan.directions, plan.state, plan.dim)).mT
    if save:
        return y, last, *_new_tables(plan, A), A.new_empty(plan.states(plan.chunks))
    return y, last, *(A.new_empty(0, dtype=d) for d in (torch.int32, torch.int32, None, None))


def backward(
    dy, dlast, u, delta, A, B, C, D, delta_bias, order, delta_softplus, merge, needs,
    tokens, counts, pairs, states,
):  # fmt: skip
    """Return the gradients of u, delta, A, B, C, D, delta_bias; empty ones where not needed."""
    plan = Plan.of(delta, A, order)
    du, ddelta, dB, dC = (x.new_empty(x.shape) for x in (u, delta, B, C))
    if delta.numel() == 0:
        given = (u, delta, A, B, C, D, delta_bias)
        return _chosen([A.new_zeros(0) if x is None else torch.zeros_like(x) for x in given], needs)
    shared = u.ndim == 3
    dy, u, delta = (readable(x) for x in (dy, u, delta))
    rates, pairs = _by_state(A, plan), pairs.view(torch.int64)
    bias = rates if delta_bias is None else delta_bias
    constants = _constants(plan, delta_bias, delta_softplus, u, delta, dy)

    summed = shared and plan.directions > 1
    du_each = A.new_empty(plan.outputs) if summed else du.view(plan.outputs)
    carried = A.new_empty(plan.states(plan.segments))
    dA = A.new_empty(plan.states(plan.segments))
    dD, dbias = A.new_empty((2, *dA.shape[:3], plan.dim)).unbind()
    dpairs = A.new_empty((plan.blocks, *states.shape[:2], plan.state, plan.chunks, 2, CHUNK))

    capability = torch.cuda.get_device_capability(u.device) if u.is_cuda else (0, 0)
    registers = backward_registers(capability, constants)
    with on(u.device):
        if plan.segments > 1:
            dlast = None if dlast is None else dlast.mT.contiguous()
            _enter_segments(
                dy, delta, pairs, rates, bias, tokens, counts, dlast, carried, plan, constants, True
            )
        elif dlast is not None:
            carried.copy_(dlast.mT.unsqueeze(2))
        _clear_unvisited(du_each, order, plan)
        _clear_unvisited(ddelta, order, plan)
        launch(
            scans.backward, plan.programs(plan.segments),
            dy, u, delta, pairs, rates, rates if D is None else D, bias, tokens, counts, states,
            carried, du_each, ddelta, dpairs, dA, dD, dbias,
            *_strides(dy), *_strides(u), *_strides(delta),
            *plan.cut, plan.length, plan.chunks, dpairs[0].numel(),
            HAS_D=D is not None, HAS_LAST=plan.segments > 1 or dlast is not None, **constants,
            registers=registers,
        )  # fmt: skip
        if order is not None:  # which may leave tokens out
            dB.zero_()
            dC.zero_()
        launch(
            passes.scatter_sums, plan.along_paths,
            dpairs, tokens if order is None else order, dB, dC, plan.blocks, plan.directions,
            plan.length, plan.steps, plan.chunks, dpairs[0].numel(),
            STATE=plan.state, STATES=triton.next_power_of_2(plan.state),
            ORDERED=order is not None, STEPS=STEPS, CHUNK=CHUNK, warps=4,
        )  # fmt: skip
        if summed:
            _merge(du_each, du)
    dA = dA.sum((0, 2)).transpose(1, 2).reshape(A.shape)
    dD, dbias = (x.sum((0, 2)).flatten() for x in (dD, dbias))
    return _chosen([du, ddelta, dA, dB, dC, dD, dbias], needs)


def backward_like(
    dy, dlast, u, delta, A, B, C, D, delta_bias, order, delta_softplus, merge, needs,
    tokens, counts, pairs, states,
):  # fmt: skip
    given = (u, delta, A, B, C, D, delta_bias)
    return _chosen([A.new_empty(0) if x is None else x.new_empty(x.shape) for x in given], needs)


def _chosen(gradients: list[Tensor], needs: list[bool]) -> tuple[Tensor, ...]:
    return tuple(x if need else x.new_empty(0) for x, need in zip(gradients, needs, strict=True))
