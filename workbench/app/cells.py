"""The fields of all cells of a stage, measured behind the page for what the mouse passes over.

The page hands the browser a key; the browser asks `/_cells/KEY` for what is measured since it asked
last, until it has everything. Nobody asks, nothing is measured. What one visitor had measured
serves the others.
"""

import hashlib
import threading
import time
from collections import OrderedDict
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from workbench.app import session
from workbench.app.repository import beside_the_model
from workbench.app.session import Spec
from workbench.devices import frozen_eval
from workbench.geometry import Grid
from workbench.methods.erf import ErfConfig
from workbench.methods.erf.cells import coarse_first, fields, payload, small

PASS = 0.25  # seconds that a pass may take: a click waits for one
AWAY = 5.0  # seconds without a question after which nothing more is measured
LONGEST = 300.0  # seconds for a stage; after that the cells between come by a click alone
KEPT = 24  # stages of models on images, of at most 10 MB each


@beside_the_model
def _measured(
    spec: Spec, stage: int, picture: np.ndarray, cells: list[tuple[int, int]]
) -> np.ndarray:
    """Maps of some cells on a picture (h, w, 3) uint8, as `small` makes them."""
    loaded, device = session.load(spec), session.device()
    x = session.preprocessing(spec).tensor(picture[None]).to(device)
    with loaded.lock, frozen_eval(loaded.model, device):
        return small(fields(loaded.model, x, ErfConfig(stage=stage), cells))


@dataclass
class Stage:
    """One stage of a model on one picture (h, w, 3) uint8, and what is known of its cells."""

    spec: Spec
    number: int
    picture: np.ndarray
    grid: Grid
    maps: list[np.ndarray] = field(default_factory=list)  # (h', w') uint8 each
    failed: str = ""
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
            if done < len(self.cells) and not self.failed and self._worker is None:
                self._worker = threading.Thread(target=self._work, name="cells", daemon=True)
                self._worker.start()
            new = np.stack(self.maps[have:done]) if done > have else np.zeros((0, 1, 1), np.uint8)
            left = 0 if self.failed else len(self.cells) - done
        return payload(self.cells[have:done], new, left, level=1)

    def _work(self) -> None:
        many = 1
        try:
            while (left := self.cells[len(self.maps) :][:many]) and self._wanted():
                start = time.monotonic()
                maps = _measured(self.spec, self.number, self.picture, left)
                each = (time.monotonic() - start) / len(left)
                with self._lock:
                    self.maps += list(maps)
                self._spent += time.monotonic() - start
                if self._spent > LONGEST:
                    self.failed = "takes too long"
                    return
                many = min(max(int(PASS / each), 1), 16, 4 * many)
                time.sleep(0)  # whoever waits for the model gets it now
        except Exception as error:  # the page says more when the cell is clicked
            self.failed = f"{type(error).__name__}: {error}"
        finally:
            self._worker = None

    def _wanted(self) -> bool:
        return time.monotonic() - self._asked < AWAY


_stages: OrderedDict[str, Stage] = OrderedDict()
_keeping = threading.Lock()


def offered(
    spec: Spec, number: int, fingerprint: str, picture: np.ndarray, grid: Grid
) -> dict[str, Any]:
    """What the browser needs to ask for the cells of a stage, and to find the one under the mouse.

    Args:
        fingerprint: of the images that the picture (h, w, 3) uint8 is the first of.
    """
    key = hashlib.sha256(repr((spec, number, fingerprint)).encode()).hexdigest()[:24]
    with _keeping:
        if key not in _stages:
            _stages[key] = Stage(spec, number, picture, grid)
        _stages.move_to_end(key)
        while len(_stages) > KEPT:
            _stages.popitem(last=False)
    return {"key": key, "size": picture.shape[:2], **asdict(grid)}


def answer(request: Request) -> Response:
    """One line of JSON, then the maps one after the other, a byte for every pixel."""
    stage = _stages.get(request.path_params["key"])
    have = request.query_params.get("have", "0")
    if stage is None or not (have.isascii() and have.isdigit()):
        return Response(status_code=404)
    return Response(
        stage.answer(int(have)),
        media_type="application/octet-stream",
        headers={"Content-Encoding": "gzip", "Cache-Control": "no-store"},
    )
