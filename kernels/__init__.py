"""The one selective scan of the workbench, along sequences and along paths over an image.

`selective_scan` is the scan of mamba_ssm; `cross_selective_scan` runs it in several directions over
tokens that stay where they are; `softplus` makes the step size.
"""

import functools
import importlib
import warnings

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from workbench.kernels import reference
from workbench.kernels.checks import check, check_cross, check_softplus

__all__ = ["available_backends", "cross_selective_scan", "selective_scan", "softplus"]


def _import(name: str):
    """Return the backend of a folder, or None where what it is built on does not import."""
    try:
        return importlib.import_module(f"workbench.kernels.{name}").backend
    except ImportError:
        return None


def _import_triton():
    """Return the GPU backend where there is a GPU; say so where it could be used but for Triton."""
    if not torch.cuda.is_available():
        return None
    try:
        return importlib.import_module("workbench.kernels.gpu").backend
    except ImportError as error:
        warnings.warn(
            f"scans on the GPU take the reference, many times slower: {error}",
            RuntimeWarning,
            stacklevel=2,
        )
        return None


_cpu = _import("cpu")
_triton = _import_triton()


def available_backends() -> tuple[str, ...]:
    """The backends that work here: "reference", "cpu" (with numba), "triton" (with a GPU)."""
    found = ["reference"]
    if _cpu:
        found.append("cpu")
    if _triton:
        found.append("triton")
    return tuple(found)


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    *,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """The selective scan S6 (Gu & Dao 2023, arXiv 2312.00752, eq. 2 and algorithm 2).

        h_t = exp(delta_t A) h_(t-1) + delta_t B_t u_t,    h_0 = 0
        y_t = C_t . h_t + D u_t

    Names, shapes and meaning are those of mamba_ssm's `selective_scan_fn`. Inputs may be strided
    in any way and of any floating dtype; the state is float32, or float64 when an input is.

    Args:
        u: input, (b, d, l) with l >= 1.
        delta: step size, (b, d, l); usually positive, but nothing here needs that.
        A: real state matrix, (d, n); usually negative, so that the state decays.
        B, C: input and output projections, (b, n, l), or (b, g, n, l) for g groups of d / g
            neighbouring channels: channel r reads group r // (d / g).
        D: skip connection, (d).
        z: gate, (b, d, l): y becomes y * silu(z).
        delta_bias: (d), added to delta.
        delta_softplus: whether delta + delta_bias passes softplus first.
        return_last_state: also return the state after the last step.
        backend: "reference" (the definition in plain PyTorch: any device and dtype, forward mode,
            torch.func), "cpu" (float32 vector kernels), "triton" (GPU kernels) or "auto": the fast
            one where it can. All are differentiable any number of times, the fast ones by the
            definition from the second time on.

    Returns:
        y (b, d, l) in the dtype of u; with return_last_state also h_l, (b, d, n).

    Raises:
        ValueError: when a shape, dtype or device does not fit, or the backend cannot run.
    """
    check(u, delta, A, B, C, D, z, delta_bias)
    tensors = [x for x in (u, delta, A, B, C, D, delta_bias) if x is not None]
    dtype = functools.reduce(torch.promote_types, {x.dtype for x in tensors}, torch.float32)
    module = _backend_of(backend, u.device, dtype, _beyond_kernels(tensors))
    if B.ndim == 3:
        B = B.unsqueeze(1)
    if C.ndim == 3:
        C = C.unsqueeze(1)

    given = _cast(module, dtype, u, delta, A, B, C, D, delta_bias)
    y, last_state = module.selective_scan(*given, delta_softplus)
    if z is not None:
        y = y * F.silu(z.to(dtype))
    y = y.to(u.dtype)
    return (y, last_state) if return_last_state else y


