"""The result files that the page about results lists, and what each says of itself."""

import contextlib
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import streamlit as st
from streamlit.runtime.uploaded_file_manager import UploadedFile

from workbench import figures, methods
from workbench.app import session
from workbench.app.thumbnail import thumbnail
from workbench.files import NotAFile, opened
from workbench.results import Resolution, Result, ScanMaps, Sensitivity, load

LARGEST = 200
"""Megabytes of a file that the page opens, unpacked."""


@dataclass(frozen=True)
class Entry:
    """A result file that can be read.

    name: its path below the results folder, or what an uploaded file is called.
    stamp: changes when the content does.
    row: what the table shows of it, by column.
    """

    name: str
    source: Path | UploadedFile
    stamp: tuple
    row: dict[str, Any]

    def load(self) -> Result:
        return _load(self.source)

    @property
    def path(self) -> str:
        """What the command line takes for it."""
        return str(self.source) if isinstance(self.source, Path) else self.source.name


def stored() -> tuple[list[Entry], list[str]]:
    """The files of the results folder, and a sentence for each that cannot be read."""
    folder = session.results_folder()
    found, refused = [], []
    for path in sorted(folder.rglob("*.npz")):
        name = path.relative_to(folder)
        if any(part.startswith(".") for part in name.parts):
            continue  # what an unfinished run has left
        try:
            stamp = (str(path), path.stat().st_mtime_ns, path.stat().st_size)
            entry = Entry(name.as_posix(), path, stamp, _row(stamp, path))
        except (ValueError, OSError) as error:
            refused.append(str(error))
            continue
        if entry.row["kind"] in methods.METHODS:  # others are steps on the way, such as points
            found.append(entry)
    return found, refused


def uploaded(files: Sequence[UploadedFile]) -> tuple[list[Entry], list[str]]:
    """The same for files that were dropped on the page."""
    found, refused = [], []
    for file in files:
        stamp = (file.file_id,)
        try:
            row = _row(stamp, file)
            if row["kind"] not in methods.METHODS:
                raise ValueError(
                    f"{file.name} holds one {row['kind']} of a longer run; open the result of that "
                    "run instead."
                )
        except ValueError as error:
            refused.append(str(error))
            continue
        found.append(Entry(f"{file.name} (uploaded)", file, stamp, row))
    return found, refused


def _load(source: Path | UploadedFile) -> Result:
    """The result, if it is not too large.

    Raises:
        ValueError: in one sentence.
    """
    with contextlib.suppress(zipfile.BadZipFile, OSError, NotAFile), opened(source) as file:
        with zipfile.ZipFile(file) as archive:  # `load` says what is wrong
            size = sum(member.file_size for member in archive.infolist())
        if size > LARGEST * 2**20:
            raise ValueError(
                f"{source.name} holds {size / 2**20:,.0f} MB and the page opens up to {LARGEST} "
                "MB; use vssm show."
            )
    return load(source)


@st.cache_data(max_entries=2000, show_spinner=False)
def _row(stamp: tuple, _source: Path | UploadedFile) -> dict[str, Any]:
    """A line of the table. Raises ValueError, also where a result says too little of itself."""
    result = _load(_source)
    with figures.complete(_source.name):
        if result.kind not in methods.METHODS:
            return {"kind": result.kind}
        return {"picture": thumbnail(result), "kind": result.kind, **_described(result)}


def _described(result: Result) -> dict[str, Any]:
    meta = result.meta
    name, number = main_number(result)
    made = meta["provenance"]
    low, high = number.get("low"), number.get("high")
    return {
        "model": meta["model"],
        "weights": meta["facts"].get("weights_label", ""),
        "number": " ".join(filter(None, (f"{name},", number.get("unit")))).rstrip(","),
        "value": number.get("value"),
        "interval": "" if low is None or high is None else f"[{low:.3g}, {high:.3g}]",
        "images": meta["images"]["source"],
        "version": made["versions"].get("vssm-workbench", ""),
        "revision": made.get("revision", "")[:8] + (" changed" if made.get("dirty") else ""),
    }


def main_number(result: Result) -> tuple[str, Mapping[str, Any]]:
    """The one number that a table shows of a result: its name, and value, interval and unit."""
    meta = result.meta
    if isinstance(result, Resolution):
        name = "agreement" if result.correct is None else "top1"
        native = [point for point in result.points if point["size"] == meta["native"]]
        point = native[0] if native and name == "top1" else result.points[-1]
        return f"{name} at {point['size']} px", point["numbers"].get(name, {})
    if isinstance(result, Sensitivity):
        return "clean accuracy", meta["clean"]
    if isinstance(result, ScanMaps):
        known = {k: v["horizon"] for k, v in meta["numbers"].items() if v["horizon"]["value"]}
        site = max(known, key=lambda name: known[name]["value"], default="")
        return (f"half-life of {site}", known[site]) if site else ("", {})
    numbers = meta["numbers"]
    name = next((name for name in ("A50", "clean accuracy") if name in numbers), min(numbers))
    return name, numbers[name]
