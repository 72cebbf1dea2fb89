"""The traversals: functions of a 2-D array of cells, which return its entries as visited.

Mirrored, transposed and rotated variants are the same functions of a mirrored, transposed or
rotated array. Cells beside the grid, where a traversal needs them, are `PADDING`.
"""

from functools import cache, lru_cache

import numpy as np
from numpy import ndarray

from workbench.paths.path import PADDING


def rows(cells: ndarray) -> ndarray:
    """Row by row, each from the left."""
    return cells.reshape(-1)


def zigzag(cells: ndarray) -> ndarray:
    """Row by row, every second one backwards: each step goes to a neighbour."""
    cells = cells.copy()
    cells[1::2] = cells[1::2, ::-1]
    return rows(cells)


def diagonals(cells: ndarray, step: int) -> ndarray:
    """Down the rows, `step` columns aside in each, wrapping around at the edge; then from the next
    column of the first row (RS-Mamba, arXiv 2404.02668)."""
    height, width = cells.shape
    row = np.arange(height)
    column = (np.arange(width)[:, None] + step * row) % width
    return rows(cells[row, column])


def windows(cells: ndarray, size: int) -> ndarray:
    """Windows of `size` x `size` cells row by row, the cells of each row by row; the grid is padded
    at the right and below to whole windows (LocalMamba, arXiv 2403.09338)."""
    cells = _padded(cells, size)
    height, width = cells.shape
    blocks = cells.reshape(height // size, size, width // size, size)
    return rows(blocks.swapaxes(1, 2))


def atrous(cells: ndarray, row: int, column: int) -> ndarray:
    """Every second cell of every second row from (row, column) on, column by column when `row` is
    odd; the grid is padded to even sides (EfficientVMamba's ES2D, arXiv 2403.09977)."""
    part = _padded(cells, 2)[row::2, column::2]
    return rows(part.T if row else part)


def frames(cells: ndarray, count: int) -> ndarray:
    """`count` frames stand below one another: one cell through all of them, then the next cell
    (Vivim's spatial path, arXiv 2401.14168)."""
    return rows(cells.reshape(count, -1).T)


def spiral(cells: ndarray) -> ndarray:
    """Clockwise along the edge from the first cell, inwards."""
    parts = []
    while cells.size:
        parts.append(cells[0])
        cells = np.rot90(cells[1:])
    return np.concatenate(parts)


_COMPASS = {"e": (0, 1), "s": (1, 0), "w": (0, -1), "n": (-1, 0)}


def spiral_out(cells: ndarray, turns: str) -> ndarray:
    """From the middle (height // 2, width // 2) outwards, by arms of 1, 1, 2, 2, 3, 3, ... steps
    in the compass directions `turns`, such as "eswn"; places beside the grid are left out
    (DiffMa, arXiv 2406.15910, whose grids are square)."""
    height, width = cells.shape
    arm = np.arange(2 * max(height, width) + 1)
    directions = np.array([_COMPASS[turn] for turn in turns])[arm % 4]
    steps = np.repeat(directions, arm // 2 + 1, axis=0)
    middle = np.array([[height // 2, width // 2]])
    row, column = np.cumsum(np.concatenate([middle, steps]), axis=0).T
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    return cells[row[inside], column[inside]]


def radial(cells: ndarray) -> ndarray:
    """By distance to the grid's centre, equal ones counter-clockwise from the east."""
    height, width = cells.shape
    row, column = np.indices(cells.shape).reshape(2, -1)
    up, right = height - 1 - 2 * row, 2 * column - (width - 1)  # whole numbers tie exactly
    angle = np.arctan2(up, right) % (2 * np.pi)
    return rows(cells)[np.lexsort((angle, up**2 + right**2))]


def hilbert(cells: ndarray) -> ndarray:
    """Hilbert's curve, generalised to any rectangle: from the first cell to the far end of the
    longer side, of the column in a square.

    Every step goes to a neighbour, unless the longer side is odd and the other one even: then one
    step is diagonal, or, on a side of 2, the curve ends a cell early (J. Červený's generalised
    Hilbert curve, as in ZigMa, arXiv 2403.13802).
    """
    height, width = cells.shape
    if height < width:
        cells = cells.T
    along, across = _hilbert_walk(*cells.shape).T
    return cells[along, across]


@lru_cache(maxsize=16)
def _hilbert_walk(length: int, breadth: int) -> ndarray:
    """(length * breadth, 2): places (along, across), from (0, 0) to (length - 1, 0)."""

    def half(n: int, forward: bool) -> int:
        return (n if forward else n + 1) // 2

    def even(part: int, n: int) -> int:
        return part + 1 if part % 2 and n > 2 else part

    @cache  # few different rectangles occur
    def walk(n: int, m: int, along: bool, across: bool) -> ndarray:
        # `along` and `across` say whether the axes run forward in the grid: odd sides are halved
        # at the same cell either way.
        if m == 1 or n == 1:
            return np.array([(i, j) for i in range(n) for j in range(m)])
        if 2 * n > 3 * m:
            near = even(half(n, along), n)
            first, second = walk(near, m, along, across), walk(n - near, m, along, across)
            return np.concatenate([first, np.add(second, (near, 0))])
        # Aside in the near half, forth along the whole length, and back aside in the far half.
        near, side = half(n, along), even(half(m, across), m)
        aside = walk(side, near, across, along)[:, ::-1]
        forth = np.add(walk(n, m - side, along, across), (0, side))
        back = walk(side, n - near, not across, not along)[:, ::-1]
        return np.concatenate([aside, forth, np.subtract((n - 1, side - 1), back)])

    return walk(length, breadth, True, True)


def _padded(cells: ndarray, multiple: int) -> ndarray:
    missing = [(0, -side % multiple) for side in cells.shape]
    return np.pad(cells, missing, constant_values=PADDING)
