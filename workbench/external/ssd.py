"""Stand-ins for Mamba-2 (Dao & Gu 2024, arXiv 2405.21060): the selective scan with one number A and
one delta for all channels of a head, so an ordinary scan of the workbench."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels import softplus
from workbench.external.native import convolve
from workbench.external.norms import GatedRMSNorm, gated_rms_norm
from workbench.external.sites import scan

_NO_LIMIT = (0.0, float("inf"))


def mamba_chunk_scan_combined(
    x, dt, A, B, C, chunk_size=None, D=None, z=None, dt_bias=None, initial_states=None,
    seq_idx=None, cu_seqlens=None, dt_softplus=False, dt_limit=_NO_LIMIT,
    return_final_states=False, **_: Any,
):  # fmt: skip
    """mamba_ssm's scan of heads.

        h_t = exp(delta_t A) h_(t-1) + delta_t x_t B_t^T,    y_t = h_t C_t + D x_t

    Args:
        x: (b, l, heads, p), as z. dt: (b, l, heads). A, dt_bias: (heads). D: (heads) or (heads, p).
        B, C: (b, l, groups, n); neighbouring heads share a group.
        chunk_size: of the GPU kernel; no effect.

    Returns:
        y (b, l, heads, p), and with `return_final_states` h_l, (b, heads, p, n).

    Raises:
        ValueError: for initial states and packed sequences.
    """
    if not all(value is None for value in (initial_states, seq_idx, cu_seqlens)):
        raise ValueError(
            "the stand-in for mamba_chunk_scan_combined has no initial states and no packed "
            "sequences; call it without them"
        )
    heads, p = x.shape[2:]
    delta = dt.transpose(1, 2).to(torch.promote_types(dt.dtype, torch.float32))
    if dt_softplus:
        delta = softplus(delta, dt_bias)
    elif dt_bias is not None:
        delta = delta + dt_bias[:, None]
    if tuple(dt_limit) != _NO_LIMIT:
        delta = delta.clamp(*dt_limit)

    def channels(each: Tensor) -> Tensor:  # (b, l, heads, p) -> (b, heads p, l)
        return each.flatten(2).transpose(1, 2)

    found = scan(
        "mamba_chunk_scan_combined",
        channels(x),
        delta.repeat_interleave(p, dim=1),
        A.repeat_interleave(p)[:, None].expand(-1, B.shape[-1]),
        B.permute(0, 2, 3, 1),
        C.permute(0, 2, 3, 1),
        D if D is None else D.view(heads, -1).expand(-1, p).flatten(),
        z if z is None else channels(z),
        return_last_state=return_final_states,
    )
    y, state = found if isinstance(found, tuple) else (found, None)
    y = y.transpose(1, 2).unflatten(2, (heads, p))
    return y if state is None else (y, state.unflatten(1, (heads, p)))


def mamba_split_conv1d_scan_combined(
    zxbcdt, conv1d_weight, conv1d_bias, dt_bias, A, D, chunk_size, initial_states=None,
    seq_idx=None, dt_limit=_NO_LIMIT, return_final_states=False, activation="silu",
    rmsnorm_weight=None, rmsnorm_eps=1e-6, outproj_weight=None, outproj_bias=None, headdim=None,
    ngroups=1, norm_before_gate=True,
):  # fmt: skip
    """All of a Mamba-2 block after its input projection: (b, l, 2 d + 2 groups n + heads) ->
    (b, l, d), or the width of `outproj_weight`."""
    if not isinstance(D, Tensor) or return_final_states:
        raise ValueError(
            "the stand-in for mamba_split_conv1d_scan_combined takes a tensor D and returns no "
            "states; call it so"
        )
    heads = len(D)
    p = headdim or D.shape[1]
    mixed = len(conv1d_weight)  # x, B and C
    z, xBC, dt = zxbcdt.split([heads * p, mixed, heads], dim=-1)
    xBC = convolve(xBC.transpose(1, 2), conv1d_weight, conv1d_bias, activation in ("silu", "swish"))
    state = (mixed - heads * p) // (2 * ngroups)
    x, B, C = xBC.transpose(1, 2).split([heads * p, ngroups * state, ngroups * state], dim=-1)
    gate = z.unflatten(2, (heads, p)) if rmsnorm_weight is None else None
    y = mamba_chunk_scan_combined(
        x.unflatten(2, (heads, p)), dt, A, B.unflatten(2, (ngroups, state)),
        C.unflatten(2, (ngroups, state)), chunk_size, D, gate, dt_bias, initial_states, seq_idx,
        dt_softplus=True, dt_limit=dt_limit,
    ).flatten(2)  # fmt: skip
    if rmsnorm_weight is not None:
        y = gated_rms_norm(y, rmsnorm_weight, z, ngroups, rmsnorm_eps, norm_before_gate)
    return y if outproj_weight is None else F.linear(y, outproj_weight, outproj_bias)


class Mamba2(nn.Module):
    """mamba_ssm's block of Mamba-2 (figure 6): (b, l, dim) -> (b, l, dim).

    Names and shapes of its weights are those of mamba_ssm 2.

    Raises:
        ValueError: for arguments that split the model over processes, or of a fork.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 128,
        d_conv: int = 4,
        conv_init: float | None = None,
        expand: float = 2,
        headdim: int = 64,
        ngroups: int = 1,
        A_init_range: tuple[float, float] = (1, 16),
        D_has_hdim: bool = False,
        rmsnorm: bool = True,
        norm_before_gate: bool = False,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_init_floor: float = 1e-4,
        dt_limit: tuple[float, float] = _NO_LIMIT,
        bias: bool = False,
        conv_bias: bool = True,
        chunk_size: int = 256,
        use_mem_eff_path: bool = True,
        layer_idx: int | None = None,
        device=None,
        dtype=None,
        **further: object,
    ) -> None:
        further.pop("sequence_parallel", None)  # of no effect on one device
        unknown = [key for key, value in further.items() if value not in (None, False)]
        if unknown:
            raise ValueError(
                f"the stand-in for mamba_ssm's {type(self).__name__} has no argument "
                f"{unknown[0]!r}; leave it out"
            )
        super().__init__()
        self.headdim, self.ngroups, self.dt_limit = headdim, ngroups, dt_limit
        self.norm_before_gate = norm_before_gate
        inner = int(expand * d_model)
        if inner % headdim:
            raise ValueError(
                f"the width {inner} of {type(self).__name__} is no multiple of headdim {headdim}"
            )
        heads, mixed = inner // headdim, inner + 2 * ngroups * d_state
        made: dict[str, Any] = {"device": device, "dtype": dtype}
        self.in_proj = nn.Linear(d_model, inner + mixed + heads, bias=bias, **made)
        self.conv1d = nn.Conv1d(
            mixed, mixed, d_conv, groups=mixed, padding=d_conv - 1, bias=conv_bias, **made
        )
        if conv_init is not None:
            nn.init.uniform_(self.conv1d.weight, -conv_init, conv_init)
        step = torch.rand(heads, **made) * (math.log(dt_max) - math.log(dt_min))
        step = (step + math.log(dt_min)).exp().clamp(min=dt_init_floor)
        self.dt_bias = nn.Parameter(step + torch.log(-torch.expm1(-step)))  # softplus^-1
        A = torch.empty(heads, device=device).uniform_(*A_init_range)
        self.A_log = nn.Parameter(A.log().to(dtype))
        self.D = nn.Parameter(torch.ones(inner if D_has_hdim else heads, device=device))
        self.norm = (
            GatedRMSNorm(inner, 1e-5, inner // ngroups, norm_before_gate, **made)
            if rmsnorm
            else None
        )
        self.out_proj = nn.Linear(inner, d_model, bias=bias, **made)

    def forward(self, u: Tensor, *_: object, **__: object) -> Tensor:
        return mamba_split_conv1d_scan_combined(
            self.in_proj(u), self.conv1d.weight.squeeze(1), self.conv1d.bias, self.dt_bias,
            -self.A_log.float().exp(), self.D.view(len(self.A_log), -1), None,
            dt_limit=self.dt_limit, rmsnorm_weight=None if self.norm is None else self.norm.weight,
            rmsnorm_eps=1e-5, outproj_weight=self.out_proj.weight, outproj_bias=self.out_proj.bias,
            headdim=self.headdim, ngroups=self.ngroups, norm_before_gate=self.norm_before_gate,
        )  # fmt: skip


class Mamba2Simple(Mamba2):
    """The same with the defaults of mamba_ssm's short version."""

    def __init__(self, d_model: int, d_state: int = 64, headdim: int = 128, **kwargs: Any) -> None:
        kwargs = {key: value for key, value in kwargs.items() if key != "activation"}
        super().__init__(d_model, d_state=d_state, headdim=headdim, **kwargs)
