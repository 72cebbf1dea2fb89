"""The browser's part of a photograph with its maps, for the app and for pages of their own.

`js` is a module whose default function draws `data` into `parentElement`, a shadow root that holds
`html`; it returns what to call when the element goes away. What follows the mouse is a stack of
maps for every cell, measured `coarse_first` and read as a `payload`.
"""

import gzip
import json
from collections.abc import Sequence
from importlib.resources import files

import numpy as np

PAIR = {
    kind: (files("workbench.figures") / f"pair.{kind}").read_text()
    for kind in ("html", "css", "js")
}


def coarse_first(rows: int, columns: int) -> list[tuple[int, int]]:
    """All cells, so ordered that the first ones already lie all over the grid."""

    def coarseness(cell: tuple[int, int]) -> int:
        either = cell[0] - rows // 2 | cell[1] - columns // 2
        return either & -either or 1 << 30  # the largest power of two that divides both

    every = [(row, column) for row in range(rows) for column in range(columns)]
    return sorted(every, key=coarseness, reverse=True)


def payload(
    cells: Sequence[tuple[int, int]],
    stacks: np.ndarray,
    left: int,
    units: Sequence[Sequence[str]] = (),
    level: int = 9,
) -> bytes:
    """What the browser reads, compressed: a line of JSON, then the maps, a byte a pixel.

    Args:
        stacks: (m, maps, h, w) uint8, of m cells.
        left: how many cells are still to come.
        units: of each cell, what the values of its maps are, where that is not the same for all.
        level: of compression, 1 where it has to be quick.
    """
    told = {"cells": cells, "shape": stacks.shape[1:], "left": left, "units": units}
    return gzip.compress(json.dumps(told).encode() + b"\n" + stacks.tobytes(), level, mtime=0)
