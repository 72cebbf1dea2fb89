"""Results as figures, with their files and numbers."""

import io
from collections.abc import Hashable, Sequence

import streamlit as st
from PIL import Image

from workbench import figures
from workbench.app.files import drawn, files
from workbench.figures.files import Sheet
from workbench.figures.label import label
from workbench.results import Result


def drawn_together(
    results: Sequence[Result],
    commands: Sequence[str],
    stamps: Hashable,
    key: str = "file",
    title: str = "",
) -> None:
    """Figures, files and numbers of results of one kind.

    Args:
        stamps: tells the results from all others.
        key: tells several such panels of a page apart.
        title: markdown above them.

    Raises:
        ValueError: when they are not drawn together.
    """
    module = figures.of(results[0].kind)
    sheets = list(module.sheets(results))
    pictures = [picture(stamps, i, sheet) for i, sheet in enumerate(sheets)]
    if title:
        st.markdown(title)
    about = ", ".join(map(label, results))
    for sheet, (png, width) in zip(sheets, pictures, strict=True):
        st.image(png, width=width, alt=f"Figure {sheet.name} of {about}")
    files(results, commands, key=key)
    with st.expander("Numbers"):
        st.code("\n\n".join(map(module.report, results)), language=None)


@st.cache_data(max_entries=50, show_spinner="Drawing ...")
def picture(stamps: Hashable, number: int, _sheet: Sheet) -> tuple[bytes, int]:
    """A figure of some results by its number: a PNG, and its width on the page in CSS pixels."""
    png = drawn(_sheet, "png")
    return png, Image.open(io.BytesIO(png)).width // 2
