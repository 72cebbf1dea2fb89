"""What the page about scan maps asks of the engine, remembered between clicks."""

from collections.abc import Sequence

import numpy as np
import streamlit as st
import torch

from workbench.app import session
from workbench.app.cells import Cell, Stacks
from workbench.app.repository import beside_the_model
from workbench.app.session import Spec
from workbench.figures import overlay
from workbench.figures.sites import shown
from workbench.geometry import Grid
from workbench.images import Images
from workbench.methods.scan_maps import ScanMapsConfig
from workbench.mixing.hidden_attention import HiddenAttention
from workbench.mixing.influence import influence
from workbench.mixing.layers import ScanLayer, layer_names, scan_layers
from workbench.mixing.query import Query

LARGEST = 1024
"""Steps of a scan whose whole matrix is drawn."""


@beside_the_model
def layers(spec: Spec) -> list[str]:
    """Module paths of the model's scan layers; empty for a model without a scan."""
    return layer_names(session.load(spec).model)


@st.cache_resource(max_entries=8, show_spinner=False)
@beside_the_model
def layer_of(spec: Spec, fingerprint: str, name: str, _images: Images) -> ScanLayer:
    """One layer after a forward pass of the image: its tensors and the places of its steps."""
    loaded = session.load(spec)
    preprocessing = session.preprocessing(spec)
    x = preprocessing.tensor(preprocessing.picture(_images.load(0))[None])
    with loaded.lock, torch.no_grad():
        return scan_layers(loaded.model, x, [name])[0]


def drawn_grid(cells: tuple[int, int], size: int) -> Grid:
    """Cells as they are drawn over a square image: in equal blocks."""
    stride = size / cells[0], size / cells[1]
    return Grid(cells, stride, ((stride[0] - 1) / 2, (stride[1] - 1) / 2))


def maps_of(
    spec: Spec, images: Images, config: ScanMapsConfig, name: str, way: str, cells: Sequence[Cell]
) -> Stacks:
    """The maps of some cells of a layer, for the mouse; see `pictures`."""
    layer = layer_of(spec, images.fingerprint, name, images)
    grid, signed = drawn_grid(layer.cells, spec.size), config.aggregate == "mean"
    found = []
    for cell in cells:
        values = influence(
            layer, 0, Query(cell, grid), way, config.channels, config.view, config.with_D
        )
        found.append(pictures([x[:-1].reshape(layer.cells) for x in values], signed))
    return Stacks(np.stack([maps for maps, _ in found]), [units for _, units in found])


def pictures(maps: Sequence[np.ndarray], signed: bool) -> tuple[np.ndarray, list[str]]:
    """Maps (rows, columns) of a cell, the last the sum of the others where there are several, as
    places in a table of colours and what their values are: the sum first, the others after it on
    one scale.
    """
    *rest, whole = maps
    found, units = [], []
    for group, title in (([whole], "Sum of directions"), (rest, "Directions, all on one scale")):
        top = max((float(np.abs(values).max()) for values in group), default=0.0)
        found += [overlay.indices(shown(values, top), signed) for values in group]
        units.append(f"{title}: value / {top:.3g}" if rest else f"value / {top:.3g}")
    return np.stack(found), units if rest else units[:1]


def matrix_in_both_orders(
    layer: ScanLayer, index: int, cell: tuple[int, int], config: ScanMapsConfig
) -> tuple[np.ndarray, np.ndarray, int, int] | None:
    """The matrix of one direction in scan order and in image order, and the query's place in each.

    None when it is too large to be drawn, or the direction does not cover the image alone.
    """
    direction = layer.directions[index]
    places = direction.places[0]
    number = cell[0] * layer.cells[1] + cell[1]
    found = direction.find(number)
    if direction.windows > 1 or len(places) > LARGEST or not direction.is_scan or found is None:
        return None
    matrix = direction.matrix_of(0, 0, config.view, config.with_D)
    assert isinstance(matrix, HiddenAttention)
    scan = matrix.matrix(config.channels).numpy()
    spatial = np.flatnonzero(places >= 0)
    order = spatial[np.argsort(places[spatial])]
    image = scan[np.ix_(order, order)]
    return scan, image, found[1], int(np.searchsorted(np.sort(places[spatial]), number))
