"""Page: how a scan comes to see what it sees, in six steps of stored results."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from workbench.app import session, story_words
from workbench.app.glossary import header
from workbench.app.player import Track, player
from workbench.app.resolution_chart import NUMBERS, axis, chart
from workbench.app.sensitivity_chart import SHARE, shares
from workbench.app.story_words import Words
from workbench.figures import animation, overlay
from workbench.images import SAMPLES, Preprocessing, open_images
from workbench.methods.scan_maps.figure import MEANING, POWER, is_signed, largest, site_title
from workbench.paths import BIDIRECTIONAL, ScanPath, scan_path
from workbench.results import Erf, Resolution, Result, ScanMaps, Sensitivity

EXAMPLES = SAMPLES.parent / "results"
EPOCHS = ("epoch-0", "epoch-1", "epoch-3", "epoch-10", "end")
FAMILIES = ("vim_nano", "vmamba_nano", "mambavision_nano")
FIELD = "training/vim_nano-end.npz"
CROSS = ("scan-maps/vmamba_nano.npz", "erf.npz")
TRAINING = {name: [f"training/{name}-{epoch}.npz" for epoch in EPOCHS] for name in FAMILIES}
CURVES = tuple(
    f"resolution/{name}-resolution.npz" for name in (*FAMILIES, "resnet_nano", "vit_nano")
)
ATTACKS = tuple(f"sensitivity/{name}.npz" for name in FAMILIES)
SHARP = 384  # pixels of photographs
NOT_YET, NOW = (0, 0, 0, 190), (60, 240, 60, 255)
BUDGETS = {
    "linf": "every entry alike",
    "l2": "every tensor alike",
    "l2 of own norm": "in proportion to each tensor",
}
MIDDLE = "0.5,0.5"
WIDTH = 1020  # of the page in pixels, at most


def stored(*files: str) -> list[Result]:
    """The examples of these names."""
    paths = [EXAMPLES / name for name in files]
    return [session.stored(path, path.stat().st_mtime_ns) for path in paths]


@contextmanager
def step(
    number: int, words: Words, files: Sequence[str], page: str, choices: Mapping[str, str]
) -> Iterator[DeltaGenerator]:
    """Title and sentence, then what is drawn inside, then two ways on; gives the row of these.

    Args:
        files: of the examples, where the numbers are.
        page, choices: where the same is measured anew.
    """
    title, says = words
    st.subheader(f"{number}. {title}", anchor=False)
    st.markdown(says)
    drawn, ways = st.container(), st.container(horizontal=True)
    # A link, not a page of this session: choices in the sidebar would outlive new parameters.
    ways.link_button("Make it here", link(page, choices))
    if session.results_folder().resolve() == EXAMPLES.resolve():
        ways.link_button("Numbers and files", link("results", {"result": list(files)}))
    with drawn:
        yield ways


def link(page: str, choices: Mapping[str, str | Sequence[str]]) -> str:
    """The address of a page with its choices; receptive fields are the first page."""
    return f"./{'' if page == 'erf' else page}?{urlencode(choices, doseq=True, safe='/')}"


@st.cache_data(max_entries=50, show_spinner=False)
def photograph(name: str, seen: dict) -> str:
    """The `src` of what a model saw of a sample image, sharper than it saw it."""
    sharp = replace(Preprocessing.of(seen), size=(SHARP, SHARP))
    return overlay.data_url(sharp.picture(open_images([SAMPLES / name]).load(0)), photo=True)


def photographs(result: Result) -> list[str]:
    seen = result.meta["preprocessing"]
    return [photograph(name, seen) for name in result.meta["images"]["names"]]


def pictures(fields: Sequence[Erf]) -> list[str]:
    """The `src` of each field, all on one scale."""
    return [overlay.data_url(overlay.colours(values)) for values in animation.frames(fields)]


def order() -> None:
    """A scan as it goes over a photograph, on the grid of the model of the next step."""
    (field,) = stored(FIELD)
    cells = field.meta["cells"]
    paths = [scan_path(name, *cells) for name in BIDIRECTIONAL]
    middle = field.meta["cell"][0] * cells[1] + field.meta["cell"][1]
    away = np.abs(paths[0].inverse - paths[0].inverse[middle]).reshape(cells)
    near = overlay.data_url(overlay.colours(1 - away / away.max()))
    photo = photographs(field)[0]
    tracks = [
        Track(path.name, [walked(path, now) for now in range(len(path))], under=photo)
        for path in paths
    ]
    said = "How near each cell is to the one in the middle along the scan: bright is near."
    with step(1, story_words.order(paths[0]), [FIELD], "scan-maps", {"model": field.meta["model"]}):
        labels = [f"step {now + 1} of {len(paths[0])}" for now in range(len(paths[0]))]
        tracks.append(Track("distance in steps", [near], [said]))
        player("order", tracks, labels, 0.12, start=len(labels) // 2)


def walked(path: ScanPath, now: int) -> str:
    """The `src` of what covers a photograph: clear where the scan has been, green where it is."""
    cover = np.full((path.height * path.width, 4), NOT_YET, np.uint8)
    cover[path.order[:now]] = 0
    cover[path.order[now]] = NOW
    return overlay.data_url(cover.reshape(path.height, path.width, 4))


def stripe() -> None:
    """The field of one unit in every photograph, and their mean."""
    (field,) = stored(FIELD)
    assert isinstance(field, Erf)
    alone = [
        replace(field, map=one / one.sum(), maps=one[None]) for one in field.maps.astype(float)
    ]
    names = [Path(name).stem.replace("_", " ") for name in field.meta["images"]["names"]]
    tracks = [
        Track("photograph", photographs(field)),
        Track("field in this photograph", pictures(alone)),
        Track("mean field", pictures([field]), [area(field)]),
    ]
    choices = {"model": field.meta["model"], "position": MIDDLE}
    with step(2, story_words.stripe(field), [FIELD], "erf", choices):
        play_fields("stripe", tracks, names, field)


def area(field: Erf) -> str:
    return f"half in {story_words.told(field.numbers['A50'])} of the pixels"


def play_fields(key: str, tracks: Sequence[Track], labels: Sequence[str], like: Erf) -> None:
    """Fields that play, over their colour bar."""
    transform = like.meta["display"]
    unit = f"gradient / the largest of all its frames (scale: {transform})"
    player(key, tracks, labels, 1.2, overlay.bar(transform), unit)


def cross() -> None:
    """What every direction brings to a cell, where it carries it, and their sum."""
    maps, field = stored(*CROSS)
    assert isinstance(maps, ScanMaps) and isinstance(field, Erf)
    sites, config = maps.meta["sites"], maps.meta["config"]
    tops = {quantity: largest(maps, sites, quantity) for quantity in ("row", "column")}
    tracks = [Track("photograph", [marked(sites[-1])], under=photographs(maps)[0])]
    for site in sites:
        found = [
            overlay.data_url(
                overlay.scan_map(maps.map(site["name"], quantity), top, is_signed(maps))
            )
            for quantity, top in tops.items()
        ]
        numbers = maps.meta["numbers"].get(site["name"])
        caption = f"{numbers['share']['value']:.0f} % of the output" if numbers else ""
        tracks.append(Track(site_title(site), found, [caption]))
    choices = {
        "model": maps.meta["model"],
        "image": maps.meta["images"]["names"][0],
        "layer": config["layer"],
        "view": config["view"],
        "position": config["query"],
    }
    with step(3, story_words.cross(maps, field), CROSS, "scan-maps", choices):
        unit = f"weight / the largest of all pictures (scale: x ** {POWER})"
        bar = overlay.bar(f"x ** {POWER}")
        player("cross", tracks, [MEANING[quantity] for quantity in tops], 2.0, bar, unit)


def marked(site: dict) -> str:
    """The `src` of what marks the query's cell on a photograph."""
    cover = np.zeros((*site["cells"], 4), np.uint8)
    cover[tuple(site["query"])] = NOW
    return overlay.data_url(cover)


