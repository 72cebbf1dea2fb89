"""What the page about receptive fields asks of the engine, remembered between clicks."""

from pathlib import Path

import streamlit as st
import torch

from workbench.app import session
from workbench.app.click_map import Place
from workbench.app.repository import beside_the_model
from workbench.app.session import Spec
from workbench.app.sidebar import Choice
from workbench.geometry import Grid, feature_map, grid_of, resolve_position, stages
from workbench.methods.erf import ErfConfig
from workbench.results import Erf, load


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


def example_file() -> Path:
    return session.results_folder() / "erf.npz"


def example(choice: Choice, stage: int) -> Erf | None:
    """The stored result, if it shows the model, weights, stage, size and image that are chosen."""
    path = example_file()
    if choice.images is None or not path.is_file():
        return None
    result, spec = load(path), choice.spec
    if not isinstance(result, Erf):
        return None
    facts = result.meta["facts"]
    same = (
        (facts.get("model"), facts.get("weights")) == (spec.model, spec.weights)
        and result.map.shape == (spec.size, spec.size)
        and result.meta["config"]["stage"] in (stage, None)
        and result.meta["images"]["names"][0] == choice.images.names[0]
    )
    return result if same else None
