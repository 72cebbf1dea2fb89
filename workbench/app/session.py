"""What all pages share: the sidebar and its place in the URL, loaded models, errors as sentences.

Models in the cache belong to every session at once: use one only while holding its lock, and leave
it as it was.
"""

import os
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import streamlit as st
import timm
from torch import nn

from workbench.checkpoints import OFFICIAL, PATTERNS
from workbench.images import SAMPLES, BadImage, Images, open_images
from workbench.models import FAMILIES
from workbench.weights import create_model

BASELINES = (
    "resnet50",
    "convnext_tiny",
    "swin_tiny_patch4_window7_224",
    "deit_small_patch16_224",
)
OWN_SIZE = "the model's own"
SIZES = [OWN_SIZE, *(str(size) for size in range(64, 513, 32))]
UPLOAD = "a file of mine"
UPLOAD_KINDS = ["png", "jpg", "jpeg", "webp", "bmp", "tif", "tiff"]


@dataclass(frozen=True)
class Spec:
    """One model as chosen: what caches are keyed by.

    weights: "random", "official" or the name of a file in the weights folder.
    stamp: time and size of that file, so that a new file of the same name is read again.
    size: of the input, in pixels.
    """

    model: str
    weights: str
    seed: int
    size: int
    stamp: tuple[int, int] | None = None

    @property
    def random(self) -> bool:
        return self.weights == "random"

    @property
    def label(self) -> str:
        return f"random weights (seed {self.seed})" if self.random else self.weights

    @property
    def source(self) -> str:
        """What `create_model` and the command line take for the weights."""
        known = self.weights in ("random", "official")
        return self.weights if known else str(weights_folder() / self.weights)

    def untrained(self) -> "Spec":
        return replace(self, weights="random", stamp=None)


@dataclass(frozen=True)
class Choice:
    """The sidebar: a model, the input size as chosen, and one image, or None while there is none."""

    spec: Spec
    size: str
    images: Images | None


@dataclass(frozen=True)
class Loaded:
    """A model of the cache and the lock to hold while it runs."""

    model: nn.Module
    lock: threading.RLock


def weights_folder() -> Path:
    return Path(os.environ.get("VSSM_WEIGHTS") or SAMPLES.parent / "weights")


def results_folder() -> Path:
    return Path(os.environ.get("VSSM_RESULTS") or SAMPLES.parent / "results")


def model_names() -> list[str]:
    """Small models first, then family by family, then some of timm's for comparison."""
    families = [name for kind in ("vmamba", "vim", *FAMILIES) for name in timm.list_models(f"{kind}_*")]
    small = [name for name in (*families, *timm.list_models("*_nano")) if name.endswith("_nano")]
    return list(dict.fromkeys([*small, *families, *BASELINES]))


def checkpoints(model: str) -> list[str]:
    """Files of the weights folder whose names begin with the model's, and with no longer one's."""
    folder, names = weights_folder(), model_names()
    files = sorted({path.name for pattern in PATTERNS for path in folder.glob(pattern)})

    def owner(file: str) -> str:
        fitting = [name for name in names if file.startswith((f"{name}.", f"{name}-", f"{name}_"))]
        return max(fitting, key=len, default="")

    return [file for file in files if owner(file) == model]


def choose_model(names: list[str], label: str, key: str) -> tuple[str, str]:
    """Two select boxes whose values are in the URL; ("none", "") when that was offered and chosen."""
    first = key == "model"
    name = st.selectbox(label, names, key=key, bind="query-params")
    if name == "none":
        return name, ""
    offered = [*checkpoints(name), "random"]
    if name in OFFICIAL or name in BASELINES:
        offered.append("official")
    weights = st.selectbox(
        "Weights" if first else f"{label}: weights",
        offered,
        key="weights" if first else f"{key}_weights",
        bind="query-params",
        help="Files of the weights folder that are named after the model; random: the model before "
        "training; official: the published file, downloaded when chosen.",
    )
    return name, weights


def spec(model: str, weights: str, seed: int, size: str) -> Spec:
    """The choices, complete."""
    pixels = timm.get_pretrained_cfg(model).input_size[-1] if size == OWN_SIZE else int(size)
    stamp = None
    if weights not in ("random", "official"):
        state = (weights_folder() / weights).stat()
        stamp = (state.st_mtime_ns, state.st_size)
    return Spec(model, weights, seed, min(max(pixels, 64), 512), stamp)


def sidebar() -> None:
    """Draw the choices that all pages share; `choice` gives them."""
    st.session_state["choice"] = None
    with st.sidebar, sentences():
        model, weights = choose_model(model_names(), "Model", "model")
        samples = open_images("samples").names
        image = st.selectbox("Image", [*samples, UPLOAD], key="image", bind="query-params")
        images = _upload() if image == UPLOAD else open_images([SAMPLES / image])
        size = st.selectbox(
            "Input size in pixels",
            SIZES,
            key="size",
            bind="query-params",
            help="The image is scaled and cropped to a square of this size.",
        )
        seed = st.number_input(
            "Seed of random weights", 0, 2**31 - 1, 0, key="seed", bind="query-params"
        )
        st.session_state["choice"] = Choice(spec(model, weights, int(seed), size), size, images)


def _upload() -> Images | None:
    file = st.file_uploader("Picture, at most 20 MB", UPLOAD_KINDS, key="upload", max_upload_size=20)
    if file is None:
        return None
    images = open_images([(file.name, file.getvalue())])
    try:
        images.load(0)
    except BadImage as bad:
        st.error(f"{bad} Choose another file.")
        return None
    for note in images.notes:
        st.caption(note)
    return images


def choice() -> Choice | None:
    return st.session_state.get("choice")


@st.cache_resource(max_entries=4, show_spinner="Loading the model ...")
def load(spec: Spec) -> Loaded:
    """The model, from the cache when it was loaded before.

    Raises:
        ValueError, OSError: in one sentence, as `create_model` does.
    """
    model = create_model(spec.model, spec.source, seed=spec.seed, img_size=spec.size)
    return Loaded(model, threading.RLock())


def facts(spec: Spec) -> dict[str, Any]:
    """What a result says about its model, in the words of the command line."""
    provenance: Any = load(spec).model.provenance
    return {
        "model": spec.model,
        "weights": spec.weights,
        "weights_sha256": provenance["weights_sha256"],
        "weights_label": spec.label if spec.random else provenance["weights_file"] or spec.weights,
        "licence": provenance["licence"],
        "seed": spec.seed,
        "training": "before training" if spec.random else "after training",
    }


@st.cache_resource(show_spinner="Preparing the scan; the first time takes up to 15 seconds ...")
def warm_up() -> None:
    """Compile the scan before the first map needs it."""
    try:
        from kernels import cpu
    except ImportError:
        return
    getattr(cpu, "warm_up", lambda: None)()


@contextmanager
def sentences() -> Iterator[None]:
    """Show an error as one sentence instead of a traceback."""
    try:
        yield
    except (ValueError, OSError, MemoryError) as error:
        st.error(str(error) or f"{type(error).__name__}: try a smaller size or another model.")
    except Exception as error:
        st.error(
            f"This did not work ({type(error).__name__}); try another size, stage or model, and "
            "report it with the details below if it stays."
        )
        with st.expander("Details"):
            st.code(traceback.format_exc(), language=None)
