"""The place that was clicked last: the same on every page, and in the URL."""

import streamlit as st

from workbench.app.click_map import Place

MIDDLE = (0.5, 0.5)


def place() -> Place:
    """Where was clicked last, in fractions of the image, at first as the URL says or the middle.

    A URL that says something else than was written there came with the browser's Back.
    """
    asked, written = st.query_params.get("position"), st.session_state.get("position")
    clicked = st.session_state.pop("clicked", False)
    if "place" not in st.session_state or (asked != written and not clicked):
        st.session_state["place"] = _read(asked or "")
    found = st.session_state["place"]
    text = f"{found[0]:.4f},{found[1]:.4f}" if found else None
    st.session_state["position"] = text
    if text is None:
        st.query_params.pop("position", None)
    elif asked != text:
        st.query_params["position"] = text
    return found or MIDDLE


def _read(text: str) -> Place | None:
    try:
        row, column = (float(part) for part in text.split(","))
    except ValueError:
        return None
    return (row, column) if 0 <= row <= 1 and 0 <= column <= 1 else None


def keep_on(page: str) -> None:
    """The place goes along to another page, whose URL does not say it yet."""
    if st.session_state.get("page") != page:
        st.session_state.update(page=page, clicked=True)


def remember(clicked: Place) -> None:
    st.session_state.update(place=clicked, clicked=True)
