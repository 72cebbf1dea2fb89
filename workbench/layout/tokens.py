"""Where tokens lie in the image: they answer when a band of it changes."""

from collections.abc import Callable

import torch
from torch import Tensor

_BANDS = 4
_NEAR = 0.1
"""How far tokens may be from their cells on average, in sides of the image.

A band of a quarter alone puts them off by up to an eighth."""


def places_of(
    like: Tensor, take: Callable[[Tensor], Tensor | None]
) -> tuple[Tensor, Tensor] | None:
    """Where the tokens (tokens, values) that `take` gives of an image answer to its bands.

    Args:
        like: (b, c, h, w), images of the size.

    Returns:
        (2, tokens) heights and widths in [0, 1], and (tokens,) which depend on the image; None
        where there are no tokens.
    """
    noise = torch.Generator().manual_seed(0)
    first, other = (torch.randn(1, *like.shape[1:], generator=noise).to(like) for _ in range(2))
    start, everywhere = take(first.clone()), take(other.clone())
    if start is None or everywhere is None:
        return None
    where = []
    for side in (-2, -1):
        n = first.shape[side]
        index = torch.arange(n, device=first.device) * _BANDS // n
        index = index.unsqueeze(1) if side == -2 else index
        changes = [take(torch.where(index == band, other, first)) for band in range(_BANDS)]
        shares = torch.stack(
            [(changed - start).norm(dim=1).square() for changed in changes if changed is not None]
        )
        middles = (torch.arange(_BANDS, device=shares.device) + 0.5) / _BANDS
        where.append((middles @ shares) / shares.sum(0).clamp(min=1e-30))
    change = (everywhere - start).norm(dim=1)
    return torch.stack(where).cpu(), (change > 1e-6 * change.max()).cpu()


def grid_of_tokens(where: Tensor, real: Tensor) -> tuple[tuple[int, int], Tensor] | None:
    """(rows, columns) and the token of each cell, row by row; None for tokens on no grid.

    They may stand in the order of rows or of columns.
    """
    n = int(real.sum())
    errors = []
    for rows in (r for r in range(2, n // 2 + 1) if n % r == 0):
        columns = n // rows
        by_rows = torch.arange(n).view(rows, columns)
        for order in (by_rows, torch.arange(n).view(columns, rows).T):
            errors.append((distance(where[:, real], order), (rows, columns), order))
    error, grid, order = min(errors, key=lambda found: found[0], default=(1.0, (0, 0), real))
    if error > _NEAR:
        return None
    return grid, torch.nonzero(real).flatten()[order.flatten()]


def distance(where: Tensor, order: Tensor) -> float:
    """How far tokens are from their cells on average: `where` (2, n), `order` (rows, columns)."""
    rows, columns = order.shape
    y = (torch.arange(rows) + 0.5) / rows
    x = (torch.arange(columns) + 0.5) / columns
    found = where[:, order.flatten()].view(2, rows, columns)
    return float(((found[0] - y[:, None]).abs() + (found[1] - x).abs()).mean() / 2)
