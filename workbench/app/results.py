"""Page: result files in a table, one by one or side by side."""

from collections.abc import Sequence

import streamlit as st

from workbench.app import results_list, session
from workbench.app.drawn import drawn_together
from workbench.app.files import show_command
from workbench.app.results_list import Entry
from workbench.results import Result

TOGETHER = ("erf", "resolution")  # kinds that have one figure for several results
MOST = 6  # results that are shown at once
UPLOAD_MB = 20  # as in .streamlit/config.toml
WIDTHS = {"file": 240, "weights": 130, "number": 160}  # of columns that would push others away


def opened() -> list[Entry]:
    """The dropped files and those of the results folder; a sentence for each that is neither."""
    dropped = st.file_uploader(
        f"Drop result files here, .npz of at most {UPLOAD_MB} MB; they stay in this window",
        ["npz"],
        accept_multiple_files=True,
        key="dropped",
        max_upload_size=UPLOAD_MB,
    )
    found, refused = results_list.uploaded(dropped)
    for sentence in refused:
        st.error(session.plain(sentence))
    with st.spinner("Reading ..."):
        kept, unreadable = results_list.stored()
    if unreadable:
        with st.expander(f"{len(unreadable)} of the stored files cannot be read"):
            for sentence in unreadable:
                st.text(sentence)
    return [*found, *kept]


def choose(entries: Sequence[Entry]) -> list[Entry]:
    """The table; the rows that are chosen are in the URL."""
    names = [entry.name for entry in entries]
    linked = dict.fromkeys(st.query_params.get_all("result"))
    asked = st.session_state["result"] = [name for name in linked if name in names]
    if not asked and isinstance(entries[0].source, results_list.UploadedFile):
        asked = names[:1]  # who drops a file wants to see it
    rows = [names.index(name) for name in asked]
    st.session_state["table"] = {"selection": {"rows": rows}}

    def remember() -> None:
        chosen = st.session_state["table"]["selection"]["rows"]
        st.query_params["result"] = [names[row] for row in chosen]

    st.dataframe(
        [{"picture": None, "file": entry.name, **entry.row} for entry in entries],
        key="table",
        on_select=remember,
        selection_mode="multi-row",
        hide_index=True,
        row_height=48,
        placeholder="",
        column_config={
            **{name: st.column_config.Column(width=width) for name, width in WIDTHS.items()},
            "picture": st.column_config.ImageColumn("", width=60),
            "value": st.column_config.NumberColumn(format="%.4g"),
        },
        alt="Result files with model, weights, images, main number and version",
    )
    return [entries[row] for row in rows]


def shown(entries: Sequence[Entry]) -> None:
    """In one figure where the kind has one, otherwise side by side."""
    results = [entry.load() for entry in entries]
    kinds = {result.kind for result in results}
    if len(results) == 1 or (len(kinds) == 1 and kinds <= set(TOGETHER)):
        try:
            panel(entries, results)
            return
        except ValueError as error:
            if len(results) == 1:
                raise
            st.info(f"They are shown side by side: {session.plain(error)}.")
    for start in range(0, len(entries), 2):
        for i, column in enumerate(st.columns(2, gap="medium"), start):
            if i < len(entries):
                with column, session.sentences():
                    panel(entries[i : i + 1], results[i : i + 1])


def panel(entries: Sequence[Entry], results: Sequence[Result]) -> None:
    """Figures, numbers and files of results that are drawn together.

    Raises:
        ValueError: when they are not drawn together.
    """
    models, names = [result.meta["model"] for result in results], [entry.name for entry in entries]
    title, below = (session.plain(", ".join(words)) for words in (models, names))
    stamps = tuple(entry.stamp for entry in entries)
    command = show_command([entry.path for entry in entries])
    head = f"**{title}**  \n:small[{below}]"
    drawn_together(results, [command], stamps, key=entries[0].name, title=head)
    for entry, result in zip(entries, results, strict=True):
        with st.expander(f"How {session.plain(entry.name)} was made"):
            st.json(made(result), expanded=2)


def made(result: Result) -> dict:
    """Configuration and provenance; of the images what they are, not every name."""
    meta = result.meta
    images = {name: value for name, value in meta["images"].items() if name != "names"}
    kept = ("config", "facts", "preprocessing", "dtype", "device", "provenance")
    return {"images": images} | {name: meta[name] for name in kept if name in meta}


st.header("Results", anchor=False)
st.markdown(
    "What was measured before. Choose a row to see its figure and numbers, or several to compare "
    "them; a click on a column's name sorts."
)
with session.sentences():
    if listed := opened():
        chosen = choose(listed)
        if len(chosen) > MOST:
            st.info(f"The first {MOST} of {len(chosen)} are shown.")
        if chosen:
            shown(chosen[:MOST])
    else:
        folder = session.short(session.results_folder())
        st.info(
            f"There is no result in {session.plain(folder)} yet: the pages and `vssm` write them."
        )
