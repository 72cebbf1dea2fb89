"""The fields of all cells at once, against those that `erf` measures one by one."""

import gzip
import json
import time

import numpy as np
import pytest
import torch

from workbench.app import cells as app_cells
from workbench.app.cells import Stacks
from workbench.figures.pair import coarse_first
from workbench.geometry import Grid, stages
from workbench.methods.erf.cells import fields, small
from workbench.methods.erf.config import ErfConfig
from workbench.methods.erf.measure import gradient, size_of
from workbench.weights import create_model


@pytest.mark.parametrize("protocol", [{}, {"score": "relu", "measure": "square"}])
@pytest.mark.parametrize("name", ["vmamba_nano", "vim_nano", "mambavision_nano", "resnet_nano"])
def test_they_are_the_fields_of_single_measurements(name, protocol):
    model = create_model(name, "random").eval().requires_grad_(False)
    x = torch.randn(1, 3, 64, 64)
    stage = len(stages(model)) - 1 or 1
    cells = [(0, 0), (1, 3), (3, 1)]
    together = fields(model, x, ErfConfig(stage=stage, **protocol), cells)
    for (row, column), found in zip(cells, together, strict=True):
        config = ErfConfig(stage=stage, position=f"{row},{column}", **protocol)
        alone = size_of(gradient(model, x, config)[0], config.measure)[0]
        assert alone.max() > 0
        assert (found - alone).abs().max() <= 2e-6 * alone.max()


@pytest.mark.parametrize("grid", [(1, 1), (4, 4), (7, 5), (16, 16)])
def test_the_first_cells_lie_all_over_the_grid(grid):
    rows, columns = grid
    order = coarse_first(rows, columns)
    assert sorted(order) == [(r, c) for r in range(rows) for c in range(columns)]
    assert order[0] == (rows // 2, columns // 2)
    quarter = order[: -(-len(order) // 4) + rows + columns]
    far = [min(max(abs(r - a), abs(c - b)) for a, b in quarter) for r, c in order]
    assert max(far) <= 1


def test_small_maps_keep_means():
    maps = torch.rand(2, 224, 224)
    maps[1] = 0
    pictures = small(maps)
    assert pictures.shape == (2, 112, 112) and pictures.dtype == np.uint8
    blocks = maps[0].reshape(112, 2, 112, 2).mean(dim=(1, 3))
    largest = blocks.max().item()
    again = (pictures[0] / 255.0) ** 4 * largest
    assert np.abs(again - blocks.numpy()).max() < 4 * largest * 0.5 / 255 * 1.01
    assert not pictures[1].any()
    assert small(torch.rand(1, 64, 48)).shape == (1, 64, 48)


def read(body: bytes) -> tuple[dict, bytes]:
    line, maps = gzip.decompress(body).split(b"\n", 1)
    return json.loads(line), maps


def test_the_browser_gets_each_cell_once(monkeypatch):
    passes = []

    def measured(some):
        passes.append(list(some))
        stacks = [np.full((2, 3, 4), 10 * r + c, np.uint8) for r, c in some]
        return Stacks(np.stack(stacks), [[f"{r} {c}"] for r, c in some])

    monkeypatch.setattr(app_cells, "_grids", type(app_cells._grids)())
    grid = Grid((3, 3), (8.0, 8.0), (3.5, 3.5))
    offer = app_cells.offered(("some", 1), measured, grid, (24, 24))
    assert offer == app_cells.offered(("some", 1), measured, grid, (24, 24))
    assert offer["key"] != app_cells.offered(("some", 2), measured, grid, (24, 24))["key"]
    json.dumps(offer)
    known = app_cells._grids[offer["key"]]
    seen, units, pixels, end = [], [], b"", time.monotonic() + 10
    while len(seen) < 9 and time.monotonic() < end:
        told, maps = read(known.answer(len(seen)))
        assert len(maps) == len(told["cells"]) * np.prod(told["shape"])
        seen, pixels = seen + list(map(tuple, told["cells"])), pixels + maps
        units += told["units"]
    assert seen == coarse_first(3, 3) == [cell for some in passes for cell in some]
    assert units == [[f"{r} {c}"] for r, c in seen]
    assert list(pixels[::24]) == [10 * r + c for r, c in seen]
    assert told["left"] == 0


def ended(measure, cells: tuple[int, int]) -> app_cells.Cells:
    """What is known when nothing more is measured."""
    known = app_cells.Cells(measure, Grid(cells, (8.0, 8.0), (3.5, 3.5)))
    end = time.monotonic() + 10
    while read(known.answer(0))[0]["left"] and time.monotonic() < end:
        time.sleep(0.01)
    assert read(known.answer(0))[0]["left"] == 0
    return known


def test_what_goes_wrong_behind_the_page_ends_the_asking():
    def measured(_):
        raise ValueError("no memory")

    assert ended(measured, (2, 2)).ended == "ValueError: no memory"


def test_many_large_maps_stay_within_the_memory(monkeypatch):
    monkeypatch.setattr(app_cells, "MOST", 10_000)
    known = ended(lambda some: Stacks(np.zeros((len(some), 5, 10, 10), np.uint8), []), (9, 9))
    assert len(known.maps) == 20
