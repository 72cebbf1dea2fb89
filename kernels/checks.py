"""One sentence on the first argument of a scan that does not fit, as ValueError."""

import torch
from torch import Tensor

__all__ = ["check", "check_cross", "check_softplus"]


def check(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
) -> None:
    """Raise ValueError with one sentence on the first argument that does not fit."""
    optional = {"D": D, "z": z, "delta_bias": delta_bias}
    _check_kind(u.device, u=u, delta=delta, A=A, B=B, C=C, **optional)
    if u.ndim != 3 or u.shape[1] == 0 or u.shape[2] == 0:
        raise ValueError(f"u must be (b, d, l) with d, l >= 1, but its shape is {tuple(u.shape)}")
    batch, dim, length = u.shape
    if A.ndim != 2 or A.shape[0] != dim or A.shape[1] == 0:
        raise ValueError(
            f"A must be (d, n) = ({dim}, n) with n >= 1 to fit u {tuple(u.shape)}, "
            f"but its shape is {tuple(A.shape)}"
        )
    state = A.shape[1]
    fit = f"to fit u {tuple(u.shape)} and A {tuple(A.shape)}"
    for name, x, axes, shape in (
        ("delta", delta, "(b, d, l)", (batch, dim, length)),
        ("z", z, "(b, d, l)", (batch, dim, length)),
        ("D", D, "(d)", (dim,)),
        ("delta_bias", delta_bias, "(d)", (dim,)),
    ):
        if x is not None and x.shape != shape:
            raise ValueError(
                f"{name} must be {axes} = {shape} {fit}, but its shape is {tuple(x.shape)}"
            )
    groups = []
    for name, x in (("B", B), ("C", C)):
        if x.ndim not in (3, 4) or (x.shape[0], *x.shape[-2:]) != (batch, state, length):
            raise ValueError(
                f"{name} must be (b, n, l) = ({batch}, {state}, {length}) or (b, g, n, l) = "
                f"({batch}, g, {state}, {length}) {fit}, but its shape is {tuple(x.shape)}"
            )
        groups.append(1 if x.ndim == 3 else x.shape[1])
    if groups[0] != groups[1]:
        raise ValueError(f"B and C must have the same groups, but B has {groups[0]}, C {groups[1]}")
    if groups[0] == 0 or dim % groups[0]:
        raise ValueError(f"{dim} channels do not divide into the {groups[0]} groups of B and C")


def check_cross(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    paths: Tensor,
) -> None:
    """Raise ValueError with one sentence on the first argument that does not fit."""
    optional = {"D": D, "delta_bias": delta_bias}
    _check_kind(u.device, u=u, delta=delta, A=A, B=B, C=C, **optional)
    whole, given, rates, path = delta.shape, u.shape, A.shape, paths.shape
    if len(whole) != 4 or 0 in whole[1:]:
        raise ValueError(
            f"delta must be (b, l, k, d) with l, k, d >= 1, but its shape is {tuple(whole)}"
        )
    batch, tokens, directions, channels = whole
    rows = directions * channels
    if given != (batch, tokens, channels) and given != whole:
        raise ValueError(
            f"u must be (b, l, d) = {(batch, tokens, channels)} or (b, l, k, d) = {tuple(whole)} "
            f"to fit delta {tuple(whole)}, but its shape is {tuple(given)}"
        )
    if len(rates) != 2 or rates[0] != rows or rates[1] == 0:
        raise ValueError(
            f"A must be (k d, n) = ({rows}, n) with n >= 1 to fit delta {tuple(whole)}, "
            f"but its shape is {tuple(rates)}"
        )
    weights = batch, tokens, directions, rates[1]
    for name, x, axes, shape in (
        ("B", B, "(b, l, k, n)", weights),
        ("C", C, "(b, l, k, n)", weights),
        ("D", D, "(k d)", (rows,)),
        ("delta_bias", delta_bias, "(k d)", (rows,)),
    ):
        if x is not None and x.shape != shape:
            raise ValueError(
                f"{name} must be {axes} = {shape} to fit delta {tuple(whole)}, "
                f"but its shape is {tuple(x.shape)}"
            )
    if paths.device != u.device:
        raise ValueError(f"paths is on {paths.device}, but the first tensor is on {u.device}")
    if paths.is_floating_point() or len(path) != 2 or path[0] != directions:
        raise ValueError(
            f"paths must be integers (k, s) = ({directions}, s) to fit delta {tuple(whole)}, "
            f"but they are {paths.dtype} {tuple(path)}"
        )
    if not 1 <= path[1] <= tokens:
        raise ValueError(
            f"a path visits each of the {tokens} tokens at most once, "
            f"but paths have {path[1]} steps"
        )


def check_softplus(x: Tensor, bias: Tensor | None) -> None:
    """Raise ValueError with one sentence on the first argument that does not fit."""
    _check_kind(x.device, x=x, bias=bias)
    if x.ndim != 3:
        raise ValueError(f"x must be (b, d, l), but its shape is {tuple(x.shape)}")
    if bias is not None and bias.shape != x.shape[1:2]:
        raise ValueError(
            f"bias must be (d) = ({x.shape[1]},) to fit x {tuple(x.shape)}, "
            f"but its shape is {tuple(bias.shape)}"
        )


def _check_kind(device: torch.device, **tensors: Tensor | None) -> None:
    for name, x in tensors.items():
        if x is None:
            continue
        if not x.is_floating_point():
            raise ValueError(f"{name} must be a real floating tensor, but its dtype is {x.dtype}")
        if x.device != device:
            raise ValueError(f"{name} is on {x.device}, but the first tensor is on {device}")
