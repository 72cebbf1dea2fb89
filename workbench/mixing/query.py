"""The cell that layers are asked about, and how a result names what answers."""

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from workbench.geometry import Grid, grid_of, resolve_position
from workbench.mixing.layers import Direction, ScanLayer
from workbench.paths import CLASS_TOKEN

logger = logging.getLogger("workbench")


@dataclass(frozen=True)
class Query:
    """Where a layer is asked: a cell (row, column), or None for the class token.

    Attributes:
        grid: of the layer's cells over the image.
    """

    cell: tuple[int, int] | None
    grid: Grid

    @property
    def columns(self) -> int:
        return self.grid.cells[1]

    def step(self, direction: Direction) -> tuple[int, int]:
        """(window, step) of the query in a direction."""
        if self.cell is None:
            return 0, int(np.flatnonzero(direction.path.order == CLASS_TOKEN)[0])
        row, column = self.cell_in(direction) or self.cell
        found = direction.find(row * self.columns + column)
        if found is None:
            raise ValueError(f"the path {direction.path.name!r} visits no cell of the image")
        return found

    def cell_in(self, direction: Direction) -> tuple[int, int] | None:
        """The cell asked about in a direction: where it never comes by, the nearest that it
        visits."""
        visited = np.unique(direction.places[direction.places >= 0])
        if self.cell is None or not len(visited):
            return self.cell
        rows, columns = np.divmod(visited, self.columns)
        nearest = np.argmin((rows - self.cell[0]) ** 2 + (columns - self.cell[1]) ** 2)
        return int(rows[nearest]), int(columns[nearest])

    def site(
        self, layer: ScanLayer, direction: str, cell: tuple[int, int] | None
    ) -> dict[str, Any]:
        """What a result says of one direction of a layer that is asked about a cell."""
        return {
            "name": f"{layer.name}/{direction}",
            "layer": layer.name,
            "direction": direction,
            "kind": "scan" if layer.is_scan else "attention",
            "cells": list(layer.cells),
            "stride": list(self.grid.stride),
            "offset": list(self.grid.offset),
            "query": None if cell is None else list(cell),
            "windows": layer.directions[0].windows,
            "tokens": layer.directions[0].places.shape[1],
        }


def resolve_query(query: str, layer: ScanLayer, model: nn.Module, x: Tensor) -> Query:
    """The cell that a query names in one layer, for images x (b, c, h, w).

    Raises:
        ValueError: when it cannot be read, lies outside the grid, or names a class token that the
            layer does not scan.
    """
    size = (x.shape[-2], x.shape[-1])
    grid = grid_of(model, torch.empty(1, 1, *layer.cells, device="meta"), size, x.shape[1])
    if query != "class":
        return Query(resolve_position(query, grid, size), grid)
    if not all((direction.path.order == CLASS_TOKEN).any() for direction in layer.directions):
        raise ValueError(f"no class token passes through {layer.name}; choose a query by position")
    return Query(None, grid)


def spread(queries: int, layer: ScanLayer, model: nn.Module, x: Tensor) -> list[Query]:
    """The cells at the middles of `queries` x `queries` equal parts of images x, row by row."""
    grid = resolve_query("centre", layer, model, x).grid
    rows, columns = (
        [min(n - 1, int((i + 0.5) / queries * n)) for i in range(queries)] for n in layer.cells
    )
    return [Query((row, column), grid) for row in rows for column in columns]


def say_moved(layer: ScanLayer, query: Query) -> None:
    """Log where a direction never comes by the cell, and the nearest is asked instead."""
    asked = {direction.name: query.cell_in(direction) for direction in layer.directions}
    moved = [f"{c[0]},{c[1]} of {name}" for name, c in asked.items() if c and c != query.cell]
    if moved and query.cell is not None:
        logger.warning(
            "%s: cell %d,%d is not on every path; asked instead is the nearest, %s.",
            layer.name, *query.cell, ", ".join(moved),
        )  # fmt: skip


def with_starts(sites: list[dict[str, Any]]) -> int:
    """Give sites the places where their maps start, one after the other; the cells of all."""
    start = 0
    for site in sites:
        site["start"] = start
        start += site["cells"][0] * site["cells"][1]
    return start