def training() -> None:
    """Fields of three families while they learn, and the same as a file."""
    tracks = [
        [one for one in stored(*files) if isinstance(one, Erf)] for files in TRAINING.values()
    ]
    files = [names[place] for names in TRAINING.values() for place in (0, -1)]
    played = [
        Track(track[0].meta["model"], pictures(track), [area(field) for field in track])
        for track in tracks
    ]
    labels = [field.meta["facts"]["weights_label"] for field in tracks[0]]
    choices = {"model": FAMILIES[0], "training": "true", "position": MIDDLE}
    with step(4, story_words.training(tracks), files, "erf", choices) as ways:
        play_fields("training", played, labels, tracks[0][0])
        every = [field for track in tracks for field in track]
        ways.download_button(
            "Animation (GIF)", lambda: animation.gif(every), "training.gif", on_click="ignore"
        )


@st.fragment
def resolution() -> None:
    """Curves over image sizes, of the number that is chosen."""
    curves = [one for one in stored(*CURVES) if isinstance(one, Resolution)]
    models = [curve.meta["model"] for curve in curves]
    sizes = sorted({int(size) for curve in curves for size in curve.sizes})
    with step(5, story_words.resolution(curves), CURVES, "resolution", {"model": models[0]}):
        number = st.segmented_control(
            "Number",
            ["A50", "top1", "crossness"],
            default="A50",
            required=True,
            format_func=lambda name: NUMBERS[name].title,
        )
        alt = f"{axis(number)} against image size, of {', '.join(models)}"
        st.vega_lite_chart(chart(curves, models, number, sizes), width="stretch", alt=alt)


@st.fragment
def attack() -> None:
    """Shares of B, C and delta, for the budget that is chosen."""
    results = [one for one in stored(*ATTACKS) if isinstance(one, Sensitivity)]
    models = [result.meta["model"] for result in results]
    with step(6, story_words.attack(results), ATTACKS, "sensitivity", {"model": models[0]}):
        budget = st.segmented_control(
            "What may change",
            list(BUDGETS),
            default="linf",
            required=True,
            format_func=BUDGETS.__getitem__,
        )
        alt = f"{SHARE} of B, C and delta in {', '.join(models)}"
        st.vega_lite_chart(shares(results, budget), width="stretch", alt=alt)


with st.container(horizontal_alignment="center"), st.container(width=WIDTH, gap="medium"):
    header("What a scan sees", "story")
    st.markdown(
        "Six steps from the order of a scan to what an attack does with it. All of it is stored "
        "with the workbench; the networks are small and trained on ten classes."
    )
    for part in (order, stripe, cross, training, resolution, attack):
        with session.sentences():
            part()
