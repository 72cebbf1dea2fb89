"""The sidebar, the same on every page: a model, its weights, an image, all in the URL."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import streamlit as st
import timm

from workbench.app import repository, session
from workbench.app.picture_choice import picture_choice
from workbench.app.session import Spec, native_size, plain, sentences, weights_folder
from workbench.images import SAMPLES, SUFFIXES, BadImage, Images, open_images
from workbench.models import REGISTERED, networks
from workbench.weights.files import PATTERNS, finest_size, recipe_of, trained_size

BASELINES = (
    "resnet50",
    "convnext_tiny",
    "swin_tiny_patch4_window7_224",
    "deit_small_patch16_224",
)
SCANNING = ("vmamba_nano", "vim_nano")
FIRST = (*SCANNING, "resnet_nano")
"""What a first visit compares: four directions, two, and a convolutional network."""
KEYS = ("model", "weights", "entry", "image", "size", "seed")
MOST = 1000
"""Images of one's own that can be chosen."""
OWN_SIZE = "the model's own"
FINEST = "the finest it works at"
SIZES = [FINEST, OWN_SIZE, *(str(size) for size in range(64, 513, 32))]
UPLOAD = "a file of mine"
UPLOAD_MB = 20
UPLOAD_KINDS = [suffix.removeprefix(".") for suffix in SUFFIXES]


@dataclass(frozen=True)
class Choice:
    """The sidebar: a model, the input size as chosen, one image (None while there is none)."""

    spec: Spec
    size: str
    images: Images | None


def model_names() -> list[str]:
    """The repository's, small models, then family by family, then some of timm's to compare."""
    own = [known.name for known in repository.offered()]
    small = [name for name in REGISTERED if name.endswith("_nano")]
    return list(dict.fromkeys([*own, *small, *REGISTERED, *BASELINES]))


def scanning() -> str:
    """The families that have selective scans, in words."""
    *names, last = (network.__name__ for network in networks() if network.selective)
    return f"{', '.join(names)} or {last}"


def checkpoints(model: str) -> list[str]:
    """Files of the weights folder whose names begin with the model's, and with no longer one's;
    first the one that the plain name means.
    """
    folder, names = weights_folder(), model_names()
    files = sorted({path.name for pattern in PATTERNS for path in folder.glob(pattern)})

    def owner(file: str) -> str:
        fitting = [name for name in names if file.startswith((f"{name}.", f"{name}-", f"{name}_"))]
        return max(fitting, key=len, default="")

    config = timm.get_pretrained_cfg(model) if timm.is_model(model) else None
    usual = Path(config.file).name if config and config.file else ""
    return sorted((file for file in files if owner(file) == model), key=lambda f: f != usual)


def weights_offered(model: str) -> list[str]:
    """What can be chosen as weights of a model, best first."""
    if repository.repository_of(model):
        return ["auto", *checkpoints(model)]
    config = timm.get_pretrained_cfg(model)
    official = config is not None and bool(config.hf_hub_id or config.url)
    return [*checkpoints(model), "random", *(["official"] if official else [])]


def choose_model() -> tuple[str, str]:
    """Two select boxes, their values in the URL."""
    name = st.selectbox(
        "Model", model_names(), key="model", bind="query-params", format_func=_described
    )
    weights = st.selectbox(
        "Weights",
        weights_offered(name),
        key="weights",
        bind="query-params",
        help="Files of the weights folder that are named after the model; random: the model before "
        "training; official: the published file, downloaded when chosen; auto: as the adapter of "
        "your repository makes them.",
    )
    return name, weights


def standing(chosen: Spec) -> str:
    """Where its weights come from."""
    if chosen.weights in ("random", "official"):
        return {
            "random": "Not trained: random weights show the architecture.",
            "official": "Published weights, downloaded once.",
        }[chosen.weights]
    if chosen.weights == "auto":
        return "Of your repository."
    recipe = recipe_of(weights_folder() / chosen.weights)
    size, classes = trained_size(chosen.source), recipe.get("classes")
    told = ["Trained with the workbench" if recipe else "From your file"]
    told += [f"{len(classes)} classes"] if isinstance(classes, list) else []
    told += [f"images of {size} px"] if size else []
    return ", ".join(told) + "."


def choose_beside(own: Spec, size: str, first: Sequence[str] = FIRST) -> list[Spec]:
    """Other models to look at on the same image, at the same size.

    Args:
        first: those that are compared until others are chosen.
    """
    offered = {
        f"{name}: {weights}" if i else name: (name, weights)
        for name in model_names()
        for i, weights in enumerate(weights_offered(name))
        if (name, weights) != (own.model, own.weights)
    }
    first = [name for name in first if name in offered and checkpoints(name)]
    names = st.multiselect(
        "Beside it",
        list(offered),
        default=first if own.model in FIRST else [],
        key="beside",
        bind="query-params",
        max_selections=3,
        placeholder="none",
        width=290,
        help="With the first file of the weights folder that is named after them, or the weights "
        "that are named.",
    )
    return [spec(*offered[name], own.seed, size) for name in names]


