"""One wrapper round the kernels of every fast backend, which makes them functions of PyTorch.

Each kernel becomes an `Operation` in two forms made of the same parts. In eager mode it is a
`torch.autograd.Function`, which costs the least. Where something traces (torch.compile, export,
meta and fake tensors, a dispatch mode such as FlopCounterMode) it is an operator
`torch.ops.vssm.<name>` that can be seen there.

The kernels give first derivatives. Derivatives of those are taken from the definition
(`kernels.reference`), at its speed.
"""

from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils.flop_counter import register_flop_formula

from kernels import flops, reference

__all__ = ["Backend", "Operation"]


class Operation:
    """A function of tensors with its derivative, for eager mode and for tracing.

    Args:
        name: of the operator in `torch.ops.vssm`.
        schema: of its arguments and results, as `torch.library.custom_op` takes it.
        run: the function itself, for tensors with memory.
        like: a function of the same arguments that returns empty results of the right layout.
        setup, gradient: `setup_context` and `backward` of a `torch.autograd.Function`.
        flop_formula: number of operations from the shapes of the arguments.
        device: what `run` works on; any device when None.
    """

    def __init__(
        self,
        name: str,
        schema: str,
        run: Callable,
        like: Callable,
        setup: Callable,
        gradient: Callable,
        flop_formula: Callable[..., int] | None = None,
        device: str | None = None,
    ) -> None:
        def forward(ctx, *args):
            # Not torch's two methods, for which it inspects the signature in every call (50 us).
            output = run(*args)
            setup(ctx, args, output)
            return output

        methods = {"forward": staticmethod(forward), "backward": staticmethod(gradient)}
        self.function = type(torch.autograd.Function)(name, (torch.autograd.Function,), methods)
        self.run = run
        self.operator = torch.library.custom_op(
            f"vssm::{name}", run, mutates_args=(), device_types=device, schema=schema
        )
        self.operator.register_fake(like)
        self.operator.register_autograd(gradient, setup_context=setup)
        if flop_formula is not None:
            register_flop_formula(getattr(torch.ops.vssm, name))(flop_formula)

    def __call__(self, *args):
        if forward_ad._current_level >= 0 and any(_has_tangent(x) for x in args):
            raise NotImplementedError(
                "a gradient of the fast scan has no forward-mode derivative; "
                'backend="reference" has all derivatives'
            )
        if is_traced() or any(_stands_in(x) for x in args if isinstance(x, Tensor)):
            return self.operator(*args)
        if not torch.is_grad_enabled():
            return self.run(*args)
        return self.function.apply(*args)


def _has_tangent(x) -> bool:
    return isinstance(x, Tensor) and forward_ad.unpack_dual(x).tangent is not None


def is_traced() -> bool:
    """Whether something looks on that has to see every operation."""
    return (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._are_functorch_transforms_active()
        or torch.jit.is_tracing()
    )


def _stands_in(x: Tensor) -> bool:
    """Whether it stands for a tensor with memory."""
    return type(x) not in _PLAIN or x.is_meta or not torch._C._has_storage(x)


_PLAIN = (Tensor, nn.Parameter)


_INPUTS = (
    "Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? delta_bias, "
    "Tensor? order, bool delta_softplus, bool merge"
)
_TENSORS, _DIFFERENTIABLE = 8, 7  # order is a tensor too


