"""MambaVision (Hatamizadeh & Kautz, arXiv 2407.08083): convolution stages, then windows in which
selective-scan mixers are followed by attention.

Written from the paper and from measured behaviour; no line comes from the published code, whose
licence is non-commercial. State-dict names and shapes are those of the released checkpoints.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from timm.layers import DropPath, Mlp
from timm.models import generate_default_cfgs
from torch import Tensor, nn

from workbench.attention import Attention
from workbench.models.family import (
    Adaptation,
    CheckpointedBlock,
    Network,
    Readout,
    ScanMixer,
    imagenet_cfg,
    init_linear,
    nano_cfgs,
    on_hub,
    register,
)
from workbench.models.stages import StagesMixin
from workbench.scan import SelectiveScan

__all__ = ["MambaVision", "MambaVisionMixer"]


class PatchEmbed(nn.Module):
    def __init__(self, in_chans: int, in_dim: int, dim: int) -> None:
        super().__init__()
        self.conv_down = nn.Sequential(
            nn.Conv2d(in_chans, in_dim, 3, 2, 1, bias=False),
            nn.BatchNorm2d(in_dim, eps=1e-4),
            nn.ReLU(),
            nn.Conv2d(in_dim, dim, 3, 2, 1, bias=False),
            nn.BatchNorm2d(dim, eps=1e-4),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_down(x)


class ConvBlock(CheckpointedBlock):
    """Two 3x3 convolutions with batch norm around a residual (stages 1 and 2)."""

    def __init__(self, dim: int, drop_path: float, layer_scale: float | None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(dim, dim, 3, 1, 1)
        self.norm1 = nn.BatchNorm2d(dim, eps=1e-5)
        self.conv2 = nn.Conv2d(dim, dim, 3, 1, 1)
        self.norm2 = nn.BatchNorm2d(dim, eps=1e-5)
        self.gamma = None if layer_scale is None else nn.Parameter(layer_scale * torch.ones(dim))
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = F.gelu(self.norm1(self.conv1(x)), approximate="tanh")
        y = self.norm2(self.conv2(y))
        if self.gamma is not None:
            y = y * self.gamma[:, None, None]
        return x + self.drop_path(y)


class MambaVisionMixer(ScanMixer):
    """Half of the channels are scanned, the other half only convolved; then both are joined.

    There is no gate: the convolved half is a parallel branch. The scan has one direction, row by
    row through one window, and starts from zero in every window.
    """

    def __init__(self, dim: int, d_state: int = 8, conv: int = 3, expand: int = 1) -> None:
        super().__init__()
        inner = expand * dim // 2
        self.rank, self.d_state = math.ceil(dim / 16), d_state
        states = torch.arange(1, d_state + 1, dtype=torch.float32).log()
        self.A_log = nn.Parameter(states.repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self.in_proj = nn.Linear(dim, 2 * inner, bias=False)
        self.x_proj = nn.Linear(inner, self.rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(self.rank, inner)
        self.out_proj = nn.Linear(2 * inner, dim, bias=False)
        self.conv1d_x = nn.Conv1d(inner, inner, conv, padding="same", groups=inner, bias=False)
        self.conv1d_z = nn.Conv1d(inner, inner, conv, padding="same", groups=inner, bias=False)
        self.scan = SelectiveScan(("row",))

    def convolution_beside(self) -> nn.Module:
        return self.conv1d_z

    def readout(self, y: Tensor, z: Tensor) -> Readout:
        return Readout(self.out_proj.weight, torch.ones_like(y))

    def convolution_before(self, direction: str) -> nn.Module:
        return self.conv1d_x

    def forward(self, h: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """(b, l, dim) -> (b, l, dim); tokens without a grid are a row."""
        # Both halves in one depthwise convolution, channels-last in memory.
        image = self.in_proj(h).transpose(1, 2).unsqueeze(2)  # (b, 2 inner, 1, l)
        weight = torch.cat([self.conv1d_x.weight, self.conv1d_z.weight]).unsqueeze(2)
        image = F.conv2d(image, weight, padding="same", groups=len(weight))
        u, z = F.silu(image.squeeze(2).transpose(1, 2)).chunk(2, dim=2)
        projected = self.x_proj(u).unsqueeze(2)  # (b, l, 1, rank + 2 n): one direction
        dt, B, C = projected.split([self.rank, self.d_state, self.d_state], dim=3)
        y = self.scan.cross(
            u=u,
            delta=dt @ self.dt_proj.weight.T,
            A=-self.A_log.exp(),
            B=B,
            C=C,
            D=self.D,
            # The published code adds the bias twice, once in the projection and once in the scan;
            # the released weights were trained with that.
            delta_bias=2 * self.dt_proj.bias,
            grid=grid or (1, h.shape[1]),
        )
        return self.out_proj(torch.cat([y, z], dim=2))


class Block(CheckpointedBlock):
    """A mixer or attention, then an MLP, each around a residual (stages 3 and 4)."""

    def __init__(
        self, dim: int, mixer: nn.Module, mlp_ratio: float, drop_path: float, scale: float | None
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-5)
        self.mixer = mixer
        self.norm2 = nn.LayerNorm(dim, eps=1e-5)
        self.mlp = Mlp(dim, int(mlp_ratio * dim))
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        self.gamma_1 = self.gamma_2 = None
        if scale is not None:
            self.gamma_1 = nn.Parameter(scale * torch.ones(dim))
            self.gamma_2 = nn.Parameter(scale * torch.ones(dim))

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        y = self.mixer(self.norm1(x), grid)
        x = x + self.drop_path(y if self.gamma_1 is None else self.gamma_1 * y)
        y = self.mlp(self.norm2(x))
        return x + self.drop_path(y if self.gamma_2 is None else self.gamma_2 * y)


def window_partition(x: Tensor, window: int) -> Tensor:
    """(b, c, h, w) -> (b * windows, window ** 2, c); h and w are multiples of the window."""
    x = x.unflatten(3, (-1, window)).unflatten(2, (-1, window))  # b, c, rows, w, columns, w
    return x.permute(0, 2, 4, 3, 5, 1).flatten(3, 4).flatten(0, 2)


def window_reverse(tokens: Tensor, window: int, height: int, width: int) -> Tensor:
    """The inverse of `window_partition`."""
    x = tokens.unflatten(0, (-1, height // window, width // window))
    x = x.unflatten(3, (window, window)).permute(0, 5, 1, 3, 2, 4)
    return x.flatten(4, 5).flatten(2, 3)


class Level(nn.Module):
    """One stage: blocks, then the downsample (kept apart so that stage maps can be read)."""

    def __init__(self, blocks: list[nn.Module], window: int | None, dim: int, last: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.window = window
        self.downsample = None
        if not last:
            self.downsample = nn.Module()
            conv = nn.Conv2d(dim, 2 * dim, 3, 2, 1, bias=False)
            self.downsample.reduction = nn.Sequential(conv)

    def forward_blocks(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, c, h, w), zero-padded to whole windows on the way."""
        if self.window is None:
            for block in self.blocks:
                x = block(x)
            return x
        height, width = x.shape[-2:]
        x = F.pad(x, (0, -width % self.window, 0, -height % self.window))
        padded = x.shape[-2:]
        x = window_partition(x, self.window)
        for block in self.blocks:
            x = block(x, (self.window, self.window))
        return window_reverse(x, self.window, *padded)[..., :height, :width].contiguous()

    def forward_downsample(self, x: Tensor) -> Tensor:
        return x if self.downsample is None else self.downsample.reduction(x)


