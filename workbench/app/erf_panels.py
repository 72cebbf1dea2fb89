"""The parts of the page about receptive fields: pictures and numbers."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import streamlit as st

from workbench.app import cells, erf_measure, session
from workbench.app.class_names import first_answers
from workbench.app.click_map import Place, click_map
from workbench.app.glossary import WORDS
from workbench.app.session import Spec, plain
from workbench.figures import overlay
from workbench.figures.label import label
from workbench.images import Images
from workbench.methods.erf.figure import with_interval
from workbench.results import Erf

MOVE = "Move the mouse, click, or use the arrow keys."
HEADLINES = 5
NUMBERS = (
    "r50",
    "A50",
    "A99",
    "radius",
    "participation",
    "crossness",
    "row_share",
    "column_share",
)


class Panel(NamedTuple):
    """One model and the stage (1, 2, ...) to look at."""

    spec: Spec
    stage: int


def pictures(
    panel: Panel,
    images: Images,
    result: Erf,
    on_place: Callable[[Place], None],
    key: str,
    scale: str,
) -> None:
    """The photograph to click on, and the map on a scale of `overlay.SCALES`."""
    spec, stage = panel
    picture = session.preprocessing(spec).picture(images.load(0))
    grid = erf_measure.grid(spec, stage)
    hovered = cells.offered(
        ("erf", spec, stage, images.fingerprint),
        partial(erf_measure.fields_of, spec, stage, picture),
        grid,
        (spec.size, spec.size),
    )
    st.markdown(f"**{spec.model}**  \n:small[{spec.label}, stage {stage}, {spec.size} px]")
    (rows, columns), (row, column) = result.meta["cells"], result.meta["cell"]
    used = result.meta["images_used"]
    mean = "" if used == 1 else f"Mean of {used} images. "
    click_map(
        key,
        on_place,
        photo=overlay.data_url(session.photograph(spec, images), photo=True),
        photo_alt=f"{images.names[0]} with the receptive field over it",
        below=f"{mean}Cell {row}, {column} of {rows} x {columns}. {MOVE}",
        cells=hovered,
        **overlay.pair(
            result, f"Receptive field of {spec.model}, {spec.label}, stage {stage}", scale
        ),
    )
    if answers := first_answers(spec, images.fingerprint, images):
        st.caption(plain(answers))


def finding(results: Sequence[Erf]) -> str:
    """What the numbers say of the maps, in one sentence of markdown."""
    names = [str(result.meta["facts"]["model"]) for result in results]
    if len(set(names)) < len(names):
        names = [label(result) for result in results]
    shares = [f"{result.meta['numbers']['A50']['value']:.0f} %" for result in results]
    if len(results) == 1:
        return f"Half of what this unit sees lies in **{shares[0]}** of the picture."
    listed = ", ".join(
        f"**{share}** ({plain(name)})" for share, name in zip(shares, names, strict=True)
    )
    return f"Half of what the unit sees lies in {listed} of the picture."


def routes(result: Erf) -> None:
    """A row of small maps: the whole field and its parts; nothing without a split."""
    if result.splits is None:
        return
    st.markdown(f":small[{label(result)}, by {result.meta['config']['split']}]")
    with st.container(horizontal=True, gap="small"):
        for name, share, picture in overlay.routes(result):
            alt = f"Part of the field: {name}"
            st.image(picture, caption=f"{name}: {share}", width=120, alt=alt)
    st.caption(
        "Each part on the scale of the whole: what remains when only this route keeps its "
        "gradient, in all layers at once. The shares need not sum to 100 %."
    )


def numbers(results: Sequence[Erf]) -> None:
    """The first numbers of all maps, with intervals where there are several images; all below."""
    st.table(
        _table(results, NUMBERS[:HEADLINES]),
        hide_index=True,
        border="horizontal",
        alt="Numbers of the receptive field",
    )
    with st.expander("All numbers, and what they say"):
        table = _table(results, NUMBERS) | {"what it says": [WORDS[name] for name in NUMBERS]}
        st.table(table, hide_index=True, border="horizontal", alt="All numbers")


def _table(results: Sequence[Erf], names: Sequence[str]) -> dict[str, list[str]]:
    table = {"number": [name.replace("_", " ") for name in names]}
    for i, result in enumerate(results):
        title = label(result)
        title = f"{title} ({i + 1})" if title in table else title
        table[title] = [with_interval(result, name) for name in names]
    return table
