"""The maps of pixels that other methods make, by their names."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workbench.images import Batch
from workbench.methods.attribution.config import AttributionConfig
from workbench.methods.attribution.faithfulness import references
from workbench.methods.attribution.measure import explain, targets_of
from workbench.methods.erf.config import ErfConfig
from workbench.methods.erf.measure import gradient, size_of
from workbench.methods.objects.config import ObjectsConfig
from workbench.methods.tokens.config import TokensConfig
from workbench.methods.tokens.measure import measure as measure_tokens
from workbench.mixing.influence import influence
from workbench.mixing.layers import find_layers, scan_layers
from workbench.mixing.query import resolve_query, spread

CONTROLS = ("random", "centre", "edges", "uniform")
"""Maps that look at no model: noise, a Gaussian in the middle (sigma a quarter of each side), the
Sobel magnitude of the image, and the same everywhere."""


def map_of(name: str, model: nn.Module, batch: Batch, config: ObjectsConfig) -> np.ndarray:
    """(n, h, w) float64, >= 0, pixels of the input, of one of the maps of `ObjectsConfig`.

    Maps of cells are brought to pixels bilinearly; of signed maps the sizes are taken.

    Raises:
        ValueError: where the model has no such map.
    """
    x = batch.tensor
    if name == "erf":
        found, _ = gradient(model, x, ErfConfig())
        maps = size_of(found, "abs")
    elif name == "scan-maps":
        maps = _scans(model, x, config)
    elif name == "tokens":
        measured = measure_tokens(model, batch, TokensConfig())
        last = measured.constants["blocks"][-1]
        maps = torch.from_numpy(measured["norms"][:, last["start"] :]).unflatten(1, last["cells"])
    else:
        asked = AttributionConfig(method=name, target=config.target)  # pyright: ignore
        maps = explain(model, x, targets_of(model, batch, asked), asked).sum(dim=1).abs()
    size = (x.shape[-2], x.shape[-1])
    maps = F.interpolate(maps[:, None].double().cpu(), size, mode="bilinear")[:, 0]
    return maps.numpy()


def _scans(model: nn.Module, x: Tensor, config: ObjectsConfig) -> Tensor:
    """(n, rows, columns): rows of the hidden attention of the sum of a layer's directions."""
    layer = scan_layers(model, x, find_layers(model, config.layer))[-1]
    try:
        queries = [resolve_query("class", layer, model, x)]
    except ValueError:
        queries = spread(config.queries, layer, model, x)
    maps = np.zeros((len(x), layer.cells[0] * layer.cells[1]))
    for image, found in enumerate(maps):
        for query in queries:
            row = influence(layer, image, query)[-1][:-1].astype(np.float64)
            found += row / (row.sum() or 1.0)
    return torch.from_numpy(maps).unflatten(1, layer.cells)


def controls(batch: Batch, seed: int) -> np.ndarray:
    """(n, controls, h, w) float64: the maps of `CONTROLS`."""
    found = references(batch.tensor, seed, batch.indices)
    return np.concatenate([found, np.ones_like(found[:, :1])], axis=1)
