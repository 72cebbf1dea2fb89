"""Write a figure as PDF, PNG and SVG, byte for byte the same on every run."""

from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import matplotlib
from matplotlib.figure import Figure

STYLE = Path(__file__).parent / "paper.mplstyle"
# Dates would make two runs differ.
_METADATA = {
    "pdf": {"CreationDate": None},
    "svg": {"Date": None},
    "png": {"Software": None},
}


def save_figure(
    figure: Figure,
    stem: Path,
    caption: str | None = None,
    formats: tuple[str, ...] = ("pdf", "png", "svg"),
) -> list[Path]:
    """Save `figure` as `stem`.pdf, .png and .svg, its caption as .txt, and return the paths.

    Each file is written beside its place and then moved, so that none is ever half-written.

    Raises:
        OSError: when the folder cannot be written.
    """
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = []
    for suffix in formats:
        path = stem.parent / f"{stem.name}.{suffix}"
        unfinished = path.with_name(f".{path.name}.unfinished")
        try:
            with unfinished.open("wb") as file:
                _write(figure, file, suffix)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
        paths.append(path)
    if caption is not None:
        path = stem.parent / f"{stem.name}.txt"
        path.write_text(caption, encoding="utf-8")
        paths.append(path)
    return paths


def figure_bytes(figure: Figure, suffix: str) -> bytes:
    """The figure as the bytes of a `pdf`, `png` or `svg` file."""
    buffer = BytesIO()
    _write(figure, buffer, suffix)
    return buffer.getvalue()


def _write(figure: Figure, file: BinaryIO, suffix: str) -> None:
    # The style also holds what applies on saving: resolution, fonts, and the salt of SVG ids.
    with matplotlib.style.context(STYLE):
        figure.savefig(file, format=suffix, metadata=_METADATA[suffix])
