"""Where in the image the tokens of a module lie, found by changing parts of the image.

Scans return zeros meanwhile, so that what is left of the model (residual streams, convolutions,
layers between stages) keeps every token near its place in the image.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from workbench.paths import CLASS_TOKEN, PADDING

SPOTS = ((0.2, 0.3), (0.3, 0.75), (0.7, 0.2), (0.75, 0.7), (0.45, 0.5))
"""Centres of the changed parts, in fractions of height and width."""

_WIDTH = 0.125
"""Side of a changed part, in fractions."""

_NEAR = 0.2
"""How far off a changed part may appear, in fractions; at least one and a half cells."""


def images(like: Tensor) -> Iterator[Tensor]:
    """Noise in the shape of `like`; other noise all over; then the first with a changed part."""
    generator = torch.Generator().manual_seed(0)
    first, other = (
        torch.randn(like.shape, generator=generator).to(like.device, like.dtype) for _ in range(2)
    )
    yield first
    yield other
    height, width = like.shape[-2:]
    for row, column in SPOTS:
        rows, columns = (_around(at, n) for at, n in ((row, height), (column, width)))
        changed = first.clone()
        changed[..., rows, columns] = 2 * other[..., rows, columns]
        yield changed


def _around(at: float, length: int) -> slice:
    side = max(1, round(_WIDTH * length))
    start = max(0, min(round(at * length - side / 2), length - side))
    return slice(start, start + side)


def cells_of(
    shape: tuple[int, ...],
    changes: list[Tensor],
    aspect: float,
    declared: tuple[int, int] | None = None,
) -> tuple[tuple[int, int], Tensor] | str:
    """The grid that the tokens are on and the cell of each token, or why it is not known.

    Args:
        shape: the axes of the tokens: (rows, columns) or (length,).
        changes: (count,) for each of `images` but the first, how much each token changed.
        aspect: height / width of the image.
        declared: the grid by the adapter, which is then taken as it is.

    Returns:
        (rows, columns), and (count,) cells row by row, `CLASS_TOKEN` or `PADDING`.
    """
    everywhere, *spots = changes
    if not everywhere.any():
        return "no change of the image reaches it while scans are silent"
    real = torch.nonzero(everywhere > 1e-6 * everywhere.max()).flatten()
    still = len(everywhere) - len(real)
    grids = _grids(shape, real, aspect) if declared is None else [declared]
    if declared is not None and declared[0] * declared[1] != len(real):
        return f"it has {len(real)} tokens of the image, not {declared[0]} x {declared[1]}"
    weights = [spot[real].double().square() for spot in spots]
    ranked = sorted((*_distance(grid, weights), i, grid) for i, grid in enumerate(grids))
    if not ranked:
        return f"its {len(real)} tokens of the image are on no grid"
    _, far, _, grid = ranked[0]
    if declared is None and far > 1:
        return (
            "its tokens are not in the order of the image: a module around it has put them in "
            "another order, or mixed them"
        )
    outside = CLASS_TOKEN if len(shape) == 1 and still == 1 else PADDING
    cells = torch.full((len(everywhere),), outside, dtype=torch.int64)
    cells[real.cpu()] = torch.arange(len(real))
    return grid, cells


def _grids(shape: tuple[int, ...], real: Tensor, aspect: float) -> list[tuple[int, int]]:
    """Grids that the tokens could be on, the likeliest first."""
    if len(shape) == 2:
        rows, columns = (len(x.unique()) for x in (real // shape[1], real % shape[1]))
        return [(rows, columns)] if rows * columns == len(real) else []
    count = len(real)
    pairs = [(n, count // n) for n in range(1, count + 1) if count % n == 0]
    return sorted(pairs, key=lambda pair: abs(math.log(pair[0] / pair[1] / aspect)))


def _distance(grid: tuple[int, int], weights: list[Tensor]) -> tuple[float, float]:
    """The medians over spots of how far they appear from where they are: in fractions of a side,
    and in what is near on this grid, of which a narrow one allows more."""
    found: list[tuple[float, float]] = []
    for (row, column), weight in zip(SPOTS, weights, strict=True):
        if not weight.any():
            continue
        share = (weight / weight.sum()).view(grid)
        off = far = 0.0
        for axis, at in ((0, row), (1, column)):
            places = (torch.arange(grid[axis], device=share.device) + 0.5) / grid[axis]
            seen = float((share.sum(1 - axis) * places).sum())
            off = max(off, abs(seen - at))
            far = max(far, abs(seen - at) / max(_NEAR, 1.5 / grid[axis]))
        found.append((off, far))
    if not found:
        return 2.0, 2.0
    offs, fars = (sorted(x)[len(found) // 2] for x in zip(*found, strict=True))
    return offs, fars
