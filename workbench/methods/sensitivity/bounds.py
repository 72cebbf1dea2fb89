"""How far one scan's output can move when B, C or delta move within a budget: exact ceilings.

For one scan with everything before it unchanged. With |dB| <= r_B the output moves by at most
scan(|u|, delta, A, r_B, |C|), with |dC| <= r_C by at most sum_n r_C |h_n|; both are reached by a
choice of signs at any one (channel, step). For delta an interval recurrence: sound, not tight.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from workbench.attacks.projected_gradient import random_direction
from workbench.kernels import selective_scan
from workbench.methods.sensitivity.perturb import Inside
from workbench.methods.sensitivity.subject import RANKED, Case, by_scan, row_rms


def states(u: Tensor, delta: Tensor, A: Tensor, B: Tensor) -> Tensor:
    """h: (b, d, n, l), the state after every step, read out state by state by the scan itself.

    Args:
        u, delta: (b, d, l). A: (d, n). B: (b, n, l).
    """
    one = torch.ones_like(B[:, :1])
    found = [
        selective_scan(u, delta, A[:, n : n + 1], B[:, n : n + 1], one) for n in range(A.shape[1])
    ]
    return torch.stack(found, dim=2)  # type: ignore[arg-type]


def bound(tensors: Mapping[str, Tensor], name: str, radius: Tensor) -> Tensor:
    """(b, d, l): what |dy| cannot exceed while tensor `name` moves by at most `radius` everywhere.

    Args:
        tensors: u, delta (b, d, l), A (d, n), B, C (b, n, l), of one direction.
        name: "B", "C" or "delta" (after softplus; it stays at least zero).
        radius: broadcastable to the tensor, >= 0.
    """
    u, delta, A, B, C = (tensors[key] for key in ("u", "delta", "A", "B", "C"))
    if name == "B":
        return selective_scan(u.abs(), delta, A, radius.expand_as(B).contiguous(), C.abs())  # type: ignore[return-value]
    h = states(u, delta, A, B)
    if name == "C":
        return (radius.expand_as(C)[:, None] * h.abs()).sum(dim=2)
    radius = radius.expand_as(delta)
    least = (delta - radius).clamp(min=0)
    error = torch.zeros_like(h[..., 0])
    found = []
    before = torch.zeros_like(error)
    for t in range(delta.shape[-1]):
        slowest, plain, fastest = (
            torch.exp(step[..., t, None] * A) for step in (least, delta, delta + radius)
        )
        # The lower end moves the decay farthest, unless it is cut off at zero.
        moved = (slowest - plain).maximum(plain - fastest)
        pushed = radius[..., t, None] * (B[:, None, :, t] * u[..., t, None]).abs()
        error = slowest * error + moved * before + pushed
        before = h[..., t].abs()
        found.append((error * C[:, None, :, t].abs()).sum(dim=-1))
    return torch.stack(found, dim=-1)


def change(tensors: Mapping[str, Tensor], name: str, moved: Tensor) -> Tensor:
    """(b, d, l): |y' - y| of the scan when tensor `name` becomes `moved`."""
    keys = ("u", "delta", "A", "B", "C")
    plain = selective_scan(*(tensors[key] for key in keys))
    other = selective_scan(*({**tensors, name: moved}[key] for key in keys))
    return (other - plain).abs()  # type: ignore[operator]


def measure(case: Case) -> dict[str, Tensor]:
    """`bounds` (b, sites, 3, 3): for B, C and delta of every site, what a change within
    `narrow_eps` does to the scan's own output at most, what the signs of the margin's gradient do,
    and what a random change does; means of |dy| over mean |C h|."""
    config = case.config
    found = []
    for site in case.subject.sites:
        tensors = by_scan(case.clean[site.name])
        size = case.mean((tensors["y"] - _skip(tensors)).abs())
        rows = []
        for name in RANKED:
            inside = Inside(case, name, (site.name,))
            (ball,) = inside.balls(config.narrow_eps)
            radius = config.narrow_eps * row_rms(name, tensors[name])
            (step,) = inside.one_step(config.narrow_eps)
            deltas = step, random_direction([ball], case.seeds())[0]
            moved = [tensors[name] + delta.view_as(tensors[name]) for delta in deltas]
            moved = [m.clamp(min=0) if name == "delta" else m for m in moved]
            changes = [bound(tensors, name, radius), *(change(tensors, name, m) for m in moved)]
            rows.append(torch.stack([case.mean(c) / size for c in changes], dim=1))
        found.append(torch.stack(rows, dim=1))
    return {"bounds": torch.stack(found, dim=1)}


def _skip(tensors: Mapping[str, Tensor]) -> Tensor | float:
    D = tensors.get("D")
    return 0.0 if D is None else D[:, None] * tensors["u"]
