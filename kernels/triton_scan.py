"""The selective scan on the GPU, along sequences and along paths over an image.

One family of kernels (`kernels.triton_scan_kernels`) serves both: a scan with g groups is a scan in
g directions that visit the tokens in turn. It wants the channels next to each other in memory: a
(b, d, l) tensor that is a transposed (b, l, d) is read as it lies, any other layout is copied once.

The sizes of blocks and segments follow from the shape alone, never from a measurement, so that the
same inputs give the same bits in every run.
"""

import contextlib
from typing import NamedTuple

import torch
import triton
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

if tuple(int(x) for x in triton.__version__.split(".")[:2]) < (3, 4):
    raise ImportError(f"the GPU scan needs Triton 3.4 or newer, but this is {triton.__version__}")

from kernels import flops
from kernels import triton_scan_kernels as scans
from kernels import triton_scan_passes as passes
from kernels.triton_scan_kernels import BLOCK, CHUNK

__all__ = ["cross_selective_scan", "selective_scan", "softplus"]

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


def _launch(kernel, grid: tuple[int, ...], *args, warps=1, registers=None, **constants) -> None:
    kernel[grid](
        *args, **constants, num_warps=warps, num_stages=1, maxnreg=registers, enable_fp_fusion=False
    )


def _on(device: torch.device):
    """A context in which kernels go to this device."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def backward_registers(capability: tuple[int, int], constants: dict) -> int:
    """The limit for the backward kernel: REGISTERS where it then still does not spill."""
    simple = constants["EVEN"] and not constants["WIDE"]
    fits = simple and (constants["STATE"] == 1 or capability[0] == 9)
    return REGISTERS if fits else 255


def _channels_last(x: Tensor) -> Tensor:
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
    _launch(
        passes.clear_unvisited, (plan.batch * plan.directions, parts),
        x, order, plan.directions, plan.dim, plan.length, plan.steps, parts, BLOCK=128, warps=4,
    )  # fmt: skip


def _matrix(rows: int, columns: int) -> tuple[tuple[int, int], dict]:
    """The grid and the tile for a kernel over a matrix: 1024 elements a program."""
    height, width = (8, 128) if columns <= 128 else (4, 256)
    grid = triton.cdiv(rows, height), triton.cdiv(columns, width)
    return grid, {"ROWS": height, "COLUMNS": width, "warps": 4}


def _merge(x: Tensor, y: Tensor) -> None:
    """Write to y (b, l, d) the sum of x (b, l, k, d), in the order of directions."""
    *_, directions, dim = x.shape
    rows = y.numel() // dim
    grid, tile = _matrix(rows, dim)
    _launch(passes.merge, grid, x, y, directions, rows, dim, **tile)


def _enter_segments(
    source, delta, pairs, rates, bias, tokens, counts, start, slots, plan, constants, backward
) -> None:
    """Fill in what enters each segment: the state, or `backward` the gradient of that at its end.

    source is u, or `backward` the gradient of y. start [b, k, n, d] enters the first segment, or
    `backward` the last. slots [b, k, slot, n, d] has a slot for every segment or for every chunk.
    """
    ends = rates.new_empty(plan.states(plan.segments - 1))
    sums = rates.new_empty((*ends.shape[:3], plan.dim))
    _launch(
        scans.segment_ends, plan.programs(plan.segments - 1),
        source, delta, pairs, rates, bias, tokens, counts, ends, sums,
        *_strides(source), *_strides(delta), *plan.cut, plan.chunks,
        **constants, BACKWARD=backward, registers=REGISTERS,
    )  # fmt: skip
    per_segment = 1 if slots.shape[2] == plan.segments else plan.segment_chunks
    _launch(
        scans.carry, (plan.batch * plan.directions, plan.state, plan.blocks),
        ends, sums, rates, rates if start is None else start, slots,
        plan.directions, plan.segments, plan.dim, slots.shape[2], per_segment,
        STATE=plan.state, HAS_START=start is not None, BACKWARD=backward, AHEAD=8, BLOCK=BLOCK,
    )  # fmt: skip


_ARGUMENTS = (
    "Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? delta_bias, "
    "Tensor? order, bool delta_softplus, bool merge"
)


@torch.library.custom_op(
    "vssm::cross_scan_triton",
    mutates_args=(),
    schema=f"({_ARGUMENTS}, bool save) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _scan(u, delta, A, B, C, D, delta_bias, order, delta_softplus, merge, save):
    """Return y, the last state and, with `save`, what the backward pass needs.

    Args:
        u: (b, l, d) for all directions, or (b, l, k, d).
        delta: (b, l, k, d).
        A: (k d, n), float32.
        B, C: (b, l, k, n).
        D, delta_bias: (k d), float32, contiguous.
        order: int32 (k, s), contiguous, or None for all tokens in turn.

    Returns:
        y (b, l, d) or (b, l, k, d) in the dtype of u; the last state [b, k, n, d]; the tables
        tokens, counts and pairs; the states [b, k, chunk, n, d] before each chunk.
    """
    y, last, *saved = outputs = _scan_fake(
        u, delta, A, B, C, D, delta_bias, order, delta_softplus, merge, save
    )
    if delta.numel() == 0:
        return outputs
    plan = Plan.of(delta, A, order)
    if save:
        tokens, counts, pairs, states = saved
    else:
        tokens, counts, pairs = _new_tables(plan, A)
        states = A.new_empty(plan.states(plan.segments))
    u, delta, rates = _channels_last(u), _channels_last(delta), _by_state(A, plan)
    bias = rates if delta_bias is None else delta_bias
    constants = _constants(plan, delta_bias, delta_softplus, u, delta)
    # Directions that will be summed stay in float32 until then.
    summed = merge and plan.directions > 1
    out = A.new_empty(plan.outputs) if summed else y.view(plan.outputs)

    with _on(u.device):
        _launch(
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
        _launch(
            scans.forward, plan.programs(plan.segments),
            u, delta, pairs, rates, rates if D is None else D, bias, tokens, counts, states,
            out, last, *_strides(u), *_strides(delta), *plan.cut, plan.length, plan.chunks,
            HAS_D=D is not None, SAVE=save, **constants, registers=REGISTERS,
        )  # fmt: skip
        if summed:
            _merge(out, y)
    return outputs


@_scan.register_fake
def _scan_fake(u, delta, A, B, C, D, delta_bias, order, delta_softplus, merge, save):
    plan = Plan.of(delta, A, order)
    y = u.new_empty((plan.batch, plan.length, plan.dim) if merge else plan.outputs)
    last = A.new_empty((plan.batch, plan.directions, plan.state, plan.dim))
    if save:
        return y, last, *_new_tables(plan, A), A.new_empty(plan.states(plan.chunks))
    return y, last, *(A.new_empty(0, dtype=d) for d in (torch.int32, torch.int32, None, None))


@torch.library.custom_op(
    "vssm::cross_scan_triton_backward",
    mutates_args=(),
    schema=f"(Tensor dy, Tensor? dlast, {_ARGUMENTS}, "
    "Tensor tokens, Tensor counts, Tensor pairs, Tensor states) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _scan_backward(
    dy, dlast, u, delta, A, B, C, D, delta_bias, order, delta_softplus, merge,
    tokens, counts, pairs, states,
):  # fmt: skip
    """Return the gradients of u, delta, A, B, C, D, delta_bias; empty ones for a missing input."""
    plan = Plan.of(delta, A, order)
    du, ddelta, _, dB, dC, *_ = outputs = _scan_backward_fake(
        dy, dlast, u, delta, A, B, C, D, delta_bias, order, delta_softplus, merge,
        tokens, counts, pairs, states,
    )  # fmt: skip
    if delta.numel() == 0:
        return tuple(x.zero_() for x in outputs)
    shared = u.ndim == 3
    dy, u, delta = (_channels_last(x) for x in (dy, u, delta))
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
    with _on(u.device):
        if plan.segments > 1:
            dlast = None if dlast is None else dlast.contiguous()
            _enter_segments(
                dy, delta, pairs, rates, bias, tokens, counts, dlast, carried, plan, constants, True
            )
        elif dlast is not None:
            carried.copy_(dlast.unsqueeze(2))
        _clear_unvisited(du_each, order, plan)
        _clear_unvisited(ddelta, order, plan)
        _launch(
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
        _launch(
            passes.scatter_sums, plan.along_paths,
            dpairs, tokens if order is None else order, dB, dC, plan.blocks, plan.directions,
            plan.length, plan.steps, plan.chunks, dpairs[0].numel(),
            STATE=plan.state, STATES=triton.next_power_of_2(plan.state),
            ORDERED=order is not None, STEPS=STEPS, CHUNK=CHUNK, warps=4,
        )  # fmt: skip
        if summed:
            _merge(du_each, du)
    dA = dA.sum((0, 2)).transpose(1, 2).reshape(A.shape)
    dD, dbias = (
        A.new_empty(0) if x is None else dx.sum((0, 2)).flatten()
        for x, dx in ((D, dD), (delta_bias, dbias))
    )
    return du, ddelta, dA, dB, dC, dD, dbias


@_scan_backward.register_fake
def _scan_backward_fake(
    dy, dlast, u, delta, A, B, C, D, delta_bias, order, delta_softplus, merge,
    tokens, counts, pairs, states,
):  # fmt: skip
    shaped = [x.new_empty(x.shape) for x in (u, delta, A, B, C)]
    return (*shaped, *(A.new_empty(0 if x is None else x.shape) for x in (D, delta_bias)))


def _scan_setup(ctx, inputs, output) -> None:
    *tensors, ctx.delta_softplus, ctx.merge, ctx.save = inputs
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*output[2:])
    ctx.save_for_backward(*tensors, *output[2:])


def _scan_grad(ctx, dy, dlast, *_):
    if not ctx.save:
        raise RuntimeError("the scan ran without saving what its backward pass needs")
    inputs, saved = ctx.saved_tensors[:8], ctx.saved_tensors[8:]
    u, delta, D, delta_bias = inputs[0], inputs[1], inputs[5], inputs[6]
    if dy is None:
        shape = (*delta.shape[:2], delta.shape[3]) if ctx.merge else delta.shape
        dy = u.new_zeros(shape)
    *grads, dD, dbias = _scan_backward(dy, dlast, *inputs, ctx.delta_softplus, ctx.merge, *saved)
    dD = None if D is None else dD
    dbias = None if delta_bias is None else dbias
    return *grads, dD, dbias, None, None, None, None


def _no_double_grad(ctx, *grads):
    raise RuntimeError(
        'the scan is differentiable once with backend="triton"; '
        'use backend="reference" for second derivatives'
    )


_scan.register_autograd(_scan_grad, setup_context=_scan_setup)
_scan_backward.register_autograd(_no_double_grad)


@register_flop_formula(torch.ops.vssm.cross_scan_triton)
def _(u, delta, A, B, C, D=None, delta_bias=None, order=None, *args, **kwargs) -> int:
    return flops.forward(delta, A, D, order)


@register_flop_formula(torch.ops.vssm.cross_scan_triton_backward)
def _(dy, dlast, u, delta, A, B, C, D=None, delta_bias=None, order=None, *args, **kwargs) -> int:
    return flops.backward(delta, A, D, order)


def _run(u, delta, A, B, C, D, delta_bias, delta_softplus, order, merge) -> tuple[Tensor, Tensor]:
    """Return y and the last state [b, k, n, d]; the arguments are those of the operator."""
    tensors = (u, delta, A, B, C, D, delta_bias)
    if any(x is not None and x.dtype == torch.float64 for x in tensors):
        raise ValueError(
            'backend="triton" keeps its state in float32, but an input is float64; '
            'backend="reference" takes it'
        )
    save = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)
    A, D, delta_bias = (x if x is None else x.float().contiguous() for x in (A, D, delta_bias))
    # Copied here and not in the operator, so that the backward pass shares the copies.
    u, delta = _channels_last(u), _channels_last(delta)
    y, last, *_ = _scan(u, delta, A, B, C, D, delta_bias, order, delta_softplus, merge, save)
    return y, last


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

    Shapes: u, delta (b, d, l); A (d, n); B, C (b, g, n, l); D, delta_bias (d). Each may be float32,
    bfloat16 or float16 and strided in any way; transposed (b, l, d) tensors are fastest. y has the
    dtype of u, the state is float32.
    """
    groups = B.shape[1]
    u, delta = (x.unflatten(1, (groups, -1)).permute(0, 3, 1, 2) for x in (u, delta))
    B, C = (x.permute(0, 3, 1, 2) for x in (B, C))
    y, last = _run(u, delta, A, B, C, D, delta_bias, delta_softplus, None, False)
    return y.flatten(2).transpose(1, 2), last.transpose(2, 3).flatten(1, 2)


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
    """Return y (b, l, d), or (b, l, k, d) without `merge`, as `kernels.cross_selective_scan` does.

    Shapes: u (b, l, d) or (b, l, k, d); delta (b, l, k, d); A (k d, n); B, C (b, l, k, n);
    D, delta_bias (k d); order int32 (k, s): the token that each direction reads at each step, -1
    at the end of a shorter path. Dtypes and strides as for `selective_scan`.
    """
    order = order.contiguous()
    return _run(u, delta, A, B, C, D, delta_bias, delta_softplus, order, merge)[0]


