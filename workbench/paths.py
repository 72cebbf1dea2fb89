"""ScanPath: the order in which a scan visits the cells of a grid, and the way back."""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

CLASS_TOKEN = -1


@dataclass(frozen=True, eq=False)
class ScanPath:
    """One traversal of a `height` x `width` grid, as data.

    Attributes:
        name: the direction's name, as in a site such as `layers.2.blocks.1.op.scan/column`.
        height, width: size of the grid in cells.
        order: (length,) int64; the cell `row * width + column` visited at step t. `CLASS_TOKEN`
            (-1) marks a step that reads a class token instead of a cell.
    """

    name: str
    height: int
    width: int
    order: np.ndarray

    def __post_init__(self) -> None:
        cells = self.height * self.width
        spatial = self.order[self.order != CLASS_TOKEN]
        if spatial.size and (spatial.min() < 0 or spatial.max() >= cells):
            raise ValueError(
                f"scan path {self.name!r} visits cell {int(spatial.max())}, outside its "
                f"{self.height} x {self.width} grid"
            )
        self.order.setflags(write=False)

    def __len__(self) -> int:
        return len(self.order)

    @cached_property
    def inverse(self) -> np.ndarray:
        """(height * width,) int64; the last step at which each cell is visited, -1 if never."""
        steps = np.full(self.height * self.width, -1, dtype=np.int64)
        spatial = np.flatnonzero(self.order != CLASS_TOKEN)
        steps[self.order[spatial]] = spatial
        return steps

    @cached_property
    def covers(self) -> bool:
        """Whether the path visits every cell exactly once and nothing else."""
        return len(self) == self.height * self.width and bool((self.inverse >= 0).all())

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


def _row(height: int, width: int) -> np.ndarray:
    return np.arange(height * width)


def _column(height: int, width: int) -> np.ndarray:
    return np.arange(height * width).reshape(height, width).T.reshape(-1)


ORDERS = {
    "row": _row,
    "column": _column,
    "row-reversed": lambda height, width: _row(height, width)[::-1].copy(),
    "column-reversed": lambda height, width: _column(height, width)[::-1].copy(),
}

CROSS = ("row", "column", "row-reversed", "column-reversed")  # VMamba, arXiv 2401.10166, fig. 4
BIDIRECTIONAL = ("row", "row-reversed")  # Vim, arXiv 2401.09417


@lru_cache(maxsize=256)
def scan_path(name: str, height: int, width: int, class_token: int | None = None) -> ScanPath:
    """Return the path `name` over a `height` x `width` grid.

    Args:
        class_token: index of the class token in the row-major token sequence (Vim: cells // 2), or
            None. A reversed path is the reverse of the whole sequence, class token included.

    Raises:
        ValueError: for an unknown name.
    """
    if name not in ORDERS:
        raise ValueError(f"no scan path is called {name!r}; there are {', '.join(ORDERS)}")
    order = np.asarray(ORDERS[name](height, width), dtype=np.int64)
    if class_token is not None:
        at = len(order) - class_token if name.endswith("-reversed") else class_token
        order = np.insert(order, at, CLASS_TOKEN)
    return ScanPath(name, height, width, order)
