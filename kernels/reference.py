"""The definition of the selective scan: a loop over time in plain PyTorch.

Slow, any device, any floating dtype, differentiable any number of times. Every other backend is
measured against it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def softplus(x: Tensor, bias: Tensor | None = None) -> Tensor:
    """log(1 + exp(x + bias[:, None])) for x (b, d, l), bias (d); exact for large |x|."""
    if bias is not None:
        x = x + bias[:, None]
    # Above its threshold torch returns x itself. The default of 20 is an error of exp(-20) = 2e-9,
    # which float64 sees; exp(-40) it does not.
    return F.softplus(x, threshold=40.0)


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return y (b, d, l) and the last state (b, d, n); all inputs of one dtype.

    Shapes: u, delta (b, d, l); A (d, n); B, C (b, g, n, l); D, delta_bias (d).

        h_t = exp(delta_t A) h_(t-1) + delta_t B_t u_t,    y_t = C_t . h_t + D u_t
    """
    if delta_softplus:
        delta = softplus(delta, delta_bias)
    elif delta_bias is not None:
        delta = delta + delta_bias[:, None]

    groups = B.shape[1]
    A = A.unflatten(0, (groups, -1))  # [g, r, n]
    channels = A.shape[1]
    # Time comes first and is unbound once: indexing step t inside the loop would cost the backward
    # pass a zero gradient of full length per step, time quadratic in l.
    over_time = [
        x.unflatten(1, (groups, channels)).movedim(-1, 0).unbind()  # l times [b, g, r]
        for x in (delta, delta * u)
    ] + [x.unsqueeze(2).movedim(-1, 0).unbind() for x in (B, C)]  # l times [b, g, 1, n]

    h = u.new_zeros(len(u), *A.shape)  # [b, g, r, n]
    outputs = []
    for delta_t, delta_u_t, B_t, C_t in zip(*over_time, strict=True):
        h = torch.exp(delta_t[..., None] * A) * h + delta_u_t[..., None] * B_t
        outputs.append((C_t * h).sum(-1))

    y = torch.stack(outputs, dim=-1).flatten(1, 2)
    if D is not None:
        y = y + D[:, None] * u
    return y, h.flatten(1, 2)
