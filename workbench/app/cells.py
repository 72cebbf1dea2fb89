"""The maps of all cells of a grid, measured behind the page for what the mouse passes over.

The page hands the browser a key; the browser asks `/_cells/KEY` for what is measured since it asked
last, until it has everything. Nobody asks, nothing is measured. What one visitor had measured
serves the others.
"""

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from workbench.figures.pair import coarse_first, payload
from workbench.geometry import Grid

PASS = 0.25  # seconds that a pass may take: a click waits for one
AWAY = 5.0  # seconds without a question after which nothing more is measured
LONGEST = 300.0  # seconds for a grid; after that the cells between come by a click alone
MOST = 10_000_000  # bytes of a grid, likewise
KEPT = 24  # grids

Cell = tuple[int, int]


class Stacks(NamedTuple):
    """The maps of m cells.

    maps: (m, maps, h, w) uint8, places in a table of colours.
    units: of each cell, what the values of its maps are; empty where that is the same for all.
    """

    maps: np.ndarray
    units: list[list[str]]


Measure = Callable[[list[Cell]], Stacks]


@dataclass
class Cells:
    """A grid, and what is known of its cells."""

    measure: Measure
    grid: Grid
    maps: list[np.ndarray] = field(default_factory=list)  # (maps, h, w) uint8 each
    units: list[list[str]] = field(default_factory=list)
    ended: str = ""
    _asked: float = 0.0
    _spent: float = 0.0
    _worker: threading.Thread | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.cells = coarse_first(*self.grid.cells)

    def answer(self, have: int) -> bytes:
        """What is known beyond the first `have` cells; somebody goes on measuring."""
        self._asked = time.monotonic()
        with self._lock:
            done = len(self.maps)
            if done < len(self.cells) and not self.ended and self._worker is None:
                self._worker = threading.Thread(target=self._work, name="cells", daemon=True)
                self._worker.start()
            new = np.stack(self.maps[have:done]) if done > have else np.zeros((0, 1, 1, 1), "u1")
            left = 0 if self.ended else len(self.cells) - done
            units = self.units[have:done]
        return payload(self.cells[have:done], new, left, units, level=1)

    def _work(self) -> None:
        many = 1
        try:
            while (left := self.cells[len(self.maps) :][:many]) and self._wanted():
                start = time.monotonic()
                maps, units = self.measure(left)
                each = (time.monotonic() - start) / len(left)
                with self._lock:
                    self.maps += list(maps)
                    self.units += units
                self._spent += time.monotonic() - start
                if self._spent > LONGEST:
                    self.ended = "takes too long"
                    return
                room = MOST // maps[0].nbytes - len(self.maps)
                if room <= 0:
                    self.ended = "takes too much memory"
                    return
                many = min(max(int(PASS / each), 1), 16, 4 * many, room)
                time.sleep(0)  # whoever waits for the model gets it now
        except Exception as error:  # the page says more when the cell is clicked
            self.ended = f"{type(error).__name__}: {error}"
        finally:
            self._worker = None

    def _wanted(self) -> bool:
        return time.monotonic() - self._asked < AWAY


_grids: OrderedDict[str, Cells] = OrderedDict()
_keeping = threading.Lock()


def offered(asked: tuple, measure: Measure, grid: Grid, size: tuple[int, int]) -> dict[str, Any]:
    """What the browser needs to ask for the cells of a grid, and to find the one under the mouse.

    Args:
        asked: what decides the maps, as text.
        measure: gives those of some cells; called in a thread, and seldom for longer than `PASS`.
        size: of the image, in pixels.
    """
    key = hashlib.sha256(repr(asked).encode()).hexdigest()[:24]
    with _keeping:
        if key not in _grids:
            _grids[key] = Cells(measure, grid)
        _grids.move_to_end(key)
        while len(_grids) > KEPT:
            _grids.popitem(last=False)
    return {"key": key, "size": size, **asdict(grid)}


def answer(request: Request) -> Response:
    """See `workbench.figures.pair.payload`."""
    known = _grids.get(request.path_params["key"])
    have = request.query_params.get("have", "0")
    if known is None or not (have.isascii() and have.isdigit()):
        return Response(status_code=404)
    return Response(
        known.answer(int(have)),
        media_type="application/octet-stream",
        headers={"Content-Encoding": "gzip", "Cache-Control": "no-store"},
    )
