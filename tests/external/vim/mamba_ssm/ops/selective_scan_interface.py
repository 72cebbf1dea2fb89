"""A fork's fused inner function, with the gradient buffers of the published one."""

import causal_conv1d_cuda
import selective_scan_cuda
import torch
import torch.nn.functional as F
from causal_conv1d import causal_conv1d_fn  # noqa: F401
from torch.cuda.amp import custom_bwd, custom_fwd


class MambaInnerFnNoOutProj(torch.autograd.Function):
    @staticmethod
    @custom_fwd
    def forward(ctx, xz, conv1d_weight, conv1d_bias, x_proj_weight, dt_proj_weight, A, D, dt_bias):
        rank, state = dt_proj_weight.shape[1], A.shape[1]
        conv1d_weight = conv1d_weight.squeeze(1)
        x, z = xz.chunk(2, dim=1)
        u = causal_conv1d_cuda.causal_conv1d_fwd(
            x, conv1d_weight, conv1d_bias, None, None, None, True
        )
        projected = F.linear(u.transpose(1, 2), x_proj_weight)
        delta = (projected[..., :rank] @ dt_proj_weight.t()).transpose(1, 2).contiguous()
        B = projected[..., rank : rank + state].transpose(1, 2).unsqueeze(1).contiguous()
        C = projected[..., -state:].transpose(1, 2).unsqueeze(1).contiguous()
        out, states, out_z = selective_scan_cuda.fwd(u, delta, A, B, C, D, z, dt_bias, True)
        ctx.save_for_backward(
            xz, conv1d_weight, conv1d_bias, projected, x_proj_weight, dt_proj_weight, u, delta, A,
            B, C, D, dt_bias, states, out,
        )  # fmt: skip
        return out_z

    @staticmethod
    @custom_bwd
    def backward(ctx, dout):
        (xz, conv1d_weight, conv1d_bias, projected, x_proj_weight, dt_proj_weight, u, delta, A, B,
         C, D, dt_bias, states, out) = ctx.saved_tensors  # fmt: skip
        rank = dt_proj_weight.shape[1]
        x, z = xz.chunk(2, dim=1)
        dxz = torch.empty_like(xz).fill_(torch.nan)
        dx, dz = dxz.chunk(2, dim=1)  # two halves of the buffer, to be written into
        du, ddelta, dA, dB, dC, dD, ddt_bias, _, _ = selective_scan_cuda.bwd(
            u, delta, A, B, C, D, z, dt_bias, dout.contiguous(), states, out, dz, True, True
        )
        ddelta = ddelta.transpose(1, 2)
        dprojected = torch.cat(
            [
                ddelta @ dt_proj_weight,
                dB.squeeze(1).transpose(1, 2),
                dC.squeeze(1).transpose(1, 2),
            ],
            dim=-1,
        )
        ddt_proj_weight = torch.einsum("bld,blr->dr", ddelta, projected[..., :rank])
        dx_proj_weight = torch.einsum("blc,bdl->cd", dprojected, u)
        du = du + (dprojected @ x_proj_weight).transpose(1, 2)
        _, dconv1d_weight, dconv1d_bias = causal_conv1d_cuda.causal_conv1d_bwd(
            x, conv1d_weight, conv1d_bias, du, None, dx, True
        )
        return (dxz, dconv1d_weight.unsqueeze(1), dconv1d_bias, dx_proj_weight, ddt_proj_weight,
                dA, dD, ddt_bias)  # fmt: skip


def mamba_inner_fn_no_out_proj(*args):
    return MambaInnerFnNoOutProj.apply(*args)
