"""Stand-ins for mamba_ssm's norms, in the three spellings of their module: `layernorm`,
`layer_norm` and `layernorm_gated`."""

import torch
import torch.nn.functional as F
from torch import nn


def layer_norm_fn(
    x, weight, bias=None, residual=None, eps=1e-6, prenorm=False, residual_in_fp32=False,
    is_rms_norm=False, **_,
):  # fmt: skip
    """norm(x + residual), and with `prenorm` also that sum, the next residual."""
    dtype, total = x.dtype, x if residual is None else x + residual
    if residual is not None:
        total = total.to(residual.dtype)
    elif residual_in_fp32:
        total = total.float()
    y = total.to(torch.promote_types(total.dtype, torch.float32))
    if is_rms_norm:
        y = F.rms_norm(y, y.shape[-1:], weight.to(y.dtype), eps)
        y = y if bias is None else y + bias
    else:
        bias = None if bias is None else bias.to(y.dtype)
        y = F.layer_norm(y, y.shape[-1:], weight.to(y.dtype), bias, eps)
    y = y.to(dtype)
    return (y, total) if prenorm else y


def rms_norm_fn(
    x, weight, bias=None, residual=None, prenorm=False, residual_in_fp32=False, eps=1e-6, **_
):
    """The same by root mean square."""
    return layer_norm_fn(x, weight, bias, residual, eps, prenorm, residual_in_fp32, True)


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last axis."""

    def __init__(self, hidden_size, eps=1e-5, device=None, dtype=None, **_) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(hidden_size, device=device, dtype=dtype))
        self.register_parameter("bias", None)

    def forward(self, x, residual=None, prenorm=False, residual_in_fp32=False):
        return rms_norm_fn(x, self.weight, None, residual, prenorm, residual_in_fp32, self.eps)


def gated_rms_norm(x, weight, z=None, groups=1, eps=1e-6, norm_before_gate=True):
    """x / rms(x) * weight over each of `groups` parts of the last axis, times SiLU(z) after or
    before the norm."""
    if z is not None and not norm_before_gate:
        x = x * F.silu(z)
    y = x.unflatten(-1, (groups, -1))
    y = rms_norm_fn(y, torch.ones_like(weight[: y.shape[-1]]), eps=eps).flatten(-2) * weight
    return y * F.silu(z) if z is not None and norm_before_gate else y


class GatedRMSNorm(RMSNorm):
    """The same as a module, over groups of `group_size` neighbouring channels."""

    def __init__(self, hidden_size, eps=1e-5, group_size=None, norm_before_gate=True, **kwargs):
        super().__init__(hidden_size, eps, **kwargs)
        self.groups = hidden_size // (group_size or hidden_size)
        self.norm_before_gate = norm_before_gate

    def forward(self, x, z=None):
        return gated_rms_norm(x, self.weight, z, self.groups, self.eps, self.norm_before_gate)
