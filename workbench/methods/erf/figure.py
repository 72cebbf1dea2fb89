"""Pictures of effective receptive fields."""

from collections.abc import Iterator, Sequence

import matplotlib
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from workbench.figures.cells import words
from workbench.figures.files import STYLE, Sheet
from workbench.figures.label import label
from workbench.figures.numbers import csv_table, latex_table
from workbench.figures.numbers import report as numbers_report
from workbench.figures.several import together
from workbench.methods.erf.display import display, power_of
from workbench.results import Erf

COLOURS = "magma"
_TICKS = (1.0, 0.1, 0.01, 0.001)
_MAIN = ("A50", "r50", "crossness")

__all__ = ["caption", "draw", "draw_splits", "report", "sheets", "shown", "tables"]


def sheets(results: Sequence[Erf]) -> Iterator[Sheet]:
    """All fields in one figure, trained networks below the others, and their routes in another."""
    ordered = sorted(results, key=lambda r: r.meta["facts"].get("training") == "after training")
    yield Sheet("erf", lambda: draw(ordered), caption(ordered))
    split = [result for result in ordered if result.splits is not None]
    if split:
        yield Sheet("erf-splits", lambda: draw_splits(split), caption(split))


def tables(results: Sequence[Erf]) -> dict[str, str]:
    """Every number as CSV, the main ones as LaTeX."""
    return {"erf.csv": csv_table(results), "erf.tex": latex_table(results, _MAIN)}


def report(result: Erf) -> str:
    """A line for each number that is defined, the main ones first."""
    return numbers_report(result, _MAIN)


def shown(result: Erf) -> np.ndarray:
    """The map as its protocol shows it: (h, w) in [0, 1], 1 at the maximum."""
    return shown_together([result])[0]


def shown_together(results: Sequence[Erf]) -> np.ndarray:
    """Maps on one scale: (n, h, w) in [0, 1], 1 at the largest value of all of them.

    Raises:
        ValueError: for maps of different shapes or protocols.
    """
    transform, sizes = _transform(results), {result.map.shape for result in results}
    if len(sizes) > 1:
        said = ", ".join(sorted(f"{height} x {width}" for height, width in sizes))
        raise ValueError(f"fields of {said} px do not share a grid; measure all with one --size")
    # A logarithm of x + 1 depends on the gradient's magnitude, so it takes the map as measured.
    measured = "log10" in transform
    maps = [np.abs(r.maps.astype(np.float64).mean(axis=0)) if measured else r.map for r in results]
    return display(np.stack(maps), transform)


def _transform(results: Sequence[Erf]) -> str:
    """How the maps of all of them are shown."""
    first, *others = {result.meta["display"]: None for result in results}
    if others:
        raise ValueError(
            f"results of different protocols ({', '.join([first, *others])}) do not share a scale"
        )
    return first


def with_interval(result: Erf, name: str) -> str:
    """A number with its unit and interval, such as `12.3 % [11.0, 13.9]`."""
    entry = result.numbers[name]
    unit = {"% of image": " %", "% of map": " %", "px": " px"}.get(entry["unit"], "")
    return words(entry, ".3g", unit) or "not defined"


def _colour_bar(figure: Figure, image, axes, transform: str) -> None:
    bar = figure.colorbar(image, ax=axes, fraction=0.03, pad=0.02, aspect=30)
    power = power_of(transform)
    if power is not None:
        bar.set_ticks([v**power for v in _TICKS], labels=[f"{v:g}" for v in _TICKS])
    shown_as = "log10(gradient + 1)" if transform == "log10(x + 1)" else "gradient"
    bar.set_label(f"{shown_as} / its maximum")
    bar.outline.set_linewidth(0.4)


def _panel(ax, p: np.ndarray, centre: tuple[float, float] | None = None):
    image = ax.imshow(p, cmap=COLOURS, vmin=0, vmax=1)
    if centre is not None:
        ax.plot(centre[1], centre[0], "+", color="white", ms=5, mew=0.7)
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)
    return image


@together
def draw(results: Sequence[Erf], columns: int | None = None) -> Figure:
    """The maps side by side: one column for each model, one row for each state of training.

    Every panel is divided by its own maximum; the white cross is the output unit's projective
    centre. Under a panel: area of the smallest pixel set that holds half of the map, and of the
    smallest centred square that does, with intervals.

    Raises:
        ValueError: without results or when they are shown by different protocols.
    """
    if not results:
        raise ValueError("there is no result to draw")
    transform = _transform(results)
    rows = _rows(results)
    width = max(len(row) for row in rows)
    with matplotlib.style.context(STYLE):
        figure, axes = plt.subplots(
            len(rows),
            width,
            figsize=(1.75 * width + 0.9, 2.5 * len(rows)),
            squeeze=False,
            layout="constrained",
        )
        image = None
        for row, line in zip(rows, axes, strict=True):
            for ax in line[len(row) :]:
                ax.set_axis_off()
            for result, ax in zip(row, line, strict=False):
                image = _panel(ax, shown(result), tuple(result.meta["centre"]))
                ax.set_title(label(result, "\n"))
                alive = "shortcut only\n" if result.meta.get("closed_branches") else ""
                ax.set_xlabel(
                    f"{alive}A50 {with_interval(result, 'A50')}\nr50 {with_interval(result, 'r50')}"
                )
        _colour_bar(figure, image, axes, transform)
    plt.close(figure)
    return figure


