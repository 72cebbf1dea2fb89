"""Pictures of maps against objects: scores of maps and controls, and examples with their boxes."""

from collections.abc import Iterator, Sequence
from functools import partial
from textwrap import fill
from typing import Any

import matplotlib
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from workbench.figures.cells import words
from workbench.figures.files import STYLE, Sheet
from workbench.figures.label import label
from workbench.figures.numbers import csv_table
from workbench.figures.several import each
from workbench.results import Objects

_SCORES = {"average precision": "average precision (%)", "pointing": "pointing game (%)"}
_EXAMPLES = 3


def sheets(results: Sequence[Objects]) -> Iterator[Sheet]:
    """A figure for each model."""
    for result in results:
        name = f"objects-{result.meta['model']}"
        yield Sheet(name, partial(draw, result), caption(result), [result])


def tables(results: Sequence[Objects]) -> dict[str, str]:
    """Every number as CSV."""
    return {"objects.csv": csv_table(results)}


def report(result: Objects) -> str:
    """A line for every map and control."""
    meta, numbers = result.meta, result.meta["numbers"]
    lines = [
        f"{label(result)}, {meta['scored']} images with boxes, which hold "
        f"{words(numbers['object'], '.3g', ' %')} of the pixels",
        f"  {'':22} {'average precision':>24} {'pointing game':>22} {'over centre':>22}",
    ]
    for name in meta["maps"]:
        cells = [words(numbers[f"{score}/{name}"], ".3g", " %") for score in _SCORES]
        over = numbers.get(f"average precision - centre/{name}")
        told = "" if over is None else words(over, "+.3g")
        lines.append(f"  {name:22} {cells[0]:>24} {cells[1]:>22} {told:>22}".rstrip())
    return "\n".join(lines)


@each
def draw(result: Objects) -> Figure:
    """Bars of every map and control, and below the first images with their boxes and maps."""
    names, numbers = result.meta["maps"], result.meta["numbers"]
    controls = result.meta["controls"]
    shown = [name for name in names if name not in controls]
    examples = result.examples[:_EXAMPLES]
    columns = len(shown) + 1
    high = 0.24 * len(names) + 0.8
    with matplotlib.style.context(STYLE):
        figure = plt.figure(
            figsize=(max(1.15 * columns + 0.3, 6.5), high + 1.2 * len(examples) + 0.6),
            layout="constrained",
        )
        parts: Any = figure.subfigures(2, 1, height_ratios=[high, 1.2 * len(examples) + 0.2])
        above = parts[0].subplots(1, 2, sharey=True)
        places = np.arange(len(names))[::-1]
        colours = ["0.6" if name in controls else "C0" for name in names]
        for ax, (score, title) in zip(above, _SCORES.items(), strict=True):
            found = [numbers[f"{score}/{name}"] for name in names]
            values = np.array([n["value"] for n in found], float)
            ax.barh(places, values, color=colours, height=0.7)
            for y, number, value in zip(places, found, values, strict=True):
                if number["low"] is not None:
                    ax.plot([number["low"], number["high"]], [y, y], color="k", lw=1)
                ax.text(1, y, f"{value:.0f}", va="center", color="w", fontsize=6)
            ax.axvline(numbers["object"]["value"], color="k", lw=0.6, ls=":")
            ax.set(xlabel=title, xlim=(0, 100), yticks=places, yticklabels=names)
        grid = parts[1].subplots(len(examples), columns, squeeze=False)
        for axes, image in zip(grid, examples, strict=True):
            axes[0].imshow(result.pictures[image])
            for ax, name in zip(axes[1:], shown, strict=True):
                values = result.maps[image, names.index(name)]
                low, top = float(values.min()), float(np.quantile(values, 0.995))
                ax.imshow(values, cmap="magma", vmin=low, vmax=top if top > low else low + 1)
            for ax in axes:
                ax.contour(result.masks[image], levels=[0.5], colors="#3cf03c", linewidths=0.8)
                ax.set(xticks=[], yticks=[])
                ax.spines[:].set_visible(False)
        for ax, name in zip(grid[0], ["image", *shown], strict=True):
            ax.set_title(name.replace("-", " "), fontsize=6)
        figure.suptitle(fill(f"Maps against objects, {label(result)}", 60))
    plt.close(figure)
    return figure


def caption(result: Objects) -> str:
    """What the figure shows, in sentences."""
    meta, numbers = result.meta, result.meta["numbers"]
    lines = [
        f"Maps of {label(result)} against boxes around objects, {meta['scored']} images. Average "
        "precision of the pixels in the box ranked by the map, and how often the largest value "
        "lies in it (pointing game); grey: maps that look at no model. Boxes hold "
        f"{numbers['object']['value']:.3g} % of the pixels (dotted line).",
        "Below: the first images, their boxes (green) and the maps, from the least value to the "
        "99.5th percentile.",
    ]
    if meta["unscored"]:
        lines.append(
            f"{meta['unscored']} images are not counted, as they have no box, or none that the "
            "model sees with pixels around it."
        )
    if meta["missing"]:
        lines.append(f"The model has no map {', '.join(meta['missing'])}.")
    return "\n".join(lines) + "\n"
