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


def cross_selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    order: Tensor,
    merge: bool,
) -> Tensor:
    """`kernels.cross_selective_scan` step by step; returns (b, l, d), or (b, l, k, d)."""
    return scan_along_paths(u, delta, A, B, C, D, delta_bias, delta_softplus, order, merge)[0]


def scan_along_paths(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    order: Tensor,
    merge: bool,
) -> tuple[Tensor, Tensor]:
    """Gather, scan, scatter, sum.

    Shapes: u (b, l, d) or (b, l, k, d); delta (b, l, k, d); A (k d, n); B, C (b, l, k, n);
    D, delta_bias (k d); order (k, s). Returns y (b, l, d) with `merge`, else (b, l, k, d), and the
    state at the end of each path, (b, k d, n).
    """
    batch, tokens, directions, channels = delta.shape
    if u.ndim == 3:
        u = u.unsqueeze(2).expand(-1, -1, directions, -1)
    if delta_bias is not None:
        delta = delta + delta_bias.unflatten(0, (directions, channels))
    if delta_softplus:
        delta = softplus(delta)

    visited = (order >= 0)[:, None]  # [k, 1, s]
    steps = order.long().clamp(min=0)[:, None]

    def along(x: Tensor) -> Tensor:  # [b, l, k, c] -> [b, k, c, s]
        x = x.permute(0, 2, 3, 1)
        return x.gather(3, steps.expand(batch, directions, x.shape[2], -1))

    u, delta, B, C = along(u), along(delta) * visited, along(B), along(C)
    y, last = selective_scan(u.flatten(1, 2), delta.flatten(1, 2), A, B, C, D)
    y = y.unflatten(1, (directions, channels)) * visited
    places = y.new_zeros(batch, directions, channels, tokens)
    y = places.scatter_add(3, steps.expand_as(y), y).permute(0, 3, 1, 2)
    return (sum_of_directions(y) if merge else y), last


def sum_of_directions(y: Tensor) -> Tensor:
    """(b, l, k, d) -> (b, l, d), added one after the other: ((y_0 + y_1) + y_2) + ..."""
    first, *others = y.unbind(2)
    for other in others:
        first = first + other
    return first
