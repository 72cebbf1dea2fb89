"""What the page about scan maps asks of the engine, remembered between clicks."""

import numpy as np
import streamlit as st
import torch

from workbench.app import session
from workbench.app.repository import beside_the_model
from workbench.app.session import Spec
from workbench.images import Images
from workbench.methods.scan_maps import ScanMapsConfig
from workbench.mixing.hidden_attention import HiddenAttention
from workbench.mixing.layers import ScanLayer, layer_names, scan_layers

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
