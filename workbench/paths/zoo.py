"""The names of scan paths, the sets in which models use them, and the papers they come from.

A name is a traversal, then `-reversed` for the way back, then `-as-used` where the published code
does something else than its traversal: ZigMa and DiffMa read the table "cell -> step" as if it were
"step -> cell", so their scans follow the inverse permutation; LocalMamba and EfficientVMamba scan
padding beside the grid. `row#2` is the path `row` as a second direction of its own.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import lru_cache, partial
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy import ndarray

from workbench.paths import orders
from workbench.paths.path import CLASS_TOKEN, PADDING, ScanPath

_CORNERS = {
    "": (1, 1),
    "-top-right": (1, -1),
    "-bottom-left": (-1, 1),
    "-bottom-right": (-1, -1),
}
_TURNS = ("eswn", "swne", "wnes", "nesw", "enws", "wsen", "senw", "nwse")
_PHASES = {"even-even": (0, 0), "odd-even": (1, 0), "even-odd": (0, 1), "odd-odd": (1, 1)}


def _traversals() -> dict[str, Callable[[ndarray], ndarray]]:
    """Name -> function from an array of cells to its entries as visited."""
    found: dict[str, Callable[[ndarray], ndarray]] = {
        "row": orders.rows,
        "column": lambda cells: orders.rows(cells.T),
        "diagonal": partial(orders.diagonals, step=1),
        "antidiagonal": partial(orders.diagonals, step=-1),
        "spiral": orders.spiral,
        "radial": orders.radial,
    }
    for corner, (down, right) in _CORNERS.items():
        found[f"zigzag-row{corner}"] = lambda cells, d=down, r=right: orders.zigzag(cells[::d, ::r])
        found[f"zigzag-column{corner}"] = lambda cells, d=down, r=right: orders.zigzag(
            cells[::d, ::r].T
        )
    for turns in range(4):
        angle = f"-rot{90 * turns}" if turns else ""
        found[f"hilbert{angle}"] = lambda cells, k=turns: orders.hilbert(np.rot90(cells, -k))
        found[f"hilbert{angle}-transposed"] = lambda cells, k=turns: orders.hilbert(
            np.rot90(cells.T, -k)
        )
    for turns in _TURNS:
        found[f"spiral-{turns}"] = partial(orders.spiral_out, turns=turns)
    for name, (row, column) in _PHASES.items():
        found[f"atrous-{name}"] = partial(orders.atrous, row=row, column=column)
    return found


_TRAVERSALS = _traversals()
_PARTS = ("atrous-",)  # traversals that leave cells to their siblings
_NUMBERED = re.compile(r"local-[1-9]\d?(-columns)?|frames-[1-9]\d*|random-\d{1,9}")
_INVERSE = ("hilbert", "spiral-")  # the official index is the inverse
_PADDED = ("local-", "atrous-")  # the official scan includes padding


def _parse(name: str) -> tuple[str, bool, bool] | None:
    """Traversal, whether reversed, whether as used; None for an unknown name."""
    stem = re.sub(r"#\d+$", "", name)
    base = stem.removesuffix("-as-used")
    as_used = base != stem
    stem, base = base, base.removesuffix("-reversed")
    known = base in _TRAVERSALS or _NUMBERED.fullmatch(base)
    if not known or (as_used and not base.startswith(_INVERSE + _PADDED)):
        return None
    return base, base != stem, as_used


def _order(name: str, height: int, width: int) -> ndarray:
    """The order of path `name`, as in `ScanPath`."""
    parsed = _parse(name)
    if parsed is None:
        raise ValueError(f"no scan path is called {name!r}; {_nearest(name, ORDERS)}")
    base, reverse, as_used = parsed
    if height < 1 or width < 1:
        raise ValueError(f"a grid of {height} x {width} has no cells; sides start at 1")
    inverted = as_used and base.startswith(_INVERSE)
    if inverted and height != width:
        raise ValueError(
            f"scan path {name!r} needs a square grid, as its published code does, not "
            f"{height} x {width}"
        )
    order = _visit(base, np.arange(height * width).reshape(height, width))
    if reverse:
        order = order[::-1]
    if inverted:
        order = np.argsort(order)
    elif not as_used:
        order = order[order != PADDING]
    if not (order >= 0).any():
        raise ValueError(f"scan path {name!r} visits no cell of a {height} x {width} grid")
    return order


def _visit(base: str, cells: ndarray) -> ndarray:
    if base in _TRAVERSALS:
        return _TRAVERSALS[base](cells)
    kind, number, *rest = base.split("-")
    if kind == "local":
        return orders.windows(cells.T if rest else cells, int(number))
    if kind == "random":
        return np.random.default_rng([int(number), *cells.shape]).permutation(cells.ravel())
    if len(cells) % int(number):
        raise ValueError(
            f"scan path {base!r} needs {number} frames of equal height below one another, but "
            f"{len(cells)} rows do not divide by {number}"
        )
    return orders.frames(cells, int(number))


class Family(NamedTuple):
    """Paths of one kind.

    Attributes:
        title: what they do.
        source: model, year and paper.
        paths: their names.
    """

    title: str
    source: str
    paths: tuple[str, ...]


def _and_reversed(*names: str) -> tuple[str, ...]:
    return tuple(f"{name}{end}" for name in names for end in ("", "-reversed"))


def _as_used(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{name}-as-used" for name in names)


CROSS = ("row", "column", "row-reversed", "column-reversed")  # VMamba, arXiv 2401.10166, fig. 4
BIDIRECTIONAL = ("row", "row-reversed")  # Vim, arXiv 2401.09417
_DIAGONALS = ("diagonal", "antidiagonal", "diagonal-reversed", "antidiagonal-reversed")
_ZIGZAG = tuple(f"zigzag-{line}{corner}" for corner in _CORNERS for line in ("row", "column"))
_HILBERT = tuple(name for name in _TRAVERSALS if name.startswith("hilbert"))
_SPIRALS = _and_reversed(*(f"spiral-{turns}" for turns in _TURNS))
_WINDOWS = _and_reversed("local-2", "local-7", "local-2-columns", "local-7-columns")
_ATROUS = tuple(f"atrous-{name}" for name in _PHASES)

_ZHU = "Vim, 2024, arXiv 2401.09417"
_LIU = "VMamba, 2024, arXiv 2401.10166"
_RS_MAMBA = "RS-Mamba, 2024, arXiv 2404.02668"
_ZIGMA = "ZigMa, 2024, arXiv 2403.13802"
_PLAINMAMBA = "PlainMamba, 2024, arXiv 2403.17695"
_SURVEY = "own reading of the survey Mamba in Vision, 2024, arXiv 2410.03105"
_DIFFMA = "DiffMa, 2024, arXiv 2406.15910"
_LOCALMAMBA = "LocalMamba, 2024, arXiv 2403.09338"
_EFFICIENT = "EfficientVMamba, 2024, arXiv 2403.09977"
_VIVIM = "Vivim, 2024, arXiv 2401.14168"

FAMILIES: list[Family] = [
    Family("along rows", f"{_ZHU}; {_LIU}", BIDIRECTIONAL),
    Family("along columns", _LIU, ("column", "column-reversed")),
    Family("diagonals that wrap around", _RS_MAMBA, _DIAGONALS),
    Family("zigzag from each corner", _ZIGMA, _ZIGZAG),
    Family(
        "zigzag and the way back",
        _PLAINMAMBA,
        ("zigzag-row-reversed", "zigzag-column-reversed"),
    ),
    Family("clockwise spiral inwards", _SURVEY, ("spiral", "spiral-reversed")),
    Family("by distance to the centre", _SURVEY, ("radial", "radial-reversed")),
    Family("shuffled by a seed, as a control", "a control", _and_reversed("random-0", "random-1")),
    Family("frames below one another, cell by cell", _VIVIM, ("frames-2",)),
    Family("Hilbert curves", _ZIGMA, _HILBERT),
    Family("Hilbert curves as used: the inverse permutation", _ZIGMA, _as_used(_HILBERT)),
    Family("spirals outwards by order of turns", _DIFFMA, _SPIRALS),
    Family("spirals as used: the inverse permutation", _DIFFMA, _as_used(_SPIRALS)),
    Family("local windows", _LOCALMAMBA, _WINDOWS),
    Family("local windows as used, with padding", _LOCALMAMBA, _as_used(_WINDOWS)),
    Family("every second row and column", _EFFICIENT, _ATROUS),
    Family("every second row and column as used, with padding", _EFFICIENT, _as_used(_ATROUS)),
]

ORDERS: dict[str, Callable[[int, int], ndarray]] = {
    name: partial(_order, name) for family in FAMILIES for name in family.paths
}

SETS: dict[str, tuple[str, ...]] = {
    "raster": ("row",),
    "bidirectional": BIDIRECTIONAL,
    "cross": CROSS,
    "unidi": ("row", "row#2", "row#3", "row#4"),
    "bidi": ("row", "row#2", "row-reversed", "row-reversed#2"),
    "continuous": _and_reversed("zigzag-row", "zigzag-column"),
    "zigzag": _ZIGZAG,
    "hilbert": _HILBERT,
    "hilbert-as-used": _as_used(_HILBERT),
    "omnidirectional": (*CROSS, *_DIAGONALS),
    "vmambair": CROSS,
    "spiral": ("spiral", "spiral-reversed"),
    "radial": ("radial", "radial-reversed"),
    "random": _and_reversed("random-0", "random-1"),
    "diffma": _SPIRALS,
    "diffma-as-used": _as_used(_SPIRALS),
    "local": _and_reversed("local-2", "local-7"),
    "localmamba": _and_reversed("row", "column", "local-2", "local-7"),
    "atrous": _ATROUS,
    "atrous-as-used": _as_used(_ATROUS),
    "hierarchical": ("row", "row#2", "row#3"),
    "video-2": ("row", "row-reversed", "frames-2"),
}

SET_SOURCES = {
    "raster": "one scan along the rows",
    "bidirectional": _ZHU,
    "cross": _LIU,
    "unidi": f"{_LIU}, ablation: four scans of one path",
    "bidi": f"{_LIU}, ablation: two scans each way",
    "continuous": _PLAINMAMBA,
    "zigzag": f"{_ZIGMA}; there layer i uses path i mod 8 only",
    "hilbert": f"{_ZIGMA}; there layer i uses path i mod 8 only",
    "hilbert-as-used": f"{_ZIGMA}, what its code does; square grids",
    "omnidirectional": _RS_MAMBA,
    "vmambair": "VmambaIR, 2024, arXiv 2403.11423; there also two scans over channels",
    "spiral": _SURVEY,
    "radial": _SURVEY,
    "random": "a control: two shuffles and their ways back",
    "diffma": f"{_DIFFMA}; there layer i uses pair i mod 8 beside the rows",
    "diffma-as-used": f"{_DIFFMA}, what its code does; square grids",
    "local": f"{_LOCALMAMBA}, the windows alone",
    "localmamba": f"{_LOCALMAMBA}; there a search keeps four in each layer",
    "atrous": f"{_EFFICIENT}; each path visits a quarter of the cells",
    "atrous-as-used": f"{_EFFICIENT}, with padding on odd sides",
    "hierarchical": "Motion Mamba, 2024, arXiv 2403.07487: no path of its own, but independent "
    "scans of one, three at the outer of two levels",
    "video-2": f"{_VIVIM}; video-T for T frames below one another, there averaged",
}


def register_path(
    name: str,
    traversal: Callable[[ndarray], ndarray],
    *,
    title: str = "registered",
    source: str = "",
) -> None:
    """Make a path of one's own known under a name, with its way back, `NAME-reversed`.

    It can then be used wherever paths are named: `scan_path`, sets, models, `vssm paths`.

    Args:
        name: small letters, digits and hyphens.
        traversal: from the cells (rows, columns) of a grid, numbered row by row, to those that are
            visited, in order: for every grid, each cell at most once.
        title: what it does, in some words.
        source: where it comes from.

    Raises:
        ValueError: for a name that is taken or misspelt, or a traversal that leaves the grid or
            comes to a cell twice on a small one.
    """
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name) or name.endswith(
        ("-reversed", "-as-used")
    ):
        raise ValueError(
            f"a scan path cannot be called {name!r}: give small letters, digits and hyphens, "
            "without -reversed or -as-used at the end"
        )
    if _parse(name) is not None or name in SETS:
        raise ValueError(f"there is a scan path or a set called {name!r} already")
    for height, width in ((2, 2), (4, 6)):
        cells = np.arange(height * width).reshape(height, width)
        visited = np.asarray(traversal(cells)).ravel()
        if not np.isin(visited, cells).all() or len(np.unique(visited)) < len(visited):
            raise ValueError(
                f"scan path {name!r} must visit cells of its grid, each at most once, but over "
                f"{height} x {width} cells it visits {visited.tolist()}"
            )
    _TRAVERSALS[name] = traversal
    FAMILIES.append(Family(title, source, _and_reversed(name)))
    ORDERS.update({path: partial(_order, path) for path in _and_reversed(name)})


def register_set(name: str, paths: Sequence[str], *, source: str = "") -> None:
    """Make a set of directions known under a name, for `scan_set` and models.

    Raises:
        ValueError: for a name that is taken, and as `scan_set`.
    """
    if name in SETS or _parse(name) is not None:
        raise ValueError(f"there is a scan path or a set called {name!r} already")
    SETS[name], SET_SOURCES[name] = scan_set(tuple(paths)), source


@lru_cache(maxsize=256)
def scan_path(name: str, height: int, width: int, class_token: int | None = None) -> ScanPath:
    """Return the path `name` over a `height` x `width` grid.

    Args:
        name: one of `ORDERS`; also `local-W` and `local-W-columns` for windows of W x W cells
            (W below 100), `frames-T` for T frames below one another, `random-S` for cells shuffled
            by the seed S, `-reversed` after any, and `#2`, `#3`, ... after any for a further
            direction along the same path.
        class_token: index of the class token in the row-major token sequence (Vim: cells // 2), or
            None. A reversed path is the reverse of the whole sequence, class token included.

    Raises:
        ValueError: for an unknown name (with the nearest ones), or a grid that the path cannot
            have: not square, not divisible into frames, without a cell to visit.
    """
    order = _order(name, height, width)
    if class_token is not None:
        at = len(order) - class_token if "-reversed" in name else class_token
        order = np.insert(order, at, CLASS_TOKEN)
    return ScanPath(name, height, width, order)


def scan_set(paths: str | Sequence[str], *, whole: bool = False) -> tuple[str, ...]:
    """Return the names of a set of directions.

    Args:
        paths: a name of `SETS` or `video-T`, the name of a single path, or names of paths. A path
            that is given twice becomes two directions, `row` and `row#2`.
        whole: refuse paths that leave out cells on any grid, such as those of `atrous`.

    Raises:
        ValueError: for an unknown name (with the nearest ones), no path, or a refused one.
    """
    if isinstance(paths, str):
        names = SETS.get(paths, (paths,))
        if match := re.fullmatch(r"video-([1-9]\d*)", paths):
            names = (*BIDIRECTIONAL, f"frames-{match[1]}")
        elif _parse(names[0]) is None:
            near = _nearest(paths, SETS, ORDERS)
            raise ValueError(f"no set of scan paths and no path is called {paths!r}; {near}")
    else:
        names = tuple(paths)
    if not names:
        raise ValueError("there is no scan path; give at least one name, such as row")
    for name in names:
        parsed = _parse(name)
        if parsed is None:
            raise ValueError(f"no scan path is called {name!r}; {_nearest(name, ORDERS)}")
        if whole and parsed[0].startswith(_PARTS):
            raise ValueError(
                f"scan path {name!r} visits only a part of the cells, but every direction must "
                "visit all of them here; choose another set, such as cross or hilbert"
            )
    return _numbered(names)


def _numbered(names: Sequence[str]) -> tuple[str, ...]:
    unique: list[str] = []
    for name in names:
        stem, number = name.partition("#")[0], 2
        while name in unique:
            name, number = f"{stem}#{number}", number + 1
        unique.append(name)
    return tuple(unique)


def covering_paths(
    names: Sequence[str], height: int, width: int, *, class_token: int | None = None
) -> list[ScanPath]:
    """Return paths over one grid, each of which visits every cell exactly once.

    Args:
        class_token: as for `scan_path`.

    Raises:
        ValueError: for a path that does not, and as `scan_path`.
    """
    paths = [scan_path(name, height, width) for name in names]
    for path in paths:
        if not path.covers:
            padding = int((path.order == PADDING).sum())
            visited = int((path.inverse >= 0).sum())
            raise ValueError(
                f"scan path {path.name!r} does not cover the {height} x {width} grid: it visits "
                f"{visited} of {height * width} cells and {padding} padding tokens; choose another "
                "path, or an input size whose grids it fits"
            )
    if class_token is None:
        return paths
    return [scan_path(name, height, width, class_token) for name in names]


def gallery(
    height: int, width: int, pattern: str = "*"
) -> tuple[dict[Family, list[ScanPath]], dict[str, str]]:
    """Return all paths over one grid by family, and why the others cannot be there.

    Args:
        pattern: of path names (`*` and `?` as in a shell), or the name of a set or of any path.

    Returns:
        family -> its paths; name -> reason, for the paths that this grid does not allow.

    Raises:
        ValueError: when nothing matches, with the nearest names.
    """
    names = [name for name in ORDERS if fnmatchcase(name, pattern)]
    if pattern in SETS or not names:
        names = [name.partition("#")[0] for name in scan_set(pattern)]
    known = {name: family for family in FAMILIES for name in family.paths}
    found: dict[Family, list[ScanPath]] = {}
    refused: dict[str, str] = {}
    for name in dict.fromkeys(names):
        # Windows, frames and the way back have names without end; they stand with their kind.
        family = known.get(name) or next(f for f in FAMILIES if _kind(f.paths[0]) == _kind(name))
        try:
            found.setdefault(family, []).append(scan_path(name, height, width))
        except ValueError as error:
            refused[name] = str(error)
    return {family: paths for family, paths in found.items() if paths}, refused


def _kind(name: str) -> tuple[str, bool]:
    return name.split("-")[0], name.endswith("-as-used")


def _nearest(name: str, *known: Iterable[str]) -> str:
    near = get_close_matches(name, dict.fromkeys(chain(*known)), n=3, cutoff=0.5)
    return f"near are {', '.join(near)}" if near else "`vssm paths` lists them all"
