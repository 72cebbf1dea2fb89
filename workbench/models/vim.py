"""Vision Mamba, Vim (Zhu et al., arXiv 2401.09417): bidirectional scans over a token sequence.

Written from the paper; state-dict names and shapes are those of the released checkpoints.
"""

import math
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from timm.layers import DropPath, to_2tuple, trunc_normal_
from timm.models import generate_default_cfgs
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from workbench.models.family import (
    Adaptation,
    CheckpointedBlock,
    Network,
    Readout,
    ScanMixer,
    imagenet_cfg,
    nano_cfgs,
    on_hub,
    register,
)
from workbench.paths import BIDIRECTIONAL
from workbench.scan import Gate, SelectiveScan

__all__ = ["Vim", "resize_pos_embed"]


def resize_pos_embed(
    pos_embed: Tensor,
    old_grid: tuple[int, int],
    new_grid: tuple[int, int],
    method: str = "class-aware",
) -> Tensor:
    """Resize Vim's position embedding to another grid (bicubic, align_corners=False).

    Args:
        pos_embed: (1, old cells + 1, c), in token order: the row of the class token is in the
            middle, at index `cells // 2`.
        method: "class-aware" takes the class row out of the middle and puts it back in the new
            middle. "official" is what the published fine-tuning code does: it treats row 0, a
            spatial row, as the class token, so that half of the rows move by one cell.

    Returns:
        (1, new cells + 1, c).

    Raises:
        ValueError: for an unknown method or when the rows do not match the old grid.
    """
    old, new = math.prod(old_grid), math.prod(new_grid)
    if pos_embed.shape[1] != old + 1:
        raise ValueError(
            f"a position embedding of {pos_embed.shape[1]} rows does not belong to a "
            f"{old_grid[0]} x {old_grid[1]} grid with a class token ({old + 1} rows)"
        )
    if method == "class-aware":
        take, put = old // 2, new // 2
    elif method == "official":
        take, put = 0, 0
    else:
        raise ValueError(f"method must be 'class-aware' or 'official', not {method!r}")
    extra = pos_embed[:, take : take + 1]
    grid = torch.cat([pos_embed[:, :take], pos_embed[:, take + 1 :]], dim=1)
    grid = _resize_grid(grid, old_grid, new_grid)
    return torch.cat([grid[:, :put], extra, grid[:, put:]], dim=1)


def _resize_grid(rows: Tensor, old_grid: tuple[int, int], new_grid: tuple[int, int]) -> Tensor:
    maps = rows.unflatten(1, old_grid).permute(0, 3, 1, 2)
    maps = F.interpolate(maps, size=new_grid, mode="bicubic", align_corners=False)
    return maps.permute(0, 2, 3, 1).flatten(1, 2)


