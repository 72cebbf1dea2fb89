"""A small Vim on the fork beside it."""

import torch
from mamba_ssm.modules.mamba_simple import Mamba
from mamba_ssm.utils.generation import GenerationMixin  # noqa: F401
from mamba_ssm.utils.hf import load_config_hf, load_state_dict_hf  # noqa: F401
from torch import nn

try:
    from mamba_ssm.ops.triton.layernorm import RMSNorm, layer_norm_fn, rms_norm_fn
except ImportError:
    RMSNorm, layer_norm_fn, rms_norm_fn = None, None, None


class PatchEmbed(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.proj = nn.Conv2d(3, dim, 16, 16)

    def forward(self, x):
        return self.proj(x).flatten(2).transpose(1, 2)


class Block(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.mixer = Mamba(dim)
        self.norm = RMSNorm(dim, eps=1e-5)

    def forward(self, hidden_states, residual=None):
        assert isinstance(self.norm, RMSNorm)
        hidden_states, residual = rms_norm_fn(
            hidden_states, self.norm.weight, self.norm.bias, residual=residual, prenorm=True,
            residual_in_fp32=True, eps=self.norm.eps,
        )  # fmt: skip
        return self.mixer(hidden_states), residual


class VisionMamba(nn.Module):
    def __init__(self, dim=16, depth=4, cells=16, num_classes=10):
        super().__init__()
        self.patch_embed = PatchEmbed(dim)
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim))
        self.pos_embed = nn.Parameter(0.1 * torch.randn(1, cells + 1, dim))
        self.layers = nn.ModuleList(Block(dim) for _ in range(depth))
        self.norm_f = RMSNorm(dim, eps=1e-5)
        self.head = nn.Linear(dim, num_classes)

    def forward(self, x):
        x = self.patch_embed(x)
        middle = x.shape[1] // 2
        cls_token = self.cls_token.expand(len(x), -1, -1)
        x = torch.cat((x[:, :middle], cls_token, x[:, middle:]), dim=1) + self.pos_embed
        residual = None
        for layer in self.layers:
            x, residual = layer(x, residual)
        x = rms_norm_fn(
            x, self.norm_f.weight, self.norm_f.bias, residual=residual, prenorm=False,
            residual_in_fp32=True, eps=self.norm_f.eps,
        )  # fmt: skip
        return self.head(x[:, middle])
