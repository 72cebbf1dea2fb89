"""Where layers look, cell by cell, and how alike their maps are."""

from dataclasses import asdict, replace

import numpy as np
from torch import nn

from workbench.images import Batch
from workbench.methods.atlas import metrics
from workbench.methods.atlas.config import AtlasConfig
from workbench.methods.method import Partial
from workbench.methods.tokens.metrics import mean_over, pooled
from workbench.mixing.influence import influence
from workbench.mixing.layers import OUTSIDE, ScanLayer, find_layers, scan_layers
from workbench.mixing.query import Query, spread
from workbench.results import Atlas
from workbench.statistics import FEWEST_HEAVY, Number, Sample

_FINE = 8
"""Cells a side, at least, of the grid on which maps are compared, where a layer has so many."""


def measure(model: nn.Module, batch: Batch, config: AtlasConfig) -> Partial:
    """Maps of a batch: rows of the hidden attention, mean of absolute values over channels, divided
    by their sum over the image.

    Returns:
        reach: (n, sites) float64, distance of what a query is given from the query in pixels,
            weighted by the map, mean over queries; steps: (n, sites) the same in steps of the
            path, nan for attention and sums; offsets: (k, total) float32 of the first `keep`
            images, the maps around their queries, see `metrics.around`, site after site; maps: (k,
            sites, queries, cells) float32, averaged over a grid that all sites share.
    """
    layers = scan_layers(model, batch.tensor, find_layers(model, config.layer))
    queries = [spread(config.queries, layer, model, batch.tensor) for layer in layers]
    sites = [site for pair in zip(layers, queries, strict=True) for site in _sites(*pair)]
    shared = _shared([layer.cells for layer in layers])
    start = 0
    for site in sites:
        site["start"] = start
        start += (2 * site["cells"][0] - 1) * (2 * site["cells"][1] - 1)
    reach, steps = np.full((2, len(batch), len(sites)), np.nan)
    kept = [i for i in range(len(batch)) if batch.indices[i] < config.keep]
    offsets = np.zeros((len(kept), start), np.float32)
    count = config.queries**2
    maps = np.zeros((len(kept), len(sites), count, shared[0] * shared[1]), np.float32)
    first = 0
    for layer, asked in zip(layers, queries, strict=True):
        lags = [_lags(layer, query) for query in asked]
        for image in range(len(batch)):
            rows = np.array([influence(layer, image, query) for query in asked], np.float64)
            rows = rows[:, :, :-1]  # what lies outside the image has no place
            total = rows.sum(axis=2, keepdims=True)
            rows = np.where(total > 0, rows / np.where(total > 0, total, 1), np.nan)
            for k in range(rows.shape[1]):
                site, own = sites[first + k], rows[:, k].reshape(count, *layer.cells)
                cells = [(row, column) for row, column in site["queries"]]
                far = [metrics.distances(layer.cells, cell, site["stride"]) for cell in cells]
                reach[image, first + k] = _mean((own * far).sum(axis=(1, 2)))
                if site["kind"] == "scan" and k < len(layer.directions):
                    lag = np.array([of[k] for of in lags])
                    steps[image, first + k] = _mean((rows[:, k] * lag).sum(axis=1))
                if image in kept:
                    place = slice(site["start"], site["start"] + _area(site))
                    at = kept.index(image)
                    offsets[at, place] = metrics.around(own, cells).ravel()
                    coarse = pooled(own, shared).reshape(count, -1)
                    maps[at, first + k] = coarse / coarse.sum(axis=1, keepdims=True)
        first += rows.shape[1]
    arrays = {"reach": reach, "steps": steps, "offsets": offsets, "maps": maps}
    return Partial(arrays, {"sites": sites, "grid": list(shared)})


def _sites(layer: ScanLayer, asked: list[Query]) -> list[dict]:
    """One entry for each direction, and one for their sum where there are several."""
    found = [(d.name, [query.cell_in(d) for query in asked]) for d in layer.directions]
    cells = [query.cell for query in asked if query.cell is not None]
    if len(found) > 1:
        found.append(("all", [*cells]))
    stride = asked[0].grid.stride
    far = [metrics.distances(layer.cells, cell, stride) for cell in cells]
    return [
        {
            **asked[0].site(layer, direction, None),
            "queries": [list(cell) for cell in own if cell is not None],
            "even": float(np.mean(far)),
        }
        for direction, own in found
    ]


