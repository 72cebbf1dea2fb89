"""What a link asks for and does not get is said: Streamlit takes the default without a word."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import streamlit as st

from workbench.app.session import plain
from workbench.files import printable
from workbench.former import CHOICES


@contextmanager
def checked() -> Iterator[None]:
    """Draw the page in here: above it stands what a new link asked for in vain.

    The choices and the query of the link have the same names. It is looked at once, when the page
    was drawn for the first time; a sentence stays until something else is chosen there.
    """
    first = "link" not in st.session_state
    if first:
        st.session_state["link"] = _asked()
    place, drawn = st.container(), False
    try:
        yield
        drawn = True
    finally:  # a rerun may cut the first drawing short
        if first:
            st.session_state["refused"] = [
                (key, st.session_state.get(key), text)
                for key, value in st.session_state["link"].items()
                if (text := _refusal(key, value, drawn))
            ]
    for key, taken, text in st.session_state.get("refused", ()):
        if st.session_state.get(key) == taken:
            place.warning(plain(text))


def _asked() -> dict[str, list[str]]:
    """What the link says, that of an earlier version in the words of today."""
    said = {key: st.query_params.get_all(key) for key in st.query_params}
    asked = {key: [CHOICES.get(value, value) for value in values] for key, values in said.items()}
    for key in [key for key in asked if asked[key] != said[key]]:
        st.session_state[key] = asked[key][0]
    second, weights = asked.pop("second", ["none"])[0], asked.pop("second_weights", [""])[0]
    if second != "none":
        asked["beside"] = st.session_state["beside"] = [f"{second}: {weights}".removesuffix(": ")]
    return asked


def _refusal(key: str, asked: Sequence[str], drawn: bool) -> str | None:
    said = f"The link says {printable(key, 30)} = {printable(', '.join(asked), 100)}"
    if key not in st.session_state:
        return f"{said}, and there is no such choice here." if drawn else None
    taken = st.session_state[key]
    if _same(asked, taken) or st.query_params.get_all(key) == list(asked):
        return None
    return f"{said}, which cannot be chosen here; it is {_text(taken)} now."


def _text(taken: object) -> str:
    if taken is None:
        return "none"
    many = isinstance(taken, Sequence) and not isinstance(taken, str)
    return ", ".join(map(str, taken)) or "none" if many else str(taken)


def _same(asked: Sequence[str], taken: object) -> bool:
    """Whether the words of the link mean the value that was taken."""
    have, want = (
        [part.strip() for text in texts for part in text.split(",")]
        for texts in ([_text(taken)], asked)
    )
    return len(have) == len(want) and all(map(_equal, want, have))


def _equal(one: str, other: str) -> bool:
    try:
        return math.isclose(float(one), float(other), abs_tol=1e-4)
    except ValueError:
        return one.casefold() == other.casefold()
