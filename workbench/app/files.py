"""What every panel offers to take away: figures, tables and data, and the command for the same."""

import shlex
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import streamlit as st

from workbench import figures
from workbench.app import session
from workbench.figures.files import FORMATS, Sheet, figure_bytes
from workbench.figures.label import label
from workbench.results import Result, safe_name


def drawn(sheet: Sheet, suffix: str) -> bytes:
    """A figure as `pdf`, `png` or `svg`."""
    with session.DRAWING:
        return figure_bytes(sheet.draw(), suffix)


def files(
    results: Sequence[Result],
    commands: Sequence[str],
    key: str = "file",
    more: Sequence[tuple[str, Callable[[], Any], str]] = (),
) -> None:
    """Offer all files of results of one kind; below them commands, captions and licences.

    key: tells several such panels of a page apart.
    more: title, content and name of what only this page offers.
    """
    pictures = figures.of(results[0].kind)
    sheets = list(pictures.sheets(results))
    export([*_figures(sheets), *more, *_tables(pictures.tables(results)), *_data(results)], key)
    st.caption("The same from the command line:")
    st.code("\n".join(commands), language="bash", wrap_lines=True)
    with st.expander("What the figure shows"):
        st.text("\n".join(dict.fromkeys(sheet.caption for sheet in sheets)))
    for licence in dict.fromkeys(result.meta["facts"].get("licence") for result in results):
        if licence:
            st.caption(session.plain(licence))


def export(offered: Sequence[tuple[str, Any, str]], key: str = "file") -> None:
    """The menu of what can be taken away: title, content and name of each file, and the link."""
    with st.popover("Export"):
        st.caption("Link to this view")
        st.code(address(), language=None)
        for i, (title, data, name) in enumerate(offered):
            st.download_button(
                title, data, name, on_click="ignore", key=f"{key}-{i}", width="stretch"
            )


def address() -> str:
    """The link that opens what is shown, for those who reach this server."""
    asked = {key: st.query_params.get_all(key) for key in st.query_params}
    page = (st.context.url or "").partition("?")[0]
    return f"{page}?{urlencode(asked, doseq=True)}"


def _figures(sheets: Sequence[Sheet]) -> list[tuple]:
    return [
        (
            f"Figure{'' if len(sheets) == 1 else f' {sheet.name}'} ({suffix.upper()})",
            partial(drawn, sheet, suffix),
            f"{sheet.name}.{suffix}",
        )
        for sheet in sheets
        for suffix in FORMATS
    ]


def _tables(texts: dict[str, str]) -> list[tuple]:
    return [
        (f"Table ({name.rpartition('.')[2].upper()})", text, name) for name, text in texts.items()
    ]


def _data(results: Sequence[Result]) -> list[tuple]:
    several = len(results) > 1
    return [
        (
            f"Data of {label(result)} (NPZ)" if several else "Data (NPZ)",
            partial(session.result_file, result),
            "-".join(filter(None, (safe_name(result.meta["model"]), result.kind, _hash(result))))
            + ".npz",
        )
        for result in results
    ]


def _hash(result: Result) -> str:
    return result.meta.get("hash", "")


def show_command(paths: Sequence[str | Path]) -> str:
    """The command line that draws result files again."""
    return shlex.join(["vssm", "show", *map(session.short, paths), "--out", "out"])
