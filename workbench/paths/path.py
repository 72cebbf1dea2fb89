"""ScanPath: the order in which a scan visits the cells of a grid, and the way back."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

CLASS_TOKEN = -1
PADDING = -2


@dataclass(frozen=True, eq=False)
class ScanPath:
    """One traversal of a `height` x `width` grid, as data.

    Attributes:
        name: the direction's name, as in a site such as `layers.2.blocks.1.op.scan/column`.
        height, width: size of the grid in cells.
        order: (length,) int32; the cell `row * width + column` visited at step t. `CLASS_TOKEN`
            (-1) marks a step that reads a class token instead of a cell, `PADDING` (-2) one that
            reads zeros beside the grid.

    Raises:
        ValueError: when the order leaves the grid.
    """

    name: str
    height: int
    width: int
    order: np.ndarray

    def __post_init__(self) -> None:
        order = np.array(self.order, dtype=np.int32)
        outside = order[(order >= self.height * self.width) | (order < PADDING)]
        if outside.size:
            raise ValueError(
                f"scan path {self.name!r} visits cell {int(outside[0])}, outside its "
                f"{self.height} x {self.width} grid"
            )
        order.setflags(write=False)
        object.__setattr__(self, "order", order)

    def __len__(self) -> int:
        return len(self.order)

    @cached_property
    def inverse(self) -> np.ndarray:
        """(height * width,) int32; the last step at which each cell is visited, -1 if never."""
        steps = np.full(self.height * self.width, -1, dtype=np.int32)
        spatial = np.flatnonzero(self.order >= 0)
        steps[self.order[spatial]] = spatial
        return steps

    @cached_property
    def covers(self) -> bool:
        """Whether the path visits every cell exactly once and nothing else."""
        return len(self) == self.height * self.width and bool((self.inverse >= 0).all())

    @cached_property
    def jumps(self) -> int:
        """How many steps from a cell to the next do not go to one of its four neighbours."""
        rows, columns = np.divmod(self.order[self.order >= 0], self.width)
        distance = np.abs(np.diff(rows)) + np.abs(np.diff(columns))
        return int((distance != 1).sum())

    @cached_property
    def moves(self) -> np.ndarray:
        """(length,) int8; the move that led to each cell: 1 right, 2 left, 3 up, 4 down, 0 at the
        start. PlainMamba (arXiv 2403.17695, section 3.3) adds a learned vector for each to B.

        Raises:
            ValueError: for a path that jumps.
        """
        if self.jumps or (self.order < 0).any():
            raise ValueError(
                f"scan path {self.name!r} jumps on its {self.height} x {self.width} grid, so not "
                "every step is a move to a neighbour"
            )
        rows, columns = np.divmod(self.order, self.width)
        down, right = np.diff(rows), np.diff(columns)
        moves = np.select([right == 1, right == -1, down == -1], [1, 2, 3], default=4)
        return np.concatenate([[0], moves]).astype(np.int8)

    @cached_property
    def is_transposed(self) -> bool | None:
        """False for a row-major path or its reverse, True for column-major, None for others.

        Such a path can be followed by views and flips, without an index table.
        """
        cells = np.arange(self.height * self.width).reshape(self.height, self.width)
        for transposed, grid in ((False, cells), (True, cells.T)):
            order = grid.reshape(-1)
            if np.array_equal(self.order, order) or np.array_equal(self.order, order[::-1]):
                return transposed
        return None

    @cached_property
    def is_reversed(self) -> bool:
        """Whether a path along rows or columns (`is_transposed` not None) starts at the end."""
        return self.order[0] > self.order[-1]
