"""A fork's block, which scans in both directions."""

import math

import torch
from torch import nn

from mamba_ssm.ops.selective_scan_interface import mamba_inner_fn_no_out_proj

try:
    from mamba_ssm.ops.triton.layernorm import RMSNorm, layer_norm_fn, rms_norm_fn
except ImportError:
    RMSNorm, layer_norm_fn, rms_norm_fn = None, None, None


class Mamba(nn.Module):
    def __init__(self, d_model, d_state=4, d_conv=4, expand=2, bimamba_type="v2"):
        super().__init__()
        assert bimamba_type == "v2"
        inner, rank = expand * d_model, math.ceil(d_model / 16)
        self.in_proj = nn.Linear(d_model, 2 * inner, bias=False)
        for suffix in ("", "_b"):
            conv = nn.Conv1d(inner, inner, d_conv, groups=inner, padding=d_conv - 1)
            self.add_module(f"conv1d{suffix}", conv)
            self.add_module(f"x_proj{suffix}", nn.Linear(inner, rank + 2 * d_state, bias=False))
            self.add_module(f"dt_proj{suffix}", nn.Linear(rank, inner))
            self.register_parameter(f"A{suffix}_log", nn.Parameter(torch.rand(inner, d_state)))
            self.register_parameter(f"D{suffix}", nn.Parameter(torch.ones(inner)))
        self.out_proj = nn.Linear(inner, d_model, bias=False)

    def forward(self, hidden_states, inference_params=None):
        xz = self.in_proj(hidden_states).transpose(1, 2)
        forth = mamba_inner_fn_no_out_proj(
            xz, self.conv1d.weight, self.conv1d.bias, self.x_proj.weight, self.dt_proj.weight,
            -torch.exp(self.A_log.float()), self.D.float(), self.dt_proj.bias.float(),
        )  # fmt: skip
        back = mamba_inner_fn_no_out_proj(
            xz.flip([-1]), self.conv1d_b.weight, self.conv1d_b.bias, self.x_proj_b.weight,
            self.dt_proj_b.weight, -torch.exp(self.A_b_log.float()), self.D_b.float(),
            self.dt_proj_b.bias.float(),
        )  # fmt: skip
        return self.out_proj((forth + back.flip([-1])).transpose(1, 2) / 2)