def _shared(grids: list[tuple[int, int]]) -> tuple[int, int]:
    """The coarsest grid that still has `_FINE` cells a side, else the finest there is."""
    fine = [grid for grid in grids if min(grid) >= _FINE]
    return min(fine, key=np.prod) if fine else max(grids, key=np.prod)


def _area(site: dict) -> int:
    return (2 * site["cells"][0] - 1) * (2 * site["cells"][1] - 1)


def _lags(layer: ScanLayer, query: Query) -> list[np.ndarray]:
    """For each direction (cells,): steps from each cell to the query, 0 where it never comes by."""
    found = []
    for direction in layer.directions:
        window, step = query.step(direction)
        places = direction.places[window]
        lag = np.full(layer.cells[0] * layer.cells[1], np.inf)
        inside = places != OUTSIDE
        np.minimum.at(lag, places[inside], np.abs(np.arange(len(places)) - step)[inside])
        found.append(np.where(np.isfinite(lag), lag, 0))
    return found


def _mean(values: np.ndarray) -> float:
    return float(mean_over(values, np.isfinite(values)))


# The result


def combine(measured: Partial, config: AtlasConfig, meta: dict) -> Atlas:
    """One `Atlas` of all images.

    Raises:
        ValueError: when none of the first `keep` images could be read.
    """
    if not len(measured["maps"]):
        raise ValueError(f"none of the first {config.keep} images can be read; keep more")
    sites, grid = measured.constants["sites"], tuple(measured.constants["grid"])
    maps = np.nan_to_num(measured["maps"].astype(np.float64)).swapaxes(0, 1)
    sample, numbers = Sample(config.confidence), {}
    for k, site in enumerate(sites):
        for name, unit in (("reach", "px"), ("steps", "steps")):
            values = measured[name][:, k]
            number = sample.mean(values[np.isfinite(values)], unit)
            if number["value"] is not None:
                numbers[f"{name}/{site['name']}"] = number
    last = [k for k, site in enumerate(sites) if _is_last(sites, k)]
    alike, half = metrics.estimated(maps[last], FEWEST_HEAVY, config.resamples, config.confidence)
    for i, k in enumerate(last[1:]):
        value = float(alike[i, i + 1])
        number = Number(value, unit="with the last")
        if half is not None:
            low, high = value - half[i, i + 1], value + half[i, i + 1]
            number = replace(number, low=max(0.0, low), high=min(1.0, high))
        if np.isfinite(value):
            numbers[f"similarity/{sites[k]['layer']}"] = number.as_dict()
    mean = maps.mean(axis=1)
    points = [
        metrics.moved(values.reshape(grid), _place(site, query, grid)).clip(min=0).ravel()
        for site, own in zip(sites, mean, strict=True)
        for query, values in zip(site["queries"], own, strict=True)
    ]
    places, shares = metrics.principal(np.sqrt(points))
    return Atlas(
        meta={
            **meta,
            **measured.constants,
            "config": asdict(config),
            "numbers": numbers,
            "compared": maps.shape[1],
            "intervals_from": FEWEST_HEAVY,
            "variance": shares.tolist(),
        },
        offsets=measured["offsets"].mean(axis=0, dtype=np.float64),
        similarity=alike,
        places=places.reshape(len(sites), -1, 2),
        maps=mean.reshape(len(sites), -1, *grid).astype(np.float32),
    )


def _is_last(sites: list[dict], k: int) -> bool:
    """Whether a site is the sum of its layer's directions, or the only one."""
    return k + 1 == len(sites) or sites[k + 1]["layer"] != sites[k]["layer"]


def _place(site: dict, query: list[int], grid: tuple[int, ...]) -> tuple[float, float]:
    """Where a query lies on another grid, in cells."""
    row, column = ((query[i] + 0.5) / site["cells"][i] * grid[i] - 0.5 for i in (0, 1))
    return row, column