class Backend:
    """Scans and softplus by the kernels of two modules, with the functions of `kernels.reference`.

    Shapes are those of a scan along k directions: u (b, l, d) for all, or (b, l, k, d); delta
    (b, l, k, d); A (k d, n); B, C (b, l, k, n); D, delta_bias (k d); order int32 (k, s), or None
    for all tokens in turn. A scan with groups is one whose directions all walk the same way.

    Args:
        name: ending of the operators' names.
        scan: has
            `forward(u, delta, A, B, C, D, delta_bias, order, delta_softplus, merge, save)`, which
            returns y (b, l, d) or, without `merge`, (b, l, k, d), the last state (b, k, d, n) and
            the SAVED tensors that `backward` wants, empty without `save`;
            `backward(dy, dlast, (the first ten of forward), needs, *saved)`, which returns the
            gradients of u, delta, A, B, C, D, delta_bias, each an empty (0) where `needs` is false;
            `forward_like` and `backward_like`, the same without contents;
            `readable(x, order)`, which gives u or delta in a layout the kernels read.
        softplus: has `forward(x, bias)`, `forward_like`, and `backward(dy, x, bias, y)`, which
            returns the gradient of x; x is (b, d, l), bias (d).
        device: what the kernels work on; any device when None.
    """

    def __init__(
        self, name: str, scan: ModuleType, softplus: ModuleType, device: str | None = None
    ) -> None:
        self._readable = scan.readable
        saved = "".join(f", Tensor saved{i}" for i in range(scan.SAVED))
        results = ", ".join(["Tensor"] * (2 + scan.SAVED))
        self._scan = Operation(
            f"selective_scan_{name}",
            f"({_INPUTS}, bool save) -> ({results})",
            scan.forward,
            scan.forward_like,
            _scan_setup,
            self._scan_gradient,
            _scan_flops,
            device,
        )
        self._scan_backward = Operation(
            f"selective_scan_{name}_backward",
            f"(Tensor dy, Tensor? dlast, {_INPUTS}, bool[] needs{saved}) -> "
            f"({', '.join(['Tensor'] * _DIFFERENTIABLE)})",
            scan.backward,
            scan.backward_like,
            _scan_backward_setup,
            _scan_backward_gradient,
            _scan_backward_flops,
            device,
        )
        self._softplus = Operation(
            f"softplus_{name}",
            "(Tensor x, Tensor? bias) -> Tensor",
            softplus.forward,
            softplus.forward_like,
            _softplus_setup,
            self._softplus_gradient,
            device=device,
        )
        self._softplus_backward = Operation(
            f"softplus_{name}_backward",
            "(Tensor dy, Tensor x, Tensor? bias, Tensor y) -> Tensor",
            softplus.backward,
            lambda dy, x, bias, y: softplus.forward_like(x, bias),
            _softplus_backward_setup,
            _softplus_backward_gradient,
            device=device,
        )

    def selective_scan(
        self,
        u: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None = None,
        delta_bias: Tensor | None = None,
        delta_softplus: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """As `kernels.reference.selective_scan`: y (b, d, l) and the last state (b, d, n)."""
        groups = B.shape[1]
        u, delta = (x.unflatten(1, (groups, -1)).permute(0, 3, 1, 2) for x in (u, delta))
        B, C = (x.permute(0, 3, 1, 2) for x in (B, C))
        y, last = self._run(u, delta, A, B, C, D, delta_bias, None, delta_softplus, False)
        return y.permute(0, 2, 3, 1).flatten(1, 2), last.flatten(1, 2)

    def cross_selective_scan(
        self,
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
        """As `kernels.reference.cross_selective_scan`: y (b, l, d), or (b, l, k, d)."""
        order = order.contiguous()
        return self._run(u, delta, A, B, C, D, delta_bias, order, delta_softplus, merge)[0]

    def softplus(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """As `kernels.reference.softplus`: log(1 + exp(x + bias[:, None])), x (b, d, l)."""
        return self._softplus(x, bias)

    def _run(
        self, u, delta, A, B, C, D, delta_bias, order, delta_softplus, merge
    ) -> tuple[Tensor, Tensor]:
        tensors = (u, delta, A, B, C, D, delta_bias)
        wanted = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)
        save = wanted or torch.jit.is_tracing()  # a traced graph may be used for gradients later
        # Copies are made here and not by the kernels, so that the backward pass shares them.
        u, delta = self._readable(u, order), self._readable(delta, order)
        A, D, delta_bias = (x if x is None else x.float().contiguous() for x in (A, D, delta_bias))
        y, last, *_ = self._scan(
            u, delta, A, B, C, D, delta_bias, order, delta_softplus, merge, save
        )
        return y, last

    def _scan_gradient(self, ctx, dy, dlast, *_):
        if not ctx.save:
            raise RuntimeError("the scan ran without saving what its backward pass needs")
        tensors = ctx.saved_tensors  # read once: checkpointing unpacks each only once
        inputs, saved = tensors[:_TENSORS], tensors[_TENSORS:]
        if dy is None:
            u, delta = inputs[:2]
            dy = u.new_zeros(delta[:, :, 0].shape if ctx.merge else delta.shape)
        needs = list(ctx.needs_input_grad[:_DIFFERENTIABLE])
        gradients = self._scan_backward(
            dy, dlast, *inputs, ctx.delta_softplus, ctx.merge, needs, *saved
        )
        chosen = (x if need else None for x, need in zip(gradients, needs, strict=True))
        return *chosen, None, None, None, None

    def _softplus_gradient(self, ctx, dy):
        x, bias, y = ctx.saved_tensors
        dx = self._softplus_backward(dy, x, bias, y)
        return dx, dx.sum((0, 2)) if ctx.needs_input_grad[1] else None


def _scan_setup(ctx, inputs, output) -> None:
    *tensors, ctx.delta_softplus, ctx.merge, ctx.save = inputs
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*output[2:])
    ctx.save_for_backward(*tensors, *output[2:])


def _scan_flops(u, delta, A, B, C, D=None, delta_bias=None, order=None, *args, **kwargs) -> int:
    return flops.forward(delta, A, D, order)


def _scan_backward_setup(ctx, inputs, output) -> None:
    tensors, (ctx.delta_softplus, ctx.merge) = inputs[: 2 + _TENSORS], inputs[2 + _TENSORS :][:2]
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors)
    ctx.inputs = len(inputs)


