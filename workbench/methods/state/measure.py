"""Maps and numbers of the hidden states of a model's scans."""

from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from workbench.images import Batch
from workbench.methods.method import Partial
from workbench.methods.state.config import StateConfig
from workbench.mixing.hidden_attention import hidden_attention
from workbench.mixing.layers import (
    Direction,
    ScanLayer,
    find_layers,
    layer_names,
    scan_layers,
)
from workbench.mixing.query import Query, resolve_query, say_moved, with_starts
from workbench.mixing.states import (
    controllability,
    kept,
    participation,
    size_of_channels,
    size_of_direction,
    states,
)
from workbench.mixing.statistics import half_lives, horizons, pixels
from workbench.results import State
from workbench.scan import SelectiveScan
from workbench.statistics import FEWEST_SKEWED, NEVER, Sample

QUANTITIES = {
    "norm": "Euclidean norm of h over channels and states",
    "half_life": "ln 2 / (delta |A|) in steps, median over channels and states",
    "influence": "% of the trace of the controllability Gramian of the last state of its window",
    "kept": "what is left of the marked token, prod of a, mean over channels and states",
}
NUMBERS = {
    "norm": "",
    "half_life_10": "steps",
    "half_life": "steps",
    "half_life_90": "steps",
    "along": "px",
    "across": "px",
    "size": "states",
    "size_joint": "dimensions",
    "held": "tokens",
    "outside": "%",
}
"""Numbers of each direction, and their units. `half_life`: quantiles over channels; `along`,
`across`: the median in pixels; `held`: participation ratio of the tokens' influences; `outside`:
the influence that lies in no cell."""


def measure(model: nn.Module, batch: Batch, config: StateConfig) -> Partial:
    """Maps and numbers of a batch.

    Returns:
        maps: (b, quantities, total) float32, the maps of all sites one after the other; numbers:
        (b, sites, numbers) float64; half_lives: (b, channels). Constant: `sites`.

    Raises:
        ValueError: when no layer asked about is a scan, and as `scan_layers` and `resolve_query`.
    """
    found = find_layers(model, config.layer)
    names = [name for name in found if isinstance(model.get_submodule(name), SelectiveScan)]
    if not names:
        raise ValueError(f"{found[0]} is attention, which has no state; choose a scan layer")
    layers = scan_layers(model, batch.tensor, names)
    queries = [resolve_query(config.query, layer, model, batch.tensor) for layer in layers]
    sites: list[dict[str, Any]] = []
    for layer, query in zip(layers, queries, strict=True):
        sites += _sites(layer, query, layer_names(model).index(layer.name))
        if 0 in batch.indices:
            say_moved(layer, query)
    maps = np.zeros((len(batch), len(QUANTITIES), with_starts(sites)), np.float32)
    numbers = np.full((len(batch), len(sites), len(NUMBERS)), np.nan)
    lives = np.zeros((len(batch), sum(site["dim"] for site in sites)), np.float32)
    for image in range(len(batch)):
        places = iter(enumerate(sites))
        channel = 0
        for layer, query in zip(layers, queries, strict=True):
            parts = []
            for direction in layer.directions:
                at, site = next(places)
                values, own, row = _of_direction(direction, image, query, layer.cells)
                lives[image, channel : channel + len(own)] = own
                numbers[image, at] = row
                channel += len(own)
                parts.append(values)
                _put(maps[image], site, values)
            if len(parts) > 1:
                _put(maps[image], next(places)[1], _together(np.stack(parts)))
    pictures = batch.pictures if 0 in batch.indices else batch.pictures[:0]
    arrays = {"maps": maps, "numbers": numbers, "half_lives": lives, "pictures": pictures}
    return Partial(arrays, {"sites": sites})


