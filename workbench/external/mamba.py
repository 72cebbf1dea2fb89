"""Stand-ins for mamba_ssm's Python: `selective_scan_fn`, inner functions and the block `Mamba`."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workbench.external.native import convolve
from workbench.external.sites import scan
from workbench.kernels import selective_scan


def selective_scan_fn(
    u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False,
    return_last_state=False,
):  # fmt: skip
    """mamba_ssm's `selective_scan_fn`: see `kernels.selective_scan`.

    B and C may be constant, (d, n); such a scan is computed, but not traced.

    Raises:
        ValueError: for complex A.
    """
    if A.is_complex():
        raise ValueError(
            "the scan takes a real A, and this one is complex: choose a model whose A is real"
        )
    if B.ndim == 2 or C.ndim == 2:
        B, C = (_for_each_channel(x, u) for x in (B, C))
        return selective_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus,
                              bool(return_last_state))  # fmt: skip
    # one caller passes None for the last
    return scan("selective_scan_fn", u, delta, A, B, C, D, z, delta_bias, delta_softplus,
                bool(return_last_state))  # fmt: skip


def selective_scan_ref(
    u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False,
    return_last_state=False,
):  # fmt: skip
    """The same by the plain loop over time."""
    if B.ndim == 2 or C.ndim == 2:
        B, C = (_for_each_channel(x, u) for x in (B, C))
    return selective_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state,
                          backend="reference")  # fmt: skip


def _for_each_channel(x: Tensor, u: Tensor) -> Tensor:
    """B or C in any form, as one with a group for each channel: (b, d, n, l)."""
    if x.ndim == 2:
        return x[None, :, :, None].expand(len(u), -1, -1, u.shape[-1])
    x = x.unsqueeze(1) if x.ndim == 3 else x
    return x.repeat_interleave(u.shape[1] // x.shape[1], dim=1)


def selective_scan_without_gate(
    u, delta, A, B, C, D=None, delta_bias=None, delta_softplus=False, nrows=1, backnrows=-1
):
    """`selective_scan.selective_scan_fn` of VMamba's own package, which has no z."""
    return scan("selective_scan.selective_scan_fn", u, delta, A, B, C, D, None, delta_bias,
                delta_softplus)  # fmt: skip


def mamba_inner_fn_no_out_proj(
    xz, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, A, B=None, C=None, D=None,
    delta_bias=None, B_proj_bias=None, C_proj_bias=None, delta_softplus=True,
):  # fmt: skip
    """From xz (b, 2 d, l) after the input projection to the gated output (b, d, l)."""
    u, delta, B, C, z = _coefficients(
        xz, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, A, B, C, B_proj_bias,
        C_proj_bias,
    )  # fmt: skip
    return scan("mamba_inner_fn_no_out_proj", u, delta, A, B, C, D, z, delta_bias, delta_softplus)


def mamba_inner_fn(
    xz, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, out_proj_weight,
    out_proj_bias, A, B=None, C=None, D=None, delta_bias=None, B_proj_bias=None, C_proj_bias=None,
    delta_softplus=True,
):  # fmt: skip
    """The same with the output projection: (b, l, d)."""
    y = mamba_inner_fn_no_out_proj(
        xz, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, A, B, C, D, delta_bias,
        B_proj_bias, C_proj_bias, delta_softplus,
    )  # fmt: skip
    return F.linear(y.transpose(1, 2), out_proj_weight, out_proj_bias)


def bimamba_inner_fn(
    xz, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, out_proj_weight,
    out_proj_bias, A, A_b, B=None, C=None, D=None, delta_bias=None, B_proj_bias=None,
    C_proj_bias=None, delta_softplus=True,
):  # fmt: skip
    """Forward and backward scan of the same coefficients, with A and with A_b (Vim's "v1")."""
    u, delta, B, C, z = _coefficients(
        xz, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, A, B, C, B_proj_bias,
        C_proj_bias,
    )  # fmt: skip
    name, rest = "bimamba_inner_fn", (delta_bias, delta_softplus)
    y = scan(name, u, delta, A, B, C, D, z, *rest)
    u, delta, B, C, z = (x.flip(-1) for x in (u, delta, B, C, z))
    y = y + scan(name, u, delta, A_b, B, C, D, z, *rest).flip(-1)
    return F.linear(y.transpose(1, 2), out_proj_weight, out_proj_bias)


