"""Pictures of what tokens add to outputs: maps of layers and photographs, and shares by depth."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from workbench.figures.colours import COLOURS
from workbench.figures.files import STYLE, Sheet
from workbench.figures.label import label
from workbench.figures.numbers import csv_table, with_intervals
from workbench.figures.several import each
from workbench.figures.sites import POWER, by_depth, evenly, frame, mark, number, shown, wrapped
from workbench.results import Decomposition

MEANING = {
    "along": "part along the output",
    "norm": "length of the part over that of the output",
}
SHARES = {
    "own": "the query's own token",
    "others": "other cells",
    "outside": "class token, padding",
    "biases": "biases",
}
_LAYERS, _IMAGES = 6, 3
_TICKS = (0.01, 0.1, 1.0)


def sheets(
    results: Sequence[Decomposition], quantities: tuple[Literal["along", "norm"], ...] = ("along",)
) -> Iterator[Sheet]:
    """A figure for each model and quantity.

    Args:
        quantities: what is drawn of every token, its part along the output or its length (norm).
    """
    for result in results:
        for quantity in quantities:
            name = f"decompose-{quantity}-{result.meta['model']}"
            yield Sheet(name, partial(draw, result, quantity), caption(result, quantity), [result])


def tables(results: Sequence[Decomposition]) -> dict[str, str]:
    """Every number of every layer as CSV."""
    return {"decompose.csv": csv_table(results)}


def report(result: Decomposition) -> str:
    """A line for every layer."""
    columns = (*SHARES, "lengths", "distance", "error")
    lines = [
        f"{label(result)}, {result.meta['images_used']} images",
        f"  {'':38} {'own':>7} {'others':>7} {'outside':>7} {'biases':>7} {'lengths':>8} "
        f"{'distance':>9} error",
    ]
    for site in result.meta["sites"]:
        *shares, lengths, distance, error = (number(result, key, site) for key in columns)
        lines.append(
            f"  {site['name']:38} "
            + " ".join("      -" if np.isnan(value) else f"{value:>5.1f} %" for value in shares)
            + f" {lengths:>8.3g} {distance:>6.3g} px {error:.1e}"
        )
    return "\n".join(lines)


@each
def draw(result: Decomposition, quantity: str = "along") -> Figure:
    """A line for each of the first images, a column for each of at most six layers, and shares of
    the output through depth. All panels of a column share one scale.

    Raises:
        ValueError: for a quantity that the result has not.
    """
    if quantity not in MEANING:
        raise ValueError(f"there is no map of {quantity!r}; there are {', '.join(MEANING)}")
    sites = evenly(result.meta["sites"], _LAYERS)
    images = range(min(_IMAGES, len(result.pictures)))
    signed = quantity == "along"
    with matplotlib.style.context(STYLE):
        width = 1.2 * (len(sites) + 1) + 0.8
        figure = plt.figure(figsize=(max(width, 5), 1.3 * len(images) + 3.2), layout="constrained")
        parts: Any = figure.subfigures(2, 1, height_ratios=[1.3 * len(images) + 0.7, 2.2])
        grid = parts[0].subplots(len(images), len(sites) + 1, squeeze=False)
        drawn = None
        for i, line in zip(images, grid, strict=True):
            line[0].imshow(result.pictures[i])
            frame(line[0])
            for ax, site in zip(line[1:], sites, strict=True):
                maps = [result.map(site["name"], quantity, k) for k in images]
                top = float(np.nan_to_num(np.abs(maps)).max())
                drawn = ax.imshow(
                    shown(maps[i], top),
                    cmap="RdBu_r" if signed else "magma",
                    vmin=-1 if signed else 0,
                    vmax=1,
                )
                mark(ax, site)
                frame(ax)
                if not i:
                    kind = "" if site["direction"] == "block" else f"\n({site['direction']})"
                    ax.set_title(wrapped(site["layer"], 14) + kind, fontsize=6)
                if i == images[-1]:
                    ax.set_xlabel(f"largest {top:.2g}", fontsize=6)
        if drawn is not None:
            bar = parts[0].colorbar(drawn, ax=list(grid.ravel()), fraction=0.03, pad=0.01)
            bar.set_label(f"{MEANING[quantity]}\n/ largest (power 1/4)", fontsize=6)
            ticks = [-t for t in reversed(_TICKS)] + list(_TICKS) if signed else list(_TICKS)
            places = [float(np.sign(t) * abs(t) ** POWER) for t in ticks]
            bar.set_ticks(places, labels=[f"{t:g}" for t in ticks])
        _depth(parts[1], result)
        figure.suptitle(f"What tokens add to the output, {label(result)}")
    plt.close(figure)
    return figure


def _depth(figure: Any, result: Decomposition) -> None:
    """Shares of the output, and how much longer the parts are than their sum, through depth."""
    sites = result.meta["sites"]
    panels = {
        key: words
        for key, words in {
            "lengths": "sum of lengths / output",
            "distance": "mean distance (px)",
        }.items()
        if np.isfinite([number(result, key, site) for site in sites]).any()
    }
    axes = figure.subplots(1, 1 + len(panels), squeeze=False)[0]
    for (key, words), colour in zip(SHARES.items(), COLOURS, strict=False):
        if np.nan_to_num([number(result, key, site) for site in sites]).any():
            by_depth(axes[0], result, key, sites, color=colour, label=words)
    axes[0].axhline(0, color="k", lw=0.5)
    axes[0].set_ylabel("along the output (%)", fontsize=7)
    if axes[0].get_legend_handles_labels()[0]:
        axes[0].legend(fontsize=6, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    for ax, (key, words) in zip(axes[1:], panels.items(), strict=True):
        by_depth(ax, result, key, sites, color=COLOURS[0])
        ax.set_ylabel(words, fontsize=7)
        if key == "lengths":
            ax.axhline(1, color="k", lw=0.5, ls=":")
    for ax in axes:
        ax.set_xlabel("layer")
        ax.set_xticks([site["number"] for site in sites][:: -(-len(sites) // 8)])


def caption(result: Decomposition, quantity: str = "along") -> str:
    """What the figure shows, in sentences."""
    meta, config = result.meta, result.meta["config"]
    errors = [number(result, "error", site) for site in meta["sites"]]
    ways = "; ".join(f"{key}: through {words}" for key, words in sorted(meta["through"].items()))
    lines = [
        f"What every token adds to the output of the layers of {label(result)} at one of them "
        f"({config['query']}, the cross): {MEANING[quantity]}, the first images, in image order; "
        "each column on its own scale, |x / largest| ** 0.25 with the sign of x. Coefficients, "
        "gates, slopes of activations and variances of norms are held fixed, so the parts of all "
        "tokens and of the biases sum to the output, here within "
        f"{np.nan_to_num(errors).max():.1e} of its length. {ways}.",
        f"Below: shares along the output, 100 % in sum; lengths of all parts over that of the "
        "output, 1 where none cancel; distance of cells from the query, weighted by length. Mean "
        f"over {meta['images_used']} images, {with_intervals(result)}.",
    ]
    return "\n".join(lines) + "\n"
