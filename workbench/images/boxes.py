"""Boxes around objects, as packs and tables give them: left, top, right and bottom, the first and
the last pixel of the object in the upright picture, counted from 0, as ImageNet's are.
"""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from workbench.files import printable

TABLE = "boxes.csv"
COLUMNS = ("file", "left", "top", "right", "bottom")
LAST = np.array([0.0, 0.0, 1.0, 1.0])
"""From the first and last pixel to edges."""
ARRAYS = ("box", "box_xyxy", "box_image")


def of_pack(pack: Mapping[str, np.ndarray], count: int) -> list[np.ndarray] | None:
    """(k, 4) float64 for each of `count` images, edges; None where the pack has no boxes.

    Args:
        pack: `box` or `box_xyxy` (m, 4), of the images in their order, or of those that `box_image`
            (m,) names by their places.

    Raises:
        ValueError: for arrays of other shapes or kinds, saying what is wrong.
    """
    name = next((name for name in ("box", "box_xyxy") if name in pack), None)
    if name is None:
        return None
    found, of = pack[name], pack.get("box_image", np.arange(count))
    if of.dtype.kind not in "iu" or of.ndim != 1 or not np.isin(of, np.arange(count)).all():
        raise ValueError(f"box_image needs places of images, 0 to {count - 1}")
    if found.dtype.kind not in "iuf" or found.shape != (len(of), 4):
        raise ValueError(f"{name} is {found.dtype} {found.shape} for {len(of)} images")
    edges = found.astype(np.float64) + LAST
    return [edges[of == i] for i in range(count)]


def of_folder(folder: Path, names: Sequence[str]) -> tuple[list[np.ndarray] | None, list[str]]:
    """The same of the files `names` below a folder, from its `boxes.csv`, which has a line for each
    box, and what was not used of it, in sentences.

    Raises:
        ValueError: for a table without these columns or with other things than numbers, and one
            that names none of the files.
    """
    path = folder / TABLE
    if not path.is_file():
        return None, []
    found: dict[str, list[list[float]]] = {name: [] for name in names}
    strange: dict[str, None] = {}
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        reader = csv.DictReader(file)
        try:
            for row in reader:
                try:
                    box = [float(row[column]) for column in COLUMNS[1:]]
                    name = row["file"]
                except (KeyError, TypeError, ValueError):
                    raise ValueError(
                        f"{path}, line {reader.line_num}, is no box; it needs the columns "
                        f"{', '.join(COLUMNS)}, the last four as pixels of the picture"
                    ) from None
                if name in found:
                    found[name].append(box)
                else:
                    strange[str(name)] = None
        except csv.Error as error:
            raise ValueError(f"{path} is no table that can be read ({error})") from error
    if not any(found.values()):
        raise ValueError(f"{path} has no box of an image in {folder}; file holds names below it")
    said = []
    if strange:
        few = ", ".join(printable(name) for name in list(strange)[:3])
        said.append(f"{TABLE} has boxes of {len(strange)} files that are not there ({few}).")
    edges = (np.array(boxes, np.float64).reshape(-1, 4) + LAST for boxes in found.values())
    return list(edges), said


def usable(boxes: np.ndarray, name: str, extent: tuple[int, int]) -> tuple[np.ndarray, list[str]]:
    """The boxes (k, 4), edges, that hold pixels of a picture of (width, height), and a sentence for
    each of the others. A box of one row or column is taken for a slip.
    """
    kept, said = [], []
    for box in boxes:
        left, top, right, bottom = box - LAST
        told = f"{left:g},{top:g},{right:g},{bottom:g}"
        if not (np.isfinite(box).all() and left < right and top < bottom):
            said.append(f"{name}: its box {told} is empty, so it is left out.")
        elif left < 0 or top < 0 or right >= extent[0] or bottom >= extent[1]:
            said.append(
                f"{name}: its box {told} reaches out of the picture of {extent[0]} x {extent[1]} "
                f"pixels (0 to {extent[0] - 1} and {extent[1] - 1}), so it is left out."
            )
        else:
            kept.append(box)
    return np.array(kept, np.float64).reshape(-1, 4), said
