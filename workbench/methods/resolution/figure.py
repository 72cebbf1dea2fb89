"""Pictures and tables of resolution curves."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import (
    FixedLocator,
    FuncFormatter,
    LogLocator,
    NullFormatter,
    NullLocator,
)

from workbench.figures.cells import csv_cells, csv_text, latex_cell, latex_tabular, words
from workbench.figures.colours import COLOURS, MARKERS, styles
from workbench.figures.files import STYLE, Sheet
from workbench.figures.label import weights_beside
from workbench.figures.several import together
from workbench.results import Resolution

SOURCE = "Liu et al., VMamba, arXiv 2401.10166v3, table 9 (ImageNet-1k validation, zero-shot)"
SIZES = (224, 288, 384, 512, 640, 768)
PUBLISHED: dict[str, tuple[float, ...]] = {
    "VMamba-T[s1l8]": (82.60, 82.95, 82.41, 80.92, 78.60, 74.66),
    "VMamba-T[s2l5]": (82.49, 82.81, 82.51, 81.07, 79.30, 76.06),
    "Vanilla-VMamba-T": (82.17, 82.74, 82.40, 81.05, 78.79, 75.09),
    "Swin-T": (81.19, 81.46, 80.67, 78.97, 76.55, 73.06),
    "XCiT-S12/16": (81.87, 82.44, 81.84, 79.80, 76.84, 72.52),
    "HiViT-T": (81.92, 82.45, 81.51, 79.30, 76.09, 71.38),
    "DeiT-S": (80.69, 80.80, 78.87, 74.21, 68.04, 60.98),
    "ConvNeXt-T": (82.05, 82.23, 81.05, 78.03, 74.27, 69.50),
}
"""Top-1 accuracy in % at `SIZES`, models trained at 224 px; see `SOURCE`."""

Published = Literal[
    "VMamba-T[s1l8]",
    "VMamba-T[s2l5]",
    "Vanilla-VMamba-T",
    "Swin-T",
    "XCiT-S12/16",
    "HiViT-T",
    "DeiT-S",
    "ConvNeXt-T",
]

_LETTERS = 125
"""In a line of the legend."""
_PANELS = {  # number -> title and axis
    "top1": ("Accuracy", "top-1 (%)"),
    "drop": ("Change from trained size", "top-1, relative (%)"),
    "agreement": ("Agreement with trained size", "same prediction (%)"),
    "kl": ("Divergence from trained size", "KL (nats)"),
    "cka": ("Features against trained size", "CKA"),
    "latency": ("Cost", "time of one image (ms)"),
    "A50": ("Receptive field", "A50 (% of image)"),
    "horizon": ("Memory", "half-life (% of sequence)"),
}


def sheets(curves: Sequence[Resolution], published: tuple[Published, ...] = ()) -> Iterator[Sheet]:
    """All curves of a protocol in one figure.

    Args:
        published: models of VMamba's table to draw in grey over accuracy and change.
    """
    for group in _protocols(curves):
        _check(group, published)
        drawn = partial(draw, group, published)
        yield Sheet(_stem(group), drawn, caption(group, published), group)


def tables(curves: Sequence[Resolution]) -> dict[str, str]:
    """Every number as CSV, accuracy (or agreement) as LaTeX."""
    found = {}
    for group in _protocols(curves):
        number = "top1" if group[0].correct is not None else "agreement"
        found[f"{_stem(group)}.csv"] = csv_table(group)
        found[f"{_stem(group)}.tex"] = latex_table(group, number)
    return found


def _protocols(curves: Sequence[Resolution]) -> list[list[Resolution]]:
    """The curves of each resize protocol; they are never mixed."""
    groups: dict[str, list[Resolution]] = {}
    for curve in curves:
        groups.setdefault(curve.meta["object_size"], []).append(curve)
    return list(groups.values())


def _stem(curves: Sequence[Resolution]) -> str:
    protocol = curves[0].meta["object_size"]
    usual = protocol == "grows"  # as the papers have it
    return "resolution" if usual else f"resolution-{protocol}"


def report(curve: Resolution) -> str:
    """A line for each size, and how time grows."""
    model = curve.meta["model"]
    lines = [line(curve, point["size"]) for point in curve.points]
    for size, reason in curve.meta["missing"].items():
        lines.append(missing(model, size, reason))
    for name, number in curve.meta["exponents"].items():
        if number["value"] is not None:
            sizes = f"{number['sizes'][0]} to {number['sizes'][-1]} px"
            lines.append(f"  {name} grows as pixels^{words(number, '.3f')}, {sizes}")
    return "\n".join(lines)


def missing(model: str, size: int | str, reason: str) -> str:
    """The line of a size that could not be measured."""
    return f"{model:28} {size:>5} px  missing: {reason}"


def line(curve: Resolution, size: int) -> str:
    """The main numbers of one size."""
    numbers = next(point["numbers"] for point in curve.points if point["size"] == size)
    parts = []
    for key, word in (
        ("top1", "top-1"), ("agreement", "agrees"), ("kl", "KL"), ("A50", "ERF A50"),
        ("latency", "time"),
    ):  # fmt: skip
        number = numbers.get(key, {})
        if number.get("value") is not None:
            unit = number["unit"].partition(" ")[0]
            parts.append(f"{word} {words(number, unit=f' {unit}')}")
    return f"{curve.meta['model']:28} {size:>5} px  " + "  ".join(parts)


def names(curves: Sequence[Resolution]) -> list[str]:
    """The models, with their weights where one model comes twice."""
    models = [curve.meta["model"] for curve in curves]
    return [
        f"{m} ({weights_beside(m, c.meta['facts'].get('weights_label', '')) or i + 1})"
        if models.count(m) > 1
        else m
        for i, (m, c) in enumerate(zip(models, curves, strict=True))
    ]


def panels(curves: Sequence[Resolution]) -> tuple[str, ...]:
    """The numbers that `draw` shows: with labels or, where one curve has none, without."""
    labelled = all(curve.correct is not None for curve in curves)
    first = ("top1", "drop", "cka") if labelled else ("agreement", "kl", "cka")
    return (*first, "latency", "A50", "horizon")


@together
def draw(curves: Sequence[Resolution], published: Sequence[str] = ()) -> Figure:
    """Accuracy (or agreement), relative change, feature similarity, cost, receptive field and
    memory of models against size.

    Bands are intervals (`caption` says which), the vertical line is the size trained at, a cross on
    the axis a size that could not be measured. Dashed in the first panel: a linear head refitted at
    each size. Cost is on two logarithmic axes; its legend gives the exponent of time in pixels.

    Args:
        published: names from `PUBLISHED` to draw in grey over accuracy and change.

    Raises:
        ValueError: without curves, of curves of different protocols, or for an unknown name.
    """
    _check(curves, published)
    with matplotlib.style.context(STYLE):
        figure, axes = plt.subplots(2, 3, figsize=(7.2, 4.5), layout="constrained")
        for name, ax in zip(panels(curves), axes.flat, strict=True):
            _panel(ax, name, curves, published)
        handles, labels = axes[0, 0].get_legend_handles_labels()
        abreast = min(4, len(labels), max(1, _LETTERS // (max(map(len, labels)) + 7)))
        figure.legend(handles, labels, loc="outside upper center", ncols=abreast)
    plt.close(figure)
    return figure


def _check(curves: Sequence[Resolution], published: Sequence[str] = ()) -> None:
    if not curves:
        raise ValueError("there is no curve to draw")
    protocols = {curve.meta["object_size"] for curve in curves}
    if len(protocols) > 1:
        raise ValueError(
            f"curves of different protocols ({', '.join(sorted(protocols))}) are drawn apart: the "
            "apparent size of objects is itself a cause"
        )
    check_published(published)


def check_published(published: Sequence[str]) -> None:
    """Raise ValueError for a name that is not in `PUBLISHED`."""
    for name in published:
        if name not in PUBLISHED:
            raise ValueError(f"{name!r} is not in the published table; {', '.join(PUBLISHED)} are")


def _panel(ax: Axes, name: str, curves: Sequence[Resolution], published: Sequence[str]) -> None:
    sizes = set()
    drawn = False
    labels = names(curves)
    places = styles(labels)
    for i, (curve, label) in enumerate(zip(curves, labels, strict=True)):
        colour, marker = COLOURS[places[i]], MARKERS[places[i]]
        value, low, high = curve.number(name)
        sizes.update(curve.sizes.tolist())
        if name == "latency":
            label = _growth(curve)
        drawn |= bool(np.isfinite(value).any())
        style = {"color": colour, "marker": marker, "ms": 3}
        ax.plot(curve.sizes, value, label=label, **style)
        ax.fill_between(curve.sizes, low, high, color=colour, alpha=0.18, lw=0)
        if name == "top1":
            ax.plot(curve.sizes, curve.number("refit")[0], ls="--", lw=0.8, color=colour)
        for size in curve.meta["missing"]:
            sizes.add(int(size))
            place = ax.get_xaxis_transform()
            ax.plot(int(size), 0.02 + 0.05 * i, "x", color=colour, ms=4, transform=place)
    natives = list(dict.fromkeys(curve.meta["native"] for curve in curves))
    for native in natives if drawn else ():
        ax.axvline(native, color="0.5", lw=0.8, ls=":", zorder=0)
    if name in ("top1", "drop"):
        for model, style in zip(published, ("-", "--", ":", "-.") * len(published), strict=False):
            values = np.array(PUBLISHED[model])
            values = 100 * (values / values[0] - 1) if name == "drop" else values
            label = f"{model}, published"
            ax.plot(SIZES, values, ls=style, color="0.55", lw=0.9, label=label, zorder=1)
            sizes.update(SIZES)
    if name == "drop":
        ax.axhline(0, color="0.8", lw=0.6, zorder=0)
    if not drawn:
        why = _absent(name, curves)
        ax.text(0.5, 0.5, why, ha="center", va="center", transform=ax.transAxes)
        ax.set_yticks([])
    if name == "latency" and drawn:
        _cost_axis(ax, len(curves))
    if name == "horizon" and drawn:
        ax.set_yscale("log")
        bottom, top = ax.get_ylim()
        ax.set_ylim(bottom / 2.5, top * 2.5)
        _plain_numbers(ax)
    _size_axis(ax, sorted(sizes), natives)
    ax.set_title(_PANELS[name][0])
    ax.set_ylabel(_PANELS[name][1])
    ax.set_xlabel("image size (px)")


def _absent(name: str, curves: Sequence[Resolution]) -> str:
    probed = any(curve.meta["config"].get("probes", True) for curve in curves)
    if name == "horizon" and probed:
        return "no selective scan"
    return "fewer than 4 images" if name == "cka" else "not measured"


def _growth(curve: Resolution) -> str:
    entry = curve.meta["exponents"]["latency"]
    growth = words(entry, ".2f")
    return f"b = {growth}" if growth else "b not defined"


def _cost_axis(ax: Axes, count: int) -> None:
    """A log axis with room above the curves for the exponents."""
    ax.set_yscale("log")
    bottom, top = ax.get_ylim()
    legend = min(0.75, 0.085 * (count + 1.4))  # share of the panel's height
    ax.set_ylim(bottom, top * (top / bottom) ** (legend / (1 - legend)))
    _plain_numbers(ax)
    ax.legend(
        title="time ~ pixels$^b$",
        title_fontsize=6,
        fontsize=6,
        loc="upper left",
        frameon=True,
        framealpha=1,
        edgecolor="none",
        borderpad=0,
    )


def _plain_numbers(ax: Axes) -> None:
    """1, 2, 5, 10 ... on a logarithmic axis, fewer over many decades."""
    bottom, top = ax.get_ylim()
    few = top / bottom > 1e3
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0,) if few else (1.0, 2.0, 5.0)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_locator(NullLocator())


def _size_axis(ax: Axes, sizes: Sequence[int], marked: Sequence[int]) -> None:
    """A log-2 axis with the sizes themselves as ticks, as many as have room for a number.

    `marked` sizes and the ends are served first.
    """
    ax.set_xscale("log", base=2)
    ax.set_xlim(sizes[0] / 1.08, sizes[-1] * 1.08)
    room = max(np.log2(sizes[-1] / sizes[0]), 1e-9) / 7
    shown: list[int] = []
    for size in (*marked, sizes[-1], sizes[0], *sizes):
        if all(abs(np.log2(size / other)) >= room for other in shown):
            shown.append(size)
    ax.xaxis.set_major_locator(FixedLocator(shown))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_locator(FixedLocator(sizes) if len(sizes) > len(shown) else NullLocator())
    ax.xaxis.set_minor_formatter(NullFormatter())


def caption(curves: Sequence[Resolution], published: Sequence[str] = ()) -> str:
    """What the figure shows, in sentences: protocol, images, intervals, what is missing."""
    _check(curves, published)
    first = curves[0].meta
    level = f"{100 * first['interval']['confidence']:.0f} %"
    config = first["config"]
    grows = first["object_size"] == "grows"
    lines = [
        f"Models over image sizes, on {first['images']['source']}; the dotted line is the size "
        "trained at.",
        (
            "Every picture is scaled to the size, so that objects appear larger at larger sizes."
            if grows
            else "Objects keep their size in pixels: smaller sizes see less of the picture, larger "
            "ones more of it, then the mean colour around it."
        ),
    ]
    if curves[0].correct is not None:
        lines.append(
            f"Bands: {level} Wilson intervals of accuracy, paired intervals over images of the "
            "change from the trained size, of one trained network; quartiles of time."
        )
        if any(point["numbers"].get("refit") for curve in curves for point in curve.points):
            lines.append(
                "Dashed: a linear head refitted at each size on the pooled features, right answers "
                f"on images held out in {config['folds']} folds."
            )
    else:
        lines.append(
            f"Without labels: the share of images with the prediction of the trained size ({level} "
            "Wilson intervals) and the divergence from it (Student's, over images); time with "
            "quartiles."
        )
    lines.append(
        "CKA: linear, unbiased. Time: one image, forward, batch 1; b is the exponent of time in "
        f"pixels with its {level} interval. A50: smallest set of pixels that holds half of the "
        "receptive field of the last stage's centre. Half-life: steps in which a scan's state "
        "halves, median over states and then over layers, as a share of the sequence."
    )
    for label, curve in zip(names(curves), curves, strict=True):
        meta = curve.meta
        notes = [f"{label}: {meta['facts'].get('weights_label', 'own weights')}, {meta['device']}"]
        if meta["classes"]:
            notes.append(f"choosing among the {len(meta['classes'])} classes of the data")
        if meta["native"] != first["native"]:
            notes.append(f"trained at {meta['native']} px")
        notes += [f"{size} px missing ({why})" for size, why in meta["missing"].items()]
        if late := disturbed(curve):
            notes.append(f"timed beside other work, so too slow: {', '.join(map(str, late))} px")
        lines.append("; ".join(notes) + ".")
    lines.append(
        f"Settings: position embedding of Vim {config['positions']}, windows of MambaVision "
        f"{config['windows']}, kernels of S4ND {config['kernels'] if grows else 'fixed'}."
    )
    if published:
        lines.append(f"Grey: {', '.join(published)}, trained at 224 px, from {SOURCE}.")
    return "\n".join(lines) + "\n"


_BUSY = 10.0  # % of waiting; 0 to 2 were seen on an idle machine, 50 and more beside two others


def disturbed(curve: Resolution) -> list[int]:
    """Sizes whose times are those of a busy machine: threads waited for a processor."""
    waiting = curve.number("waiting")[0]
    return [int(size) for size, share in zip(curve.sizes, waiting, strict=True) if share > _BUSY]


_COLUMNS = (
    "top1", "top5", "drop", "refit", "agreement", "kl", "margin", "cka", "A50", "crossness",
    "horizon", "latency", "cpu", "waiting", "throughput", "flops", "memory", "difference",
)  # fmt: skip


def csv_table(curves: Sequence[Resolution]) -> str:
    """One row for each model and size, missing ones included: every number with low and high."""
    _check(curves)
    head = ["model", "weights", "object_size", "trained_at", "size", "images", "missing"]
    head += [f"{c}{part}" for c in _COLUMNS for part in ("", "_low", "_high")]
    rows = []
    for curve in curves:
        meta = curve.meta
        points = {point["size"]: point["numbers"] for point in curve.points}
        for size in sorted({*points, *map(int, meta["missing"])}):
            row: list[Any] = [meta["model"], meta["facts"].get("weights", "")]
            row += [meta["object_size"], meta["native"], size, meta["images_used"]]
            row.append(meta["missing"].get(str(size), ""))
            for column in _COLUMNS:
                row += csv_cells(points.get(size, {}).get(column, {}))
            rows.append(row)
    return csv_text(head, rows)


def latex_table(curves: Sequence[Resolution], number: str = "top1") -> str:
    """One number: a row for each model, a column for each size, a dash where a size is missing.

    Raises:
        ValueError: when no curve has the number.
    """
    _check(curves)
    sizes = sorted({int(size) for curve in curves for size in curve.sizes})
    rows = []
    for label, curve in zip(names(curves), curves, strict=True):
        points = {point["size"]: point["numbers"].get(number, {}) for point in curve.points}
        rows.append([label, *(latex_cell(points.get(size, {})) for size in sizes)])
    if all(set(cells) == {"--"} for _, *cells in rows):
        raise ValueError(f"no curve has the number {number!r}")
    what = ", ".join(_PANELS.get(number, (number,)))
    comment = f"{what}; {curves[0].meta['images']['source']}"
    return latex_tabular(["size (px)", *map(str, sizes)], rows, comment)
