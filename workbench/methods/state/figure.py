"""Pictures of hidden states: their maps in a few layers, and half-lives and sizes through depth."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import matplotlib
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from workbench.figures.colours import COLOURS
from workbench.figures.files import STYLE, Sheet
from workbench.figures.label import label
from workbench.figures.numbers import csv_table, with_intervals
from workbench.figures.several import each
from workbench.figures.sites import (
    by_depth,
    evenly,
    frame,
    layers,
    mark,
    number,
    picture,
    shown,
    wrapped,
)
from workbench.results import State

TITLES = {
    "norm": "norm of h",
    "half_life": "half-life (steps)",
    "influence": "% of the last state's\nGramian (power 1/4)",
    "kept": "left of the marked\ntoken (power 1/4)",
}
_SCALED = ("influence", "kept")
_LAYERS = 3


def sheets(results: Sequence[State]) -> Iterator[Sheet]:
    """A figure for each model."""
    for result in results:
        name = f"state-{result.meta['model']}"
        yield Sheet(name, partial(draw, result), caption(result), [result])


def tables(results: Sequence[State]) -> dict[str, str]:
    """Every number of every direction as CSV."""
    return {"state.csv": csv_table(results)}


def report(result: State) -> str:
    """A line for every direction."""
    lines = [
        f"{label(result)}, {result.meta['images_used']} images",
        f"  {'':42} {'half-life':>15} {'along':>9} {'norm':>8} {'size':>12} {'joint':>6} held",
    ]
    for site in result.meta["sites"]:
        if site["states"]:
            value = {key: number(result, key, site) for key in _COLUMNS}
            lines.append(
                f"  {site['name']:42} {value['half_life']:>9.3g} steps {value['along']:>6.3g} px "
                f"{value['norm']:>8.3g} {value['size']:>5.2f} of {site['states']:>3} "
                f"{value['size_joint']:>6.3g} {value['held']:.3g} tokens"
            )
    return "\n".join(lines)


_COLUMNS = ("half_life", "along", "norm", "size", "size_joint", "held")


@each
def draw(result: State) -> Figure:
    """The maps of the first image in the first, middle and last layer, all directions together,
    and half-lives, sizes and held tokens of each direction through depth.
    """
    by_layer = layers(result)
    rows = [sites[-1] for sites in evenly(list(by_layer.values()), _LAYERS)]
    quantities = result.meta["quantities"]
    with matplotlib.style.context(STYLE):
        figure = plt.figure(figsize=(8.2, 1.65 * len(rows) + 2.6), layout="constrained")
        parts: Any = figure.subfigures(2, 1, height_ratios=[1.65 * len(rows) + 0.3, 2.2])
        grid = parts[0].subplots(len(rows), 1 + len(quantities), squeeze=False)
        for i, (site, line) in enumerate(zip(rows, grid, strict=True)):
            picture(line[0], result, site)
            if i:
                line[0].set_title("")
            frame(line[0])
            line[0].set_ylabel(wrapped(site["layer"]))
            for ax, quantity in zip(line[1:], quantities, strict=True):
                values = result.map(site["name"], quantity, 0)
                top = float(np.nan_to_num(values).max())
                scaled = quantity in _SCALED
                drawn = ax.imshow(
                    shown(values, top) if scaled else values,
                    cmap="magma" if scaled else "viridis",
                    vmin=0, vmax=1 if scaled else top or 1,
                )  # fmt: skip
                bar = parts[0].colorbar(drawn, ax=ax, fraction=0.046, pad=0.02, shrink=0.8)
                bar.outline.set_linewidth(0.4)
                if scaled:
                    bar.set_ticks([0, 1], labels=["0", f"{top:.2g}"])
                if quantity == "kept":
                    mark(ax, site)
                frame(ax)
                if not i:
                    ax.set_title(TITLES[quantity])
        _depth(parts[1], result, list(by_layer.values()))
        figure.suptitle(f"Hidden states, {label(result)}")
    plt.close(figure)
    return figure


def _depth(figure: Any, result: State, by_layer: list[list[dict]]) -> None:
    """Half-lives, sizes and held tokens of every direction through depth."""
    sites = [(site["number"], site) for layer in by_layer for site in layer if site["states"]]
    most = max(site["states"] for _, site in sites)
    panels = {
        "size": f"states of {most} in use, per channel",
        "size_joint": "dimensions in use, together",
        "held": "tokens in the last state",
    }
    if most == 1:
        del panels["size"]
    lives, *axes = figure.subplots(1, 1 + len(panels), width_ratios=[1.6, *[1] * len(panels)])
    names = list(dict.fromkeys(site["direction"] for _, site in sites))
    starts = np.cumsum([0, *(site["dim"] for _, site in sites)])
    own = {
        site["name"]: result.half_lives[start : start + site["dim"]]
        for (_, site), start in zip(sites, starts[:-1], strict=True)
    }
    for k, name in enumerate(names):
        depth, found = zip(*[(i, s) for i, s in sites if s["direction"] == name], strict=True)
        colour = COLOURS[k % len(COLOURS)]
        x = np.array(depth) + (k - (len(names) - 1) / 2) * 0.8 / len(names)
        boxes = lives.boxplot(
            [own[site["name"]] for site in found], positions=x, widths=0.6 / len(names),
            whis=(0, 100), showcaps=False, patch_artist=True, manage_ticks=False,
            boxprops={"lw": 0.4, "edgecolor": colour, "facecolor": colour, "alpha": 0.45},
            whiskerprops={"lw": 0.5, "color": colour}, medianprops={"lw": 1, "color": colour},
        )  # fmt: skip
        boxes["boxes"][0].set_label(name)
        for ax, key in zip(axes, panels, strict=True):
            by_depth(ax, result, key, found, color=colour)
    lengths = [(layer[0]["number"], layer[0]["tokens"]) for layer in by_layer]
    for ax in (lives, axes[-1]):
        ax.step(*zip(*lengths, strict=True), "k:", where="mid", lw=0.8)
        ax.set_yscale("log")
    lives.plot([], [], "k:", lw=0.8, label="length of the path")
    lives.legend(fontsize=6, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    for ax, words in zip(
        (lives, *axes), ("half-life of channels (steps)", *panels.values()), strict=True
    ):
        ax.set_ylabel(words, fontsize=7)
        ax.set_xlabel("layer")
        ax.set_xticks(sorted({place for place, _ in lengths})[:: -(-len(by_layer) // 8)])


def caption(result: State) -> str:
    """What the figure shows, in sentences."""
    meta, config = result.meta, result.meta["config"]
    several = any(site["direction"] == "all" for site in meta["sites"])
    together = (
        " Directions together: the norm is that of all their states, the rest is their mean."
        if several
        else ""
    )
    lines = [
        f"Hidden states of {label(result)}. Above, maps of the first image in image order: "
        + "; ".join(map(": ".join, zip(meta["quantities"], meta["meaning"], strict=True)))
        + f"; marked: {config['query']}.{together}",
        f"Below, of every direction: half-lives of its channels, ln 2 / (delta |A|) at the mean "
        f"step size, median over states and {meta['images_used']} images (box: quartiles, "
        "whiskers: all channels, dotted: steps there are); participation ratio (sum lambda)^2 / "
        "sum lambda^2 of the covariance over tokens of the states of one channel, mean over "
        "channels, and of those of all channels together; participation ratio of the tokens' parts "
        "of the Gramian. Lines: mean over images, "
        f"{with_intervals(result)}.",
    ]
    return "\n".join(lines) + "\n"