def softplus(x: Tensor, bias: Tensor | None = None) -> Tensor:
    """log(1 + exp(x + bias[:, None])) for x (b, d, l) and bias (d), by the code of the scan.

    Float32, bfloat16 or float16, computed in float32; differentiable twice.
    """
    if x.dtype == torch.float64:
        raise ValueError('backend="triton" computes in float32, but x is float64')
    if x.is_contiguous():
        return _softplus(x, bias, 1)
    return _softplus(x.transpose(1, 2).contiguous(), bias, 2).transpose(1, 2)


def _elementwise(kernel, x: Tensor, bias: Tensor | None, axis: int, *tensors: Tensor) -> None:
    """Launch a softplus kernel over contiguous 3-d tensors whose channels lie along `axis`."""
    if x.numel() == 0:
        return
    rows, columns = x.shape[0] * x.shape[1], x.shape[2]
    grid, tile = _matrix(rows, columns)
    along, bias = (None, x) if bias is None else (("rows", "columns")[axis - 1], bias.contiguous())
    with _on(x.device):
        _launch(kernel, grid, x, bias, *tensors, rows, columns, x.shape[axis], BIAS=along, **tile)


@torch.library.custom_op(
    "vssm::softplus_triton",
    mutates_args=(),
    schema="(Tensor x, Tensor? bias, int axis) -> Tensor",
)
def _softplus(x, bias, axis):
    x, y = x.contiguous(), x.new_empty(x.shape)
    _elementwise(passes.softplus_forward, x, bias, axis, y)
    return y


