"""What the page about receptive fields asks of the engine, remembered between clicks."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import streamlit as st
import torch

from workbench.app import session
from workbench.app.cells import Stacks
from workbench.app.click_map import Place
from workbench.app.repository import beside_the_model
from workbench.app.session import Spec
from workbench.devices import frozen_eval
from workbench.geometry import Grid, feature_map, grid_of, resolve_position, stages
from workbench.methods.erf import ErfConfig
from workbench.methods.erf.cells import fields, small
from workbench.methods.erf.interactive import offered
from workbench.results import Erf


@beside_the_model
def stage_count(spec: Spec) -> int:
    return len(stages(session.load(spec).model))


@st.cache_data(max_entries=200, show_spinner=False)
@beside_the_model
def grid(spec: Spec, stage: int) -> Grid:
    """The cells of a stage over the input image."""
    loaded, size = session.load(spec), (spec.size, spec.size)
    with loaded.lock, torch.no_grad():
        features = feature_map(loaded.model, torch.zeros(1, 3, *size), stage)
        return grid_of(loaded.model, features, size)


def config_at(spec: Spec, stage: int, place: Place, split: str) -> ErfConfig:
    """The measurement of the cell at a place; every place of a cell gives the same."""
    size = (spec.size, spec.size)
    cell = resolve_position(f"{place[0]:.6f},{place[1]:.6f}", grid(spec, stage), size)
    return ErfConfig(stage=stage, position=f"{cell[0]},{cell[1]}", split=split, seed=spec.seed)


@beside_the_model
def fields_of(
    spec: Spec, stage: int, picture: np.ndarray, cells: Sequence[tuple[int, int]]
) -> Stacks:
    """The field of each of some cells on a picture (h, w, 3) uint8, for the mouse."""
    loaded, device = session.load(spec), session.device()
    x = session.preprocessing(spec).tensor(picture[None]).to(device)
    with loaded.lock, frozen_eval(loaded.model, device):
        return Stacks(small(fields(loaded.model, x, ErfConfig(stage=stage), cells))[:, None], [])


@beside_the_model
def all_cells(spec: Spec, result: Erf, among: int) -> dict[str, Any]:
    """The maps of all cells of a result's stage, for a page of its own."""
    loaded = session.load(spec)
    with loaded.lock:
        return offered(result, loaded.model, among)
