"""Pictures of scan paths."""

from collections.abc import Mapping, Sequence
from textwrap import fill, wrap
from typing import Any, Protocol

import matplotlib
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from workbench.figures.files import STYLE, Sheet

COLOURS = ListedColormap(matplotlib.colormaps["viridis"](np.linspace(0, 0.88, 256)), "steps")
LARGEST = 64
"""Cells on the longer side of a grid that can still be read."""

_PADDING = -2  # as in `workbench.paths`
# Inches.
_WIDTH, _MARGIN = 10.4, 0.25
_PANEL, _GAP = 1.05, 0.28
_LINE, _LETTER = 0.11, 0.052  # of small print


class Path(Protocol):
    """What is drawn: `workbench.paths.ScanPath` is one; order (length,), negative for no cell."""

    @property
    def name(self) -> str: ...
    @property
    def height(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def order(self) -> np.ndarray: ...


def draw_path(ax: Axes, path: Path, cell: float = 10.0) -> None:
    """Draw one path into `ax`: dots for cells, a line from cell to cell coloured by step.

    Steps to one of the four neighbours are strong, jumps are thin and pale. The disc is the first
    cell, the square the last; cells that the path leaves out stay grey.

    Args:
        cell: points from one cell to the next, for the widths of lines.

    Raises:
        ValueError: for a grid with a side above `LARGEST` cells.
    """
    if max(path.height, path.width) > LARGEST:
        raise ValueError(
            f"a path over {path.height} x {path.width} cells cannot be read in a picture; draw a "
            f"grid of at most {LARGEST} x {LARGEST}"
        )
    step = np.flatnonzero(path.order >= 0)
    when = step / max(len(path.order) - 1, 1)
    row, column = np.divmod(path.order[step], path.width)
    everywhere = np.divmod(np.arange(path.height * path.width), path.width)
    ax.scatter(everywhere[1], everywhere[0], s=(0.16 * cell) ** 2, color="0.82", linewidths=0)
    places = np.stack([column, row], axis=1)
    lines = np.stack([places[:-1], places[1:]], axis=1)
    jump = np.abs(np.diff(places, axis=0)).sum(axis=1) != 1
    for chosen, width, alpha in ((jump, 0.05, 0.5), (~jump, 0.17, 1.0)):
        ax.add_collection(
            LineCollection(
                lines[chosen],
                array=when[1:][chosen],
                cmap=COLOURS,
                norm=plt.Normalize(0, 1),
                linewidths=width * cell,
                alpha=alpha,
                capstyle="round",
            )
        )
    ax.scatter(column, row, c=when, cmap=COLOURS, vmin=0, vmax=1, s=(0.22 * cell) ** 2, zorder=3)
    for end, marker in ((0, "o"), (-1, "s")):
        ax.plot(
            column[end],
            row[end],
            marker,
            color=COLOURS(when[end]),
            ms=0.55 * cell,
            mec="black",
            mew=0.06 * cell,
            zorder=4,
        )
    ax.set_xlim(-0.75, path.width - 0.25)
    ax.set_ylim(path.height - 0.25, -0.75)
    ax.set_aspect("equal")
    ax.set_axis_off()


def sheet(families: Mapping[Any, Sequence[Path]], refused: Mapping[str, str]) -> Sheet:
    """All paths in one figure; families have a title and a source, as of `paths.gallery`."""
    headed = {f"{family.title}\n{family.source}": paths for family, paths in families.items()}
    return Sheet("paths", lambda: draw(headed, refused), caption(headed, refused))


def draw(
    families: Mapping[str, Sequence[Path]], refused: Mapping[str, str] | None = None
) -> Figure:
    """A sheet of paths over one grid, each family below its heading.

    Args:
        families: heading -> paths; all over grids of one size. The first line of a heading is bold.
        refused: name -> why this grid does not allow it; listed at the bottom.

    Raises:
        ValueError: without paths, with grids of several sizes, or for too large a grid.
    """
    grids = {(path.height, path.width) for paths in families.values() for path in paths}
    if len(grids) != 1:
        raise ValueError(
            "there is no path to draw" if not grids else "the paths do not share one grid"
        )
    height, width = grids.pop()
    cell = _PANEL / max(height, width)
    panel = np.array([cell * width, cell * height])
    columns = int((_WIDTH + _GAP) // (max(panel[0], 0.7 * _PANEL) + _GAP))
    pitch = (_WIDTH + _GAP) / columns

    # Inches from the top: texts (x, y, text, looks) and panels (x, y, path).
    texts, panels = [], []
    y = 0.75
    for line in _lines(families, columns):
        headings = [_wrapped(heading, len(paths) * pitch) for heading, paths, _ in line]
        y += _LINE * max(len(title) + len(source) for title, source in headings) + 0.03
        for (title, source), (_, _, column) in zip(headings, line, strict=True):
            looks = {"size": 6, "va": "bottom", "linespacing": 1.15}
            texts.append((column * pitch, y, "\n".join(source), looks))
            above = y - _LINE * len(source)
            texts.append((column * pitch, above, "\n".join(title), {**looks, "weight": "bold"}))
        deepest = y
        for _, paths, column in line:
            for i, path in enumerate(paths):
                x = (column + i % columns) * pitch
                top = y + (i // columns) * (panel[1] + 0.35) + 0.32
                texts.append(
                    (x, top, _name(path, pitch), {"size": 6, "va": "bottom", "color": "0.25"})
                )
                panels.append((x, top + 0.03, path))
                deepest = max(deepest, top + panel[1])
        y = deepest + 0.28
    if refused:
        notes = _refusals(refused, int(_WIDTH / _LETTER))
        texts.append((0, y, notes, {"size": 6, "linespacing": 1.3}))
        y += 1.4 * _LINE * (notes.count("\n") + 1)

    size = np.array([_WIDTH + 2 * _MARGIN, y + _MARGIN])
    with matplotlib.style.context(STYLE):
        figure = plt.figure(figsize=tuple(size))
        title = f"Scan paths over a grid of {height} x {width} cells"
        for x, top, text, looks in [(0, _MARGIN, title, {"size": 11}), *texts]:
            place = (x + _MARGIN) / size[0], 1 - top / size[1]
            figure.text(*place, text, **{"va": "top", **looks})
        for x, top, path in panels:
            place = np.array([x + _MARGIN, size[1] - top - panel[1], *panel])
            draw_path(figure.add_axes(tuple(place / np.tile(size, 2))), path, cell=72 * cell)
        _legend(figure, size, _MARGIN)
    plt.close(figure)
    return figure


def _lines(
    families: Mapping[str, Sequence[Path]], columns: int
) -> list[list[tuple[str, Sequence[Path], int]]]:
    """(heading, paths, first column), families side by side as far as they fit."""
    lines, free = [], 0
    for heading, paths in families.items():
        if len(paths) > free:
            lines.append([])
            free = columns
        lines[-1].append((heading, paths, columns - free))
        free -= len(paths)
    return lines


def _wrapped(heading: str, width: float) -> tuple[list[str], list[str]]:
    """The lines of a heading's title and of its source, in a column of `width` inches."""
    title, _, source = heading.partition("\n")
    letters = int((min(width, _WIDTH) - 0.1) / _LETTER)
    return wrap(title, int(0.9 * letters)), wrap(source, letters)


def _name(path: Path, width: float) -> str:
    lines = wrap(path.name, int((width - 0.05) / _LETTER))
    padding = int((path.order == _PADDING).sum())
    return "\n".join([*lines, f"+ {padding} padding"] if padding else lines)


def _legend(figure: Figure, size: np.ndarray, y: float) -> None:
    bar_width = 1.5
    left, bottom = size[0] - _MARGIN - bar_width, size[1] - y - 0.12
    place = np.array([left, bottom, bar_width, 0.07]) / np.tile(size, 2)
    steps = ScalarMappable(plt.Normalize(0, 1), COLOURS)
    bar = figure.colorbar(steps, cax=figure.add_axes(tuple(place)), orientation="horizontal")
    bar.set_ticks([0, 1], labels=["first step", "last step"])
    bar.ax.tick_params(length=0, labelsize=6)
    bar.outline.set_linewidth(0.4)
    looks = {"color": "0.75", "mec": "black", "mew": 0.6, "ls": "none", "ms": 5}
    figure.legend(
        handles=[
            Line2D([], [], marker="o", label="first cell", **looks),
            Line2D([], [], marker="s", label="last cell", **looks),
            Line2D([], [], color=COLOURS(0.4), lw=1.8, label="to a neighbour"),
            Line2D([], [], color=COLOURS(0.4), lw=0.6, alpha=0.5, label="jump"),
        ],
        loc="center right",
        bbox_to_anchor=((left - 0.3) / size[0], (bottom + 0.03) / size[1]),
        ncols=4,
        fontsize=6,
        borderaxespad=0,
        handlelength=1.5,
    )


def _refusals(refused: Mapping[str, str], letters: int = 10**6) -> str:
    """One paragraph for each reason."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in refused.items():
        by_reason.setdefault(reason.removeprefix(f"scan path {name!r} "), []).append(name)
    return "\n".join(
        fill(f"Not on this grid: {', '.join(names)} ({reason}).", letters)
        for reason, names in by_reason.items()
    )


def caption(
    families: Mapping[str, Sequence[Path]], refused: Mapping[str, str] | None = None
) -> str:
    """What the sheet shows, in sentences, with the paths by source."""
    first = next(path for paths in families.values() for path in paths)
    lines = [
        f"Scan paths over a grid of {first.height} x {first.width} cells. The line leads from cell "
        "to cell in the order of the sequence, coloured from the first step to the last; the disc "
        "is the first cell, the square the last. Jumps to a cell that is not one of the four "
        "neighbours are thin; cells that a path leaves out are grey.",
    ]
    for heading, paths in families.items():
        title, _, source = heading.partition("\n")
        names = ", ".join(path.name for path in paths)
        lines.append(f"{title} ({source}): {names}." if source else f"{title}: {names}.")
    if refused:
        lines.append(_refusals(refused))
    return "\n".join(lines) + "\n"
