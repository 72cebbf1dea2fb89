"""The parts of the page about scan maps: the scans as they go, their maps, and what is behind."""

from dataclasses import replace
from functools import partial

import numpy as np
import streamlit as st

from workbench.app import cells, scan_maps_measure
from workbench.app.click_map import click_map
from workbench.app.place import remember
from workbench.app.scan_walk import scan_walk
from workbench.app.sidebar import Choice
from workbench.figures import overlay
from workbench.images import Images
from workbench.methods.scan_maps import ScanMapsConfig
from workbench.methods.scan_maps.figure import MEANING, POWER, is_signed, largest, site_title
from workbench.mixing.layers import ScanLayer
from workbench.paths import in_words
from workbench.results import ScanMaps

HALF_LIFE = (
    "The steps after which half of what the state held is forgotten, ln 2 / (delta |A|): the "
    "median over channels, states and steps, and how far the path goes in so many steps."
)
SHARE = "Norm of what the direction gives to the layer's output, over the sum of all directions'."
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


def walks(layer: ScanLayer, photo: str, result: ScanMaps) -> None:
    """All directions as they go over the photograph, with the memory of their states."""
    if not layer.is_scan:
        st.info("This layer is attention: it reads all cells of a window at once, in no order.")
        return
    found = []
    for direction in layer.directions:
        numbers = result.meta["numbers"].get(f"{layer.name}/{direction.name}", {})
        steps, along = (numbers.get(key, {}).get("value") for key in ("horizon", "horizon_along"))
        note = in_words(direction.path)
        if direction.windows > 1:
            note += f", in {direction.windows} windows at the same time"
        if steps is not None:
            note += f"\nhalf-life {steps:.3g} steps"
            note += "" if along is None else f" = {along:.3g} px along the path"
        found.append((direction.name, direction.places, steps or 0.0, note))
    scan_walk("walk", layer.cells, found, photo, HALF_LIFE)
    st.caption(
        "Green: the cell being read. Bright: what the state still holds of the cells before it; "
        "after the half-life half is forgotten. Dark: nothing."
    )


def maps(
    choice: Choice,
    images: Images,
    layer: ScanLayer,
    photo: str,
    result: ScanMaps,
    config: ScanMapsConfig,
    way: str,
) -> None:
    """The photograph to click on, the sum of all directions, and each of them alone."""
    spec, sites, signed = choice.spec, result.meta["sites"], is_signed(result)
    stack, units = scan_maps_measure.pictures(
        [result.map(site["name"], way) for site in sites], signed
    )
    alts = [f"{MEANING[way]}, {site_title(sites[-1])}, {spec.model}"]
    alts += [f"{MEANING[way]} through {site_title(site)}" for site in sites[:-1]]
    drawn = overlay.stack(list(stack), alts, signed, power=2)
    for site, direction, told in zip(sites, layer.directions, drawn["maps"][1:], strict=False):
        share = result.meta["numbers"].get(site["name"], {}).get("share", {}).get("value")
        told["note"] = f"{direction.name}: {in_words(direction.path)}"
        told["note"] += "" if share is None else f"\n{share:.3g} % of the output"
        told["help"] = SHARE
    grid = scan_maps_measure.drawn_grid(layer.cells, spec.size)
    (rows, columns), (row, column) = layer.cells, sites[-1]["query"]
    everywhere = replace(config, query="0,0")
    hovered = cells.offered(
        ("scan-maps", spec, images.fingerprint, layer.name, everywhere, way),
        partial(scan_maps_measure.maps_of, spec, images, everywhere, layer.name, way),
        grid,
        (spec.size, spec.size),
    )
    click_map(
        "scan-maps",
        remember,
        photo=photo,
        photo_alt=f"{images.names[0]} with the map over it",
        **drawn,
        bar=overlay.signed_bar() if signed else overlay.bar(f"x ** {POWER}"),
        units=units,
        below=f"Cell {row}, {column} of {rows} x {columns}. Move the mouse, click, or use the "
        "arrow keys.",
        centre=((row + 0.5) / rows, (column + 0.5) / columns),
        step=(1 / rows, 1 / columns),
        blocks=True,
        cells=hovered,
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


def orders(layer: ScanLayer, result: ScanMaps, config: ScanMapsConfig) -> None:
    """The same matrix in scan order and in image order."""
    cell = result.meta["sites"][0]["query"]
    st.markdown(WHY)
    if cell is None:
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