def _described(name: str) -> str:
    return f"your repository: {name}" if repository.repository_of(name) else name


def spec(model: str, weights: str, seed: int, size: str, entry: str | None = None) -> Spec:
    """The choices, complete."""
    stamp = None
    if weights not in ("random", "official", "auto"):
        state = (weights_folder() / weights).stat()
        stamp = (state.st_mtime_ns, state.st_size)
    found = Spec(model, weights, seed, 0, stamp, entry)
    own_size = False
    finest = finest_size(found.source) if size == FINEST else None
    if finest or size not in (FINEST, OWN_SIZE):
        pixels = finest or int(size)
    elif repository.repository_of(model):
        height, pixels = native_size(replace(found, own_size=True))
        own_size = height == pixels and str(pixels) in SIZES
    else:
        known = timm.get_pretrained_cfg(model)
        pixels = trained_size(found.source) or (known.input_size[-1] if known else 224)
    return replace(found, size=min(max(pixels, 64), 512), own_size=own_size)


def draw(choices: bool = True) -> None:
    """Draw the name, and the choices that pages share; `choice` gives them.

    Args:
        choices: False for a page without; what was chosen is kept for the next one.
    """
    st.session_state["choice"] = None
    with st.sidebar, sentences():
        st.markdown("**vssm-workbench**  \n:small[See what a visual state-space model looks at.]")
        if not choices:
            for key in KEYS:  # Streamlit forgets what is not drawn
                if key in st.session_state:
                    st.session_state[key] = st.session_state[key]
            return
        model, weights = choose_model()
        told = st.empty()
        entry = None
        if weights in checkpoints(model) and not weights.endswith(".safetensors"):
            entry = st.text_input(
                "Entry of the checkpoint",
                key="entry",
                bind="query-params",
                help="Which of the dictionaries in the file, such as model_ema; empty for the one "
                "that is usual.",
            )
        own, samples = session.own_images(), open_images("samples").names
        mine = own.names[:MOST] if own else []
        offered = list(dict.fromkeys([*mine, *samples, UPLOAD]))
        image = st.selectbox("Image", offered, key="image", bind="query-params")
        pictures = [(name, "mine", i) for i, name in enumerate(mine)]
        pictures += [(name, "samples", i) for i, name in enumerate(samples) if name not in mine]
        picture_choice("pictures", _choose, pictures, image)
        if image == UPLOAD:
            images = _upload()
        elif own and image in mine:
            images = own.subset([mine.index(image)])
        else:
            images = open_images([SAMPLES / image])
        size = st.selectbox(
            "Input size in pixels",
            SIZES,
            key="size",
            bind="query-params",
            help="The image is scaled and cropped to a square of this size. The finest is that at "
            "which the weights are measured to lose at most 5 points of their accuracy, where they "
            "say so; else the model's own: that of its training images.",
        )
        seed = st.number_input(
            "Seed of random weights", 0, 2**31 - 1, 0, key="seed", bind="query-params"
        )
        chosen = spec(model, weights, int(seed), size, entry or None)
        told.caption(standing(chosen))
        st.session_state["choice"] = Choice(chosen, size, images)


def _choose(image: str) -> None:
    st.session_state["image"] = image


def take(name: str, url: str) -> None:
    """Look at a picture that was dropped on another one.

    Args:
        url: its bytes as a data URL, empty for a file that is too large.
    """
    content = base64.b64decode(url.partition(",")[2])
    drops = st.session_state.get("drops", 0) + 1
    st.session_state.update(dropped=(name, content), image=UPLOAD, taken=True, drops=drops)


def _upload() -> Images | None:
    drops = st.session_state.get("drops", "")  # what was uploaded before does not come back
    file = st.file_uploader(
        f"Picture, at most {UPLOAD_MB} MB",
        UPLOAD_KINDS,
        key=f"upload{drops}",
        max_upload_size=UPLOAD_MB,
    )
    if file is not None:
        st.session_state["dropped"] = None
    dropped = (file.name, file.getvalue()) if file else st.session_state.get("dropped")
    if dropped is None:
        return None
    name, content = dropped
    if not content:
        st.error(f"{plain(name)} is empty, or has more than {UPLOAD_MB} MB. Choose another file.")
        return None
    if file is None:
        st.caption(f"Dropped: {plain(name)}")
    images = open_images([(name, content)])
    try:
        images.load(0)
    except BadImage as bad:
        st.error(f"{plain(bad)} Choose another file.")
        return None
    for note in images.notes:
        st.caption(plain(note))
    return images


def choice() -> Choice | None:
    return st.session_state.get("choice")
