"""A small VMamba that calls the compiled scan from an autograd function."""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from fvcore.nn import FlopCountAnalysis, flop_count, flop_count_str, parameter_count  # noqa: F401
from timm.layers import DropPath, Mlp
from timm.models import register_model

DropPath.__repr__ = lambda self: f"timm.DropPath({self.drop_prob})"

try:
    import selective_scan_cuda_oflex
except ImportError:
    selective_scan_cuda_oflex = None
try:
    import selective_scan_cuda_core
except ImportError:
    selective_scan_cuda_core = None


class SelectiveScanCore(torch.autograd.Function):
    @staticmethod
    @torch.amp.custom_fwd(device_type="cuda")
    def forward(ctx, u, delta, A, B, C, D, delta_bias, delta_softplus=False, nrows=1):
        ctx.delta_softplus = delta_softplus
        out, x = selective_scan_cuda_core.fwd(
            u, delta, A, B, C, D, delta_bias, delta_softplus, nrows
        )
        ctx.save_for_backward(u, delta, A, B, C, D, delta_bias, x)
        return out

    @staticmethod
    @torch.amp.custom_bwd(device_type="cuda")
    def backward(ctx, dout):
        u, delta, A, B, C, D, delta_bias, x = ctx.saved_tensors
        gradients = selective_scan_cuda_core.bwd(
            u, delta, A, B, C, D, delta_bias, dout.contiguous(), x, ctx.delta_softplus, 1
        )
        return (*gradients, None, None)


class SS2D(nn.Module):
    def __init__(self, dim, d_state):
        super().__init__()
        self.rank, self.d_state = math.ceil(dim / 16), d_state
        self.in_proj = nn.Linear(dim, dim, bias=False)
        self.conv2d = nn.Conv2d(dim, dim, 3, padding=1, groups=dim, bias=False)
        self.x_proj_weight = nn.Parameter(0.2 * torch.randn(4, self.rank + 2 * d_state, dim))
        self.dt_projs_weight = nn.Parameter(torch.randn(4, dim, self.rank))
        self.dt_projs_bias = nn.Parameter(torch.randn(4, dim) - 2)
        self.A_logs = nn.Parameter(torch.rand(4 * dim, d_state))
        self.Ds = nn.Parameter(torch.ones(4 * dim))
        self.out_norm = nn.LayerNorm(dim)
        self.out_proj = nn.Linear(dim, dim, bias=False)

    def forward(self, x):
        x = self.in_proj(x).permute(0, 3, 1, 2)
        x = F.silu(self.conv2d(x))
        b, d, h, w = x.shape
        along = torch.stack([x.flatten(2), x.transpose(2, 3).flatten(2)], dim=1)
        xs = torch.cat([along, along.flip(-1)], dim=1)  # (b, 4, d, l)
        projected = torch.einsum("bkdl,kcd->bkcl", xs, self.x_proj_weight)
        dts, Bs, Cs = projected.split([self.rank, self.d_state, self.d_state], dim=2)
        dts = torch.einsum("bkrl,kdr->bkdl", dts, self.dt_projs_weight)
        with torch.cuda.device(x.device):
            ys = SelectiveScanCore.apply(
                xs.flatten(1, 2),
                dts.flatten(1, 2),
                -self.A_logs.exp(),
                Bs.contiguous(),
                Cs.contiguous(),
                self.Ds,
                self.dt_projs_bias.flatten(),
                True,
            )
        assert ys.dtype == torch.float32
        ys = ys.view(b, 4, d, -1)
        ys = ys[:, :2] + ys[:, 2:].flip(-1)
        y = ys[:, 0].view(b, d, h, w) + ys[:, 1].view(b, d, w, h).transpose(2, 3)
        return self.out_proj(self.out_norm(y.permute(0, 2, 3, 1)))


class VSSBlock(nn.Module):
    def __init__(self, dim, d_state):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.op = SS2D(dim, d_state)
        self.drop_path = DropPath(0.0)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, 2 * dim)

    def forward(self, x):
        x = x + self.drop_path(self.op(self.norm(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class Permute(nn.Module):
    def __init__(self, *dims):
        super().__init__()
        self.dims = dims

    def forward(self, x):
        return x.permute(self.dims)


class VSSM(nn.Module):
    def __init__(self, dims=(16, 32), d_state=2, num_classes=10):
        super().__init__()
        self.patch_embed = nn.Sequential(
            nn.Conv2d(3, dims[0], 4, 4), Permute(0, 2, 3, 1), nn.LayerNorm(dims[0])
        )
        self.layers = nn.ModuleList()
        for i, dim in enumerate(dims):
            down = nn.Identity()
            if i < len(dims) - 1:
                down = nn.Sequential(
                    Permute(0, 3, 1, 2),
                    nn.Conv2d(dim, dims[i + 1], 2, 2),
                    Permute(0, 2, 3, 1),
                    nn.LayerNorm(dims[i + 1]),
                )
            layer = nn.Sequential()
            layer.add_module("blocks", nn.Sequential(VSSBlock(dim, d_state)))
            layer.add_module("downsample", down)
            self.layers.append(layer)
        self.classifier = nn.Sequential()
        self.classifier.add_module("norm", nn.LayerNorm(dims[-1]))
        self.classifier.add_module("permute", Permute(0, 3, 1, 2))
        self.classifier.add_module("avgpool", nn.AdaptiveAvgPool2d(1))
        self.classifier.add_module("flatten", nn.Flatten(1))
        self.classifier.add_module("head", nn.Linear(dims[-1], num_classes))

    def forward(self, x):
        x = self.patch_embed(x)
        for layer in self.layers:
            x = layer(x)
        return self.classifier(x)


@register_model
def a_vmamba_of_the_tests(**kwargs):
    return VSSM()
