"""Pictures and tables of chosen numbers of several models: see `workbench.summary`."""

from collections.abc import Iterator, Mapping, Sequence
from textwrap import fill
from typing import Any, Protocol

import matplotlib
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from workbench.figures.cells import csv_text, latex_tabular
from workbench.figures.colours import COLOURS, MARKERS
from workbench.figures.files import STYLE, Sheet

_ABREAST = 4
"""Panels side by side."""
_ROW = 0.17  # inches
_LETTERS = 23
"""In a line of a panel's title."""


class Number(Protocol):
    @property
    def value(self) -> float | None: ...
    @property
    def low(self) -> float | None: ...
    @property
    def high(self) -> float | None: ...


class Column(Protocol):
    """One panel: `workbench.summary.Column` is one."""

    @property
    def title(self) -> str: ...
    @property
    def trainings(self) -> Mapping[str, Mapping[str, Any]]: ...
    @property
    def others(self) -> Mapping[str, Any]: ...
    @property
    def least(self) -> float | None: ...


class Summary(Protocol):
    """What is drawn: `workbench.summary.Summary` is one."""

    @property
    def rows(self) -> Sequence[str]: ...
    @property
    def columns(self) -> Sequence[Any]: ...
    @property
    def confidence(self) -> float: ...


def sheet(summary: Summary) -> Sheet:
    """All panels in one figure."""
    return Sheet("summary", lambda: draw(summary), caption(summary))


def tables(summary: Summary) -> dict[str, str]:
    """Every training's number as CSV, means over trainings as LaTeX."""
    return {"summary.csv": csv_table(summary), "summary.tex": latex_table(summary)}


def seeds(summary: Summary) -> list[str]:
    """All seeds, those without one as an empty text."""
    found = {seed for c in summary.columns for of in c.trainings.values() for seed in of}
    return sorted(found, key=lambda seed: (len(seed), seed))


def draw(summary: Summary) -> Figure:
    """A panel for each number, a row for each model, a mark for each training.

    Thin bars are intervals over images, the broad pale ones over trainings; `caption` says more.
    """
    columns, rows = summary.columns, summary.rows
    deep, abreast = -(-len(columns) // _ABREAST), min(len(columns), _ABREAST)
    several = len(seeds(summary)) > 1
    size = (1.1 + 1.55 * abreast, deep * (0.85 + _ROW * len(rows)) + 0.3 * several)
    with matplotlib.style.context(STYLE):
        figure, axes = plt.subplots(
            deep, abreast, figsize=size, squeeze=False, sharey=True, layout="constrained"
        )
        for ax, column in zip(axes.flat, columns, strict=False):
            _panel(ax, column, summary)
        for ax in axes.flat[len(columns) :]:
            ax.set_axis_off()
        if several:
            figure.legend(
                handles=_handles(summary), loc="outside upper center", ncols=2 + len(seeds(summary))
            )
    plt.close(figure)
    return figure


def _handles(summary: Summary) -> list[Any]:
    marks = [
        Line2D([], [], ls="", ms=4, label=f"seed {seed}" if seed else "without a seed", **_look(i))
        for i, seed in enumerate(seeds(summary))
    ]
    level = f"{100 * summary.confidence:g} %"
    images = Line2D([], [], color=COLOURS[0], lw=0.8, label=f"{level} over images")
    trainings = Line2D([], [], color="0.85", lw=6, label=f"{level} over trainings")
    return [*marks, images, trainings]


def _look(i: int) -> dict[str, Any]:
    return {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}


def _panel(ax: Axes, column: Column, summary: Summary) -> None:
    all_seeds = seeds(summary)
    shift = 0.36 / max(len(all_seeds), 1)
    for y, row in enumerate(summary.rows):
        mean = column.others.get(row)
        if mean is not None and mean.low is not None:
            ax.plot([mean.low, mean.high], [y, y], color="0.85", lw=6, solid_capstyle="butt")
        own = column.trainings.get(row, {})
        for i, seed in enumerate(all_seeds):
            number = own.get(seed)
            if number is None or number.value is None:
                continue
            place = y + shift * (i - (len(all_seeds) - 1) / 2) * (len(own) > 1)
            if number.low is not None:
                bar = [number.low, number.high]
                ax.plot(bar, [place, place], color=COLOURS[i % len(COLOURS)], lw=0.8, zorder=3)
            ax.plot(number.value, place, ls="", ms=3, zorder=4, **_look(i))
    ax.set_yticks(range(len(summary.rows)), summary.rows)
    ax.set_ylim(len(summary.rows) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="y", color="0.93", lw=0.5)
    ax.set_axisbelow(True)
    ax.spines.left.set_visible(False)
    ax.xaxis.set_major_locator(MaxNLocator(4))
    low, high = ax.get_xlim()
    if low < 0 < high:
        ax.axvline(0, color="0.6", lw=0.6, ls=":", zorder=0)
    ax.set_title(fill(column.title, _LETTERS), loc="left")
    if column.least is not None:
        ax.set_xlabel(f"undecided below {column.least:.2g}", fontsize=6, color="0.4")


def caption(summary: Summary) -> str:
    """What the figure shows, in sentences."""
    level = f"{100 * summary.confidence:g} %"
    first = summary.columns[0].title
    lines = [
        f"A row for each of {len(summary.rows)} networks, in the order of their {first}; a mark is "
        f"one training, its thin bar the {level} interval over images of that trained network."
    ]
    repeated = [
        row
        for row in summary.rows
        if any(len(c.trainings.get(row, {})) > 1 for c in summary.columns)
    ]
    if any(column.least is not None for column in summary.columns):
        lines.append(
            f"Pale bars: {level} interval of the mean over trainings, from the spread between "
            f"seeds, which is taken to be that of the networks trained more than once "
            f"({', '.join(repeated)}) for all."
        )
        lines.append(
            "Two single trainings that differ by less than what is written below a panel are "
            f"undecided: seeds alone differ by more in {100 - 100 * summary.confidence:g} % of all "
            "pairs. That is for one pair named beforehand; the extremes of many differ by more."
        )
    else:
        lines.append(
            "No network was trained twice, so nothing is known of how much seeds change these "
            "numbers."
        )
    return "\n".join(lines) + "\n"


def csv_table(summary: Summary) -> str:
    """One line for each row, seed and panel; the mean over trainings has the seed `all`."""
    return csv_text(["network", "seed", "number"], _entries(summary))


def _entries(summary: Summary) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    for column in summary.columns:
        for row in summary.rows:
            numbers = {**column.trainings.get(row, {})}
            if row in column.others:
                numbers["all"] = column.others[row]
            for seed, n in numbers.items():
                entry = {"value": n.value, "low": n.low, "high": n.high, "unit": ""}
                yield row, seed, column.title, entry


def latex_table(summary: Summary) -> str:
    """A row for each network, a column for each number: the mean over trainings."""
    count = {row: len(summary.columns[0].trainings.get(row, {})) for row in summary.rows}
    rows = [
        [row, str(count[row]), *(_cell(column.others.get(row)) for column in summary.columns)]
        for row in summary.rows
    ]
    least = ["--" if c.least is None else f"{c.least:.2g}" for c in summary.columns]
    rows.append(["undecided below", "", *least])
    heads = ["", "trainings", *(column.title for column in summary.columns)]
    return latex_tabular(heads, rows, "means over trainings; two single trainings are compared")


def _cell(number: Number | None) -> str:
    value = None if number is None else number.value
    return "--" if value is None or np.isnan(value) else f"{value:.4g}"
