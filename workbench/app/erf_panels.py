"""The parts of the page about receptive fields: pictures and numbers."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import streamlit as st

from workbench.app import cells, erf_measure, session
from workbench.app.class_names import first_answers
from workbench.app.click_map import Place, click_map
from workbench.app.session import Spec, plain
from workbench.figures import overlay
from workbench.figures.label import label
from workbench.images import Images
from workbench.methods.erf.figure import with_interval
from workbench.results import Erf

MOVE = "Move the mouse, click, or use the arrow keys."
HEADLINES = 5
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
        _table(results, list(MEANING)[:HEADLINES]),
        hide_index=True,
        border="horizontal",
        alt="Numbers of the receptive field",
    )
    with st.expander("All numbers, and what they say"):
        table = _table(results, list(MEANING)) | {"what it says": list(MEANING.values())}
        st.table(table, hide_index=True, border="horizontal", alt="All numbers")


def _table(results: Sequence[Erf], names: list[str]) -> dict[str, list[str]]:
    table = {"number": [name.replace("_", " ") for name in names]}
    for i, result in enumerate(results):
        title = label(result)
        title = f"{title} ({i + 1})" if title in table else title
        table[title] = [with_interval(result, name) for name in names]
    return table
