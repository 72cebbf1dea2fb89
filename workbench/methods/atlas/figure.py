"""One page of where layers look: maps around the query, reach, likeness and an embedding."""

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
from workbench.figures.numbers import csv_table, with_intervals
from workbench.figures.several import each
from workbench.methods.scan_maps.figure import COLOURS, POWER, shown, site_title
from workbench.results import Atlas

_MARKERS = "os^Dv<>P*X"


def sheets(results: Sequence[Atlas]) -> Iterator[Sheet]:
    """A page for each model."""
    for result in results:
        name = f"atlas-{result.meta['model']}"
        yield Sheet(name, partial(draw, result), caption(result), [result])


def tables(results: Sequence[Atlas]) -> dict[str, str]:
    """Every number as CSV."""
    return {"atlas.csv": csv_table(results)}


def report(result: Atlas) -> str:
    """A line for every direction of every layer."""
    numbers = result.meta["numbers"]
    wide = max(len(site["name"]) for site in result.meta["sites"])
    lines = [
        f"{label(result)}, {result.meta['images_used']} images",
        f"  {'':{wide}} {'reach':>10} {'steps':>8} {'like the last':>14}",
    ]

    def of(name: str, form: str) -> str:
        return "" if name not in numbers else form.format(numbers[name]["value"])

    for row in layers(result).values():
        for k in row:
            name = result.meta["sites"][k]["name"]
            like = of(f"similarity/{result.meta['sites'][k]['layer']}", "{:.2f}")
            lines.append(
                f"  {name:{wide}} {of(f'reach/{name}', '{:.3g} px'):>10} "
                f"{of(f'steps/{name}', '{:.3g}'):>8} {like if k == row[-1] else '':>14}".rstrip()
            )
    return "\n".join(lines)


def layers(result: Atlas) -> dict[str, list[int]]:
    """The numbers of the sites of each layer, in order; the sum of its directions is the last."""
    found: dict[str, list[int]] = {}
    for k, site in enumerate(result.meta["sites"]):
        found.setdefault(site["layer"], []).append(k)
    return found


@each
def draw(result: Atlas) -> Figure:
    """Maps around the query, layers below each other, and reach, likeness and embedding beside."""
    rows = list(layers(result).values())
    columns = max(map(len, rows))
    side = min(0.85, 9.0 / len(rows))
    left = max(side * columns + 0.9, 2.4)
    height = max(side * len(rows) + 0.9, 5.6)
    with matplotlib.style.context(STYLE):
        figure = plt.figure(figsize=(left + 2.9, height), layout="constrained")
        parts: Any = figure.subfigures(1, 2, width_ratios=[left, 2.9])
        _maps(parts[0], result, rows, columns)
        reach, alike, places = parts[1].subplots(3, 1)
        _reach(reach, result, rows)
        parts[1].legend(*reach.get_legend_handles_labels(), loc="outside lower center", ncols=2)
        drawn = alike.imshow(result.similarity, cmap="viridis", vmin=0, vmax=1)
        alike.set(title="likeness of maps (CKA)", xlabel="layer", ylabel="layer")
        parts[1].colorbar(drawn, ax=alike, shrink=0.8)
        _places(parts[1], places, result, rows)
        figure.suptitle(fill(f"Atlas, {label(result)}", int(9 * (left + 2.9))))
    plt.close(figure)
    return figure


