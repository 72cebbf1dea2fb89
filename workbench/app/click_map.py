"""A photograph and its map, both of which report the place that is clicked, and take a picture
that is dropped on them in place of theirs.

A place is (row, column) in fractions of the image, so that it means the same on every grid. Where
all cells of a stage are measured (`workbench.app.cells`), the map follows the mouse, in all pairs
of the page at once, and a click keeps it.
"""

from collections.abc import Callable

import streamlit as st
from streamlit.components.v2 import component

from workbench.app import sidebar
from workbench.figures import overlay
from workbench.figures.pair import PAIR

Place = tuple[float, float]

_component = component("click_map", html=PAIR["html"], css=PAIR["css"], js=PAIR["js"])


def click_map(
    key: str,
    on_place: Callable[[Place], None],
    *,
    photo: str,
    photo_alt: str,
    veil: str | None = None,
    map: str,
    map_alt: str,
    bar: dict,
    unit: str,
    below: str,
    centre: Place,
    step: Place,
    cells: dict | None = None,
) -> None:
    """Show the pair and call `on_place` with the place of a click or an arrow key.

    Args:
        photo, map: the `src` of the two pictures.
        veil: the `src` of a picture that can be faded in over the photograph.
        photo_alt, map_alt: what they show, in words.
        bar, unit: colour bar of the maps (see `overlay.bar`) and what their values are.
        below: a line under the photograph.
        centre: where the cross is.
        step: size of a cell, and how far an arrow key goes.
        cells: what `workbench.app.cells.offered` gives, for a map that follows the mouse.
    """

    def report() -> None:
        place = st.session_state[key].place
        if place is not None:
            on_place((float(place[0]), float(place[1])))

    def take() -> None:
        dropped = st.session_state[key].dropped
        if dropped is not None:
            sidebar.take(str(dropped[0]), str(dropped[1]))

    _component(
        key=key,
        on_place_change=report,
        on_dropped_change=take,
        data={
            "photo": photo,
            "photo_alt": photo_alt,
            "veil": veil,
            "map": map,
            "map_alt": map_alt,
            "bar": bar,
            "unit": unit,
            "below": below,
            "centre": centre,
            "step": step,
            "cells": cells,
            "colours": overlay.table(),
            "most": sidebar.UPLOAD_MB * 2**20,
        },
    )
    if st.session_state.pop("taken", False):
        st.rerun()  # a fragment draws no sidebar
