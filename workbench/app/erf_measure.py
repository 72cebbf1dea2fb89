"""What the page about receptive fields asks of the engine, remembered between clicks."""

import shlex
from pathlib import Path

import streamlit as st
import torch

from workbench.app import session
from workbench.app.click_map import Place
from workbench.app.repository import beside_the_model
from workbench.app.session import Spec
from workbench.app.sidebar import Choice
from workbench.geometry import Grid, feature_map, grid_of, resolve_position, stages
from workbench.images import Images
from workbench.methods import erf
from workbench.methods.erf import ErfConfig
from workbench.results import Erf, load
from workbench.runner import Progress, run


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
def measure(spec: Spec, images: Images, config: ErfConfig, progress: Progress | None = None) -> Erf:
    """The field of one model over some images."""
    loaded = session.load(spec)
    with loaded.lock:
        result = run(
            erf.method,
            loaded.model,
            images,
            config,
            preprocessing=session.preprocessing(spec),
            facts=session.facts(spec),
            progress=progress,
        )
    assert isinstance(result, Erf)
    return result


@st.cache_data(max_entries=200, show_spinner=False)
def measure_one(spec: Spec, fingerprint: str, config: ErfConfig, _images: Images) -> Erf:
    """`measure`, remembered by the fingerprint of the image."""
    return measure(spec, _images, config)


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


def command(spec: Spec, images: Images, config: ErfConfig, samples: bool) -> str:
    """The command line that measures the same."""
    words = ["vssm", "erf", *spec.words, "--images"]
    words += ["samples" if samples else session.picture(images), "--size", str(spec.size)]
    words += ["--stage", str(config.stage), "--position", config.position]
    words += ["--split", config.split] if config.split != "none" else []
    return shlex.join([*words, "--out", "out"])
