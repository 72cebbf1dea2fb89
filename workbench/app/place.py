"""The place that was clicked last: the same on every page, and in the URL."""

import streamlit as st

from workbench.app.click_map import Place

MIDDLE = (0.5, 0.5)


def place() -> Place:
    """Where was clicked last, in fractions of the image, at first as the URL says or the middle."""
    if "place" not in st.session_state:
        st.session_state["place"] = _read(st.query_params.get("position", ""))
    found = st.session_state["place"]
    text = f"{found[0]:.4f},{found[1]:.4f}" if found else None
    st.session_state["position"] = text
    if text is None:
        st.query_params.pop("position", None)
    elif st.query_params.get("position") != text:
        st.query_params["position"] = text
    return found or MIDDLE


def _read(text: str) -> Place | None:
    try:
        row, column = (float(part) for part in text.split(","))
    except ValueError:
        return None
    return (row, column) if 0 <= row <= 1 and 0 <= column <= 1 else None


def remember(clicked: Place) -> None:
    st.session_state["place"] = clicked
