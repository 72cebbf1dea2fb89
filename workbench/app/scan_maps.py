"""Page: what each scan direction carries to the place that is clicked."""

import numpy as np
import streamlit as st

from workbench.app import scan_maps_measure, session, sidebar
from workbench.app.click_map import click_map
from workbench.app.files import files
from workbench.app.measure import command, measure_once
from workbench.app.place import place, remember
from workbench.app.scan_walk import scan_walk
from workbench.app.sidebar import Choice
from workbench.figures import overlay
from workbench.images import Images
from workbench.methods.scan_maps import ScanMapsConfig
from workbench.methods.scan_maps.figure import (
    MEANING,
    POWER,
    is_signed,
    largest,
    layers,
    shown,
    site_note,
    site_title,
)
from workbench.results import ScanMaps

VIEWS = {
    "alpha": "hidden attention: C decay B delta, the weights with which the scan mixes cells",
    "contribution": "hidden attention times u: the parts that add up to the output",
    "QK": "as VMamba's figures: C B delta without the decay",
    "QwKw": "as VMamba's figures: C decay B delta of the first state",
    "w": "as VMamba's figures: the decay alone",
}
STATISTICS = ("delta", "B", "C", "horizon", "output")
WHY = """
A scan visits cells one after the other, so the weight of cell *s* at cell *t* can be other than
zero only when *s* comes first: in **scan order** the matrix is a lower triangle. The **row** of
a query is what reached it, everything the scan has *already* visited; the **column** is where it
goes, everything visited *later*. In **image order** the same numbers are moved to where the cells
are. For the row direction the two orders are the same; for the column direction the triangle is
torn into a square pattern of small triangles, which is why one map ends at a horizontal edge and
the other at a vertical one. The sum over directions reaches every cell.
"""


