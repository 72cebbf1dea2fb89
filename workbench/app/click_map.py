"""A photograph and its maps, all of which report the place that is clicked, and take a picture
that is dropped on them in place of theirs.

A place is (row, column) in fractions of the image, so that it means the same on every grid. Where
all cells are measured (`workbench.app.cells`), the maps follow the mouse, everywhere on the page at
once, and a click keeps them.
"""

from collections.abc import Callable
from typing import Any

import streamlit as st
from streamlit.components.v2 import component

from workbench.app import sidebar
from workbench.figures.pair import PAIR

Place = tuple[float, float]

_component = component("click_map", html=PAIR["html"], css=PAIR["css"], js=PAIR["js"])


def click_map(key: str, on_place: Callable[[Place], None], **data: Any) -> None:
    """Show the pictures and call `on_place` with the place of a click or an arrow key.

    Args:
        data: photo: the `src` of the photograph, photo_alt: what it shows, in words.
            maps, veil, colours: see `overlay.stack`; the first map stands beside the photograph,
            each further one below, with a `note` under it and `help` on that.
            bar, units: colour bar of the maps (see `overlay.bar`), and what the values of the first
            are, and those of the others.
            below: a line under the photograph.
            centre: where the cross is. step: size of a cell, and how far an arrow key goes.
            blocks: whether a pixel of a map is a cell, which has edges.
            cells: what `workbench.app.cells.offered` gives, for maps that follow the mouse.
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
        data={**data, "most": sidebar.UPLOAD_MB * 2**20},
    )
    if st.session_state.pop("taken", False):
        st.rerun()  # a fragment draws no sidebar
