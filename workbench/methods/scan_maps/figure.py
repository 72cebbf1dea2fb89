"""Pictures of scan maps: what each direction carries to a place, and the coefficients behind it."""

from collections.abc import Iterator, Sequence
from functools import partial

import matplotlib
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from workbench.figures.cells import csv_text
from workbench.figures.files import STYLE, Sheet
from workbench.figures.label import label
from workbench.figures.numbers import first_cells, with_intervals
from workbench.figures.several import each
from workbench.figures.sites import POWER, evenly, frame, layers, mark, picture, shown, wrapped
from workbench.results import ScanMaps

COLOURS, SIGNED = "magma", "RdBu_r"
MEANING = {
    "row": "what reaches the query",
    "column": "where the query goes",
    "diagonal": "what every cell keeps of itself",
    "delta": "step size",
    "B": "size of B",
    "C": "size of C",
    "horizon": "memory horizon, in steps",
    "output": "size of the output",
}
_TICKS = (0.001, 0.01, 0.1, 1.0)
_MOST_LAYERS = 6


def sheets(results: Sequence[ScanMaps]) -> Iterator[Sheet]:
    """For each model the maps of its directions, and those of the scans' coefficients."""
    for result in results:
        model = result.meta["model"]
        yield Sheet(f"scan-maps-{model}", partial(draw, result), caption(result), [result])
        if has_scans(result):
            statistics = partial(draw_statistics, result)
            yield Sheet(f"scan-statistics-{model}", statistics, caption(result), [result])


def tables(results: Sequence[ScanMaps]) -> dict[str, str]:
    """Every number of every direction as CSV."""
    rows = [
        (*first_cells(result), site, name, number)
        for result in results
        for site, numbers in result.meta["numbers"].items()
        for name, number in numbers.items()
    ]
    head = ["model", "weights", "images", "site", "number"]
    return {"scan-maps.csv": csv_text(head, rows)}


def report(result: ScanMaps) -> str:
    """A line for every direction."""
    lines = [
        f"{label(result)}, {result.meta['images_used']} images",
        f"  {'':42} {'half-life':>15} {'distance':>9} {'delta':>9} {'|B|':>7} {'|C|':>7} share",
    ]
    for site, numbers in result.meta["numbers"].items():
        value = {k: np.nan if v["value"] is None else v["value"] for k, v in numbers.items()}
        lines.append(
            f"  {site:42} {value['horizon']:>9.3g} steps {value['horizon_along']:>6.3g} px "
            f"{value['delta']:>9.3g} {value['B']:>7.3g} {value['C']:>7.3g} {value['share']:4.1f} %"
        )
    return "\n".join(lines)


def has_scans(result: ScanMaps) -> bool:
    """Whether a layer of the result is a scan; the others are attention."""
    return any(site["kind"] == "scan" for site in result.meta["sites"])


def largest(result: ScanMaps, sites: Sequence[dict], quantity: str) -> float:
    """Largest absolute value of a quantity over some sites: the top of their common scale."""
    found = [np.abs(result.map(site["name"], quantity)) for site in sites]
    return max((float(np.nanmax(x)) for x in found if np.isfinite(x).any()), default=0.0)


def is_signed(result: ScanMaps) -> bool:
    """Whether influences may be negative (a signed mean, or one channel)."""
    config = result.meta["config"]
    return config["channel"] is not None or config["aggregate"] == "mean"


def site_title(site: dict) -> str:
    names = {"all": "sum of directions", "nall": "mean of directions"}
    return names.get(site["direction"], str(site["direction"]))


def site_note(result: ScanMaps, site: dict) -> str:
    """Horizon and share of a direction, for below its panel; empty where there is none."""
    numbers = result.meta["numbers"].get(site["name"])
    if not numbers or numbers["horizon"]["value"] is None:
        return ""
    along = numbers["horizon_along"]["value"]
    pixels = "" if along is None else f"\n= {along:.3g} px along the path"
    return (
        f"half-life {numbers['horizon']['value']:.3g} steps{pixels}\n"
        f"{numbers['share']['value']:.3g} % of the output"
    )


def _colour_bar(figure: Figure, image, axes, label: str, scaled: bool, signed: bool) -> None:
    bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.015, aspect=22)
    bar.set_label(label)
    bar.outline.set_linewidth(0.4)
    if not scaled:
        return
    ticks = [t**POWER for t in _TICKS]
    names = [f"{t:g}" for t in _TICKS]
    if signed:
        ticks = [-t for t in reversed(ticks)] + ticks
        names = [f"-{name}" for name in reversed(names)] + names
        ticks, names = ticks[::2], names[::2]
    bar.set_ticks(ticks, labels=names)


