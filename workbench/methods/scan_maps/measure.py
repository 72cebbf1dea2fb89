"""Scan maps: which cells each scan direction carries to a place, exactly, layer by layer.

For a query cell, the row of the hidden attention (what reaches the query) and the column (where the
query goes), in image order, for every direction and for the sum of the directions; beside them the
diagonal and the statistics of the scan's coefficients. MambaVision's attention blocks give the same
maps of their softmax weights.
"""

from dataclasses import asdict, replace

import numpy as np
import torch
from torch import nn

from workbench.images import Batch
from workbench.methods.method import Partial
from workbench.methods.scan_maps import published_views
from workbench.methods.scan_maps.config import PUBLISHED, ScanMapsConfig
from workbench.mixing.hidden_attention import VIEWS, HiddenAttention
from workbench.mixing.influence import influence, over_channels
from workbench.mixing.layers import ScanLayer, find_layers, scan_layers
from workbench.mixing.query import Query, resolve_query, say_moved, with_starts
from workbench.mixing.statistics import horizon_quantiles, pixels, shares, token_statistics
from workbench.results import ScanMaps
from workbench.statistics import FEWEST_SKEWED, Sample

QUANTITIES = ("row", "column", "diagonal", "delta", "B", "C", "horizon", "output")
"""What a result has maps of. `row`: influence of every cell on the query; `column`: influence of
the query on every cell; `diagonal`: of every cell on itself; the others are the statistics of
`scan_statistics.token_statistics`."""

NUMBERS = {
    "horizon_10": "tokens",
    "horizon": "tokens",
    "horizon_90": "tokens",
    "horizon_along": "px",
    "horizon_across": "px",
    "delta": "mean",
    "B": "norm",
    "C": "norm",
    "share": "% of layer",
}
"""Numbers of each direction, and their units. `horizon` is the median over channels and states."""


def measure(model: nn.Module, batch: Batch, config: ScanMapsConfig) -> Partial:
    """Maps of a batch.

    Returns:
        maps: (b, quantities, total) float32, the maps of all sites one after the other;
        outside: (b, 2, sites), what row and column give to the class token, or in sum to padding;
        numbers: (b, sites, numbers). Constant: `sites`, and where their maps start.
    """
    names = find_layers(model, config.layer)
    layers = scan_layers(model, batch.tensor, names, config.with_gate, config.with_convolution)
    if config.view in PUBLISHED:
        layers = [layer for layer in layers if layer.is_scan]
        if not layers:
            raise ValueError(f"the view {config.view} is of scans, and {names[0]} is attention")
    sites, queries = [], []
    for layer in layers:
        queries.append(resolve_query(config.query, layer, model, batch.tensor))
        sites += _sites(layer, queries[-1], config)
        if 0 in batch.indices:
            say_moved(layer, queries[-1])
    maps = np.full((len(batch), len(QUANTITIES), with_starts(sites)), np.nan, np.float32)
    outside = np.full((len(batch), 2, len(sites)), np.nan, np.float32)
    numbers = np.full((len(batch), len(sites), len(NUMBERS)), np.nan, np.float32)
    at = 0
    for layer, query in zip(layers, queries, strict=True):
        cells = layer.cells[0] * layer.cells[1]
        for image in range(len(batch)):
            found = _influence(layer, image, query, config)
            for k, maps_of_site in enumerate(found):
                begin = sites[at + k]["start"]
                for q, values in enumerate(maps_of_site):
                    maps[image, q, begin : begin + cells] = values[:cells]
                outside[image, :, at + k] = [values[cells] for values in maps_of_site[:2]]
            if layer.is_scan:
                rest = _statistics(layer, image, sites[at : at + len(layer.directions)])
                for k, (values, row) in enumerate(rest):
                    begin = sites[at + k]["start"]
                    maps[image, 3:, begin : begin + cells] = values
                    numbers[image, at + k] = row
        at += len(found)
    # Only the first image is shown; the others would grow the memory with their number.
    pictures = batch.pictures if 0 in batch.indices else batch.pictures[:0]
    arrays = {"maps": maps, "outside": outside, "numbers": numbers, "pictures": pictures}
    return Partial(arrays, {"sites": sites})


def _sites(layer: ScanLayer, query: Query, config: ScanMapsConfig) -> list[dict]:
    """One entry for each direction, for their sum, and with `normalise` for their mean."""
    asked = [(direction.name, query.cell_in(direction)) for direction in layer.directions]
    if layer.is_scan and len(asked) > 1:
        asked.append(("all", query.cell))
        if config.normalise != "none":
            asked.append(("nall", query.cell))
    return [query.site(layer, direction, cell) for direction, cell in asked]