class MambaVision(StagesMixin, Network):
    """MambaVision.

    Args:
        dim: width of the first stage, doubled at each further one.
        in_dim: width inside the stem.
        depths: blocks of each stage; after the convolution stages the last half are attention.
        num_heads, window_size: per stage; those of the convolution stages are not used.
        layer_scale: initial scale of the residual branches after the convolution stages, None for
            no scale.
        layer_scale_conv: the same for the convolution stages.
        conv_stages: how many stages are made of convolutions (2 in every released model).
    """

    classifier_norm_name = "norm"
    undecayed = ("A_log", ".D", "dt_proj.bias")
    layout = r"^levels\."
    licence = (
        "Published MambaVision weights: non-commercial use only "
        "(NVIDIA; CC-BY-NC-SA-4.0 by its readme, nvclv1 by the hub)."
    )

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        dim: int = 80,
        in_dim: int = 32,
        depths: Sequence[int] = (1, 3, 8, 4),
        num_heads: Sequence[int] = (2, 4, 8, 16),
        window_size: Sequence[int] = (8, 8, 14, 7),
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.0,
        layer_scale: float | None = None,
        layer_scale_conv: float | None = None,
        conv_stages: int = 2,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.num_features = self.head_hidden_size = dim * 2 ** (len(depths) - 1)
        self.patch_embed = PatchEmbed(in_chans, in_dim, dim)
        rates = np.linspace(0, drop_path_rate, sum(depths)).tolist()
        self.levels = nn.ModuleList()
        self.feature_info = []
        for i, depth in enumerate(depths):
            width = dim * 2**i
            drops = rates[sum(depths[:i]) : sum(depths[: i + 1])]
            if i < conv_stages:
                blocks = [ConvBlock(width, drop, layer_scale_conv) for drop in drops]
            else:
                blocks = [
                    Block(
                        width,
                        Attention(width, num_heads[i])
                        if j >= math.ceil(depth / 2)
                        else MambaVisionMixer(width),
                        mlp_ratio,
                        drop,
                        layer_scale,
                    )
                    for j, drop in enumerate(drops)
                ]
            window = None if i < conv_stages else window_size[i]
            self.levels.append(Level(blocks, window, width, last=i == len(depths) - 1))
            # Every layer of stride 2 is a padded 3x3 convolution: cell i lies on pixel i * stride.
            info = {"num_chs": width, "reduction": 4 * 2**i, "module": f"levels.{i}.blocks"}
            self.feature_info.append({**info, "offset": 0.0})
        self.norm = nn.BatchNorm2d(self.num_features)
        self.head = self.make_head(num_classes)
        # As published, this also resets the step-size projection of every mixer: the steps start
        # at softplus(0) = 0.69, not at Mamba's 0.001 to 0.1.
        self.apply(init_linear)

    def adapt(self, to: Adaptation) -> None:
        for level in self.levels if to.windows == "scaled" else ():
            level.window = level.window and max(1, round(level.window * to.factor))

    def window(self, layer: str) -> int | None:
        level: Any = self.levels[int(layer.split(".")[1])]
        return level.window

    def stage_tap(self, stage: int | None = None) -> tuple[str, bool]:
        # A stage is no module here; its map is what the next module reads.
        if stage is None or stage == len(self.levels):
            return "norm", True
        return f"levels.{stage - 1}.downsample.reduction", True

    def stem(self, x: Tensor) -> Tensor:
        return self.patch_embed(x)

    def stage(self, index: int, x: Tensor) -> Tensor:
        return self.levels[index].forward_blocks(x)

    def after_stage(self, index: int, x: Tensor) -> Tensor:
        return self.levels[index].forward_downsample(x)

    def final_norm(self, x: Tensor) -> Tensor:
        return self.norm(x)

    def as_map(self, x: Tensor) -> Tensor:
        return x

    def forward_features(self, x: Tensor) -> Tensor:
        """(b, 3, h, w) -> (b, c, ceil(h / 32), ceil(w / 32)), normalised."""
        x = self.stem(x)
        for level in self.levels:
            x = level.forward_downsample(level.forward_blocks(x))
        return self.norm(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = x.mean(dim=(2, 3))
        return x if pre_logits else self.head(x)


_L_HEADS = (4, 8, 16, 32)
_T = {"dim": 80, "in_dim": 32, "drop_path_rate": 0.2}
_S = {"dim": 96, "in_dim": 64, "depths": (3, 3, 7, 5), "drop_path_rate": 0.2}
_B = {
    "dim": 128,
    "in_dim": 64,
    "depths": (3, 3, 10, 5),
    "drop_path_rate": 0.3,
    "layer_scale": 1e-5,
}
_L = {**_B, "dim": 196, "num_heads": _L_HEADS}
_L2 = {**_L, "depths": (3, 3, 12, 5)}
_L3 = {**_L, "dim": 256, "depths": (3, 3, 20, 10), "drop_path_rate": 0.5}
VARIANTS: dict[str, dict] = {
    "mambavision_tiny": {**_T, "depths": (1, 3, 8, 4)},
    "mambavision_tiny2": {**_T, "depths": (1, 3, 11, 4)},
    "mambavision_small": _S,
    "mambavision_base": _B,
    "mambavision_base_21k": _B,
    "mambavision_large": _L,
    "mambavision_large_21k": _L,
    "mambavision_large2": _L2,
    "mambavision_large2_512_21k": {**_L2, "window_size": (8, 8, 32, 16)},
    "mambavision_large3_256_21k": {**_L3, "window_size": (8, 8, 16, 8)},
    "mambavision_large3_512_21k": {**_L3, "window_size": (8, 8, 32, 16)},
}

NANO = {
    "mambavision_nano": {
        "dim": 32,
        "in_dim": 32,
        "depths": (2, 4, 4),
        "num_heads": (2, 4, 8),
        "window_size": (8, 8, 4),
        "conv_stages": 1,
    }
}
_FIRST = "patch_embed.conv_down.0"


def _cfg(size: str, file: str, pixels: int = 224, crop: float = 1.0, mode: str = "center") -> dict:
    return imagenet_cfg(
        input_size=(3, pixels, pixels),
        crop_pct=crop,
        crop_mode=mode,
        first_conv=_FIRST,
        classifier=MambaVision.classifier_name,
        license="cc-by-nc-sa-4.0",
        paper_ids="arXiv:2407.08083",
        **on_hub(f"nvidia/MambaVision-{size}", f"mambavision_{file}.pth.tar"),
    )


default_cfgs = generate_default_cfgs(
    {
        "mambavision_tiny": _cfg("T-1K", "tiny_1k"),
        "mambavision_tiny2": _cfg("T2-1K", "tiny2_1k", crop=0.98),
        "mambavision_small": _cfg("S-1K", "small_1k", crop=0.93),
        "mambavision_base": _cfg("B-1K", "base_1k"),
        "mambavision_base_21k": _cfg("B-21K", "base_21k"),
        "mambavision_large": _cfg("L-1K", "large_1k"),
        "mambavision_large_21k": _cfg("L-21K", "large_21k"),
        "mambavision_large2": _cfg("L2-1K", "large2_1k"),
        "mambavision_large2_512_21k": _cfg("L2-512-21K", "L2_21k_240m_512", 512, 0.93, "squash"),
        "mambavision_large3_256_21k": _cfg("L3-256-21K", "L3_21k_740m_256", 256),
        "mambavision_large3_512_21k": _cfg("L3-512-21K", "L3_21k_740m_512", 512, 0.93, "squash"),
        **nano_cfgs("mambavision_nano", first_conv=_FIRST, classifier=MambaVision.classifier_name),
    }
)
register(__name__, MambaVision, VARIANTS)
register(__name__, MambaVision, NANO, out_indices=(0, 1, 2))
