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


class GatedRMSNorm(RMSNorm):
    """The same with a gate z: times SiLU(z), after the norm or before it; over groups of
    `group_size` neighbouring channels."""

    def __init__(self, hidden_size, eps=1e-5, group_size=None, norm_before_gate=True, **kwargs):
        super().__init__(hidden_size, eps, **kwargs)
        self.groups = (-1, group_size or hidden_size)
        self.norm_before_gate = norm_before_gate

    def forward(self, x, z=None):
        gate = None if z is None else F.silu(z)
        if gate is not None and not self.norm_before_gate:
            x = x * gate
        weight = self.weight.unflatten(0, self.groups)
        y = rms_norm_fn(x.unflatten(-1, self.groups), torch.ones_like(weight[0]), eps=self.eps)
        y = (y * weight).flatten(-2)
        return y * gate if gate is not None and self.norm_before_gate else y
