"""Pictures of attributions: the pixels a prediction rests on, and how faithful the maps are."""

from collections.abc import Iterator, Sequence
from functools import partial

import matplotlib
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from workbench.figures.files import STYLE, Sheet
from workbench.figures.label import label
from workbench.figures.numbers import csv_table, report
from workbench.figures.several import each
from workbench.results import Attribution
from workbench.results.class_names import class_name

_MOST = 6

__all__ = ["caption", "draw", "report", "sheets", "tables"]


def sheets(results: Sequence[Attribution]) -> Iterator[Sheet]:
    """A figure for each model."""
    for result in results:
        method = result.meta["config"]["method"]
        stem = f"attribution-{method}-{result.meta['model']}"
        yield Sheet(stem, partial(draw, result), caption(result), [result])


def tables(results: Sequence[Attribution]) -> dict[str, str]:
    """Every number as CSV."""
    return {"attribution.csv": csv_table(results)}


@each
def draw(result: Attribution) -> Figure:
    """The first images with their maps above each other, and the curves of deletion and insertion.

    Signed maps are drawn from blue (against the class) over white to red (for it), others from
    black to bright; each on its own scale, up to the 99.5th percentile of its sizes.
    """
    count = min(_MOST, len(result.maps))
    curves = [
        (name, values)
        for name, values in (("deletion", result.deletion), ("insertion", result.insertion))
        if values is not None
    ]
    with matplotlib.style.context(STYLE):
        figure = plt.figure(
            figsize=(1.3 * count + 2.2 * len(curves) + 0.3, 3.2), layout="constrained"
        )
        wide = [1.3] * count + [2.2] * len(curves)
        grid = figure.add_gridspec(2, len(wide), width_ratios=wide)
        for i in range(count):
            above, below = figure.add_subplot(grid[0, i]), figure.add_subplot(grid[1, i])
            above.imshow(result.pictures[i])
            values = result.maps[i]
            top = float(np.quantile(np.abs(values), 0.995)) or 1.0
            signed = bool((values < 0).any())
            below.imshow(
                values,
                cmap="RdBu_r" if signed else "magma",
                vmin=-top if signed else 0,
                vmax=top,
            )
            for ax in (above, below):
                ax.set_xticks([])
                ax.set_yticks([])
            known = result.meta["facts"].get("class_names", ())
            probability = 100 * result.meta["probabilities"][i]
            above.set_title(f"{class_name(known, result.meta['targets'][i])}, {probability:.0f} %")
            if i == 0:
                above.set_ylabel("image")
                below.set_ylabel(result.meta["config"]["method"].replace("-", " "))
        for j, (name, values) in enumerate(curves):
            ax = figure.add_subplot(grid[:, count + j])
            names = [result.meta["config"]["method"], *result.meta["references"]]
            for k, of in enumerate(names):
                area = result.meta["numbers"][f"{name}/{of}"]["value"]
                style = {"lw": 1.8} if k == 0 else {"lw": 0.9, "ls": "--"}
                mean = values[:, k].mean(axis=0)
                ax.plot(result.meta["fractions"], mean, label=f"{of} ({area:.2f})", **style)
            ax.set_title(name)
            gone = "taken away" if name == "deletion" else "brought in"
            ax.set_xlabel(f"share of pixels {gone}")
            ax.set_ylabel("probability of the class" if j == 0 else "")
            ax.set_ylim(0, 1)
            ax.legend(title="map (area)", frameon=True, framealpha=0.8, edgecolor="none")
        figure.suptitle(label(result))
    plt.close(figure)
    return figure


def caption(result: Attribution) -> str:
    """What the figure shows, in sentences."""
    meta, config = result.meta, result.meta["config"]
    lines = [
        f"Attribution of {label(result)} by {config['method']}: {meta['shows']}. Target: "
        f"{config['target']} class.",
        "Each map on its own scale, up to the 99.5th percentile of its absolute values; red speaks "
        "for the class and blue against it where the method has a sign.",
    ]
    if result.deletion is not None:
        lines.append(
            f"Deletion and insertion (RISE, arXiv 1806.07421), mean over {len(result.deletion)} "
            f"images, pixels replaced by {config['baseline']}, against maps that know nothing of "
            "the model; the area under a curve stands in brackets. Deletion should be low, "
            "insertion high."
        )
    alike = [(k, n["value"]) for k, n in meta["numbers"].items() if k.startswith("randomised")]
    if alike:
        told = ", ".join(f"{k.split()[1]} {value:.2f}" for k, value in alike)
        lines.append(
            "Rank correlation with the maps of the network whose last weights are shuffled "
            f"(Adebayo et al., arXiv 1810.03292), by their share: {told}. A map that stays alike "
            "does not depend on what was learnt."
        )
    return "\n".join([*lines, *meta["quirks"]]) + "\n"
