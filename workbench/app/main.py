"""The app's script: `vssm app` serves it."""

from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path

import streamlit as st

from workbench.process import prepare

prepare()  # before torch is imported

from workbench import methods
from workbench.app import any_method, link, place, sidebar

ABOUT = f"""
**vssm-workbench {version("vssm-workbench")}**: see what a visual state-space model looks at.

Its pages are told in `docs/app.md`, the methods with their formulas and sources in the other files
of `docs`. How to cite it is in `CITATION.cff`. Apache-2.0.
"""
st.set_page_config(page_title="vssm-workbench", layout="wide", menu_items={"About": ABOUT})
# Streamlit's own margins push the pictures out of sight.
st.html("<style>.stMainBlockContainer { padding: 4.5rem min(3rem, 4vw) 1.5rem; }</style>")
PAGES = Path(__file__).parent
# Pages that measure nothing, for which nothing is chosen.
STORED = ("results", "story")


def page_of(name: str) -> Path | Callable[[], None]:
    """The file of a method's own page, else the page that any method has."""
    file = PAGES / f"{name.replace('-', '_')}.py"
    return file if file.is_file() else partial(any_method.page, name)


pages = {
    group: [
        st.Page(page_of(name), title=methods.title(name), url_path=name, default=name == "erf")
        for name in names
    ]
    for group, names in methods.groups().items()
}
pages["Stored"] = [
    st.Page(PAGES / "results.py", title="Results", url_path="results"),
    st.Page(PAGES / "story.py", title="Story", url_path="story"),
]
page = st.navigation(pages, position="top")
place.keep_on(page.url_path)
with link.checked():
    sidebar.draw(page.url_path not in STORED)
    page.run()
