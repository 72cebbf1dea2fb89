"""Write figures, captions and tables, byte for byte the same on every run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from workbench import figures
from workbench.figures.width import scaled
from workbench.results import Result, atomic_write, safe_name

STYLE = Path(__file__).parent / "paper.mplstyle"
FORMATS = ("pdf", "png", "svg")
# Dates would make two runs differ.
_METADATA = {
    "pdf": {"CreationDate": None},
    "svg": {"Date": None},
    "png": {"Software": None},
}


@dataclass(frozen=True)
class Sheet:
    """A figure that can be drawn: its file name without suffix, and what it shows in sentences."""

    name: str
    draw: Callable[[], Figure]
    caption: str


def publish(
    results: Sequence[Result],
    out: Path,
    formats: Sequence[str] = FORMATS,
    width: float | None = None,
    **options: Any,
) -> list[Path]:
    """Write all figures, captions and tables of results of one kind; return the paths.

    Args:
        width: of the figures in inches, such as a journal's column; by default their own.
        options: of the kind's `sheets`.

    Raises:
        ValueError: when the results are not drawn, or not together.
        OSError: when the folder cannot be written.
    """
    pictures = figures.of(results[0].kind)
    paths = []
    for sheet in pictures.sheets(results, **options):
        figure = sheet.draw()
        figure = scaled(figure, width) if width else figure
        # the name of a model may be a path
        paths += save_figure(figure, out / safe_name(sheet.name), sheet.caption, formats)
    for name, text in pictures.tables(results).items():
        paths.append(save_text(text, out / name))
    return paths


def save_figure(
    figure: Figure, stem: Path, caption: str | None = None, formats: Sequence[str] = FORMATS
) -> list[Path]:
    """Save `figure` as `stem`.pdf, .png and .svg, its caption as .txt, and return the paths.

    Raises:
        OSError: when the folder cannot be written.
    """
    paths = []
    for suffix in formats:
        paths.append(stem.parent / f"{stem.name}.{suffix}")
        with atomic_write(paths[-1]) as unfinished:
            unfinished.write_bytes(figure_bytes(figure, suffix))
    if caption is not None:
        paths.append(save_text(caption, stem.parent / f"{stem.name}.txt"))
    return paths


def save_text(text: str, path: Path) -> Path:
    """Write a caption or a table, with the same line ends everywhere."""
    with atomic_write(path) as unfinished:
        unfinished.write_bytes(text.encode())
    return path


def figure_bytes(figure: Figure, suffix: str, dpi: float | None = None) -> bytes:
    """The figure as the bytes of a `pdf`, `png` or `svg` file."""
    buffer = BytesIO()
    # The style also holds what applies on saving: resolution, fonts, and the salt of SVG ids.
    with matplotlib.style.context(STYLE):
        figure.savefig(buffer, format=suffix, dpi=dpi, metadata=_METADATA[suffix])
    return buffer.getvalue()
