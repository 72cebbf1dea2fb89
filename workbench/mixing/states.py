"""The hidden states of a scan: what they are, how many dimensions they fill, and which tokens they
hold (X-VMamba, arXiv 2511.12694).
"""

from dataclasses import replace

import torch
from torch import Tensor

from workbench.kernels import selective_scan
from workbench.mixing.hidden_attention import HiddenAttention

_BLOCK = 2**22  # entries worked on at once


def states(u: Tensor, delta: Tensor, A: Tensor, B: Tensor) -> Tensor:
    """h_t = exp(delta_t A) h_(t-1) + delta_t B_t u_t, all of them, by the scan itself.

    y is linear in C: a scan of one state with C = 1 and no D gives that state of all channels.

    Args:
        u, delta: (b, d, l). A: (d, n). B: (b, n, l).

    Returns:
        (b, n, d, l).
    """
    one = torch.ones_like(B[:, :1])
    each = [selective_scan(u, delta, A[:, [k]], B[:, [k]], one) for k in range(A.shape[1])]
    return torch.stack([y for y in each if isinstance(y, Tensor)], dim=1)


def participation(values: Tensor, others: Tensor | None = None) -> Tensor:
    """(sum x)^2 / sum x^2 over the last axis, from 1 for one value to their number for equal ones;
    nan where all are 0.

    Args:
        others: sum of x^2 where `values` are not x but add up to the same.
    """
    squares = values.square().sum(dim=-1) if others is None else others
    return values.sum(dim=-1).square() / squares


def size_of_channels(h: Tensor) -> Tensor:
    """(d,) effective number of states of each channel, from 1 to n: the participation ratio
    (sum lambda)^2 / sum lambda^2 = (tr S)^2 / |S|^2 of the (n, n) covariance S over tokens.

    Args:
        h: (b, n, d, l); the tokens are those of all b. Their mean is taken off.
    """
    found = []
    step = max(1, _BLOCK // h[:, :, 0].numel())
    for part in h.split(step, dim=2):
        x = _centred(part.permute(2, 1, 0, 3).flatten(2))  # (c, n, tokens)
        covariance = x @ x.mT
        variances = covariance.diagonal(dim1=1, dim2=2)
        found.append(participation(variances, covariance.square().sum(dim=(1, 2))))
    return torch.cat(found)


def size_of_direction(h: Tensor) -> Tensor:
    """The same of the (d n, d n) covariance of all channels and states of a direction together, at
    most d n and at most the tokens less one.

    The sum of squares of a covariance is that of the products of its tokens, so the smaller of the
    two is made, block by block.
    """
    x = _centred(h.permute(1, 2, 0, 3).flatten(2).flatten(0, 1))  # (n d, tokens)
    x = x if len(x) <= x.shape[1] else x.T
    step = max(1, _BLOCK // len(x))
    squares = sum(((part @ x.T).square().sum() for part in x.split(step)), x.new_zeros(()))
    return participation(x.square().sum(dim=1), squares)


def _centred(x: Tensor) -> Tensor:
    return x - x.mean(dim=-1, keepdim=True)


def controllability(matrix: HiddenAttention) -> Tensor:
    """(l,) what each token adds to the trace of the controllability Gramian of the last state.

    For a diagonal A its diagonal is, for each channel and state, the sum over tokens s of
    (prod of a over (s, L])^2 b_s^2 with b_s = delta_s B_s: the squared entries of the Jacobian of
    h_L by u_s, coefficients held fixed. O(l).
    """
    ones = torch.ones_like(matrix.C)
    squared = replace(
        matrix, A=2 * matrix.A, B=matrix.B.square(), C=ones, view="QwKw", D=None, gate=None,
        convolution=None,
    )  # fmt: skip
    decayed = squared.row(matrix.length - 1, "channels")
    return (decayed * matrix.delta.square()).sum(dim=0)


def kept(matrix: HiddenAttention, token: int) -> Tensor:
    """(l,) what is left of a token in the state at every step, in [0, 1]: prod of a over (s, t],
    mean over channels and states, 0 before the token and 1 at it.
    """
    whole = replace(matrix, view="w", D=None, gate=None, convolution=None)
    return whole.column(token, "mean") / matrix.A.shape[1]