def _rows(results: Sequence[Erf]) -> list[list[Erf]]:
    """Results grouped by state of training; models in the order given."""
    groups: dict[str, list[Erf]] = {}
    for result in results:
        groups.setdefault(result.meta.get("facts", {}).get("training", ""), []).append(result)
    if len(groups) > 1:
        return list(groups.values())
    only = next(iter(groups.values()))
    return [only[i : i + 5] for i in range(0, len(only), 5)]


@together
def draw_splits(results: Sequence[Erf]) -> Figure:
    """The whole field and its routes (directions or the scan's inputs), one row for each result.

    Every route is drawn on the scale of its row's whole field, and its share of the whole
    gradient is written below; shares of routes kept open in all layers need not sum to 100 %.

    Raises:
        ValueError: when no result was measured with a split.
    """
    split = [result for result in results if result.splits is not None]
    if not split:
        raise ValueError(
            "no result was measured with a split; measure with split=direction or route"
        )
    width = 1 + max(len(result.meta["splits"]) for result in split)
    with matplotlib.style.context(STYLE):
        figure, axes = plt.subplots(
            len(split),
            width,
            figsize=(1.35 * width + 0.9, 1.8 * len(split)),
            squeeze=False,
            layout="constrained",
        )
        image = None
        for result, line in zip(split, axes, strict=True):
            # splits are shares of the summed gradient; so is the whole map in the raw average
            whole = result.maps.astype(np.float64).mean(axis=0)
            whole = whole / whole.sum()
            top = whole.max()
            image = _panel(line[0], (whole / top) ** 0.25, tuple(result.meta["centre"]))
            line[0].set_title("whole")
            line[0].set_ylabel(label(result, "\n"))
            for ax in line[1:]:
                ax.set_axis_off()
            for name, route, ax in zip(
                result.meta["splits"], result.splits, line[1:], strict=False
            ):
                ax.set_axis_on()
                _panel(ax, np.clip(route / top, 0, 1) ** 0.25, tuple(result.meta["centre"]))
                ax.set_title(name)
                ax.set_xlabel(f"{100 * route.sum():.3g} %")
        _colour_bar(figure, image, axes, "x ** 0.25")
    plt.close(figure)
    return figure


def _intervals(meta: dict) -> str:
    """What brackets say, or how many images they need; nothing is known of older results."""
    level, fewest = f"{100 * meta['config']['confidence']:.0f} %", meta.get("intervals_from")
    if fewest is None:
        signed = meta["protocol"]["measure"] == "signed"
        return "signed maps have no intervals" if signed else f"brackets are {level} intervals"
    if meta["images_used"] < fewest:
        return f"numbers are of these images alone, an interval needs {fewest} images"
    return (
        f"numbers and {level} intervals (jackknife) are estimates for the population that the "
        "images were drawn from, of this one trained network"
    )


def caption(results: Sequence[Erf]) -> str:
    """What the figure shows, in sentences: protocol, unit, images, normalisation, intervals."""
    first = results[0].meta
    config, settled = first["config"], first["protocol"]
    score = "channels" if settled["score"] == "sum" else "positive parts of the channels"
    size = {
        "abs": "absolute gradient",
        "square": "squared gradient",
        "relu": "positive part of the gradient",
        "sum-relu": "gradient, its negative part dropped after the sum over colours,",
        "signed": "gradient, averaged with its sign and then made positive",
    }[settled["measure"]]
    where = f"stage {config['stage']}" if config["stage"] else "the last stage"
    if config["layer"]:
        where = f"layer {config['layer']}"
    lines = [
        f"Effective receptive fields: {size} of the sum of the {score} of one output unit of "
        f"{where} with respect to the input, summed over colours and averaged over "
        f"{first['images_used']} images"
        + (", every image's map weighing the same." if settled["average"] == "normalised" else "."),
        f"Maps are shown as {first['display']} of the value over the map's maximum; the cross "
        "marks the unit's projective centre.",
        f"A50 is the share of the image in the smallest set of pixels that holds half of the map, "
        f"r50 that of the smallest centred square; {_intervals(first)}.",
    ]
    if config["preset"]:
        lines.insert(
            0, f"Protocol {config['preset']} (as published: {'; '.join(first['quirks'])})."
        )
    for result in results:
        meta = result.meta
        height, width = result.map.shape
        rows, columns = meta["cells"]
        lines.append(
            f"{label(result)}: {height} x {width} px, unit "
            f"{tuple(meta['cell'])} of {rows} x {columns}, images: {meta['images']['source']}."
        )
        if meta.get("closed_branches"):
            lines.append(
                f"{label(result)}: {meta['closed_branches']} branches are closed by a scale of "
                "zero (zero-init), so the field is that of the shortcuts around them."
            )
    return "\n".join(lines) + "\n"
