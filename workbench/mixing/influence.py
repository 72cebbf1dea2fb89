"""Rows and columns of what layers did, in image order and over channels."""

import functools
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from workbench.mixing.hidden_attention import ChannelTotal, blocks_of
from workbench.mixing.layers import ScanLayer
from workbench.mixing.query import Query


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
    return [layer.directions[0].in_image(values[None], windows[0], cells)[0].numpy()]


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
                direction.in_image(part, window, cells)
                for part, direction, window in zip(parts, directions, windows, strict=True)
            ]
            merged.add(functools.reduce(torch.add, images))
    found = [
        direction.in_image(total.value[None], window, cells)[0]
        for total, direction, window in zip(totals, directions, windows, strict=True)
    ]
    if len(directions) > 1:
        found.append(merged.value)
    return [values.numpy() for values in found]
