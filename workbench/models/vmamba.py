"""VMamba (Liu et al., arXiv 2401.10166): four-direction cross-scan in a four-stage hierarchy.

Written from the paper; state-dict names and shapes are those of the released checkpoints. Inside,
images are channels-last, (b, h, w, c).
"""

import math
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from timm.layers import DropPath, Mlp
from timm.models import generate_default_cfgs
from torch import Tensor, nn

from workbench.models.family import (
    CheckpointedBlock,
    Network,
    Readout,
    ScanMixer,
    imagenet_cfg,
    init_linear,
    nano_cfgs,
    on_github,
    register,
)
from workbench.models.stages import StagesMixin
from workbench.paths import CROSS, scan_set
from workbench.scan import Gate, SelectiveScan

__all__ = ["VMamba"]


class Permute(nn.Module):
    """Channels-first to channels-last or back; it keeps the published positions in a Sequential."""

    def __init__(self, *dims: int) -> None:
        super().__init__()
        self.dims = dims

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(self.dims)


def _to_last() -> Permute:
    return Permute(0, 2, 3, 1)


def _to_first() -> Permute:
    return Permute(0, 3, 1, 2)


class SS2D(ScanMixer):
    """The 2-D selective scan: four directions over one feature map, summed.

    Args:
        dim: channels in and out.
        d_state: state size n of each channel.
        ssm_ratio: inner width / dim.
        dt_rank: rank of the step-size projection, "auto" for ceil(dim / 16).
        conv: size of the depthwise convolution before the scan, below 2 for none.
        gate: whether the input projection has a second half that multiplies the output (v0).
        gate_act: whether that half passes SiLU first.
        out_act: whether GELU follows the output norm (before the gate).
        init: "v0" (the released models), "v1" or "v2": initialisation of A, D and the step size.
    """

    def __init__(
        self,
        dim: int,
        d_state: int = 1,
        ssm_ratio: float = 1.0,
        dt_rank: int | str = "auto",
        conv: int = 3,
        conv_bias: bool = False,
        gate: bool = False,
        gate_act: bool = True,
        out_act: bool = False,
        init: str = "v0",
        directions: Sequence[str] = CROSS,
    ) -> None:
        super().__init__()
        inner = int(ssm_ratio * dim)
        rank = math.ceil(dim / 16) if dt_rank == "auto" else int(dt_rank)
        self.inner, self.d_state, self.rank = inner, d_state, rank
        k = len(directions)

        self.x_proj_weight = nn.Parameter(torch.empty(k, rank + 2 * d_state, inner))
        self.A_logs = nn.Parameter(torch.empty(k * inner, d_state))
        self.Ds = nn.Parameter(torch.ones(k * inner))
        self.dt_projs_weight = nn.Parameter(torch.empty(k, inner, rank))
        self.dt_projs_bias = nn.Parameter(torch.empty(k, inner))
        self.out_norm = nn.LayerNorm(inner)
        self.in_proj = nn.Linear(dim, 2 * inner if gate else inner, bias=False)
        self.conv2d = (
            nn.Conv2d(inner, inner, conv, padding=conv // 2, groups=inner, bias=conv_bias)
            if conv > 1
            else nn.Identity()
        )
        self.out_proj = nn.Linear(inner, dim, bias=False)
        self.out_act = nn.GELU() if out_act else nn.Identity()
        self.scan = SelectiveScan(directions)
        if not gate:
            self.gate = None
        else:
            self.gate = Gate() if gate_act else LinearGate()
        self.reset_scan_parameters(init)

    def convolution_before(self, direction: str) -> nn.Module:
        return self.conv2d

    def readout(self, y: Tensor, z: Tensor) -> Readout:
        norm = self.out_norm
        y = y - y.mean(dim=-1, keepdim=True)
        scale = norm.weight * (y.square().mean(dim=-1, keepdim=True) + norm.eps).rsqrt()
        factor = torch.ones_like(y) if self.gate is None else self.gate(y=torch.ones_like(y), z=z)
        if isinstance(self.out_act, nn.GELU):
            factor = factor * torch.special.ndtr(scale * y + norm.bias)  # GELU(x) = x ndtr(x)
        bias = (norm.bias * factor) @ self.out_proj.weight.T.to(y)
        return Readout(self.out_proj.weight, scale * factor, centred=True, bias=bias)

    @torch.no_grad()
    def reset_scan_parameters(self, init: str) -> None:
        """Initialise the scan's own parameters as the published code does (`ssm_init`)."""
        for weight in self.x_proj_weight:
            nn.init.kaiming_uniform_(weight, a=math.sqrt(5))
        self.Ds.fill_(1.0)
        if init == "v0":
            bound = self.rank**-0.5
            self.dt_projs_weight.uniform_(-bound, bound)
            step = torch.empty_like(self.dt_projs_bias).uniform_(math.log(1e-3), math.log(0.1))
            step = step.exp().clamp(min=1e-4)
            self.dt_projs_bias.copy_(step + torch.log(-torch.expm1(-step)))  # softplus^-1
            states = torch.arange(1, self.d_state + 1, dtype=torch.float32)
            self.A_logs.copy_(states.log().expand_as(self.A_logs))
        elif init == "v1":
            self.A_logs.normal_()
            self.dt_projs_weight.normal_().mul_(0.1)
            self.dt_projs_bias.normal_().mul_(0.1)
        elif init == "v2":
            self.A_logs.zero_()
            self.dt_projs_weight.uniform_().mul_(0.1)
            self.dt_projs_bias.uniform_().mul_(0.1)
        else:
            raise ValueError(f"SS2D initialisation is v0, v1 or v2, not {init!r}")

    def forward(self, x: Tensor) -> Tensor:
        """(b, h, w, dim) -> (b, h, w, dim)."""
        height, width = x.shape[1:3]
        x = self.in_proj(x)
        z = None
        if self.gate is not None:
            x, z = x.chunk(2, dim=-1)
        x = F.silu(self.conv2d(x.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)

        # One projection of the image for all directions; every tensor stays in image order, and
        # the scan reads it along its own paths.
        tokens = x.flatten(1, 2)  # (b, l, inner)
        projected = F.linear(tokens, self.x_proj_weight.flatten(0, 1))
        projected = projected.unflatten(2, (len(self.scan.directions), -1))
        dt, B, C = projected.split([self.rank, self.d_state, self.d_state], dim=3)
        delta = dt.flatten(0, 1).transpose(0, 1) @ self.dt_projs_weight.transpose(1, 2)
        y = self.scan.cross(
            u=tokens,
            delta=delta.unflatten(1, dt.shape[:2]).permute(1, 2, 0, 3),
            A=-self.A_logs.exp(),
            B=B,
            C=C,
            D=self.Ds,
            delta_bias=self.dt_projs_bias.flatten(),
            grid=(height, width),
        )
        y = self.out_act(self.out_norm(y.unflatten(1, (height, width))))
        if self.gate is not None and z is not None:
            y = self.gate(y=y, z=z)
        return self.out_proj(y)


class LinearGate(Gate):
    """y * z, the gate without its activation (`_nozact`)."""

    def forward(self, *, y: Tensor, z: Tensor) -> Tensor:
        return y * z


class Block(CheckpointedBlock):
    """x + SS2D(norm(x)), then x + MLP(norm2(x)) when there is an MLP."""

    def __init__(self, dim: int, mlp_ratio: float, drop_path: float, **ss2d) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.op = SS2D(dim, **ss2d)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        self.has_mlp = mlp_ratio > 0
        if self.has_mlp:
            self.norm2 = nn.LayerNorm(dim)
            self.mlp = Mlp(dim, int(mlp_ratio * dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.op(self.norm(x)))
        if self.has_mlp:
            x = x + self.drop_path(self.mlp(self.norm2(x)))
        return x


class PatchMerging(nn.Module):
    """Downsample v1: 2x2 cells side by side, norm, linear. An odd row or column is zero-padded."""

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, out_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        phases = [x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]
        return self.reduction(self.norm(torch.cat(phases, dim=-1)))


def _stem(version: str, in_chans: int, dim: int, norm: bool) -> nn.Sequential:
    def norm_layer(width: int) -> nn.Module:
        return nn.LayerNorm(width) if norm else nn.Identity()

    if version == "v1":
        return nn.Sequential(nn.Conv2d(in_chans, dim, 4, 4), _to_last(), norm_layer(dim))
    if version == "v2":
        return nn.Sequential(
            nn.Conv2d(in_chans, dim // 2, 3, 2, 1),
            _to_last(),
            norm_layer(dim // 2),
            _to_first(),
            nn.GELU(),
            nn.Conv2d(dim // 2, dim, 3, 2, 1),
            _to_last(),
            norm_layer(dim),
        )
    raise ValueError(f"VMamba's patch embedding is v1 or v2, not {version!r}")


def _downsample(version: str, dim: int, out_dim: int) -> nn.Module:
    if version == "v1":
        return PatchMerging(dim, out_dim)
    if version in ("v2", "v3"):
        kernel, padding = (2, 0) if version == "v2" else (3, 1)
        conv = nn.Conv2d(dim, out_dim, kernel, 2, padding)
        return nn.Sequential(_to_first(), conv, _to_last(), nn.LayerNorm(out_dim))
    raise ValueError(f"VMamba's downsample is v1, v2 or v3, not {version!r}")


_OLD_NAMES = (  # the code of January 2024 (v0)
    (re.compile(r"^patch_embed\.proj\."), "patch_embed.0."),
    (re.compile(r"^patch_embed\.norm\."), "patch_embed.2."),
    (re.compile(r"\.ln_1\."), ".norm."),
    (re.compile(r"\.self_attention\."), ".op."),
    (re.compile(r"^norm\."), "classifier.norm."),
    (re.compile(r"^head\."), "classifier.head."),
)
_LINEAR = re.compile(r"\.(in_proj|out_proj|fc1|fc2|reduction)\.weight$")
_JOINED = re.compile(r"\.op\.(x_proj|dt_projs)\.(weight|bias)$")

# The order in which a turned image meets the four directions, and the four cells that patch merging
# joins.
_ROUTES = {"transposition": (1, 0, 3, 2), "rotation": (2, 3, 0, 1)}
_PHASES = {"transposition": (0, 2, 1, 3), "rotation": (3, 2, 1, 0)}


def _permute(parameter: Tensor, axis: int, order: tuple[int, ...]) -> None:
    """Put the four equal parts along an axis in another order."""
    parts = parameter.chunk(4, dim=axis)
    parameter.copy_(torch.cat([parts[i] for i in order], dim=axis))


class VMamba(StagesMixin, Network):
    """VMamba.

    Args:
        dims: width of the first stage (doubled at each further one) or the widths of all stages.
        depths: blocks in each stage.
        stem: "v1" (4x4 patches) or "v2" (two 3x3 convolutions of stride 2).
        downsample: "v1" (patch merging), "v2" (2x2 convolution) or "v3" (3x3 convolution).
        mlp_ratio: hidden width of the MLP / width; 0 for no MLP (v0).
        scan_paths: the directions: a name of `workbench.paths.SETS`, or names of paths that visit
            every cell (see `workbench.paths.scan_path`). Weights keep their shapes as long as the
            number of directions stays the same.
        ss2d: further arguments of `SS2D`.
    """

    classifier_name = "classifier.head"
    classifier_norm_name = "classifier.norm"
    layout = r"\.A_logs$"
    licence = "Published VMamba weights: MIT (MzeroMiko)."
    undecayed = ("A_logs", "Ds", "dt_projs_bias")

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        dims: int | Sequence[int] = 96,
        depths: Sequence[int] = (2, 2, 8, 2),
        stem: str = "v2",
        downsample: str = "v3",
        patch_norm: bool = True,
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.0,
        scan_paths: str | Sequence[str] = CROSS,
        **ss2d,
    ) -> None:
        super().__init__()
        directions = scan_set(scan_paths, whole=True)
        if isinstance(dims, int):
            dims = [dims * 2**i for i in range(len(depths))]
        self.num_classes = num_classes
        self.num_features = self.head_hidden_size = dims[-1]
        self.patch_size = 4
        self.patch_embed = _stem(stem, in_chans, dims[0], patch_norm)
        rates = np.linspace(0, drop_path_rate, sum(depths)).tolist()

        self.layers = nn.ModuleList()
        for i, (dim, depth) in enumerate(zip(dims, depths, strict=True)):
            blocks = [
                Block(dim, mlp_ratio, rates[sum(depths[:i]) + j], directions=directions, **ss2d)
                for j in range(depth)
            ]
            last = i == len(depths) - 1
            layer = OrderedDict(
                blocks=nn.Sequential(*blocks),
                downsample=nn.Identity() if last else _downsample(downsample, dim, dims[i + 1]),
            )
            self.layers.append(nn.Sequential(layer))

        self.classifier = nn.Sequential(
            OrderedDict(
                norm=nn.LayerNorm(dims[-1]),
                permute=_to_first(),
                avgpool=nn.AdaptiveAvgPool2d(1),
                flatten=nn.Flatten(1),
                head=self.make_head(num_classes),
            )
        )
        self.apply(init_linear)
        # A cell's centre in the input: a patchifying layer puts it between pixels, a 3x3
        # convolution with padding on the first pixel of its stride.
        offset = 1.5 if stem == "v1" else 0.0
        self.feature_info = []
        for i, dim in enumerate(dims):
            stride = 4 * 2**i
            info = {"num_chs": dim, "reduction": stride, "module": f"layers.{i}.blocks"}
            self.feature_info.append({**info, "offset": offset})
            offset += 0.0 if downsample == "v3" else stride / 2

    @staticmethod
    def checkpoint_filter_fn(
        state_dict: Mapping[str, Tensor], model: object = None
    ) -> dict[str, Tensor]:
        """Rename the older layout (v0) and the single file of 2025, which joins the directions of
        the projections and numbers the parts of patch merging; 1x1 convolutions become matrices."""
        renamed = {}
        for key, value in state_dict.items():
            for pattern, name in _OLD_NAMES:
                key = pattern.sub(name, key)
            stage = key.partition("downsample.")[0]
            if f"{stage}downsample.2.weight" in state_dict:  # v2 and v3 have none there
                key = key.replace("downsample.1.", "downsample.norm.")
                key = key.replace("downsample.2.", "downsample.reduction.")
            if _JOINED.search(key):
                key = _JOINED.sub(r".op.\1_\2", key)
                value = value.reshape(4, -1, *value.shape[1:])
            elif _LINEAR.search(key) and value.shape[2:] == (1, 1):
                value = value.flatten(1)
            renamed[key] = value
        return renamed

    @torch.no_grad()
    def turn(self, view: str) -> None:
        """Permute the directions 0 <-> 1, 2 <-> 3 and transpose kernels for a transposition;
        0 <-> 2, 1 <-> 3 and kernels rotated for a rotation by 180 degrees."""
        mixers = [module for module in self.modules() if isinstance(module, SS2D)]
        if any(mixer.scan.directions != CROSS for mixer in mixers):
            super().turn(view)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                kernel = module.weight
                turned = kernel.mT if view == "transposition" else kernel.flip(-2, -1)
                kernel.copy_(turned.clone())
            elif isinstance(module, SS2D):
                for name in ("x_proj_weight", "dt_projs_weight", "dt_projs_bias", "A_logs", "Ds"):
                    _permute(getattr(module, name), 0, _ROUTES[view])
            elif isinstance(module, PatchMerging):
                for part in (module.norm.weight, module.norm.bias, module.reduction.weight):
                    _permute(part, part.ndim - 1, _PHASES[view])

    def stem(self, x: Tensor) -> Tensor:
        if min(x.shape[-2:]) < self.patch_size:
            raise ValueError(
                f"VMamba needs images of at least {self.patch_size} x {self.patch_size} pixels, "
                f"not {x.shape[-2]} x {x.shape[-1]}"
            )
        return self.patch_embed(x)

    def stage(self, index: int, x: Tensor) -> Tensor:
        return self.layers[index].blocks(x)

    def after_stage(self, index: int, x: Tensor) -> Tensor:
        return self.layers[index].downsample(x)

    def final_norm(self, x: Tensor) -> Tensor:
        return self.classifier.norm(x)

    def as_map(self, x: Tensor) -> Tensor:
        return x.permute(0, 3, 1, 2)

    def forward_features(self, x: Tensor) -> Tensor:
        """(b, 3, h, w) -> (b, h / 32, w / 32, c), normalised."""
        x = self.stem(x)
        for layer in self.layers:
            x = layer(x)
        return self.classifier.norm(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = self.classifier.flatten(self.classifier.avgpool(x.permute(0, 3, 1, 2)))
        return x if pre_logits else self.classifier.head(x)


_V0 = {
    "stem": "v1",
    "downsample": "v1",
    "mlp_ratio": 0.0,
    "d_state": 16,
    "ssm_ratio": 2.0,
    "conv_bias": True,
    "gate": True,
}
VARIANTS: dict[str, dict] = {
    "vmamba_tiny_v0": {**_V0, "dims": 96, "depths": (2, 2, 9, 2), "drop_path_rate": 0.2},
    "vmamba_small_v0": {**_V0, "dims": 96, "depths": (2, 2, 27, 2), "drop_path_rate": 0.3},
    "vmamba_base_v0": {**_V0, "dims": 128, "depths": (2, 2, 27, 2), "drop_path_rate": 0.6},
    "vmamba_tiny_s2l5": {"ssm_ratio": 2.0, "depths": (2, 2, 5, 2), "drop_path_rate": 0.2},
    "vmamba_small_s2l15": {"ssm_ratio": 2.0, "depths": (2, 2, 15, 2), "drop_path_rate": 0.3},
    "vmamba_base_s2l15": {
        "ssm_ratio": 2.0,
        "dims": 128,
        "depths": (2, 2, 15, 2),
        "drop_path_rate": 0.6,
    },
    "vmamba_tiny_s1l8": {"depths": (2, 2, 8, 2), "drop_path_rate": 0.2},
    "vmamba_small_s1l20": {"depths": (2, 2, 20, 2), "drop_path_rate": 0.3},
    "vmamba_base_s1l20": {"dims": 128, "depths": (2, 2, 20, 2), "drop_path_rate": 0.5},
}

NANO = {"vmamba_nano": {"dims": (48, 96, 192), "depths": (2, 2, 2), "mlp_ratio": 2.0}}


def _cfg(file: str, tag: str = "#v2cls") -> dict:
    return imagenet_cfg(
        first_conv="patch_embed.0",
        classifier=VMamba.classifier_name,
        license="mit",
        paper_ids="arXiv:2401.10166",
        **on_github("MzeroMiko/VMamba", tag, f"{file}.pth"),
    )


default_cfgs = generate_default_cfgs(
    {
        "vmamba_tiny_v0": _cfg("vssmtiny_dp01_ckpt_epoch_292", "#v0cls"),
        "vmamba_small_v0": _cfg("vssmsmall_dp03_ckpt_epoch_238", "#v0cls"),
        "vmamba_base_v0": _cfg("vssmbase_dp06_ckpt_epoch_241", "#v0cls"),
        "vmamba_tiny_s2l5": _cfg("vssm_tiny_0230_ckpt_epoch_262"),
        "vmamba_small_s2l15": _cfg("vssm_small_0229_ckpt_epoch_222"),
        "vmamba_base_s2l15": _cfg("vssm_base_0229_ckpt_epoch_237"),
        "vmamba_tiny_s1l8": _cfg("vssm1_tiny_0230s_ckpt_epoch_264"),
        "vmamba_small_s1l20": _cfg("vssm1_small_0229s_ckpt_epoch_240"),
        "vmamba_base_s1l20": _cfg("vssm1_base_0229s_ckpt_epoch_225"),
        **nano_cfgs("vmamba_nano", first_conv="patch_embed.0", classifier=VMamba.classifier_name),
    }
)
register(__name__, VMamba, VARIANTS)
register(__name__, VMamba, NANO, out_indices=(0, 1, 2))
