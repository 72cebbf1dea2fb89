"""What the page about sensitivity asks of the engine, remembered between moves of the slider."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import streamlit as st
import torch

from workbench.app import session
from workbench.app.measure import measure
from workbench.app.repository import beside_the_model
from workbench.app.session import Spec
from workbench.images import Batch, Images
from workbench.methods.sensitivity import SensitivityConfig
from workbench.methods.sensitivity.patching import NARROW, SETS, Patch, margins_with
from workbench.methods.sensitivity.subject import Case, Subject
from workbench.mixing.layers import Direction, ScanLayer, scan_layers
from workbench.mixing.statistics import token_statistics
from workbench.results import Sensitivity
from workbench.trace import scans as scan_sites

QUANTITIES = ("delta", "B", "C")
Report = Callable[[float, str], None]
"""Called with the share that is done and what it is."""


@dataclass(frozen=True)
class Setting:
    """One image under one attack; eps in 1/255."""

    spec: Spec
    fingerprint: str
    eps: float
    steps: int


@dataclass(frozen=True, eq=False)
class Attack:
    """One image before and after.

    Attributes:
        pictures: clean and adversarial, (h, w, 3) uint8.
        change: (h, w, 3) float, adversarial - clean, in 1/255.
        probabilities: (2, classes), clean and adversarial.
        label: the clean prediction, which the attack aims at.
        margins: of that class, clean and adversarial.
    """

    pictures: tuple[np.ndarray, np.ndarray]
    change: np.ndarray
    probabilities: np.ndarray
    label: int
    margins: tuple[float, float]


@beside_the_model
def scans(spec: Spec) -> dict[int, str]:
    """Number of the layer -> module path of the model's scans; empty for a model without one."""
    return {site.layer: site.module for site in scan_sites(session.load(spec).model)}


@st.cache_resource(max_entries=16, show_spinner=False)
def case(setting: Setting, _images: Images) -> Case:
    """The image, its adversarial twin and the scans of both; use it with the model's lock."""
    loaded = session.load(setting.spec)
    preprocessing = session.preprocessing(setting.spec)
    picture = preprocessing.picture(_images.load(0))[None]
    batch = Batch(preprocessing.tensor(picture), picture, (_images.names[0],), None, (0,))
    config = SensitivityConfig(patching_eps_255=setting.eps, attack_steps=setting.steps)
    with loaded.lock:
        return Case(Subject.of(loaded.model), batch, config)


@st.cache_data(max_entries=100, show_spinner=False)
@beside_the_model
def attack(setting: Setting, _images: Images) -> Attack:
    """Attack the image on the model's own prediction."""
    it = case(setting, _images)
    with session.load(setting.spec).lock, torch.no_grad():
        logits = torch.cat([it.subject.answer(x) for x in (it.x, it.twin)])
        margins = tuple(float(it.margins(x)) for x in (it.x, it.twin))
    both = torch.cat([it.x, it.twin]).permute(0, 2, 3, 1).numpy()
    clean, twin = (255 * both).round().astype(np.uint8)
    return Attack(
        (clean, twin),
        255 * (both[1] - both[0]),
        logits.softmax(dim=1).numpy(),
        int(it.labels[0]),
        (margins[0], margins[1]),
    )


@beside_the_model
def prepare(setting: Setting, images: Images, report: Report) -> None:
    """Attack the image and record both runs, unless that is known; what takes long of `attack`."""
    it = case(setting, images)
    loaded = session.load(setting.spec)
    passes = setting.steps + 5

    def tell(number: int) -> None:
        report(number / passes, f"Attacking: step {min(number, setting.steps)} of {setting.steps}")

    with loaded.lock, session.each_pass(loaded.model, tell):
        for name in ("twin", "clean", "attacked"):
            getattr(it, name)  # kept by the case


@beside_the_model
def patchings(
    setting: Setting, layer: str | None, images: Images, report: Report
) -> list[tuple[str, float]]:
    """(what was put back, margin) of the adversarial run with tensors of the clean one.

    layer: a scan's module path, or None for all of them.
    """
    found = []
    for i in range(len(SETS)):
        found.append(_patching(setting, layer, i, images))
        report((i + 1) / len(SETS), f"Put back: {i + 1} of {len(SETS)}")
    return found


@st.cache_data(max_entries=2000, show_spinner=False)
def _patching(
    setting: Setting, layer: str | None, number: int, _images: Images
) -> tuple[str, float]:
    it = case(setting, _images)
    sites = it.subject.scopes("all" if layer is None else "layer")[layer or "all"]
    row = Patch(SETS[number], layer or "all", sites)
    with session.load(setting.spec).lock:
        return row.name, float(margins_with(it, row, it.twin, it.attacked, it.clean))


@beside_the_model
def result(setting: Setting, narrow: bool, images: Images, report: Report) -> Sensitivity:
    """The same patching as the command line measures them: both ways, with random controls.

    narrow: in every layer and direction alone too.
    """
    model = session.load(setting.spec).model
    config = SensitivityConfig(
        views=("patching",),
        patching_eps_255=setting.eps,
        attack_steps=setting.steps,
        narrow=narrow,
    )
    scopes = Subject.of(model).narrow_scopes() if narrow else {}
    passes = setting.steps + 8 + 4 * (len(SETS) + len(NARROW) * len(scopes))

    def tell(number: int) -> None:
        report(number / passes, f"Measuring: {100 * number / passes:.0f} %")

    with session.load(setting.spec).lock, session.each_pass(model, tell):
        found = measure(setting.spec, "sensitivity", images, config)
    assert isinstance(found, Sensitivity)
    return found


@st.cache_resource(max_entries=16, show_spinner=False)
@beside_the_model
def layer_of(setting: Setting, name: str, _images: Images) -> tuple[ScanLayer, ScanLayer]:
    """One layer of the clean and of the adversarial run."""
    it = case(setting, _images)
    answer = it.subject.answer
    with session.load(setting.spec).lock, torch.no_grad():
        runs = [(x - answer.mean) / answer.std for x in (it.x, it.twin)]
        clean, twin = (scan_layers(it.subject.model, x, [name])[0] for x in runs)
    return clean, twin


def maps(layer: ScanLayer, direction: Direction) -> dict[str, np.ndarray]:
    """delta, |B| and |C| in image order, (rows, columns) each; nan where no step reads a cell."""
    statistics = token_statistics(direction.tensors)
    places = direction.places.reshape(-1)
    inside = places >= 0
    found = {}
    for quantity in QUANTITIES:
        image = np.full(layer.cells[0] * layer.cells[1], np.nan)
        image[places[inside]] = statistics[quantity].reshape(-1).numpy()[inside]
        found[quantity] = image.reshape(layer.cells)
    return found