@_softplus.register_fake
def _(x, bias, axis):
    return x.new_empty(x.shape)


@torch.library.custom_op(
    "vssm::softplus_triton_backward",
    mutates_args=(),
    schema="(Tensor dy, Tensor x, Tensor? bias, int axis) -> Tensor",
)
def _softplus_backward(dy, x, bias, axis):
    dy, x, dx = dy.contiguous(), x.contiguous(), x.new_empty(x.shape)
    _elementwise(passes.softplus_backward, x, bias, axis, dy, dx)
    return dx


@_softplus_backward.register_fake
def _(dy, x, bias, axis):
    return x.new_empty(x.shape)


def _over_channels(dx: Tensor, axis: int) -> Tensor:
    return dx.sum((0, 3 - axis))


def _softplus_setup(ctx, inputs, output) -> None:
    x, bias, ctx.axis = inputs
    ctx.save_for_backward(x, bias)


def _softplus_grad(ctx, dy):
    x, bias = ctx.saved_tensors
    dx = _softplus_backward(dy, x, bias, ctx.axis)
    return dx, _over_channels(dx, ctx.axis) if ctx.needs_input_grad[1] else None, None


def _softplus_backward_setup(ctx, inputs, output) -> None:
    dy, x, bias, ctx.axis = inputs
    ctx.save_for_backward(dy, x, bias)


def _softplus_double_grad(ctx, ddx):
    dy, x, bias = ctx.saved_tensors
    if bias is not None:
        x = x + (bias[:, None] if ctx.axis == 1 else bias)
    slope = torch.sigmoid(x)
    dx = ddx * dy * slope * torch.sigmoid(-x)
    return ddx * slope, dx, _over_channels(dx, ctx.axis) if ctx.needs_input_grad[2] else None, None


_softplus.register_autograd(_softplus_grad, setup_context=_softplus_setup)
_softplus_backward.register_autograd(_softplus_double_grad, setup_context=_softplus_backward_setup)