def _maps(part: Any, result: Atlas, rows: list[list[int]], columns: int) -> None:
    grid = part.subplots(len(rows), columns, squeeze=False)
    sites, drawn, headed = result.meta["sites"], None, []
    for line, (axes, row) in enumerate(zip(grid, rows, strict=True)):
        for ax in axes:
            ax.set_axis_off()
        names = [site_title(sites[k]) for k in row]
        for j, k in enumerate(row):
            ax = axes[j if j + 1 < len(row) or len(row) == 1 else columns - 1]
            values = result.map(k)
            high, wide = (n // 4 for n in values.shape)  # half of the image on every side
            near = values[high : len(values) - high, wide : values.shape[1] - wide]
            drawn = ax.imshow(
                shown(near, float(np.nanmax(near, initial=0))),
                cmap=COLOURS, vmin=0, vmax=1, aspect=np.divide(*sites[k]["stride"]),
            )  # fmt: skip
            if names != headed:
                ax.set_title(names[j].replace("sum of directions", "sum"), fontsize=5)
        headed = names
        axes[0].text(-0.08, 0.5, str(line), ha="right", va="center", transform=axes[0].transAxes)
    bar = part.colorbar(drawn, ax=grid, location="bottom", fraction=0.03, pad=0.01, aspect=40)
    bar.set_ticks([x**POWER for x in _TICKS], labels=[f"{x:g}" for x in _TICKS])
    bar.set_label("given to the query / largest")
    part.supylabel("layer")


_TICKS = (0, 0.01, 0.1, 1)


def _marks(result: Atlas) -> dict[str, str]:
    """The marker of each direction."""
    names = dict.fromkeys(map(site_title, result.meta["sites"]))
    return {name: _MARKERS[i % len(_MARKERS)] for i, name in enumerate(names)}


def _reach(ax: Any, result: Atlas, rows: list[list[int]]) -> None:
    numbers, sites = result.meta["numbers"], result.meta["sites"]
    series: dict[str, list[tuple[int, dict]]] = {}
    for line, row in enumerate(rows):
        for k in row:
            found = numbers.get(f"reach/{sites[k]['name']}")
            if found is not None:
                series.setdefault(site_title(sites[k]), []).append((line, found))
    marks = _marks(result)
    for i, (name, found) in enumerate(series.items()):
        depth = np.array([line for line, _ in found])
        value, low, high = (
            np.array([np.nan if n[key] is None else n[key] for _, n in found], float)
            for key in ("value", "low", "high")
        )
        wide = {"lw": 1.6, "color": "k"} if name == "sum of directions" else {"color": f"C{i}"}
        ax.plot(depth, value, marker=marks[name], ms=3, label=name, **wide)
        ax.fill_between(depth, low, high, color=wide["color"], alpha=0.2, lw=0)
    ax.plot([n for n, _ in enumerate(rows)], [sites[row[-1]]["even"] for row in rows], ":",
            color="0.5", label="even map")  # fmt: skip
    ax.set(title="mean distance from the query", xlabel="layer", ylabel="px", ylim=(0, None))


def _places(part: Any, ax: Any, result: Atlas, rows: list[list[int]]) -> None:
    sites, drawn, marks = result.meta["sites"], None, _marks(result)
    for line, row in enumerate(rows):
        for k in row:
            name = site_title(sites[k])
            if name == "sum of directions":
                continue
            x, y = result.places[k].T
            looks = {"s": 6, "lw": 0, "alpha": 0.8, "cmap": "viridis", "vmin": 0}
            looks |= {"vmax": max(len(rows) - 1, 1), "marker": marks[name]}
            drawn = ax.scatter(x, y, c=np.full(len(x), line), **looks)
    one, two = (100 * share for share in result.meta["variance"])
    ax.set(title="every map a point", xlabel=f"component 1 ({one:.0f} %)",
           ylabel=f"component 2 ({two:.0f} %)")  # fmt: skip
    part.colorbar(drawn, ax=ax, label="layer", shrink=0.8)


def caption(result: Atlas) -> str:
    """What the page shows, in sentences."""
    meta, numbers = result.meta, result.meta["numbers"]
    rows, sites = layers(result), meta["sites"]
    asked = len(sites[0]["queries"])
    told = with_intervals(result, meta["compared"])
    lines = [
        f"Atlas of {label(result)}, {meta['images_used']} images. Rows of the hidden attention "
        f"(mean of absolute values over channels) of {asked} query cells, moved so that the query "
        f"lies in the middle, up to half an image away, mean over queries and {meta['compared']} "
        "images; each on its own scale. Below layers their directions, and the sum of these taken "
        "channel by channel.",
        "Beside: distance from the query weighted by the map; the dotted line is that of an even "
        f"map. Likeness: linear CKA of the layers' maps of all queries and {meta['compared']} "
        f"images on {meta['grid'][0]} x {meta['grid'][1]} cells, {told}. "
        "Points: the square root of the mean map of each layer, direction and query around its "
        "query, in two principal components, with the same markers.",
    ]
    for row in dict.fromkeys((next(iter(rows)), next(reversed(rows)))):
        name = sites[rows[row][-1]]["name"]
        if f"reach/{name}" in numbers:
            lines.append(f"Reach of {row}: {words(numbers[f'reach/{name}'], '.3g', ' px')}.")
    return "\n".join(lines) + "\n"