def _coefficients(
    xz, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, A, B, C, B_bias, C_bias
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """u, delta (before bias and softplus), B, C and z, all with the sequence last."""
    x, z = xz.chunk(2, dim=1)
    u = convolve(x, conv1d_weight.squeeze(1), conv1d_bias, silu=True)
    rank, state = delta_proj_weight.shape[1], A.shape[1]
    projected = F.linear(u.transpose(1, 2), x_proj_weight)  # (b, l, rank [+ n] [+ n])
    delta = F.linear(projected[..., :rank], delta_proj_weight).transpose(1, 2)

    def taken(part: Tensor, bias: Tensor | None) -> Tensor:
        return (part if bias is None else part + bias).transpose(1, 2)

    B = taken(projected[..., rank : rank + state], B_bias) if B is None else B
    C = taken(projected[..., -state:], C_bias) if C is None else C
    return u, delta, B, C, z


class Mamba(nn.Module):
    """mamba_ssm's block (Gu & Dao 2023, arXiv 2312.00752, figure 3): (b, l, dim) -> (b, l, dim).

    Names and shapes of its weights are those of mamba_ssm 1 and 2.

    Raises:
        ValueError: for arguments of a fork, such as `bimamba_type`.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: float = 2,
        dt_rank: int | str = "auto",
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_init: str = "random",
        dt_scale: float = 1.0,
        dt_init_floor: float = 1e-4,
        conv_bias: bool = True,
        bias: bool = False,
        use_fast_path: bool = True,
        layer_idx: int | None = None,
        device=None,
        dtype=None,
        **fork: object,
    ) -> None:
        if fork:
            raise ValueError(
                f"mamba_ssm's Mamba has no argument {next(iter(fork))!r}: the model needs a fork "
                "of mamba_ssm; put its folder mamba_ssm anywhere in the repository"
            )
        super().__init__()
        inner = int(expand * d_model)
        rank = math.ceil(d_model / 16) if dt_rank == "auto" else int(dt_rank)
        made = {"device": device, "dtype": dtype}
        self.in_proj = nn.Linear(d_model, 2 * inner, bias=bias, **made)
        self.conv1d = nn.Conv1d(
            inner, inner, d_conv, groups=inner, padding=d_conv - 1, bias=conv_bias, **made
        )
        self.x_proj = nn.Linear(inner, rank + 2 * d_state, bias=False, **made)
        self.dt_proj = nn.Linear(rank, inner, **made)
        self.out_proj = nn.Linear(inner, d_model, bias=bias, **made)
        states = torch.arange(1, d_state + 1, dtype=torch.float32, device=device)
        self.A_log = nn.Parameter(states.log().repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner, device=device))
        with torch.no_grad():
            bound = rank**-0.5 * dt_scale
            if dt_init == "constant":
                self.dt_proj.weight.fill_(bound)
            else:
                self.dt_proj.weight.uniform_(-bound, bound)
            step = torch.rand(inner, **made) * (math.log(dt_max) - math.log(dt_min))
            step = (step + math.log(dt_min)).exp().clamp(min=dt_init_floor)
            self.dt_proj.bias.copy_(step + torch.log(-torch.expm1(-step)))  # softplus^-1
        self.dt_proj.bias._no_reinit = True

    def forward(
        self, hidden_states: Tensor, inference_params: object = None, **_: object
    ) -> Tensor:
        return mamba_inner_fn(
            self.in_proj(hidden_states).transpose(1, 2),
            self.conv1d.weight,
            self.conv1d.bias,
            self.x_proj.weight,
            self.dt_proj.weight,
            self.out_proj.weight,
            self.out_proj.bias,
            -self.A_log.float().exp(),
            D=self.D.float(),
            delta_bias=self.dt_proj.bias.float(),
        )


class Block(nn.Module):
    """mamba_ssm's residual block: add, norm, mixer, and again with an MLP where there is one.

    Args:
        dim: width of the tokens.
        mixer_cls, mlp_cls: make the parts from the width; `nn.Identity` stands for no MLP.
        norm_cls: makes the norms.
        fused_add_norm: has no effect on what is computed.
        residual_in_fp32: keep the sum in float32.
    """

    def __init__(
        self,
        dim: int,
        mixer_cls,
        mlp_cls=nn.Identity,
        norm_cls=nn.LayerNorm,
        fused_add_norm: bool = False,
        residual_in_fp32: bool = False,
    ) -> None:
        super().__init__()
        self.residual_in_fp32 = residual_in_fp32
        self.norm, self.mixer = norm_cls(dim), mixer_cls(dim)
        self.norm2, self.mlp = (
            (None, None) if mlp_cls is nn.Identity else (norm_cls(dim), mlp_cls(dim))
        )

    def forward(
        self,
        hidden_states: Tensor,
        residual: Tensor | None = None,
        inference_params: object = None,
        **mixer: object,
    ) -> tuple[Tensor, Tensor]:
        """(b, l, dim) and the sum so far, None at first -> what is to be added, and the sum."""
        x, residual = self._added(hidden_states, residual, self.norm)
        x = self.mixer(x, inference_params=inference_params, **mixer)
        if self.norm2 is not None and self.mlp is not None:
            x, residual = self._added(x, residual, self.norm2)
            x = self.mlp(x)
        return x, residual

    def _added(self, x: Tensor, residual: Tensor | None, norm) -> tuple[Tensor, Tensor]:
        total = x if residual is None else x + residual
        normed = norm(total.to(norm.weight.dtype))
        return normed, total.float() if self.residual_in_fp32 else total


class BlockOfOneNorm(Block):
    """The same as mamba_ssm 1 had it, without an MLP."""

    def __init__(self, dim: int, mixer_cls, norm_cls=nn.LayerNorm, *rest: bool, **kwargs) -> None:
        super().__init__(dim, mixer_cls, nn.Identity, norm_cls, *rest, **kwargs)


class GatedMLP(nn.Module):
    """mamba_ssm's MLP: fc2(x * activation(gate)) of x and gate from fc1; (..., in_features) ->
    (..., out_features)."""

    def __init__(
        self, in_features: int, hidden_features: int | None = None,
        out_features: int | None = None, activation=F.silu, bias: bool = False,
        multiple_of: int = 128, device=None, dtype=None,
    ) -> None:  # fmt: skip
        super().__init__()
        hidden = int(8 * in_features / 3) if hidden_features is None else hidden_features
        hidden = math.ceil(hidden / multiple_of) * multiple_of
        made: dict = {"bias": bias, "device": device, "dtype": dtype}
        self.fc1 = nn.Linear(in_features, 2 * hidden, **made)
        self.activation = activation
        self.fc2 = nn.Linear(hidden, out_features or in_features, **made)

    def forward(self, x: Tensor) -> Tensor:
        x, gate = self.fc1(x).chunk(2, dim=-1)
        return self.fc2(x * self.activation(gate))
