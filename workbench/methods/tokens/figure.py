"""Pictures of token norms: their maps through depth, outliers, and quantiles against depth."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import matplotlib
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from workbench.figures.cells import words
from workbench.figures.files import STYLE, Sheet
from workbench.figures.label import label
from workbench.figures.numbers import csv_table, with_intervals
from workbench.figures.several import each
from workbench.results import Tokens

COLOURS = "magma"
_BLOCKS, _IMAGES = 6, 3


def sheets(results: Sequence[Tokens]) -> Iterator[Sheet]:
    """A figure for each model."""
    for result in results:
        name = f"tokens-{result.meta['model']}"
        yield Sheet(name, partial(draw, result), caption(result), [result])


def tables(results: Sequence[Tokens]) -> dict[str, str]:
    """Every number as CSV."""
    return {"tokens.csv": csv_table(results)}


def report(result: Tokens) -> str:
    """A line for every block, and the class evidence."""
    numbers = result.meta["numbers"]
    lines = [
        f"{label(result)}, {result.meta['images_used']} images",
        f"  {'':28} {'median':>8} {'largest':>8} {'outliers':>9} {'flat':>6}",
    ]

    def of(what: str, block: str, form: str) -> str:
        number = numbers.get(f"{what}/{block}")
        return "" if number is None else form.format(number["value"])

    for block in result.meta["blocks"]:
        name = block["name"]
        lines.append(
            f"  {name:28} {of('median', name, '{:.3g}'):>8} {of('largest', name, '{:.3g}'):>8} "
            f"{of('outliers', name, '{:.2f}%'):>9} {of('flat', name, '{:.0f}%'):>6}".rstrip()
        )
    lines += [
        f"  {name}: {words(number)} logit"
        for name, number in numbers.items()
        if name.startswith("evidence/")
    ]
    return "\n".join(lines)


@each
def draw(result: Tokens) -> Figure:
    """Norm maps of the first images through depth, how often cells are outliers, and norms,
    outliers and likeness of the maps against depth.
    """
    count = len(result.meta["blocks"])
    shown = sorted(set(np.linspace(0, count - 1, min(count, _BLOCKS)).round().astype(int).tolist()))
    images = range(min(_IMAGES, len(result.pictures)))
    top = max(
        2.0, float(max(np.quantile(_relative(result, i, b), 0.995) for i in images for b in shown))
    )
    columns = len(shown) + 1
    with matplotlib.style.context(STYLE):
        figure = plt.figure(
            figsize=(1.25 * columns + 0.8, 1.3 * (len(images) + 1) + 2.6), layout="constrained"
        )
        parts: Any = figure.subfigures(2, 1, height_ratios=[1.3 * (len(images) + 1), 2.3])
        maps, curves = parts
        grid = maps.subplots(len(images) + 1, columns, squeeze=False)
        drawn = frequent = None
        for i in images:
            _picture(grid[i, 0], result.pictures[i])
            for ax, block in zip(grid[i, 1:], shown, strict=True):
                drawn = _over(ax, result.pictures[i], _relative(result, i, block), 0, top)
                rows, places = np.nonzero(result.map(result.outliers[i], block))
                cells = result.meta["blocks"][block]["cells"]
                ax.scatter((places + 0.5) / cells[1], 1 - (rows + 0.5) / cells[0], s=5,
                           facecolors="none", edgecolors="#3cf03c", linewidths=0.6)  # fmt: skip
        for ax, block in zip(grid[0, 1:], shown, strict=True):
            ax.set_title(result.meta["blocks"][block]["name"], fontsize=6)
        grid[-1, 0].set_axis_off()
        grid[-1, 0].text(1, 0.5, "how often a cell\nis an outlier", ha="right", va="center",
                         transform=grid[-1, 0].transAxes)  # fmt: skip
        often = max(float(result.map(result.frequency, block).max()) for block in shown) or 1.0
        for ax, block in zip(grid[-1, 1:], shown, strict=True):
            frequent = _map(ax, 100 * result.map(result.frequency, block), 0, 100 * often)
        if drawn is not None and frequent is not None:
            maps.colorbar(drawn, ax=list(grid[:-1].ravel()), label="norm / median", shrink=0.7)
            maps.colorbar(frequent, ax=list(grid[-1]), label="% of images")
        _depth(curves, result)
        figure.suptitle(f"Token norms, {label(result)}")
    plt.close(figure)
    return figure


def _relative(result: Tokens, image: int, block: int) -> np.ndarray:
    norms = result.map(result.norms[image], block)
    return norms / (np.median(norms) or 1.0)


def _frame(ax: Axes) -> None:
    ax.set(xticks=[], yticks=[], xlim=(0, 1), ylim=(0, 1))
    for spine in ax.spines.values():
        spine.set_visible(False)


def _picture(ax: Axes, picture: np.ndarray, **looks) -> None:
    ax.imshow(picture, extent=(0, 1, 0, 1), aspect=picture.shape[0] / picture.shape[1], **looks)
    _frame(ax)


def _map(ax: Axes, values: np.ndarray, low: float, high: float, **looks) -> AxesImage:
    drawn = ax.imshow(
        values, cmap=COLOURS, vmin=low, vmax=high, extent=(0, 1, 0, 1), aspect="auto", **looks
    )
    _frame(ax)
    return drawn


def _over(ax: Axes, picture: np.ndarray, values: np.ndarray, low: float, high: float) -> AxesImage:
    drawn = _map(ax, values, low, high)
    _picture(ax, picture.mean(axis=2), cmap="gray", alpha=0.3)
    return drawn


def _depth(figure, result: Tokens) -> None:
    """Quantiles and shares against depth, and the correlation of every two maps."""
    numbers, blocks = result.meta["numbers"], result.meta["blocks"]
    norms, shares, alike = figure.subplots(1, 3, width_ratios=[1.5, 1.2, 1])
    depth, quantiles = np.arange(len(blocks)), result.quantiles
    middle = quantiles.shape[1] // 2
    for k in range(middle):
        norms.fill_between(
            depth, quantiles[:, k], quantiles[:, -1 - k], color="C0", alpha=0.18, lw=0
        )
    norms.plot(depth, quantiles[:, middle], "o-", ms=3, color="C0", label="median of tokens")
    for k, name in enumerate(result.meta["others"][:4]):
        norms.plot(depth, result.others[:, k], "s--", ms=3, color=f"C{k + 1}", label=name)
    norms.set(ylabel="L2 norm", xlabel="block", yscale="log" if quantiles.min() > 0 else "linear")
    norms.legend()
    for what, colour, name in (
        ("outliers", "C3", "outliers"),
        ("flat", "C7", "outliers in flat half"),
    ):
        found = [numbers.get(f"{what}/{block['name']}", {}) for block in blocks]
        value, low, high = (
            np.array([np.nan if n.get(k) is None else n[k] for n in found], float)
            for k in ("value", "low", "high")
        )
        ax = shares if what == "outliers" else shares.twinx()
        ax.plot(depth, value, "o-" if what == "outliers" else "x:", ms=3, color=colour)
        ax.fill_between(depth, low, high, color=colour, alpha=0.2, lw=0)
        ax.set_ylabel(f"{name} (%)", color=colour)
        ax.set_ylim(bottom=0, top=None if what == "outliers" else 100)
    shares.set_xlabel("block")
    drawn = alike.imshow(result.correlation, cmap="RdBu_r", vmin=-1, vmax=1)
    alike.set(title="correlation of maps", xlabel="block", ylabel="block")
    figure.colorbar(drawn, ax=alike, shrink=0.8)


def caption(result: Tokens) -> str:
    """What the figure shows, in sentences."""
    meta, config = result.meta, result.meta["config"]
    lines = [
        f"Token norms of {label(result)}, {meta['images_used']} images. L2 norm of every token "
        "behind each block, over the photograph, in medians of its map; circles: outliers, above "
        f"the median by more than {config['mad']:g} median absolute deviations. Below: in which "
        "part of the images a cell is one; quantiles of the norms "
        f"({', '.join(f'{q:g}' for q in meta['quantiles'])}), mean over images; share of outliers, "
        "and how many of them lie in the half of the cells with less contrast (50 % by chance); "
        "correlation of the maps of two blocks, the finer averaged over cells of the coarser. "
        f"Medians in the table are means over images, {with_intervals(result)}.",
    ]
    if difference := meta["numbers"].get("evidence/outliers - others"):
        lines.append(
            "Logit of the predicted class from outlying tokens of the last block alone, less that "
            f"from the others: {words(difference)}."
        )
    if meta["left_out"]:
        lines.append(
            f"Left out, as how their outputs lie over the image is not known: "
            f"{', '.join(meta['left_out'])}."
        )
    if result.evidence is None:
        lines.append("The head does not read the mean of tokens, so single tokens have no logits.")
    return "\n".join(lines) + "\n"
