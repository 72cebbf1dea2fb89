"""Write figures, captions and tables, byte for byte the same on every run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from workbench import figures
from workbench.figures.width import scaled
from workbench.results import Result, atomic_write, content_hash, safe_name

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
    """A figure that can be drawn: its file name without suffix, what it shows in sentences, and the
    results in it where these are not all.
    """

    name: str
    draw: Callable[[], Figure]
    caption: str
    results: Sequence[Result] = ()


def publish(
    results: Sequence[Result],
    out: Path,
    formats: Sequence[str] = FORMATS,
    width: float | None = None,
    hashed: bool = False,
    **options: Any,
) -> list[Path]:
    """Write all figures, captions and tables of results of one kind; return the paths.

    Args:
        width: of the figures in inches, such as a journal's column; by default their own.
        hashed: name each file by what is in it: models, and a hash of results and options.
        options: of the kind's `sheets`.

    Raises:
        ValueError: when the results are not drawn, or not together.
        ResultError: when the folder cannot be written.
    """
    pictures = figures.of(results[0].kind)
    paths: list[Path] = []

    def place(name: str, shown: Sequence[Result]) -> Path:
        if hashed:
            name += _shown(name, shown, options)
        name = safe_name(name)  # the name of a model may be a path
        while any(path.stem == name for path in paths):  # the same model twice
            name += "-2"
        return out / name

    for sheet in pictures.sheets(results, **options):
        stem = place(sheet.name, sheet.results or results)
        figure = sheet.draw()
        figure = scaled(figure, width) if width else figure
        paths += save_figure(figure, stem, sheet.caption, formats)
    for name, text in pictures.tables(results).items():
        stem, _, suffix = name.rpartition(".")
        stem += _shown(stem, results, options) if hashed else ""
        paths.append(save_text(text, out / f"{safe_name(stem)}.{suffix}"))
    return paths


def _shown(name: str, results: Sequence[Result], options: Mapping[str, Any]) -> str:
    """What a file's name says of results: their models, and a hash of all that decides them."""
    models = [m for m in dict.fromkeys(r.meta["model"] for r in results) if m not in name]
    if len(models) > _MOST:
        models = [*models[:_MOST], f"and-{len(models) - _MOST}-more"]
    key = content_hash([[_deciding(result.meta) for result in results], dict(options)])
    return "".join(f"-{part}" for part in (*models, key))


def _deciding(meta: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the content: the times in what a curve was joined from differ in every run, the
    names of its sources do not.
    """
    measured = ("points", "exponents") if "sources" in meta else ()
    return {key: value for key, value in meta.items() if key not in measured}


_MOST = 3
"""Models that a file's name lists."""


def save_figure(
    figure: Figure, stem: Path, caption: str | None = None, formats: Sequence[str] = FORMATS
) -> list[Path]:
    """Save `figure` as `stem`.pdf, .png and .svg, its caption as .txt, and return the paths.

    Raises:
        ResultError: when the folder cannot be written.
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
