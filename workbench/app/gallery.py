"""Page: stored examples, each with the page that makes it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import streamlit as st

from workbench.app import session
from workbench.app.resolution_chart import axis, chart
from workbench.app.sensitivity_chart import SHARE, shares
from workbench.figures import overlay
from workbench.images import SAMPLES
from workbench.methods.erf.figure import shown
from workbench.methods.scan_maps.figure import MEANING, is_signed, largest, site_title
from workbench.results import Erf, Resolution, Result, ScanMaps, Sensitivity

EXAMPLES = SAMPLES.parent / "results"
EPOCHS = ("epoch-0", "epoch-1", "epoch-3", "epoch-10", "end")


@dataclass(frozen=True)
class Card:
    """Some files of the examples, what they show, and the page with the choices that make it."""

    title: str
    says: str
    files: tuple[str, ...]
    page: str
    choices: dict[str, str] = field(default_factory=dict)


def training(model: str, title: str, says: str) -> Card:
    """A network while it learns, and its two ends on the page about receptive fields."""
    files = tuple(f"training/{model}-{epoch}.npz" for epoch in EPOCHS)
    link = {"model": model, "training": "true", "position": "0.5,0.5"}
    return Card(title, says, files, "erf", link)


CARDS = (
    Card(
        "Receptive field of a trained VMamba",
        "The four scans of VMamba reach the whole picture: over ten photographs, half of the "
        "gradient lies in 30 % of the pixels.",
        ("erf.npz",),
        "erf",
        {"model": "vmamba_nano"},
    ),
    Card(
        "Accuracy over image sizes",
        "All five were trained at 64 px; the convolutional network falls fastest at larger sizes, "
        "the transformer slowest.",
        tuple(
            f"resolution/{model}_nano-resolution.npz"
            for model in ("vmamba", "vim", "mambavision", "resnet", "vit")
        ),
        "resolution",
        {"model": "vmamba_nano"},
    ),
    Card(
        "What each scan direction carries",
        "The weights with which the four scans of VMamba's third layer bring the picture to the "
        "cell in the middle, and their sum: each scan knows only what it has already read.",
        ("scan-maps/vmamba_nano.npz",),
        "scan-maps",
        {
            "model": "vmamba_nano",
            "image": "chelsea.jpg",
            "layer": "2",
            "view": "alpha",
            "position": "0.5,0.5",
        },
    ),
    Card(
        "Which of B, C and delta breaks",
        "With the same budget for every entry delta does most harm; but it has 32 to 64 times as "
        "many entries as B or C, and under an l2 budget the three nearly tie in VMamba and Vim. "
        "Numbers and files has the other views, and verdicts that need all conventions to agree.",
        tuple(f"sensitivity/{model}_nano.npz" for model in ("vmamba", "vim", "mambavision")),
        "sensitivity",
        {"model": "vmamba_nano"},
    ),
    training(
        "vmamba_nano",
        "VMamba learns",
        "Wide from the start: half of the gradient lies in 30 % of the pixels, before and after.",
    ),
    training(
        "vim_nano",
        "Vim learns",
        "Before training half of the gradient lies in 0.6 % of the pixels, all in one patch; at "
        "the end in 18 %.",
    ),
    training(
        "mambavision_nano",
        "MambaVision learns",
        "Half of the gradient lies in 13 % of the pixels before training and in 22 % at the end; "
        "it widens late.",
    ),
)


@st.cache_data(max_entries=100, show_spinner=False)
def field_picture(path: Path, stamp: int) -> np.ndarray:
    """A receptive field as a picture of whole blocks, (h, w, 3) uint8."""
    result = session.stored(path, stamp)
    assert isinstance(result, Erf)
    side = 256 // len(result.map) * len(result.map)
    return overlay.enlarged(overlay.colours(shown(result)), (side, side))


def show(card: Card) -> None:
    """A picture, a sentence, and two ways on."""
    paths = [EXAMPLES / name for name in card.files]
    stamps = [path.stat().st_mtime_ns for path in paths]
    results = [session.stored(*file) for file in zip(paths, stamps, strict=True)]
    st.markdown(f"#### {card.title}")
    curves = [result for result in results if isinstance(result, Resolution)]
    attacked = [result for result in results if isinstance(result, Sensitivity)]
    maps = [result for result in results if isinstance(result, ScanMaps)]
    if curves:
        show_curves(curves)
    elif attacked:
        alt = f"{SHARE} of B, C and delta in {', '.join(r.meta['model'] for r in attacked)}"
        st.vega_lite_chart(shares(attacked), width="stretch", alt=alt)
    elif maps:
        show_maps(maps[0])
    else:
        with st.container(horizontal=True, gap="small"):
            for path, stamp, result in zip(paths, stamps, results, strict=True):
                show_field(field_picture(path, stamp), result, alone=len(paths) == 1)
    st.markdown(card.says)
    with st.container(horizontal=True):
        # A link, not a page of this session: choices in the sidebar would outlive new parameters.
        st.link_button("Make it here", link(card.page, card.choices))
        if session.results_folder().resolve() == EXAMPLES.resolve():
            st.link_button("Numbers and files", link("results", {"result": card.files}))


def link(page: str, choices: Mapping[str, str | Sequence[str]]) -> str:
    """The address of a page with its choices; receptive fields are the first page."""
    return f"./{'' if page == 'erf' else page}?{urlencode(choices, doseq=True, safe='/')}"


def show_field(picture: np.ndarray, result: Result, alone: bool) -> None:
    facts = result.meta["facts"]
    alt = f"Receptive field of {facts['model']}, {facts['weights_label']}"
    if alone:
        st.image(picture, width=256, alt=alt)
    else:
        st.image(picture, caption=facts["weights_label"], width=110, alt=alt)


def show_maps(result: ScanMaps) -> None:
    """What reached the query through each direction, on one scale."""
    sites = result.meta["sites"]
    top = largest(result, sites, "row")
    with st.container(horizontal=True, gap="small"):
        for site in sites:
            picture = overlay.scan_map(result.map(site["name"], "row"), top, is_signed(result))
            title = site_title(site)
            st.image(
                overlay.enlarged(picture, (128, 128)),
                caption=title,
                width=110,
                alt=f"{MEANING['row']} through {title}",
            )


def show_curves(curves: Sequence[Resolution]) -> None:
    models = [curve.meta["model"] for curve in curves]
    sizes = sorted({int(size) for curve in curves for size in curve.sizes})
    alt = f"{axis('top1')} against image size, of {', '.join(models)}"
    st.vega_lite_chart(chart(curves, models, "top1", sizes), width="stretch", alt=alt)


st.header("Gallery", anchor=False)
st.markdown(
    "Examples that are stored with the workbench, from small networks trained on ten classes. "
    "Receptive fields show gradient / its maximum, to the power 0.25: bright where a pixel matters."
)
columns = st.columns(2, gap="large")
for i, card in enumerate(CARDS):
    with columns[i % 2], st.container(border=True), session.sentences():
        show(card)
