"""Page: the effective receptive field of the place that is clicked."""

import shlex
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import streamlit as st
import torch

from workbench.app import overlay, session
from workbench.app.click_map import Place, click_map
from workbench.app.session import Choice, Spec
from workbench.figures.erf import caption, draw, draw_splits, with_interval
from workbench.figures.files import figure_bytes
from workbench.geometry import Grid, feature_map, grid_of, resolve_position, stages
from workbench.images import SAMPLES, Images, preprocessing_for
from workbench.methods import erf
from workbench.methods.erf import ErfConfig
from workbench.results import Erf
from workbench.results import load as load_result
from workbench.runner import Progress, run

HINT = "Click anywhere on the photograph: the receptive field of that place appears here."
RANDOM = (
    "The weights are random (untrained), so the map shows what the architecture makes of the "
    "image, not what training made of it."
)
MEANING = {
    "r50": "area of the smallest square around the unit that holds half of the map",
    "A50": "area of the smallest set of pixels, wherever they lie, that holds half of the map",
    "A99": "the same for 99 % of the map",
    "radius": "root mean square distance of the map from the unit",
    "participation": "part of the image that acts; 100 % when every pixel counts the same",
    "crossness": "how far the unit's row and column stand out; 1 for a map without a cross",
    "row_share": "share of the map in the horizontal band through the unit",
    "column_share": "share of the map in the vertical band through the unit",
}


@dataclass(frozen=True)
class View:
    """What to show of the chosen models: one stage of each, before and after training if asked."""

    panels: tuple[tuple[Spec, int], ...]
    split: str

    def configs(self, place: Place) -> list[ErfConfig]:
        cells = [session_cell(spec, stage, place) for spec, stage in self.panels]
        return [
            ErfConfig(stage=stage, position=f"{row},{column}", split=self.split, seed=spec.seed)
            for (spec, stage), (row, column) in zip(self.panels, cells, strict=True)
        ]


@st.cache_data(max_entries=200, show_spinner=False)
def grid(spec: Spec, stage: int) -> Grid:
    """The cells of a stage over the input image."""
    loaded, size = session.load(spec), (spec.size, spec.size)
    with loaded.lock, torch.no_grad():
        features = feature_map(loaded.model, torch.zeros(1, 3, *size), stage)
        return grid_of(loaded.model, features, size)


def session_cell(spec: Spec, stage: int, place: Place) -> tuple[int, int]:
    position = f"{place[0]:.6f},{place[1]:.6f}"
    return resolve_position(position, grid(spec, stage), (spec.size, spec.size))


def measure(
    spec: Spec, images: Images, config: ErfConfig, progress: Progress | None = None
) -> Erf:
    """The field of one model over some images."""
    loaded = session.load(spec)
    with loaded.lock:
        result = run(
            erf,
            loaded.model,
            images,
            config,
            preprocessing=preprocessing_for(loaded.model, spec.size),
            facts=session.facts(spec),
            progress=progress,
        )
    assert isinstance(result, Erf)
    return result


@st.cache_data(max_entries=200, show_spinner=False)
def measure_one(spec: Spec, fingerprint: str, config: ErfConfig, _images: Images) -> Erf:
    """`measure`, remembered by the fingerprint of the image."""
    return measure(spec, _images, config)