def controls(choice: Choice, images: Images, names: list[str]) -> ScanMapsConfig:
    """What to look at: layer, view, aggregation, and the cell that was clicked."""
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        numbers = [str(i) for i in range(len(names))]
        layer = st.select_slider(
            "Layer",
            numbers,
            value=numbers[len(numbers) // 2],
            key="layer",
            bind="query-params",
            width=320,
        )
        view = st.selectbox("View", list(VIEWS), key="view", bind="query-params", width=170)
        aggregate = st.segmented_control(
            "Channels",
            ["abs", "mean", "norm"],
            default="abs",
            required=True,
            key="aggregate",
            bind="query-params",
            help="Over channels: mean of absolute values, signed mean, or Euclidean norm.",
        )
        skip = st.toggle(
            "With D",
            key="with_D",
            bind="query-params",
            disabled=view not in ("alpha", "contribution"),
            help="Count the skip connection D, at the query itself.",
        )
    st.caption(f"Layer {layer} is {session.plain(names[int(layer)])}. {VIEWS[view]}")
    with_D = bool(skip) and view in ("alpha", "contribution")
    at, name = place(), names[int(layer)]
    cells = scan_maps_measure.layer_of(choice.spec, images.fingerprint, name, images).cells
    query = ",".join(str(min(int(at[i] * cells[i]), cells[i] - 1)) for i in (0, 1))
    return ScanMapsConfig(
        layer=layer, query=query, view=view, aggregate=aggregate, with_D=with_D, resamples=0
    )


def bar(top: float, signed: bool) -> dict:
    if not signed:
        return overlay.bar(f"x ** {POWER}")
    stops = overlay.stops("RdBu_r")
    return {"stops": stops, "ticks": [["-1", 0.0], ["0", 0.5], ["1", 1.0]]}


def asked(choice: Choice, images: Images, result: ScanMaps, quantity: str) -> None:
    """The photograph to click on, and beside it the sum of all directions."""
    spec = choice.spec
    sites = result.meta["sites"]
    whole = sites[-1]
    signed = is_signed(result)
    top = largest(result, [whole], quantity)
    values = result.map(whole["name"], quantity)
    assert result.picture is not None
    size = result.picture.shape[:2]
    rows, columns = whole["cells"]
    heat = overlay.scan_map(values, top, signed)
    photo = result.picture
    if not signed:
        photo = overlay.over(photo, overlay.enlarged(shown(values, top) ** 2, size))
    centre = None
    if whole["query"] is not None:
        centre = ((whole["query"][0] + 0.5) / rows, (whole["query"][1] + 0.5) / columns)
    cell = "{}, {}".format(*whole["query"]) if whole["query"] else "of the class token"
    click_map(
        "scan-maps",
        remember,
        photo=overlay.data_url(photo, photo=True),
        photo_alt=f"{images.names[0]} with the map over it",
        map=overlay.data_url(heat),
        map_alt=f"{MEANING[quantity]}, {site_title(whole)}, {spec.model}",
        bar=bar(top, signed),
        unit=f"{site_title(whole)}: value / {top:.3g}",
        below=f"Cell {cell} of {rows} x {columns}. Click, or use the arrow keys.",
        centre=centre,
        step=(1 / rows, 1 / columns),
    )


def directions(result: ScanMaps, quantity: str) -> None:
    """Every direction alone, all on one scale."""
    sites = [site for site in result.meta["sites"] if site["direction"] not in ("all", "nall")]
    signed = is_signed(result)
    top = largest(result, sites, quantity)
    with st.container(horizontal=True, gap="medium"):
        for site in sites:
            values = result.map(site["name"], quantity)
            picture = overlay.enlarged(overlay.scan_map(values, top, signed), (192, 192))
            note = site_note(result, site).replace("\n", ", ")
            alt = f"{MEANING[quantity]} through {site_title(site)}"
            st.image(picture, caption=f"{site_title(site)}: {note}", width=190, alt=alt)
    st.caption(
        f"One scale for all directions, sign(x) |x / {top:.3g}| ** {POWER}. Half-life: steps after "
        "which half of the state is forgotten (ln 2 / (delta |A|), the median)."
    )


def statistics(result: ScanMaps) -> None:
    """Step size, |B|, |C|, horizon and output of every direction, each on its own scale."""
    sites = [site for site in result.meta["sites"] if site["name"] in result.meta["numbers"]]
    for quantity in STATISTICS:
        top = largest(result, sites, quantity)
        st.markdown(f":small[**{MEANING[quantity]}**, from 0 to {top:.3g}]")
        with st.container(horizontal=True, gap="small"):
            for site in sites:
                values = np.nan_to_num(result.map(site["name"], quantity)) / (top or 1.0)
                picture = overlay.enlarged(overlay.colours(values, "viridis"), (128, 128))
                alt = f"{MEANING[quantity]} of {site_title(site)}"
                st.image(picture, caption=site_title(site), width=128, alt=alt)


def walks(choice: Choice, images: Images, result: ScanMaps) -> None:
    """The scan order as it goes, with the memory of its state."""
    name = next(iter(layers(result)))
    layer = scan_maps_measure.layer_of(choice.spec, images.fingerprint, name, images)
    found = []
    for direction in layer.directions:
        numbers = result.meta["numbers"].get(f"{name}/{direction.name}")
        if not direction.is_scan or numbers is None:
            continue
        halflife = numbers["horizon"]["value"] or 0.0
        order = direction.places.reshape(-1)
        note = f"{direction.name}: half-life {halflife:.3g} steps"
        if direction.windows > 1:
            note += f", {direction.windows} windows one after the other"
        found.append((direction.name, order, halflife, note))
    if not found:
        st.info("This layer is attention: it has no scan order.")
        return
    scan_walk("walk", layer.cells, found)
    st.caption("Green: the cell being read. Brightness: what the state still holds of each cell.")


def orders(choice: Choice, images: Images, result: ScanMaps, config: ScanMapsConfig) -> None:
    """The same matrix in scan order and in image order."""
    name = next(iter(layers(result)))
    layer = scan_maps_measure.layer_of(choice.spec, images.fingerprint, name, images)
    cell = result.meta["sites"][0]["query"]
    st.markdown(WHY)
    if cell is None or not layer.is_scan:
        return
    names = [direction.name for direction in layer.directions]
    chosen = st.segmented_control("Direction", names, default=names[-1], required=True)
    found = scan_maps_measure.matrix_in_both_orders(
        layer, names.index(chosen), (cell[0], cell[1]), config
    )
    if found is None:
        st.info(
            f"The whole matrix is drawn for scans of one window and at most "
            f"{scan_maps_measure.LARGEST} steps; choose a later layer or a smaller size."
        )
        return
    scan, image, step, number = found
    top = float(np.abs(scan).max())
    with st.container(horizontal=True, gap="large"):
        for matrix, at, title in ((scan, step, "scan order"), (image, number, "image order")):
            picture = overlay.scan_map(matrix, top, is_signed(result))
            picture[at, :, 1] = np.maximum(picture[at, :, 1], 110)  # the row of the query
            picture[:, at, 1] = np.maximum(picture[:, at, 1], 110)  # its column
            side = len(matrix) * max(1, 320 // len(matrix))
            st.image(
                overlay.enlarged(picture, (side, side)),
                caption=f"{chosen}, {title}: {len(matrix)} x {len(matrix)}; green: row and column "
                "of the query",
                width=330,
                alt=f"Matrix of {chosen} in {title}",
            )


def page(choice: Choice, images: Images) -> None:
    """Everything that a click changes."""
    names = scan_maps_measure.layers(choice.spec)
    if not names:
        st.info(
            f"{choice.spec.model} has no selective scan, so there is nothing to map; choose a "
            f"{sidebar.scanning()} in the sidebar."
        )
        return
    session.warm_up()
    config = controls(choice, images, names)
    if choice.spec.random:
        st.markdown(":material/info: Random (untrained) weights: the maps show the architecture.")
    quantity = st.segmented_control(
        "Influence",
        ["row", "column"],
        default="row",
        required=True,
        key="quantity",
        bind="query-params",
        format_func=lambda name: MEANING[name],
    )
    with st.spinner("Measuring ..."):
        result = measure_once(choice.spec, "scan-maps", images.fingerprint, config, images)
    asked(choice, images, result, quantity)
    directions(result, quantity)
    one, two, three = st.tabs(
        ["Scan order, as it goes", "Scan order and image order", "Delta, B, C"]
    )
    with one:
        walks(choice, images, result)
    with two, session.sentences():
        orders(choice, images, result, config)
    with three:
        statistics(result)
    shown = ["--images", session.picture(images)]
    files([result], [command("scan-maps", choice.spec.words, shown, choice.spec.size, config)])


@st.fragment
def below(choice: Choice | None) -> None:
    """The page below its title; runs alone after a click."""
    with session.sentences():
        if choice and choice.images:
            page(choice, choice.images)
        elif choice:
            st.info("Choose a picture in the sidebar to begin.")


st.header("Scan maps", anchor=False)
st.markdown(
    "Which cells does each scan direction carry to a place? Click on the photograph: the maps show "
    "the exact weights with which a layer's scans mix the image."
)
below(sidebar.choice())
