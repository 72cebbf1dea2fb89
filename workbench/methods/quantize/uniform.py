"""Uniform symmetric quantisation of a scan tensor of one image: to steps of a range, and back."""

import torch
from torch import Tensor

SHARED = {"tensor": (0, 1, 2), "channel": (0, 2), "token": (1,)}
"""Axes of (w, d, l) whose entries share a range: a model that scans w windows has them first."""


def largest(x: Tensor, granularity: str) -> Tensor:
    """max |x| of what shares a range: x (w, d, l) -> (1, 1, 1), (1, d, 1) or (w, 1, l)."""
    return x.abs().amax(dim=SHARED[granularity], keepdim=True)


def quantised(x: Tensor, bits: int, reach: Tensor) -> Tensor:
    """The nearest of 2^bits - 1 values, evenly spaced from -reach to reach, 0 among them.

    The step is reach / (2^(bits - 1) - 1); what lies beyond the range becomes its end, and where
    reach is 0 everything becomes 0. Computed in single precision at least.

    Args:
        x: of any shape. reach: >= 0, broadcastable to x.
    """
    steps = 2 ** (bits - 1) - 1
    wide = torch.promote_types(x.dtype, torch.float32)
    step = reach.to(x.device, wide) / steps
    whole = torch.where(step > 0, x.to(wide) / step, 0).round().clamp(-steps, steps)
    return (whole * step).to(x.dtype)