def _scan_backward_gradient(ctx, *weights):
    """The gradient of sum(weights gradients), by differentiating the definition twice."""
    again = torch.is_grad_enabled()
    *tensors, order = ctx.saved_tensors
    with torch.enable_grad():
        # Names of their own, so that a derivative by u does not go on to what u was made of.
        tensors = [x if x is None else x.view_as(x) for x in tensors]
        dy, dlast, *inputs = tensors
        y, last = _definition(*inputs, order, ctx.delta_softplus, ctx.merge)
        outputs, their = ((y,), (dy,)) if dlast is None else ((y, last), (dy, dlast))
        wanted, given = zip(
            *((x, w) for x, w in zip(inputs, weights, strict=True) if w is not None), strict=True
        )
        gradients = torch.autograd.grad(outputs, wanted, their, create_graph=True)
        leaves = [x for x in tensors if x is not None and x.requires_grad]
        found = iter(
            torch.autograd.grad(gradients, leaves, given, create_graph=again, allow_unused=True)
        )
    seconds = [next(found) if x is not None and x.requires_grad else None for x in tensors]
    return *seconds, *[None] * (ctx.inputs - len(seconds))


def _definition(
    u, delta, A, B, C, D, delta_bias, order, delta_softplus, merge
) -> tuple[Tensor, Tensor]:
    """The results of an operation by the loop over time, differentiable any number of times."""
    if order is None:
        order = torch.arange(delta.shape[1], device=delta.device).expand(delta.shape[2], -1)
    inputs = (x if x is None else x.float() for x in (u, delta, A, B, C, D, delta_bias))
    y, last = reference.scan_along_paths(*inputs, delta_softplus, order, merge)
    return y.to(u.dtype), last.unflatten(1, (delta.shape[2], -1))


def _scan_backward_flops(
    dy, dlast, u, delta, A, B, C, D=None, delta_bias=None, order=None, *args, **kwargs
) -> int:
    return flops.backward(delta, A, D, order)


def _softplus_setup(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs, output)


def _softplus_backward_setup(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _softplus_backward_gradient(ctx, ddx):
    dy, _, _, y = ctx.saved_tensors
    # dx = dy (1 - exp(-y)), where y leads on to x and bias.
    return ddx * -torch.expm1(-y), None, None, ddx * dy * torch.exp(-y)
