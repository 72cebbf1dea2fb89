"""Maps and numbers of the parts of every layer's output."""

from dataclasses import asdict
from typing import Any

import numpy as np
from torch import nn

from workbench.images import Batch
from workbench.methods.decompose.config import DecomposeConfig
from workbench.methods.method import Partial
from workbench.mixing.decomposition import THROUGH, Parts, parts_at, through
from workbench.mixing.layers import find_layers, layer_names, scan_layers
from workbench.mixing.query import Query, resolve_query, with_starts
from workbench.results import Decomposition
from workbench.statistics import FEWEST_SKEWED, Number, Sample

QUANTITIES = ("along", "norm")
NUMBERS = {
    "own": "%",
    "others": "%",
    "outside": "%",
    "biases": "%",
    "lengths": "outputs",
    "distance": "px",
    "error": "of the output",
}
"""Numbers of each layer, and their units. `own`, `others`, `outside`, `biases`: parts along the
output of the query's cell, the other cells, steps that are no cell, and the biases, 100 in sum;
`lengths`: sum of the lengths of all parts; `distance`: of cells from the query, weighted by length;
`error`: of the sum against the layer's own output, the largest of all images."""


def measure(model: nn.Module, batch: Batch, config: DecomposeConfig) -> Partial:
    """Parts of the outputs of a batch.

    Returns:
        maps: (b, quantities, total) float32, the maps of all layers one after the other; numbers:
        (b, layers, numbers) float64; pictures. Constant: `sites`, one for each layer.
    """
    x, numbering = batch.tensor, layer_names(model)
    layers = scan_layers(model, x, find_layers(model, config.layer), whole=True)
    queries = [resolve_query(config.query, layer, model, x) for layer in layers]
    sites: list[dict[str, Any]] = [
        {
            **query.site(layer, through(layer, model), query.cell),
            "number": numbering.index(layer.name),
        }
        for layer, query in zip(layers, queries, strict=True)
    ]
    maps = np.zeros((len(batch), len(QUANTITIES), with_starts(sites)), np.float32)
    numbers = np.full((len(batch), len(sites), len(NUMBERS)), np.nan)
    for i, (layer, query, site) in enumerate(zip(layers, queries, sites, strict=True)):
        at = slice(site["start"], site["start"] + layer.cells[0] * layer.cells[1])
        for image in range(len(batch)):
            parts = parts_at(layer, model, image, query)
            found = np.stack([parts.along.numpy(), parts.norms.numpy()])
            maps[image, :, at] = found[:, :-2]
            numbers[image, i] = _numbers(parts, found, query)
    return Partial({"maps": maps, "numbers": numbers, "pictures": batch.pictures}, {"sites": sites})


def _numbers(parts: Parts, found: np.ndarray, query: Query) -> list[float]:
    """The values of `NUMBERS`, of along and norm (2, cells + 2)."""
    (*along, outside, biases), lengths = 100 * found[0], found[1]
    own, others, distance = np.nan, sum(along), np.nan
    if query.cell is not None:
        own = along[query.cell[0] * query.columns + query.cell[1]]
        others -= own
        rows, columns = np.divmod(np.arange(len(along)), query.columns)
        y, x = query.grid.stride
        away = np.hypot(y * (rows - query.cell[0]), x * (columns - query.cell[1]))
        if lengths[:-2].any():
            distance = float(np.average(away, weights=lengths[:-2]))
    return [own, others, outside, biases, lengths.sum(), distance, parts.error]


def combine(measured: Partial, config: DecomposeConfig, meta: dict) -> Decomposition:
    """One `Decomposition` of all images."""
    maps, sites, numbers = measured["maps"], measured.constants["sites"], {}
    sample = Sample(config.confidence)
    for i, site in enumerate(sites):
        for j, (key, unit) in enumerate(NUMBERS.items()):
            values = measured["numbers"][:, i, j]
            values = values[np.isfinite(values)]
            if not len(values):
                continue
            name = f"{key}/{site['name']}"
            if key == "error":
                numbers[name] = Number(float(values.max()), unit=unit).as_dict()
            else:
                numbers[name] = sample.mean(values, unit, FEWEST_SKEWED)
    return Decomposition(
        meta={
            **meta,
            "config": asdict(config),
            "quantities": list(QUANTITIES),
            "through": {site["direction"]: THROUGH[site["direction"]] for site in sites},
            "sites": sites,
            "numbers": numbers,
            "intervals_from": FEWEST_SKEWED,
        },
        maps=maps[: config.keep],
        mean=maps.mean(axis=0, dtype=np.float64),
        pictures=measured["pictures"][: config.keep],
    )