class PatchEmbed(nn.Module):
    """Overlapping or plain patches; all keys lie under `proj`."""

    def __init__(self, in_chans: int, dim: int, patch_size: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_chans, dim, patch_size, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(b, 3, h, w) -> (b, cells, dim)."""
        return self.proj(x).flatten(2).transpose(1, 2)


class BidirectionalMixer(ScanMixer):
    """Vim's mixer ("v2"): one input and one output projection, two directed scans between them.

    The backward direction has its own convolution, projections, A and D; it runs on the reversed
    sequence, class token included.
    """

    gated = causal = True

    def __init__(
        self,
        dim: int,
        d_state: int = 16,
        conv: int = 4,
        expand: int = 2,
        divide_out: bool = True,
        layer_scale: float | None = None,
    ) -> None:
        super().__init__()
        inner = expand * dim
        rank = math.ceil(dim / 16)
        self.inner, self.d_state, self.rank, self.divide_out = inner, d_state, rank, divide_out
        self.pad = conv - 1
        self.in_proj = nn.Linear(dim, 2 * inner, bias=False)
        states = torch.arange(1, d_state + 1, dtype=torch.float32).log().repeat(inner, 1)
        for suffix in ("", "_b"):
            conv1d = nn.Conv1d(inner, inner, conv, groups=inner, padding=conv - 1)
            self.add_module(f"conv1d{suffix}", conv1d)
            x_proj = nn.Linear(inner, rank + 2 * d_state, bias=False)
            self.add_module(f"x_proj{suffix}", x_proj)
            self.add_module(f"dt_proj{suffix}", nn.Linear(rank, inner))
            self.register_parameter(f"A{suffix}_log", nn.Parameter(states.clone()))
            self.register_parameter(f"D{suffix}", nn.Parameter(torch.ones(inner)))
        self.out_proj = nn.Linear(inner, dim, bias=False)
        self.gamma = nn.Parameter(layer_scale * torch.ones(dim)) if layer_scale else None
        self.scan = SelectiveScan(BIDIRECTIONAL)
        self.gate = Gate()

    def convolution_before(self, direction: str) -> nn.Module:
        return self.get_submodule("conv1d_b" if direction.endswith("-reversed") else "conv1d")

    def readout(self, y: Tensor, z: Tensor) -> Readout:
        weight = (
            self.out_proj.weight
            if self.gamma is None
            else self.gamma[:, None] * self.out_proj.weight
        )
        scale = self.gate(y=torch.ones_like(y), z=z)
        return Readout(weight, scale / 2 if self.divide_out else scale)

    def convolved(self, x: Tensor) -> Tensor:
        """(b, l, inner) -> (2, b, l, inner): u of the forward and of the backward direction.

        Everything stays in token order: the causal convolution of the reversed sequence is one
        with a mirrored kernel that looks ahead.
        """
        length, pad = x.shape[1], self.pad
        image = x.transpose(1, 2).unsqueeze(2)  # (b, inner, 1, l), channels-last in memory
        both = []
        for conv, mirrored in ((self.conv1d, False), (self.conv1d_b, True)):
            weight = (conv.weight.flip(-1) if mirrored else conv.weight).unsqueeze(2)
            y = F.conv2d(image, weight, conv.bias, padding=(0, pad), groups=self.inner)
            y = y[..., pad:] if mirrored else y[..., :length]
            both.append(y.squeeze(2).transpose(1, 2))
        return F.silu(torch.stack(both))

    def forward(
        self, h: Tensor, grid: tuple[int, int] | None = None, class_token: int | None = None
    ) -> Tensor:
        """(b, l, dim) -> (b, l, dim); tokens without a grid are a row."""
        x, z = self.in_proj(h).chunk(2, dim=2)
        u = self.convolved(x)
        batch, length = h.shape[:2]
        x_proj = torch.stack([self.x_proj.weight, self.x_proj_b.weight])
        projected = u.flatten(1, 2) @ x_proj.transpose(1, 2)  # (k, b l, rank + 2 n)
        dt, B, C = projected.split([self.rank, self.d_state, self.d_state], dim=2)
        delta = dt @ torch.stack([self.dt_proj.weight, self.dt_proj_b.weight]).transpose(1, 2)

        def tokens_first(x: Tensor) -> Tensor:  # (k, b l, c) -> (b, l, k, c)
            return x.unflatten(1, (batch, length)).permute(1, 2, 0, 3)

        y = self.scan.cross(
            u=u.permute(1, 2, 0, 3),
            delta=tokens_first(delta),
            A=-torch.cat([self.A_log, self.A_b_log]).exp(),
            B=tokens_first(B),
            C=tokens_first(C),
            D=torch.cat([self.D, self.D_b]),
            delta_bias=torch.cat([self.dt_proj.bias, self.dt_proj_b.bias]),
            grid=grid or (1, length),
            class_token=class_token,
        )
        y = self.gate(y=y, z=z)
        if self.divide_out:
            y = y / 2
        y = self.out_proj(y)
        return y if self.gamma is None else y * self.gamma


class Block(CheckpointedBlock):
    """The norm comes before the mixer; the sum is carried to the next block."""

    def __init__(self, dim: int, norm: type[nn.Module], drop_path: float, **mixer) -> None:
        super().__init__()
        self.mixer = BidirectionalMixer(dim, **mixer)
        self.norm = norm(dim, eps=1e-5)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(
        self,
        hidden: Tensor,
        stream: Tensor | None,
        grid: tuple[int, int],
        class_token: int | None,
    ) -> tuple[Tensor, Tensor]:
        residual = hidden if stream is None else stream + self.drop_path(hidden)
        return self.mixer(self.norm(residual), grid, class_token), residual


class RotaryEmbedding(nn.Module):
    """2-D rotary embedding over the token grid; in no released model, kept for the variants.

    As in the published code, token 0 is left alone when the sequence is one longer than the grid.
    """

    def __init__(self, dim: int, grid: tuple[int, int], pretrained_side: int) -> None:
        super().__init__()
        half = dim // 2
        frequencies = 10000.0 ** (-torch.arange(0, half, 2).float() / half)
        angles = []
        for cells in grid:
            place = torch.arange(cells).float() / cells * pretrained_side
            angles.append(torch.outer(place, frequencies).repeat_interleave(2, dim=-1))
        rows = angles[0][:, None].expand(*grid, half)
        columns = angles[1][None].expand(*grid, half)
        angle = torch.cat([rows, columns], dim=-1).flatten(0, 1)
        self.register_buffer("freqs_cos", angle.cos())
        self.register_buffer("freqs_sin", angle.sin())

    def forward(self, tokens: Tensor) -> Tensor:
        skip = tokens.shape[1] - len(self.freqs_cos)
        x = tokens[:, skip:]
        pairs = x.unflatten(-1, (-1, 2))
        turned = torch.stack([-pairs[..., 1], pairs[..., 0]], dim=-1).flatten(-2)
        return torch.cat([tokens[:, :skip], x * self.freqs_cos + turned * self.freqs_sin], dim=1)


class Vim(Network):
    """Vision Mamba.

    Args:
        img_size: the size the position embedding is made for; other sizes resize it on the fly.
        stride: distance of neighbouring patches (patch_size, or half of it in the plus models).
        class_token: "middle" (released models), "first" or None.
        pool: without a class token: "mean", "last", "max" (of the logits) or "all" (logits of
            every token).
        rms_norm: RMSNorm (released models) or LayerNorm.
        pos_embed_resize: see `resize_pos_embed`.
    """

    computed = ("rope.",)
    sized = ("pos_embed",)
    layout = r"\.mixer\.A_b_log$"
    licence = "Published Vim weights: Apache-2.0 (hustvl)."
    normed_last = True
    undecayed = ("A_log", "A_b_log", ".D", ".D_b", "pos_embed", "cls_token", "dt_proj.bias")

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        stride: int | None = None,
        in_chans: int = 3,
        num_classes: int = 1000,
        embed_dim: int = 192,
        depth: int = 24,
        d_state: int = 16,
        class_token: str | None = "middle",
        pool: str = "mean",
        rms_norm: bool = True,
        pos_embed: bool = True,
        rope: bool = False,
        rope_residual: bool = False,
        rope_pretrained_side: int = 14,
        divide_out: bool = True,
        layer_scale: float | None = None,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        pos_embed_resize: str = "class-aware",
    ) -> None:
        super().__init__()
        if class_token not in ("middle", "first", None):
            raise ValueError(f"class_token must be 'middle', 'first' or None, not {class_token!r}")
        self.img_size = to_2tuple(img_size)
        self.patch_size, self.stride = patch_size, stride or patch_size
        self.num_classes = num_classes
        self.num_features = self.head_hidden_size = self.embed_dim = embed_dim
        self.class_token, self.pool = class_token, pool
        self.pos_embed_resize = pos_embed_resize
        self.rope_residual = rope_residual
        self.grid_size = self.grid(*self.img_size)
        cells = math.prod(self.grid_size)

        self.patch_embed = PatchEmbed(in_chans, embed_dim, patch_size, self.stride)
        prefix = 0 if class_token is None else 1
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim)) if prefix else None
        self.pos_embed = (
            nn.Parameter(torch.zeros(1, cells + prefix, embed_dim)) if pos_embed else None
        )
        self.pos_drop = nn.Dropout(drop_rate)
        self.rope = (
            RotaryEmbedding(embed_dim, self.grid_size, rope_pretrained_side) if rope else None
        )
        norm = nn.RMSNorm if rms_norm else nn.LayerNorm
        # The published schedule is shifted by one: block i drops with the rate of block i - 1.
        rates = [0.0, *np.linspace(0, drop_path_rate, depth).tolist()]
        self.layers = nn.ModuleList(
            Block(
                embed_dim,
                norm,
                rates[i],
                d_state=d_state,
                divide_out=divide_out,
                layer_scale=layer_scale,
            )
            for i in range(depth)
        )
        self.drop_path = DropPath(rates[depth]) if rates[depth] else nn.Identity()
        self.norm_f = norm(embed_dim, eps=1e-5)
        self.head = self.make_head(num_classes)
        self.reset_parameters()
        offset = (patch_size - 1) / 2
        self.feature_info = [
            {
                "num_chs": embed_dim,
                "reduction": self.stride,
                "module": f"layers.{i}",
                "offset": offset,
            }
            for i in range(depth)
        ]

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise as the published code does, so that "before training" means the same."""
        for module in self.modules():
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        for block in self.layers:
            mixer = block.mixer
            # Only the forward direction gets the small steps of Mamba; the backward bias stays
            # zero (step size 0.69), as published.
            bound = mixer.rank**-0.5
            mixer.dt_proj.weight.uniform_(-bound, bound)
            step = torch.empty_like(mixer.dt_proj.bias)
            step = step.uniform_(math.log(1e-3), math.log(0.1)).exp().clamp(min=1e-4)
            mixer.dt_proj.bias.copy_(step + torch.log(-torch.expm1(-step)))  # softplus^-1
            nn.init.kaiming_uniform_(mixer.out_proj.weight, a=math.sqrt(5))
            mixer.out_proj.weight.div_(math.sqrt(len(self.layers)))
        conv = self.patch_embed.proj
        trunc_normal_(conv.weight, std=math.sqrt(1 / conv.weight[0].numel()))
        nn.init.zeros_(conv.bias)
        if isinstance(self.head, nn.Linear):
            trunc_normal_(self.head.weight, std=0.02)
        for parameter in (self.cls_token, self.pos_embed):
            if parameter is not None:
                trunc_normal_(parameter, std=0.02)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of tokens for an image of height x width pixels."""
        if min(height, width) < self.patch_size:
            raise ValueError(
                f"Vim needs images of at least {self.patch_size} x {self.patch_size} pixels, "
                f"not {height} x {width}"
            )
        return (
            (height - self.patch_size) // self.stride + 1,
            (width - self.patch_size) // self.stride + 1,
        )

    def class_token_index(self, cells: int) -> int | None:
        """Place of the class token in the sequence of `cells` + 1 tokens; None without one."""
        return {"middle": cells // 2, "first": 0, None: None}[self.class_token]

    def adapt(self, to: Adaptation) -> None:
        self.pos_embed_resize = to.positions

    def fit_positions(self, state: dict[str, Tensor], method: str) -> str | None:
        rows = state.get("pos_embed")
        if self.pos_embed is None or rows is None or rows.shape[2] != self.embed_dim:
            return None
        cells, grid = rows.shape[1] - (self.class_token is not None), self.grid_size
        if cells == math.prod(grid):
            return None
        side = math.isqrt(cells)
        if side * side != cells:
            raise ValueError(
                f"the position embedding in the file has {cells} cells, which is not a square "
                "grid: build the model with the file's img_size="
            )
        state["pos_embed"] = self._resized(rows, (side, side), grid, method)
        return f"from {side} x {side} to {grid[0]} x {grid[1]} cells ({method})"

    def _resized(
        self, rows: Tensor, old: tuple[int, int], new: tuple[int, int], method: str
    ) -> Tensor:
        if self.class_token is None:
            return _resize_grid(rows, old, new)
        # Where the class token comes first, the published way is right.
        return resize_pos_embed(
            rows, old, new, "official" if self.class_token == "first" else method
        )

    def _positions(self, grid: tuple[int, int]) -> Tensor:
        assert self.pos_embed is not None
        if grid == self.grid_size:
            return self.pos_embed
        return self._resized(self.pos_embed, self.grid_size, grid, self.pos_embed_resize)

    def embed(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """(b, 3, h, w) -> tokens (b, l, c) with class token and positions, and their grid."""
        grid = self.grid(*x.shape[-2:])
        if self.rope is not None and grid != self.grid_size:
            raise ValueError(
                f"a Vim with rotary embedding takes images of {self.img_size[0]} x "
                f"{self.img_size[1]} pixels only, not {x.shape[-2]} x {x.shape[-1]}; "
                "build it with img_size="
            )
        tokens = self.patch_embed(x)
        at = self.class_token_index(tokens.shape[1])
        if at is not None and self.cls_token is not None:
            cls = self.cls_token.expand(tokens.shape[0], -1, -1)
            tokens = torch.cat([tokens[:, :at], cls, tokens[:, at:]], dim=1)
        if self.pos_embed is not None:
            tokens = tokens + self._positions(grid)
        return self.pos_drop(tokens), grid

    def block_output(self, module: str, output: Any) -> Any:
        return sum(output) if isinstance(self.get_submodule(module), Block) else output

    def residual(self, output: Any) -> Tensor:
        return output[1]

    def tokens_to_map(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """(b, l, c) -> (b, c, rows, columns), the class token left out."""
        at = self.class_token_index(math.prod(grid))
        if at is not None:
            tokens = torch.cat([tokens[:, :at], tokens[:, at + 1 :]], dim=1)
        return tokens.transpose(1, 2).unflatten(2, grid)

    def _layers(self, x: Tensor, stop: int):
        """Yield (hidden, residual) after each of the first `stop` layers."""
        hidden, grid = self.embed(x)
        class_token = self.class_token_index(math.prod(grid))
        residual = None
        for layer in self.layers[:stop]:
            if self.rope is not None:
                hidden = self.rope(hidden)
                if residual is not None and self.rope_residual:
                    residual = self.rope(residual)
            hidden, residual = layer(hidden, residual, grid, class_token)
            yield hidden, residual

    def forward_features(self, x: Tensor) -> Tensor:
        """(b, 3, h, w) -> normalised tokens (b, l, c), class token included."""
        hidden, residual = deque(self._layers(x, len(self.layers)), maxlen=1).pop()
        return self.norm_f(residual + self.drop_path(hidden))

    def forward_head(self, tokens: Tensor, pre_logits: bool = False) -> Tensor:
        if self.class_token is not None:
            tokens = tokens[:, self.class_token_index(tokens.shape[1] - 1)]
        elif self.pool == "mean":
            tokens = tokens.mean(dim=1)
        elif self.pool == "last":
            tokens = tokens[:, -1]
        if pre_logits:
            return tokens
        logits = self.head(tokens)
        return logits.amax(dim=1) if self.pool == "max" and logits.ndim == 3 else logits

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ):
        """Return the residual stream after the chosen blocks as maps (b, c, rows, columns).

        Args as timm's; `norm` applies the final norm to every map. The class token is left out.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt must be 'NCHW', not {output_fmt!r}")
        take, last = feature_take_indices(len(self.layers), indices)
        grid = self.grid(*x.shape[-2:])
        maps = []
        stop = last + 1 if stop_early else len(self.layers)
        stream = None
        for i, (hidden, residual) in enumerate(self._layers(x, stop)):
            stream = residual + hidden
            if i in take:
                maps.append(self.tokens_to_map(self.norm_f(stream) if norm else stream, grid))
        if intermediates_only:
            return maps
        return self.norm_f(stream), maps

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove what timm's `features_only` does not need."""
        take, last = feature_take_indices(len(self.layers), indices)
        self.layers = self.layers[: last + 1]
        if prune_norm:
            self.norm_f = nn.Identity()
        if prune_head:
            self.reset_classifier(0)
        return take


VARIANTS: dict[str, dict] = {
    "vim_tiny": {"embed_dim": 192},
    "vim_tiny_plus": {"embed_dim": 192, "stride": 8},
    "vim_small": {"embed_dim": 384},
    "vim_small_plus": {"embed_dim": 384, "stride": 8},
    "vim_base": {"embed_dim": 768},
}
NANO = {"vim_nano": {"patch_size": 8, "embed_dim": 128, "depth": 6, "d_state": 8}}


def _cfg(size: str, file: str) -> dict:
    return imagenet_cfg(
        first_conv="patch_embed.proj",
        classifier=Vim.classifier_name,
        license="apache-2.0",
        paper_ids="arXiv:2401.09417",
        **on_hub(f"hustvl/Vim-{size}-midclstok", f"vim_{size[0]}_midclstok_{file}.pth"),
    )


default_cfgs = generate_default_cfgs(
    {
        "vim_tiny": _cfg("tiny", "76p1acc"),
        "vim_tiny_plus": _cfg("tiny", "ft_78p3acc"),
        "vim_small": _cfg("small", "80p5acc"),
        "vim_small_plus": _cfg("small", "ft_81p6acc"),
        "vim_base": _cfg("base", "81p9acc"),
        **nano_cfgs(
            "vim_nano",
            first_conv="patch_embed.proj",
            classifier=Vim.classifier_name,
            fixed_input_size=True,
        ),
    }
)
register(__name__, Vim, VARIANTS, out_indices=3)
register(__name__, Vim, NANO, out_indices=(0, 1, 2))
