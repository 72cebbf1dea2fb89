"""Stand-ins for compiled modules: `selective_scan_cuda`, `_core`, `_oflex`, `causal_conv1d_cuda`.

Arguments by position, as their callers give them. A gradient buffer that is handed in is written
into: callers return the larger tensor that it is a view of.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels import selective_scan
from workbench.external.sites import scan


def _with_state(name: str, *tensors: Any) -> tuple[Tensor, Tensor]:
    """y, and the x of the compiled modules (b, d, chunks, 2 n) with h_l in its last odd places."""
    y, state = scan(name, *tensors, return_last_state=True)
    return y, torch.stack([torch.zeros_like(state), state], dim=-1).flatten(-2).unsqueeze(2)


def scan_fwd(u, delta, A, B, C, D, z, delta_bias, delta_softplus):
    """`selective_scan_cuda.fwd`: out, x, and with z the gated out_z."""
    out, x = _with_state("selective_scan_cuda.fwd", u, delta, A, B, C, D, None, delta_bias,
                         delta_softplus)  # fmt: skip
    return (out, x) if z is None else (out, x, (out * F.silu(z)).to(out.dtype))


def scan_bwd(
    u, delta, A, B, C, D, z, delta_bias, dout, x, out, dz, delta_softplus, recompute_out_z
):
    """`selective_scan_cuda.bwd`: du, ddelta, dA, dB, dC, dD, ddelta_bias, with z dz and out_z."""
    given = (u, delta, A, B, C, D, z, delta_bias)
    *found, out_z = _gradients(partial(selective_scan, delta_softplus=delta_softplus), given, dout)
    du, ddelta, dA, dB, dC, dD, dz_found, ddelta_bias = found
    gradients = (du, ddelta, dA, dB, dC, dD, ddelta_bias)
    if z is None:
        return gradients
    dz = dz_found if dz is None else dz.copy_(dz_found)
    return (*gradients, dz, out_z) if recompute_out_z else (*gradients, dz)


def core_fwd(u, delta, A, B, C, D, delta_bias, delta_softplus, nrows=1):
    """`selective_scan_cuda_core.fwd`: out, x."""
    return _with_state("selective_scan_cuda_core.fwd", u, delta, A, B, C, D, None, delta_bias,
                       delta_softplus)  # fmt: skip


def oflex_fwd(u, delta, A, B, C, D, delta_bias, delta_softplus, nrows=1, out_float=True):
    """`selective_scan_cuda_oflex.fwd`: out, in float32 when asked for, and x."""
    out, x = _with_state("selective_scan_cuda_oflex.fwd", u.float() if out_float else u, delta, A,
                         B, C, D, None, delta_bias, delta_softplus)  # fmt: skip
    return out, x


def core_bwd(u, delta, A, B, C, D, delta_bias, dout, x, delta_softplus, nrows=1):
    """`selective_scan_cuda_core.bwd` and `_oflex.bwd`: as `scan_bwd` without z."""
    return scan_bwd(u, delta, A, B, C, D, None, delta_bias, dout, x, None, None, delta_softplus,
                    False)  # fmt: skip


def states_fwd(u, delta, A, B, D, delta_bias, delta_softplus, nrows=1, out_float=True):
    """`selective_scan_cuda_oflex_rh.fwd` of Spatial-Mamba: the states themselves (b, d, n, l), and
    x; there is no C, and D has no effect."""
    run = partial(_with_state, "selective_scan_cuda_oflex_rh.fwd")
    given = (u.float() if out_float else u, delta, A, B, delta_bias, delta_softplus)
    outs, xs = zip(*_states(run, *given), strict=True)
    return torch.stack(outs, dim=2), torch.cat(xs, dim=-1)


def states_bwd(u, delta, A, B, D, delta_bias, dout, x, delta_softplus, nrows=1):
    """`selective_scan_cuda_oflex_rh.bwd`: du, ddelta, dA, dB, dD, ddelta_bias."""

    def states(*given: Tensor | None) -> Tensor:
        return torch.stack(list(_states(selective_scan, *given, delta_softplus)), dim=2)

    *found, ddelta_bias, _ = _gradients(states, (u, delta, A, B, delta_bias), dout)
    return (*found, None if D is None else torch.zeros_like(D), ddelta_bias)


def _states(run, u, delta, A, B, delta_bias, delta_softplus) -> Iterator[Any]:
    """Each state, as the output of a scan whose C is one."""
    B = B.unsqueeze(1) if B.ndim == 3 else B
    for s in range(A.shape[1]):
        B_s = B[:, :, [s]]
        yield run(u, delta, A[:, [s]], B_s, torch.ones_like(B_s), None, None, delta_bias,
                  delta_softplus)  # fmt: skip


def _gradients(
    function: Callable[..., Any], given: Sequence[Tensor | None], dout: Tensor
) -> list[Tensor | None]:
    """The gradient to every given tensor (None where none was given), then the output."""
    with torch.enable_grad():
        leaves = [None if t is None else t.detach().requires_grad_() for t in given]
        y = function(*leaves)
        there = [leaf for leaf in leaves if leaf is not None]
        found = iter(torch.autograd.grad(y, there, dout.to(y.dtype)))
    return [*(None if leaf is None else next(found) for leaf in leaves), y.detach()]


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool) -> Tensor:
    """Causal depthwise convolution: x (b, d, l), weight (d, k), bias (d) -> (b, d, l)."""
    dim, width = weight.shape
    weight = weight.to(x.dtype).unsqueeze(1)
    bias = None if bias is None else bias.to(x.dtype)
    y = F.conv1d(x, weight, bias, padding=width - 1, groups=dim)[..., : x.shape[-1]]
    return F.silu(y) if silu else y


def conv_fwd(x, weight, bias, *rest):
    """`causal_conv1d_cuda.causal_conv1d_fwd` in its positional forms, which end in the flag for
    SiLU; state and sequence index, where a form has them, must be None."""
    return convolve(x, weight, bias, _flag(rest))


def conv_bwd(x, weight, bias, dout, *rest):
    """`causal_conv1d_cuda.causal_conv1d_bwd`: dx, dweight, dbias; a dx among `rest` is written
    into. The form with initial states also returns their gradient, None."""
    with torch.enable_grad():
        leaves = [t.detach().requires_grad_() for t in (x, weight, bias) if t is not None]
        y = convolve(*leaves, *([None] if bias is None else []), _flag(rest))
    dx, dweight, *dbias = torch.autograd.grad(y, leaves, dout)
    for buffer in rest:
        if isinstance(buffer, Tensor):
            dx = buffer.copy_(dx)
    with_states = len(rest) >= 6
    return (dx, dweight, dbias[0] if dbias else None, *([None] if with_states else []))


def depthwise(x, weight, *rest):
    """`dwconv2d.dwconv2d_fp32`, and with a bias after the weight `dwconv2dbias_fp32`; also the
    gradient to x, which is given the flipped weight."""
    *bias, height, width = rest
    bias = bias[0] if bias else None
    return F.conv2d(x, weight, bias, padding=(height, width), groups=x.shape[1])


def depthwise_wgrad(x, dout, height, width):
    """`dwconv2d.dwconv2d_fp32_wgrad`, of an odd kernel that keeps the size."""
    shape = (x.shape[1], 1, 2 * height + 1, 2 * width + 1)
    return torch.nn.grad.conv2d_weight(x, shape, dout, padding=(height, width), groups=x.shape[1])


def depthwise_bgrad(dout):
    """`dwconv2d.dwconv2d_fp32_bgrad`."""
    return dout.sum((0, 2, 3))


def _flag(rest: Sequence[Any]) -> bool:
    return next((value for value in reversed(rest) if isinstance(value, bool)), False)


def conv1d_fn(
    x, weight, bias=None, seq_idx=None, initial_states=None, return_final_states=False,
    final_states_out=None, activation=None,
):  # fmt: skip
    """`causal_conv1d.causal_conv1d_fn`; `seq_idx` may be the activation, as in its first release.

    Raises:
        ValueError: for states or packed sequences, which models of images do not use.
    """
    if isinstance(seq_idx, str):
        seq_idx, activation = None, seq_idx
    if seq_idx is not None or initial_states is not None or return_final_states:
        raise ValueError(
            "the stand-in for causal_conv1d_fn has no states and no packed sequences; call it "
            "without them"
        )
    return convolve(x, weight, bias, activation in ("silu", "swish"))