def _sites(layer: ScanLayer, query: Query, number: int) -> list[dict[str, Any]]:
    """One entry for each direction, with its channels and states, and one for all together."""
    found = []
    for direction in layer.directions:
        dim, count = direction.tensors["A"].shape
        site = query.site(layer, direction.name, query.cell_in(direction))
        found.append({**site, "number": number, "dim": dim, "states": count})
    if len(found) > 1:
        whole = query.site(layer, "all", query.cell)
        found.append({**whole, "number": number, "dim": 0, "states": 0})
    return found


def _put(maps: np.ndarray, site: dict[str, Any], values: np.ndarray) -> None:
    maps[:, site["start"] : site["start"] + values.shape[1]] = values


def _together(parts: np.ndarray) -> np.ndarray:
    """(directions, quantities, cells) -> of all directions: the norm, and the mean of the rest."""
    mean = parts.mean(axis=0)
    mean[0] = np.sqrt(np.square(parts[:, 0]).sum(axis=0))
    return mean


def _of_direction(
    direction: Direction, image: int, query: Query, grid: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """Maps (quantities, cells), half-life of each channel (d,), and the values of `NUMBERS`."""
    cells, windows = grid[0] * grid[1], direction.windows
    own = slice(image * windows, (image + 1) * windows)
    A = direction.tensors["A"]
    u, delta, B = (direction.tensors[name][own] for name in ("u", "delta", "B"))
    h = states(u, delta, A, B)
    norms = h.square().sum(dim=(1, 2)).sqrt()  # (windows, l)
    sizes, joint = size_of_channels(h), size_of_direction(h)
    del h
    influence, held = [], []
    for window in range(windows):
        terms = controllability(hidden_attention(direction.tensors, image * windows + window))
        influence.append(100 * terms / terms.sum())
        held.append(float(participation(terms)))
    marked, step = query.step(direction)
    left = torch.zeros_like(norms)
    left[marked] = kept(hidden_attention(direction.tensors, image * windows + marked), step)
    quantities = torch.stack([norms, horizons(delta, A), torch.stack(influence), left])
    maps = _in_image(quantities, direction, cells)
    lives = half_lives(delta, A).quantile(0.5, dim=1).numpy()
    low, middle, high = np.quantile(lives, (0.1, 0.5, 0.9))
    known = sizes[sizes.isfinite()]
    row = [
        float(norms.mean()), low, middle, high, *pixels(direction.path, middle, query.grid.stride),
        float(known.mean()) if len(known) else np.nan, float(joint), float(np.mean(held)),
        float(maps[2, cells]) / windows,
    ]  # fmt: skip
    return maps[:, :cells].numpy(), lives, row


def _in_image(quantities: Tensor, direction: Direction, cells: int) -> Tensor:
    """(quantities, windows, l) -> (quantities, cells + 1)."""
    found = quantities.new_zeros(len(quantities), cells + 1)
    for window in range(direction.windows):
        found += direction.in_image(quantities[:, window], window, cells)
    return found


def combine(measured: Partial, config: StateConfig, meta: dict) -> State:
    """One `State` of all images."""
    maps, pictures, sites = measured["maps"], measured["pictures"], measured.constants["sites"]
    sample, numbers = Sample(config.confidence), {}
    for i, site in enumerate(sites):
        for j, (key, unit) in enumerate(NUMBERS.items()):
            values = measured["numbers"][:, i, j]
            if np.isfinite(values).any():
                known = values[np.isfinite(values)]
                fewest = NEVER if key in ("norm", "outside") else FEWEST_SKEWED
                numbers[f"{key}/{site['name']}"] = sample.mean(known, unit, fewest)
    return State(
        meta={
            **meta,
            "config": asdict(config),
            "quantities": list(QUANTITIES),
            "meaning": list(QUANTITIES.values()),
            "sites": sites,
            "numbers": numbers,
            "intervals_from": FEWEST_SKEWED,
        },
        maps=maps[: config.keep],
        mean=maps.mean(axis=0, dtype=np.float64),
        half_lives=np.median(measured["half_lives"], axis=0).astype(np.float64),
        picture=pictures[0] if len(pictures) else None,
    )