@each
def draw(
    result: ScanMaps, quantities: Sequence[str] = ("row", "column"), title: bool = True
) -> Figure:
    """One line for each layer and quantity: the image, every direction, and their sum.

    All panels of a line share one scale: influences sign(x) |x / largest| ** 0.25, the others
    linear from 0. The cross marks the query.
    At most six layers are drawn, evenly taken.

    Raises:
        ValueError: for a quantity that the result has not.
    """
    for quantity in quantities:
        if quantity not in result.meta["quantities"]:
            raise ValueError(
                f"there is no map of {quantity!r}; there are {', '.join(result.meta['quantities'])}"
            )
    by_layer = evenly(list(layers(result).items()), _MOST_LAYERS)
    lines = [
        (layer, quantity, [site for site in sites if _has(result, site, quantity)])
        for layer, sites in by_layer
        for quantity in quantities
    ]
    lines = [line for line in lines if line[2]]
    width = 1 + max(len(sites) for _, _, sites in lines)
    signed = is_signed(result)
    with matplotlib.style.context(STYLE):
        figure, axes = plt.subplots(
            len(lines),
            width,
            figsize=(1.5 * width + 1.0, 1.95 * len(lines) + 0.2),
            squeeze=False,
            layout="constrained",
        )
        last = ""
        for i, ((layer, quantity, sites), line) in enumerate(zip(lines, axes, strict=True)):
            influence = quantity in ("row", "column", "diagonal")
            both = signed and influence
            top = largest(result, sites, quantity)
            if layer != last:
                picture(line[0], result, sites[0])
            frame(line[0])
            line[0].set_ylabel(f"{wrapped(layer)}\n{MEANING[quantity]}")
            for ax in line[1:]:
                ax.set_axis_off()
            image = None
            for site, ax in zip(sites, line[1:], strict=False):
                ax.set_axis_on()
                values = result.map(site["name"], quantity)
                if influence:
                    limits = {"vmin": -1 if both else 0, "vmax": 1}
                    colours = SIGNED if both else COLOURS
                    image = ax.imshow(shown(values, top), cmap=colours, **limits)
                    mark(ax, site)
                else:
                    image = ax.imshow(values, cmap="viridis", vmin=0, vmax=top)
                frame(ax)
                ax.set_title(site_title(site))
                if i + 1 == len(lines) or lines[i + 1][0] != layer:
                    ax.set_xlabel(site_note(result, site))
            last = layer
            unit = f"value / {top:.3g}" if influence else MEANING[quantity]
            _colour_bar(figure, image, line.tolist(), unit, influence, both)
        if title:
            figure.suptitle(label(result))
    plt.close(figure)
    return figure


def _has(result: ScanMaps, site: dict, quantity: str) -> bool:
    return bool(np.isfinite(result.map(site["name"], quantity)).any())


@each
def draw_statistics(result: ScanMaps) -> Figure:
    """Step size, |B|, |C|, memory horizon and output of every direction, as maps.

    Raises:
        ValueError: when no layer of the result is a scan.
    """
    if not has_scans(result):
        raise ValueError("the layers of this result are attention: they have no scan coefficients")
    return draw(result, ("delta", "B", "C", "horizon", "output"))


def caption(result: ScanMaps) -> str:
    """What the figure shows, in sentences."""
    meta, config = result.meta, result.meta["config"]
    over = {
        "abs": "mean of absolute values over channels",
        "mean": "signed mean over channels",
        "norm": "Euclidean norm over channels",
    }[config["aggregate"]]
    if config["channel"] is not None:
        over = f"channel {config['channel']}"
    parts = [
        part
        for part, on in (
            ("the skip connection D", config["with_D"]),
            ("the gate", config["with_gate"]),
            ("the convolution before the scan", config["with_convolution"]),
        )
        if on
    ]
    lines = [
        f"Scan maps of {label(result)}, view "
        f"{config['view']}: {meta['view']}; {over}"
        + (f", with {' and '.join(parts)}." if parts else "."),
        "row: influence of every cell on the query; column: influence of the query on every cell; "
        "all maps in image order. A direction's row reaches only cells that it visits before the "
        "query, its column only later ones.",
        f"Mean over {meta['images_used']} images. Panels of a line share one scale, "
        "|x / largest| ** 0.25 with the sign of x; the largest value stands at its colour bar.",
        "half-life: ln 2 / (delta |A|), median over channels, states and steps, in steps and as "
        "distance in pixels along the path; share: norm of the direction's output over the sum of "
        f"the norms; mean over images, {with_intervals(result)}.",
        *meta["quirks"],
    ]
    return "\n".join(lines) + "\n"
