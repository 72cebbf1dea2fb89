"""S4ND networks (Nguyen et al., NeurIPS 2022, arXiv 2210.06583): state-space models whose
parameters do not depend on the input, for comparison with the selective ones.

They convolve and do not scan, so nothing of `record` or `patch` applies to them.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from timm.layers import DropPath, Mlp, trunc_normal_
from timm.models import generate_default_cfgs
from torch import Tensor, nn

from workbench.models.family import (
    Adaptation,
    CheckpointedBlock,
    Network,
    imagenet_cfg,
    nano_cfgs,
    register,
)
from workbench.models.s4nd_layer import S4ND
from workbench.models.stages import StagesMixin

__all__ = ["S4ND", "ConvNeXtS4ND", "ViTS4ND"]


def _channels_last(layer: S4ND, x: Tensor) -> Tensor:
    """(b, h, w, c) -> (b, h, w, c)."""
    return layer(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def _pool(x: Tensor, factor: int) -> Tensor:
    """(b, h, w, c) -> (b, h / factor, w / factor, c): averages, an odd rest left out."""
    return F.avg_pool2d(x.permute(0, 3, 1, 2), factor).permute(0, 2, 3, 1)


class ConvNeXtBlock(CheckpointedBlock):
    """ConvNeXt's block with S4ND where the 7x7 depthwise convolution was."""

    def __init__(
        self, dim: int, mlp_ratio: float, scale: float | None, drop_path: float, **s4nd
    ) -> None:
        super().__init__()
        self.s4nd = S4ND(dim, **s4nd)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, int(mlp_ratio * dim))
        self.gamma = None if scale is None else nn.Parameter(scale * torch.ones(dim))
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(b, h, w, c) -> (b, h, w, c)."""
        y = self.mlp(self.norm(_channels_last(self.s4nd, x)))
        return x + self.drop_path(y if self.gamma is None else y * self.gamma)


class Stem(nn.Module):
    """S4ND to more channels, 4x4 average pool, GLU layer, norm."""

    def __init__(self, in_chans: int, dim: int, width: int, **s4nd) -> None:
        super().__init__()
        self.s4nd = S4ND(in_chans, l_max=16, out_channels=width, **s4nd)
        self.proj = nn.Linear(width, 2 * dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """(b, 3, h, w) -> (b, h / 4, w / 4, c)."""
        x = F.avg_pool2d(self.s4nd(x), 4).permute(0, 2, 3, 1)
        return self.norm(F.glu(self.proj(x), dim=-1))


class S4NDDownsample(nn.Module):
    """Norm, S4ND at the incoming size, 2x2 average pool, GLU layer."""

    def __init__(self, dim: int, out_dim: int, **s4nd) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.s4nd = S4ND(dim, **s4nd)
        self.reduction = nn.Linear(dim, 2 * out_dim)

    def forward(self, x: Tensor) -> Tensor:
        x = _pool(_channels_last(self.s4nd, self.norm(x)), 2)
        return F.glu(self.reduction(x), dim=-1)


class ConvDownsample(nn.Module):
    """ConvNeXt's own: norm and a 2x2 convolution of stride 2."""

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.reduction = nn.Conv2d(dim, out_dim, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.reduction(self.norm(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class S4NDNetwork(StagesMixin, Network):
    """What the two networks share: maps (b, h, w, c) between layers, and the way to the classes."""

    selective = False

    def __init__(self, num_features: int, num_classes: int, smallest: int) -> None:
        super().__init__()
        self.num_features = self.head_hidden_size = num_features
        self.num_classes, self.smallest = num_classes, smallest
        self.norm = nn.LayerNorm(num_features, eps=1e-6)
        self.head = self.make_head(num_classes)
        self.feature_info = []

    @staticmethod
    def _init_weights(module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Conv2d):
            trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        return {
            f"{path}.{name}"
            for path, module in self.named_modules()
            if isinstance(module, S4ND)
            for name in module.kernel_parameters()
        }

    def adapt(self, to: Adaptation) -> None:
        for module in self.modules() if to.kernels == "resampled" else ():
            # a sequence of patches has no one length that a factor in size would mean
            if isinstance(module, S4ND) and len(module.kernel) == 2:
                module.rate = 1 / to.factor

    def _check_size(self, x: Tensor) -> None:
        if min(x.shape[-2:]) < self.smallest:
            raise ValueError(
                f"{type(self).__name__} needs images of at least {self.smallest} x {self.smallest} "
                f"pixels, not {x.shape[-2]} x {x.shape[-1]}"
            )

    def final_norm(self, x: Tensor) -> Tensor:
        return self.norm(x)

    def as_map(self, x: Tensor) -> Tensor:
        return x.permute(0, 3, 1, 2)

    def forward_features(self, x: Tensor) -> Tensor:
        """(b, 3, h, w) -> (b, rows, columns, c), not normalised."""
        x = self.stem(x)
        for i in range(len(self.feature_info)):
            x = self.stage(i, x)
            if i < len(self.feature_info) - 1:
                x = self.after_stage(i, x)
        return x


class ConvNeXtS4ND(S4NDNetwork):
    """ConvNeXt with every spatial mixing done by S4ND.

    Args:
        train_size: side of the training images, which is how long kernels are at most; the trained
            model takes any size (see `S4ND.rate`).
        downsample: "s4nd" (the published configuration) or "conv" (as the VMamba paper builds it).
        stem_width: channels between the stem's S4ND and its projection.
        layer_scale: initial scale of the residual branches, None for no scale.
        s4nd: further arguments of `S4ND`.
    """

    def __init__(
        self,
        train_size: int = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        dims: Sequence[int] = (96, 192, 384, 768),
        depths: Sequence[int] = (3, 3, 9, 3),
        mlp_ratio: float = 4.0,
        downsample: str = "s4nd",
        stem_width: int = 32,
        layer_scale: float | None = 1e-6,
        drop_path_rate: float = 0.0,
        **s4nd,
    ) -> None:
        if downsample not in ("s4nd", "conv"):
            raise ValueError(f"downsample must be 's4nd' or 'conv', not {downsample!r}")
        super().__init__(dims[-1], num_classes, smallest=4 * 2 ** (len(dims) - 1))
        s4nd = {"dt_min": 0.1, "dt_max": 1.0, **s4nd}
        self.patch_embed = Stem(in_chans, dims[0], stem_width, **s4nd)
        rates = np.linspace(0, drop_path_rate, sum(depths)).tolist()
        self.stages = nn.ModuleList()
        self.downsamples = nn.ModuleList()
        for i, (dim, depth) in enumerate(zip(dims, depths, strict=True)):
            reduction = 4 * 2**i
            l_max = max(1, train_size // reduction)
            first = sum(depths[:i])
            blocks = (
                ConvNeXtBlock(dim, mlp_ratio, layer_scale, rates[first + j], l_max=l_max, **s4nd)
                for j in range(depth)
            )
            self.stages.append(nn.Sequential(*blocks))
            if i < len(dims) - 1:
                self.downsamples.append(
                    ConvDownsample(dim, dims[i + 1])
                    if downsample == "conv"
                    else S4NDDownsample(dim, dims[i + 1], l_max=l_max, **s4nd)
                )
            info = {"num_chs": dim, "reduction": reduction, "module": f"stages.{i}"}
            self.feature_info.append({**info, "offset": (reduction - 1) / 2})
        self.apply(self._init_weights)

    def stem(self, x: Tensor) -> Tensor:
        self._check_size(x)
        return self.patch_embed(x)

    def stage(self, index: int, x: Tensor) -> Tensor:
        return self.stages[index](x)

    def after_stage(self, index: int, x: Tensor) -> Tensor:
        return self.downsamples[index](x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = self.norm(x.mean(dim=(1, 2)))
        return x if pre_logits else self.head(x)


class ViTBlock(CheckpointedBlock):
    """A transformer's block with S4ND, over the sequence of patches, where attention was."""

    def __init__(self, dim: int, mlp_ratio: float, drop_path: float, **s4nd) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.s4nd = S4ND(dim, axes=1, linear=False, **s4nd)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, int(mlp_ratio * dim))
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(b, h, w, c) -> (b, h, w, c); the sequence goes row by row."""
        y = self.s4nd(self.norm1(x).flatten(1, 2).transpose(1, 2))
        x = x + self.drop_path(y.transpose(1, 2).unflatten(1, x.shape[1:3]))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class ViTS4ND(S4NDNetwork):
    """ViT with S4ND in place of attention: no class token, no position embedding, mean pool.

    The published model makes a second kernel in each layer that nothing reads; it is left out
    (88.8 M parameters, not 91.2 M).

    Args:
        s4nd: further arguments of `S4ND`.
    """

    def __init__(
        self,
        patch_size: int = 16,
        in_chans: int = 3,
        num_classes: int = 1000,
        embed_dim: int = 768,
        depth: int = 12,
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.0,
        **s4nd,
    ) -> None:
        super().__init__(embed_dim, num_classes, smallest=patch_size)
        s4nd = {"channels": 2, "init": "legs", **s4nd}
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(in_chans, embed_dim, patch_size, patch_size)
        rates = np.linspace(0, drop_path_rate, depth).tolist()
        self.blocks = nn.ModuleList(
            ViTBlock(embed_dim, mlp_ratio, rates[i], **s4nd) for i in range(depth)
        )
        self.apply(self._init_weights)
        place = {"num_chs": embed_dim, "reduction": patch_size, "offset": (patch_size - 1) / 2}
        self.feature_info = [{**place, "module": f"blocks.{i}"} for i in range(depth)]

    def stem(self, x: Tensor) -> Tensor:
        self._check_size(x)
        return self.patch_embed.proj(x).permute(0, 2, 3, 1)

    def stage(self, index: int, x: Tensor) -> Tensor:
        return self.blocks[index](x)

    def after_stage(self, index: int, x: Tensor) -> Tensor:
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = self.norm(x).mean(dim=(1, 2))
        return x if pre_logits else self.head(x)


VARIANTS: dict[str, dict] = {
    "s4nd_convnext_tiny": {},
    # what the VMamba paper compares with: the plain strided convolution between stages
    "s4nd_convnext_tiny_conv": {"downsample": "conv"},
    "s4nd_convnext_micro": {"dims": (64, 128, 256, 512), "depths": (3, 3, 3, 3)},
}
VIT: dict[str, dict] = {"s4nd_vit_base": {}}
# Half of the bandwidth, so that kernels sampled twice as coarsely (at 32 px) do not alias.
NANO = {
    "s4nd_nano": {
        "train_size": 64,
        "dims": (48, 96, 192),
        "depths": (2, 2, 2),
        "stem_width": 16,
        "layer_scale": None,
        "d_state": 16,
        "mode": "diag",
        "bandlimit": 0.5,
    }
}


def _cfg(first_conv: str | None = None) -> dict:
    return imagenet_cfg(
        first_conv=first_conv, classifier=S4NDNetwork.classifier_name, paper_ids="arXiv:2210.06583"
    )


default_cfgs = generate_default_cfgs(
    {
        **{name: _cfg() for name in VARIANTS},  # they begin without a convolution
        "s4nd_vit_base": _cfg("patch_embed.proj"),
        **nano_cfgs("s4nd_nano", first_conv=None, classifier=S4NDNetwork.classifier_name),
    }
)
register(__name__, ConvNeXtS4ND, VARIANTS)
register(__name__, ViTS4ND, VIT, out_indices=3)
register(__name__, ConvNeXtS4ND, NANO, out_indices=(0, 1, 2))
