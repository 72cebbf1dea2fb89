"""The definition in the place of kernels that do not run here: slower, and just as right."""

import functools
import warnings

import torch
from torch import Tensor

from workbench.kernels import reference

__all__ = ["backward", "forward", "warn"]


def warn(problem: Exception) -> None:
    """Say once for each reason that, and why, the kernels are not used."""
    _warn_once(str(problem))


@functools.cache
def _warn_once(reason: str) -> None:
    warnings.warn(
        f"the GPU scan cannot run here ({reason}); the reference scan takes its place, which is "
        "many times slower",
        RuntimeWarning,
        stacklevel=2,
    )


def _definition(u, delta, A, B, C, D, delta_bias, order, delta_softplus, merge):
    """y and the last state (b, k, d, n) in float32."""
    if order is None:
        order = torch.arange(delta.shape[1], device=delta.device).expand(delta.shape[2], -1)
    inputs = (x if x is None else x.float() for x in (u, delta, A, B, C, D, delta_bias))
    y, last = reference.scan_along_paths(*inputs, delta_softplus, order, merge)
    return y, last.unflatten(1, (delta.shape[2], -1))


def forward(outputs, *given) -> tuple[Tensor, Tensor, Tensor]:
    """Fill the outputs of `kernels.gpu.scan.forward` for what it is given.

    Gradients start from the inputs again, so that nothing is saved; NaN in its place would tell.
    """
    y, last, states = outputs
    with torch.no_grad():
        exact, end = _definition(*given)
    return y.copy_(exact), last.copy_(end), states.fill_(torch.nan)


def backward(dy, dlast, given, order, delta_softplus, merge, needs) -> tuple[Tensor, ...]:
    """As `kernels.gpu.scan.backward`."""
    with torch.enable_grad():
        leaves = [x if x is None else x.detach().requires_grad_() for x in given]
        y, last = _definition(*leaves, order, delta_softplus, merge)
        outputs, theirs = ((y,), (dy.float(),)) if dlast is None else (
            (y, last), (dy.float(), dlast)
        )  # fmt: skip
        wanted = [x for x, need in zip(leaves, needs, strict=True) if need]
        found = iter(torch.autograd.grad(outputs, wanted, theirs, materialize_grads=True))
    return tuple(next(found).contiguous() if need else dy.new_empty(0) for need in needs)
