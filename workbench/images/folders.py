"""Which files of a folder are images, and what is said of those that are not."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import features

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp"),
    *(".tif", ".tiff", ".ppm", ".pgm"),
    *((".avif",) if features.check("avif") else ()),
)
"""File name endings that count as images, in upper or lower case."""

_PHOTOS = (
    ".heic",
    ".heif",
    ".avif",
    ".jxl",
    ".jp2",
    ".raw",
    ".dng",
    ".cr2",
    ".nef",
    ".arw",
    ".svg",
)
_TABLES = ("labels.csv", "boxes.csv")


@dataclass
class Found:
    """Images of a folder.

    labels: for each file the number of its class folder, or None.
    classes: names of the class folders, or None.
    left_out: sentences on files that are not taken.
    """

    files: list[Path]
    labels: list[int] | None = None
    classes: list[str] | None = None
    left_out: list[str] = field(default_factory=list)


def look(folder: Path) -> Found:
    """The images of a folder: those directly in it, or those of its class folders, whichever are
    more.
    """
    direct, others = _sorted(path for path in folder.iterdir() if not path.is_dir())
    folders = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    inside: list[Path] = []
    labels: list[int] = []
    others_inside: list[Path] = []
    for label, inner in enumerate(folders):
        found, rest = _sorted(path for path in inner.rglob("*") if not path.is_dir())
        inside += found
        others_inside += rest
        labels += [label] * len(found)
    if len(inside) < max(len(direct), 1):
        said = _not_taken(others)
        if inside:
            said.append(
                f"{len(inside)} images in folders below ({_first(p.parent.name for p in inside)}) "
                "are not read."
            )
        return Found(direct, left_out=said)
    said = _not_taken([*others, *others_inside])
    if direct:
        said.append(
            f"{len(direct)} images beside the class folders ({_first(p.name for p in direct)}) "
            "are left out: they have no class."
        )
    return Found(inside, labels, [inner.name for inner in folders], said)


def _sorted(paths: Iterator[Path]) -> tuple[list[Path], list[Path]]:
    """Images, and other files; hidden ones are neither."""
    images, others = [], []
    for path in sorted(paths):
        if not path.name.startswith("."):
            taken = path.suffix.lower() in SUFFIXES and path.is_file()
            (images if taken else others).append(path)
    return images, others


def _not_taken(paths: Sequence[Path]) -> list[str]:
    """How many files were not taken, by their endings, and why."""
    counted = Counter(path.suffix.lower() for path in paths if path.name not in _TABLES)
    photos = {end: count for end, count in counted.items() if end in _PHOTOS}
    said = []
    if photos:
        said.append(f"{_kinds(photos)} cannot be read here: convert them to JPEG or PNG.")
    rest = {end: count for end, count in counted.items() if end not in photos}
    if rest:
        said.append(f"{_kinds(rest)} are not taken for images.")
    return said


def _kinds(counted: dict[str, int]) -> str:
    ends = ", ".join(f"{n} {end or 'without ending'}" for end, n in sorted(counted.items())[:6])
    return f"{sum(counted.values())} files ({ends})"


def _first(names: Iterable[str], count: int = 3) -> str:
    distinct = list(dict.fromkeys(names))
    return ", ".join(distinct[:count]) + (", ..." if len(distinct) > count else "")