def cross_selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    paths: Tensor,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    merge: bool = True,
    backend: str = "auto",
) -> Tensor:
    """Selective scans along k paths over the same tokens, their outputs summed in place.

    The cross scan and merge of VMamba (Liu et al. 2024, arXiv 2401.10166, section 4.2) without its
    copies: all tensors stay in token order, channels last, and each direction reads and writes them
    along its own path. The result equals permuting, scanning, permuting back and adding
    ((y_0 + y_1) + y_2) + ...; with backend="cpu" in every bit.

    Args:
        u: input, (b, l, d) for all directions or (b, l, k, d) with one for each.
        delta: step size at each token, (b, l, k, d).
        A: real state matrix, (k d, n), direction by direction.
        B, C: input and output projections, (b, l, k, n).
        D: skip connection, (k d).
        paths: integers (k, s): direction i visits token `paths[i, t]`, from 0 to l - 1, at step t,
            and no token twice. A row may end in -1, no token. `workbench.paths` makes them.
        delta_bias: (k d), added to delta.
        delta_softplus: whether delta + delta_bias passes softplus first.
        merge: whether to sum over the directions.
        backend: as for `selective_scan`.

    Returns:
        y in the dtype of u, (b, l, d), or (b, l, k, d) without `merge`. Zero at tokens that a
        direction does not visit.

    Raises:
        ValueError: when a shape, dtype or device does not fit, or the backend cannot run.
        IndexError: when a path leaves the tokens (backend="cpu").
    """
    check_cross(u, delta, A, B, C, D, delta_bias, paths)
    tensors = [x for x in (u, delta, A, B, C, D, delta_bias) if x is not None]
    dtype = functools.reduce(torch.promote_types, {x.dtype for x in tensors}, torch.float32)
    module = _backend_of(backend, u.device, dtype, _beyond_kernels(tensors))
    given = _cast(module, dtype, u, delta, A, B, C, D, delta_bias)
    order = paths if paths.dtype is torch.int32 else paths.to(torch.int32)
    return module.cross_selective_scan(*given, delta_softplus, order, merge).to(u.dtype)


def _cast(module, dtype: torch.dtype, *tensors: Tensor | None) -> list[Tensor | None]:
    """The tensors as a backend takes them: Triton's kernels widen what they read by themselves."""
    if module is _triton:
        return list(tensors)
    return [x if x is None else x.to(dtype) for x in tensors]


def softplus(x: Tensor, bias: Tensor | None = None, *, backend: str = "auto") -> Tensor:
    """log(1 + exp(x + bias[:, None])): the step size of a scan from its raw projection.

    Exact for any |x|: it neither overflows nor switches to x above a threshold. The vector kernel
    runs for float32 on the CPU, plain PyTorch otherwise; both are differentiable any number of
    times.

    Args:
        x: (b, d, l), any floating dtype, which the result keeps.
        bias: (d).
        backend: as for `selective_scan`.

    Returns:
        (b, d, l), positive (zero where exp(x + bias) underflows).

    Raises:
        ValueError: when a shape or dtype does not fit.
    """
    check_softplus(x, bias)
    tensors = [x] if bias is None else [x, bias]
    module = _backend_of(backend, x.device, x.dtype, _beyond_kernels(tensors))
    return module.softplus(x, bias if bias is None else bias.to(x.dtype))


def _beyond_kernels(tensors: list[Tensor]) -> str | None:
    """What is asked for that no fast kernel does, if anything is."""
    if torch._C._are_functorch_transforms_active():
        return "torch.func (vmap, grad, jvp and the like)"
    if forward_ad._current_level >= 0 and any(
        forward_ad.unpack_dual(x).tangent is not None for x in tensors
    ):
        return "forward-mode differentiation"
    return None


def _backend_of(backend: str, device: torch.device, dtype: torch.dtype, beyond: str | None = None):
    """Return what is behind a backend name, or say why there is nothing.

    Args:
        dtype: what all inputs together make.
        beyond: what is asked for that only the definition does.
    """
    on_cpu = device.type in ("cpu", "meta")
    if backend == "auto":
        if dtype == torch.float32 and beyond is None:
            if on_cpu and _cpu:
                return _cpu
            if device.type == "cuda" and _triton:
                return _triton
        return reference
    if backend == "reference":
        return reference
    if backend == "cpu":
        if not on_cpu:
            raise ValueError(f'backend="cpu" needs tensors on the CPU, but u is on {device}')
        if _cpu is None:
            raise ValueError('backend="cpu" needs numba (pip install numba)')
        found = _cpu
    elif backend == "triton":
        if device.type != "cuda":
            raise ValueError(f'backend="triton" needs tensors on a GPU, but u is on {device}')
        if _triton is None:
            raise ValueError('backend="triton" needs Triton (pip install triton)')
        found = _triton
    else:
        raise ValueError(f'backend must be "auto", "reference", "cpu" or "triton", not {backend!r}')
    if dtype != torch.float32:
        raise ValueError(
            f'backend="{backend}" keeps its state in float32, but the inputs make {dtype}; '
            'backend="reference" takes it'
        )
    if beyond is not None:
        raise ValueError(
            f'backend="{backend}" does not support {beyond}; backend="reference" does, and '
            'backend="auto" takes that by itself'
        )
    return found
