"""What all pages share: loaded models, and errors as sentences.

Models in the cache belong to every session at once: use one only while holding its lock, and leave
it as it was.
"""

import itertools
import os
import re
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import streamlit as st
import torch
from torch import nn

from workbench import external, places
from workbench.app import repository
from workbench.app.repository import beside_the_model
from workbench.figures.label import layer_titles, weights_beside
from workbench.files import printable
from workbench.hooks import hooks
from workbench.images import SAMPLES, Images, Preprocessing, open_images, preprocessing_for
from workbench.memory import keep_freed_memory
from workbench.results import Result
from workbench.results import load as read_result
from workbench.weights import create_model, facts_of

COMPILING = "Compiling the scan for this GPU, once: %d of %d"
SHARP = 448  # pixels; photographs are shown so whatever the model sees
DRAWING = threading.Lock()
"""Held while a figure is drawn: matplotlib's settings belong to the whole process."""


@dataclass(frozen=True)
class Spec:
    """One model as chosen: what caches are keyed by.

    weights: "random", "official" or the name of a file in the weights folder; for the repository
        that the app was started with, "auto" for those that its adapter gives.
    stamp: time and size of that file, so that a new file of the same name is read again.
    size: of the input, in pixels.
    entry: which of the dictionaries in the file, where it was said.
    own_size: whether `size` is what a repository's model takes when it is told none.
    """

    model: str
    weights: str
    seed: int
    size: int
    stamp: tuple[int, int] | None = None
    entry: str | None = None
    own_size: bool = False

    @property
    def random(self) -> bool:
        if self.weights == "auto":
            return facts(self)["weights"] == "random"
        return self.weights == "random"

    @property
    def label(self) -> str:
        if self.random:
            return f"random weights (seed {self.seed})"
        if self.weights == "auto":
            return "weights of the adapter"
        return weights_beside(self.model, self.weights) or self.weights

    @property
    def source(self) -> str:
        """What `create_model` and the command line take for the weights."""
        known = self.weights in ("random", "official", "auto")
        return self.weights if known else str(weights_folder() / self.weights)

    @property
    def words(self) -> list[str]:
        """The options of the command line that name the model, its weights and the seed."""
        found = ["--model", self.model]
        if own := repository.repository_of(self.model):
            found = ["--repo", short(own.folder)]
            found += ["--adapter", short(own.adapter)] if own.adapter else []
            found += ["--model", own.model] if own.model else []
        if self.weights != "auto":
            found += ["--weights", short(self.source)]
        found += ["--entry", self.entry] if self.entry else []
        return found + (["--seed", str(self.seed)] if self.seed else [])

    @property
    def trained(self) -> bool:
        """Whether a checkpoint is chosen, so that there is a state before training."""
        return self.weights not in ("random", "auto")

    def untrained(self) -> "Spec":
        weights = "auto" if repository.repository_of(self.model) else "random"
        return replace(self, weights=weights, stamp=None, entry=None)


@dataclass(frozen=True)
class Loaded:
    """A model of the cache and the lock to hold while it runs."""

    model: nn.Module
    lock: threading.RLock


def weights_folder() -> Path:
    return Path(os.environ.get("VSSM_WEIGHTS") or SAMPLES.parent / "weights")


def results_folder() -> Path:
    return Path(os.environ.get("VSSM_RESULTS") or SAMPLES.parent / "results")


@st.cache_resource(show_spinner="Reading the images ...")
def _opened(place: str) -> Images:
    return open_images(place)


def own_images() -> Images | None:
    """The images that the app was started with, if any."""
    place = os.environ.get("VSSM_IMAGES")
    return _opened(place) if place else None


def load(spec: Spec) -> Loaded:
    """The model, from the cache when it was loaded before; to be called `beside_the_model`.

    Raises:
        ValueError, OSError: in one sentence, as `create_model` does.
    """
    return _load(replace(spec, size=0) if spec.own_size else spec)


@st.cache_resource(max_entries=4, show_spinner="Loading the model ...")
def _load(spec: Spec) -> Loaded:
    if own := repository.repository_of(spec.model):
        weights = None if spec.weights == "auto" else spec.source
        model = external.load(
            own.folder,
            own.adapter,
            model=own.model,
            size=None if spec.own_size else spec.size,
            weights=weights,
            entry=spec.entry,
            seed=spec.seed,
        )
    else:
        model = create_model(
            spec.model, spec.source, seed=spec.seed, img_size=spec.size, entry=spec.entry
        )
    return Loaded(model, threading.RLock())


@st.cache_data(max_entries=100, show_spinner="Loading the model ...")
@beside_the_model
def native_size(spec: Spec) -> tuple[int, int]:
    """Height and width of the images that a repository's model is made for, or takes."""
    model: Any = load(spec).model
    return model.native_size


@st.cache_data(max_entries=100, show_spinner="Loading the model ...")
@beside_the_model
def facts(spec: Spec) -> dict[str, Any]:
    """What a result says about its model, in the words of the command line."""
    return facts_of(load(spec).model)


