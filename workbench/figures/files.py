"""Write a figure as PDF, PNG and SVG, byte for byte the same on every run."""

from pathlib import Path

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
            figure.savefig(unfinished, format=suffix, metadata=_METADATA[suffix])
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
    from io import BytesIO

    buffer = BytesIO()
    figure.savefig(buffer, format=suffix, metadata=_METADATA[suffix])
    return buffer.getvalue()