def _influence(
    layer: ScanLayer, image: int, query: Query, config: ScanMapsConfig
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Row, column and diagonal of every site of a layer: (cells + 1) each, the last entry for the
    class token or, summed, for padding.
    """
    if config.normalise != "none":
        return _published(layer, image, query, config)
    rows, columns = (
        influence(layer, image, query, way, config.channels, config.view, config.with_D)
        for way in ("row", "column")
    )
    diagonals = [np.zeros_like(row) for row in rows]
    for window in range(layer.directions[0].windows):
        found = _diagonals(layer, image, window, config)
        for diagonal, part in zip(diagonals, found, strict=True):
            diagonal += part
    return list(zip(rows, columns, diagonals, strict=True))


def _diagonals(
    layer: ScanLayer, image: int, window: int, config: ScanMapsConfig
) -> list[np.ndarray]:
    matrices = [
        direction.matrix_of(image, window, config.view, config.with_D)
        for direction in layer.directions
    ]
    if not layer.is_scan:
        values = matrices[0].diagonal(config.channels)
        cells = layer.cells[0] * layer.cells[1]
        return [layer.directions[0].in_image(values[None], window, cells)[0].numpy()]
    # The diagonal is that of the scan alone.
    plain = [replace(m, convolution=None) for m in matrices if isinstance(m, HiddenAttention)]
    return over_channels(
        layer,
        [window] * len(plain),
        lambda k, c: plain[k].diagonal("channels", c),
        config.channels,
    )


def _published(
    layer: ScanLayer, image: int, query: Query, config: ScanMapsConfig
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The same of VMamba's panels, which are normalised over the whole matrix."""
    if query.cell is None or not all(d.path.covers and d.windows == 1 for d in layer.directions):
        raise ValueError(
            f"VMamba's normalisations need paths through the whole image, and {layer.name} has "
            "windows or a class token; use normalise none"
        )
    mode = {view: mode for mode, view in published_views.MODES.items()}[config.view]
    panels = published_views.direction_panels(
        [direction.tensors for direction in layer.directions],
        [direction.path for direction in layer.directions],
        mode,
        config.normalise,
        image,
    )
    chosen = [f"a{k}" for k in range(len(layer.directions))]
    if len(chosen) > 1:
        chosen += ["all", "nall"]
    cell = query.cell[0] * query.columns + query.cell[1]
    found = []
    for panel in chosen:
        matrix = panels[panel]
        maps = (matrix[cell], matrix[:, cell], matrix.diagonal())
        row, column, diagonal = (np.append(values.numpy(), np.float32(0)) for values in maps)
        found.append((row, column, diagonal))
    return found


def _statistics(
    layer: ScanLayer, image: int, sites: list[dict]
) -> list[tuple[np.ndarray, list[float]]]:
    """For every direction: maps (quantities - 3, cells), and the values of `NUMBERS`."""
    cells = layer.cells[0] * layer.cells[1]
    parts = []
    for direction in layer.directions:
        own = slice(image * direction.windows, (image + 1) * direction.windows)
        parts.append(
            {
                name: tensor if name in ("A", "D") else tensor[own]
                for name, tensor in direction.tensors.items()
            }
        )
    share = shares([part["y"] for part in parts])
    found = []
    for k, (direction, part) in enumerate(zip(layer.directions, parts, strict=True)):
        statistics = token_statistics(part)
        values = torch.stack([statistics[quantity] for quantity in QUANTITIES[3:]])
        image_values = sum(
            direction.in_image(values[:, window], window, cells)
            for window in range(direction.windows)
        )
        low, middle, high = horizon_quantiles(part["delta"], part["A"])
        along, across = pixels(direction.path, middle, tuple(sites[k]["stride"]))
        means = [float(statistics[quantity].mean()) for quantity in ("delta", "B", "C")]
        numbers = [low, middle, high, along, across, *means, 100 * share[k]]
        found.append((torch.as_tensor(image_values)[:, :cells].numpy(), numbers))
    return found


def combine(measured: Partial, config: ScanMapsConfig, meta: dict) -> ScanMaps:
    """One `ScanMaps` of all images."""
    maps, pictures, sites = measured["maps"], measured["pictures"], measured.constants["sites"]
    numbers = measured["numbers"].astype(np.float64)
    sample = Sample(config.confidence)
    meta = {
        **meta,
        "config": asdict(config),
        "quantities": list(QUANTITIES),
        "view": VIEWS[config.view],
        "sites": sites,
        "numbers": {
            site["name"]: {
                key: sample.mean(numbers[:, i, j], unit, FEWEST_SKEWED)
                for j, (key, unit) in enumerate(NUMBERS.items())
            }
            for i, site in enumerate(sites)
            if np.isfinite(numbers[:, i].mean(axis=0)).any()
        },
        "intervals_from": FEWEST_SKEWED,
        "quirks": _quirks(config),
    }
    return ScanMaps(
        meta=meta,
        maps=maps[: config.keep],
        mean=maps.mean(axis=0, dtype=np.float64),
        outside=measured["outside"],
        picture=pictures[0] if len(pictures) else None,
    )


def _quirks(config: ScanMapsConfig) -> list[str]:
    if config.view not in PUBLISHED:
        return []
    return published_views.quirks(config.aggregate, config.normalise)