@st.cache_data(max_entries=200, show_spinner=False)
@beside_the_model
def preprocessing(spec: Spec) -> Preprocessing:
    """How images are brought to the model's size."""
    return preprocessing_for(load(spec).model, spec.size)


def photograph(spec: Spec, images: Images) -> np.ndarray:
    """What the model sees of the first image, sharp for the eye: (h, w, 3) uint8."""
    return replace(preprocessing(spec), size=(SHARP, SHARP)).picture(images.load(0))


@contextmanager
def waiting(
    key: str, on_stop: Callable[[], None] | None = None
) -> Iterator[Callable[[float, str], None]]:
    """A bar with a button to stop, where something takes long; gives what moves it (share, text).

    Every move of the bar is a place where the page can begin anew, after Stop or with new choices;
    but not inside a fragment, where Streamlit finishes what runs first.
    """
    place, bar = st.empty(), None
    patience = time.monotonic() + 0.3  # what is known already should not flash

    def move(share: float, text: str) -> None:
        nonlocal bar
        if bar is None and time.monotonic() > patience:
            with place.container(horizontal=True, vertical_alignment="center"):
                bar = st.progress(0.0, width=320)
                st.button("Stop", on_click=on_stop, key=key)
        if bar is not None:
            bar.progress(min(share, 1.0), text)

    yield move
    place.empty()


def each_pass(model: nn.Module, report: Callable[[int], None]) -> AbstractContextManager[None]:
    """Call `report` with its number before every forward pass of the model."""
    numbers = itertools.count(1)
    return hooks([model], before=lambda *_: report(next(numbers)))


def device() -> torch.device:
    """Where models are measured: as the app was started, else on a GPU if there is one."""
    automatic = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(os.environ.get("VSSM_DEVICE") or automatic)


def warm_up() -> None:
    """Get the process ready: freed memory is kept, and the scan compiled before the first map."""
    keep_freed_memory()
    _warm_cpu()
    if device().type == "cuda":
        place = st.empty()
        _warm_gpu(lambda done, total: place.progress(done / total, COMPILING % (done, total)))
        place.empty()


@st.cache_resource(show_spinner="Preparing the scan; the first time takes up to 15 seconds ...")
def _warm_cpu() -> None:
    with suppress(ImportError):
        import_module("workbench.kernels.cpu").warm_up()


@st.cache_resource(show_spinner=False)
def _warm_gpu(_tell: Callable[[int, int], object]) -> None:
    try:
        compiling = import_module("workbench.kernels.gpu.compiling")
    except ImportError:  # the scan says why when it is asked
        return
    compiling.on_progress(_tell)
    try:
        compiling.warm(device(), ["fp32"])
    except compiling.Unusable:
        return
    finally:
        compiling.on_progress(None)


def result_file(result: Result) -> bytes:
    """The result as an `.npz` file."""
    with tempfile.TemporaryDirectory() as folder:
        return result.save(Path(folder) / f"{result.kind}.npz").read_bytes()


@st.cache_data(max_entries=100, show_spinner=False)
def stored(path: Path, stamp: int) -> Result:
    """A result file of the results folder or the examples; stamp: the file's time."""
    return read_result(path)


def picture(images: Images) -> str:
    """What the command line takes for the sidebar's image."""
    name = images.names[0]
    places = [SAMPLES / name, Path(os.environ.get("VSSM_IMAGES") or ".") / name]
    return short(next((place for place in places if place.is_file()), name))


def short(path: str | Path) -> str:
    """A path as the command line takes it, without more of the machine than is needed."""
    return places.named(path)


_ACTIVE = re.compile(r"[\\`*\[\]<>$~]|(?<!\w)_|_(?!\w)|:(?=\w+:)|^(?=#)")


def plain(text: object) -> str:
    """Text out of files, for places where Streamlit expects markdown."""
    return _ACTIVE.sub(lambda found: "\\" + found[0], printable(text, 1000))


def layer_said(number: str, name: str, names: Sequence[str]) -> str:
    """One of a model's layers in markdown: its number, stage and block, and module path."""
    title = layer_titles(names)[list(names).index(name)]
    path = "" if title == name else f", {plain(name)}"
    return f"Layer {number}: **{plain(title)}**{path}"


def _trace() -> str:
    """The traceback, of paths only the ends."""
    return re.sub(r'File "[^"]*?([^"/\\]+[/\\][^"/\\]+)"', r'File "\1"', traceback.format_exc())


@contextmanager
def sentences() -> Iterator[None]:
    """Show an error as one sentence instead of a traceback."""
    try:
        yield
    except ConnectionError as error:
        st.error(
            f"{plain(error)}. The app finds it in {plain(short(weights_folder()))} under a name "
            "that begins with the model's name."
        )
    except (ValueError, OSError, MemoryError) as error:
        st.error(plain(error) or f"{type(error).__name__}: try a smaller size or another model.")
    except Exception as error:
        st.error(
            f"This did not work ({type(error).__name__}); try another size, stage or model, and "
            "report it with the details below if it stays."
        )
        with st.expander("Details"):
            st.code(_trace(), language=None)
