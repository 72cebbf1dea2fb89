"""Pictures and tables of quantisation: what predictions keep by bits, and the tails of tensors."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import matplotlib
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from workbench.figures.cells import csv_text, interval, latex_cell, latex_tabular
from workbench.figures.colours import COLOURS, MARKERS
from workbench.figures.files import STYLE, Sheet
from workbench.figures.label import label
from workbench.figures.numbers import first_cells
from workbench.figures.several import each
from workbench.methods.quantize.config import TENSORS, TOGETHER
from workbench.results import Quantization

_GRANULARITIES = {"tensor": 0, "channel": 1, "token": 2}
_LINES = {"dynamic": "-", "static": "--"}
_AXES = {
    "accuracy": "top-1 (%)",
    "agreement": "same prediction (%)",
    "margin change": "margin change (logits)",
    "KL": "KL from unquantised (nats)",
}


def sheets(results: Sequence[Quantization]) -> Iterator[Sheet]:
    """A figure for each model."""
    for result in results:
        name = f"quantize-{result.meta['model']}"
        yield Sheet(name, partial(draw, result), caption(result), [result])


def tables(results: Sequence[Quantization]) -> dict[str, str]:
    """Every number as CSV; the divergence by bits as LaTeX, models side by side."""
    rows = [
        (*first_cells(result), *of, name, number)
        for result in results
        for of, numbers in _entries(result)
        for name, number in numbers.items()
    ]
    parts = ["tensor", "granularity", "range", "bits"]
    head = ["model", "weights", "images", *parts, "number"]
    return {"quantize.csv": csv_text(head, rows), "quantize.tex": latex_table(results)}


def latex_table(results: Sequence[Quantization]) -> str:
    """A row for each condition, a column for each model."""
    columns = [
        {row["name"]: row["numbers"]["KL"] for row in result.meta["conditions"]}
        for result in results
    ]
    names = dict.fromkeys(name for column in columns for name in column)
    return latex_tabular(
        ["", *(label(result) for result in results)],
        ([name, *(latex_cell(column.get(name, {})) for column in columns)] for name in names),
        f"KL from the unquantised prediction in nats; {results[0].meta['images']['source']}",
    )


def report(result: Quantization) -> str:
    """A line for each condition, and the tails of the tensors."""
    meta, kept = result.meta, _kept(result)
    lines = [f"{label(result)}, {meta['images_used']} images"]
    head = f"{_AXES[kept]:20} {_AXES['margin change']:24} {_AXES['KL']}"
    lines.append(f"  {'quantised':28} {head}")
    for row in meta["conditions"]:
        of = row["numbers"]
        cells = (_cell(of[kept], ".1f"), _cell(of["margin change"]), _cell(of["KL"]))
        lines.append("  {:28} {:20} {:24} {}".format(row["name"], *cells))
    for name, number in meta["numbers"].items():
        lines.append(f"  {name:28} {_cell(number)} {number['unit']}")
    return "\n".join(map(str.rstrip, [*lines, *(f"  {note}" for note in meta["notes"])]))


def caption(result: Quantization) -> str:
    """What the figure shows, in sentences."""
    meta, config = result.meta, result.meta["config"]
    height, width = meta["preprocessing"]["size"]
    count = len(meta["calibration"])
    lines = [
        f"{label(result)} on {meta['images_used']} images ({meta['images']['source']}), {height} x "
        f"{width} px. Scan tensors rounded to 2^bits - 1 evenly spaced values, symmetric about 0, "
        "in all scans; weights and everything else as they are, the state h too.",
        f"Bars: {100 * config['confidence']:.0f} % intervals over images, where there are enough "
        "images for one; dotted: without quantisation.",
        f"Dashed: ranges of {count} calibration images, which are among the images shown."
        if count
        else "Ranges of each image itself.",
        "Kurtosis (3 for a normal distribution): mean over images, by scan site in the order of "
        "the network.",
    ]
    return "\n".join([*lines, *meta["notes"]]) + "\n"


@each
def draw(result: Quantization) -> Figure:
    """Top: what is kept by bits, of all tensors at once, a line for each way to choose the range.
    Bottom: tensor by tensor, with the first of these ways, and the kurtosis of each.
    """
    rows = result.meta["conditions"]
    first = rows[0]
    with matplotlib.style.context(STYLE):
        figure, axes = plt.subplots(2, 3, figsize=(7.2, 4.4), layout="constrained")
        for ax, number in zip(axes[0], (_kept(result), "margin change", "KL"), strict=True):
            for (granularity, kind), line in _series(rows, "granularity", "range").items():
                line = [row for row in line if row["tensor"] == first["tensor"]]
                style = {"color": COLOURS[_GRANULARITIES[granularity]], "ls": _LINES[kind]}
                _curve(ax, line, number, style)
            _dress(ax, result, number)
        way = [r for r in rows if all(r[k] == first[k] for k in ("granularity", "range"))]
        for (tensor,), line in _series(way, "tensor").items():
            _curve(axes[1, 0], line, "KL", _tensor_style(tensor))
        _dress(axes[1, 0], result, "KL")
        words = "all scan tensors" if first["tensor"] == TOGETHER else first["tensor"]
        axes[0, 0].set_title(f"Quantised: {words}")
        axes[1, 0].set_title(f"Per {first['granularity']}, {first['range']}")
        _kurtosis(axes[1, 1], result)
        _legend(axes[1, 2], rows)
        figure.suptitle(label(result))
    plt.close(figure)
    return figure


def _kept(result: Quantization) -> str:
    return "accuracy" if "accuracy" in result.meta["numbers"] else "agreement"


def _series(rows: Sequence[dict[str, Any]], *by: str) -> dict[tuple, list[dict[str, Any]]]:
    """Conditions that differ in bits and what else is not named, by rising bits."""
    found: dict[tuple, list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: row["bits"]):
        found.setdefault(tuple(row[key] for key in by), []).append(row)
    return found


def _curve(ax: Axes, rows: Sequence[dict[str, Any]], number: str, style: dict[str, Any]) -> None:
    value, low, high = (
        np.array([row["numbers"][number][key] for row in rows], dtype=np.float64)
        for key in ("value", "low", "high")
    )
    size = np.maximum(0, [value - low, high - value])  # else -1e-15 where they meet
    bits = [row["bits"] for row in rows]
    ax.errorbar(
        bits, value, size, **{"marker": "o", "ms": 2.5, "lw": 1, "elinewidth": 0.5, **style}
    )


def _dress(ax: Axes, result: Quantization, number: str) -> None:
    bits = sorted({row["bits"] for row in result.meta["conditions"]}, reverse=True)
    ax.set_xticks(bits, map(str, bits))
    ax.invert_xaxis()
    ax.set_xlabel("bits")
    ax.set_ylabel(_AXES[number])
    if number == "KL":
        ax.set_yscale("log", nonpositive="mask")
        return
    plain = {"accuracy": result.meta["numbers"].get("accuracy", {}).get("value"), "agreement": 100}
    ax.axhline(plain.get(number, 0), color="0.3", lw=0.7, ls=":", zorder=0)


def _kurtosis(ax: Axes, result: Quantization) -> None:
    k = result.meta["tails"].index("kurtosis")
    for t, tensor in enumerate(result.meta["tensors"]):
        values = result.tails[..., t, k].mean(axis=0)
        ax.plot(values, ls="", ms=2.5, **_tensor_style(tensor))
    ax.axhline(3, color="0.3", lw=0.7, ls=":", zorder=0)
    ax.set_yscale("log")
    ax.set_xlabel("scan site")
    ax.set_ylabel("kurtosis")
    ax.set_title("Tails")


def _tensor_style(tensor: str) -> dict[str, Any]:
    k = 6 if tensor == TOGETHER else TENSORS.index(tensor)
    return {"color": COLOURS[k], "marker": MARKERS[k]}


def _legend(ax: Axes, rows: Sequence[dict[str, Any]]) -> None:
    """What the styles mean, of the upper row and of the lower one."""
    ax.axis("off")
    ways = [
        Line2D([], [], color=COLOURS[_GRANULARITIES[granularity]], ls=_LINES[kind], marker="o",
               ms=2.5, lw=1, label=f"per {granularity}, {kind}")
        for granularity, kind in _series(rows, "granularity", "range")
    ]  # fmt: skip
    tensors = [
        Line2D([], [], lw=1, ms=2.5, label=tensor, **_tensor_style(tensor))
        for (tensor,) in _series(rows, "tensor")
    ]
    for title, handles, x in (("top", ways, -0.1), ("bottom", tensors, 0.6)):
        options: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (x, 1), "fontsize": 6}
        drawn = ax.legend(handles=handles, title=title, title_fontsize=6, **options)
        ax.add_artist(drawn)  # else the next one takes its place


def _entries(result: Quantization) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """(tensor, granularity, range, bits) and numbers; empty words for what is of no condition."""
    yield ("", "", "", ""), result.meta["numbers"]
    for row in result.meta["conditions"]:
        of = (row["tensor"], row["granularity"], row["range"], str(row["bits"]))
        yield of, row["numbers"]


def _cell(number: dict[str, Any], digits: str = ".3g") -> str:
    value = "-" if number["value"] is None else f"{number['value']:{digits}}"
    return f"{value} {interval(number, digits)}".rstrip()
