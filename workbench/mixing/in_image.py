"""Rows and columns of what layers did, in image order and over channels."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from workbench.mixing.hidden_attention import ChannelTotal, blocks_of
from workbench.mixing.layers import Direction, ScanLayer
from workbench.paths import CLASS_TOKEN
from workbench.scan import to_image_order


@dataclass(frozen=True)
class Query:
    """Where a layer is asked: a cell (row, column), or None for the class token."""

    cell: tuple[int, int] | None
    columns: int

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


def spread(cells: tuple[int, int], queries: int) -> list[tuple[int, int]]:
    """The cells at the middles of `queries` x `queries` equal parts of the image."""
    rows, columns = (
        [min(n - 1, int((i + 0.5) / queries * n)) for i in range(queries)] for n in cells
    )
    return [(row, column) for row in rows for column in columns]


def influence(
    layer: ScanLayer,
    image: int,
    query: Query,
    way: Literal["row", "column"] = "row",
    aggregate: str | int = "abs",
    view: str = "alpha",
    with_D: bool = False,
) -> list[np.ndarray]:
    """What reaches a query ("row"), or where it goes ("column"): (cells + 1) in image order for
    every direction, and for their sum where there are several; the last entry is the class token's,
    or in sum that of padding.

    Raises:
        ValueError: for a channel that the layer does not have, and a view that attention has not.
    """
    steps = [query.step(direction) for direction in layer.directions]
    windows = [window for window, _ in steps]
    asked = [
        direction.matrix_of(image, window, view, with_D)
        for direction, window in zip(layer.directions, windows, strict=True)
    ]
    if layer.is_scan:
        return over_channels(
            layer,
            windows,
            lambda k, c: getattr(asked[k], way)(steps[k][1], "channels", c),
            aggregate,
        )
    values = getattr(asked[0], way)(steps[0][1], aggregate)
    cells = layer.cells[0] * layer.cells[1]
    return [in_image(values[None], layer.directions[0], windows[0], cells)[0].numpy()]


def over_channels(
    layer: ScanLayer,
    windows: list[int],
    take: Callable[[int, slice], Tensor],
    aggregate: str | int = "abs",
) -> list[np.ndarray]:
    """Aggregate `take(direction, channels)` (c, l) over channels: (cells + 1) in image order for
    every direction, and for the sum of all directions where there are several.

    The sum is taken channel by channel, before the aggregation, because that is what the layer
    does with the outputs of its directions.
    """
    directions = layer.directions
    _, dim, length = directions[0].tensors["delta"].shape
    chosen = range(dim)
    if isinstance(aggregate, int):
        if not 0 <= aggregate < dim:
            raise ValueError(
                f"{layer.name} has {dim} channels, 0 to {dim - 1}, so there is no channel "
                f"{aggregate}"
            )
        chosen, aggregate = range(aggregate, aggregate + 1), "mean"
    totals = [ChannelTotal(aggregate) for _ in directions]
    merged = ChannelTotal(aggregate)
    cells = layer.cells[0] * layer.cells[1]
    for channels in blocks_of(chosen, length):
        parts = [take(k, channels) for k in range(len(directions))]
        for total, part in zip(totals, parts, strict=True):
            total.add(part)
        if len(directions) > 1:
            images = [
                in_image(part, direction, window, cells)
                for part, direction, window in zip(parts, directions, windows, strict=True)
            ]
            merged.add(functools.reduce(torch.add, images))
    found = [
        in_image(total.value[None], direction, window, cells)[0]
        for total, direction, window in zip(totals, directions, windows, strict=True)
    ]
    if len(directions) > 1:
        found.append(merged.value)
    return [values.numpy() for values in found]


def in_image(values: Tensor, direction: Direction, window: int, cells: int) -> Tensor:
    """(c, l) of one window -> (c, cells + 1): in image order, then the sum of what lies outside."""
    if direction.windows == 1 and direction.path.covers and len(direction.path) == cells:
        image = to_image_order(values[None], direction.path)[0].flatten(1)
        return torch.nn.functional.pad(image, (0, 1))
    places = torch.from_numpy(direction.places[window].astype(np.int64))
    places = torch.where(places < 0, cells, places)
    return values.new_zeros(len(values), cells + 1).index_add_(1, places, values)
