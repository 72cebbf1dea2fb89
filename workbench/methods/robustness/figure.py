"""Pictures and tables of robustness: attacks, corruptions, parts taken away or moved, turns."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import matplotlib
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from workbench.figures.cells import csv_text, interval, latex_cell, latex_tabular, words
from workbench.figures.colours import COLOURS, MARKERS
from workbench.figures.files import STYLE, Sheet
from workbench.figures.label import label
from workbench.figures.several import each
from workbench.results import Robustness

Style = dict[str, Any]

_PANELS = {  # group -> title, and axis of the level
    "attack": ("Attacks", "eps (1/255)"),
    "drop": ("Patches taken away", "share of the patches (%)"),
    "information": ("Pixels lost along the scan", "share of the pixels (%)"),
    "shuffle": ("Patches shuffled", "patches along a side"),
    "shift": ("Image moved", "pixels"),
    "view": ("Image turned", "share of the images (%)"),
    "scan": ("Scans changed", "share of the images (%)"),
}
_WORDS = {
    "fgsm": "FGSM",
    "pgd": "PGD",
    "autoattack": "AutoAttack",
    "random": "random (control)",
    "salient": "salient ones first",
    "radial": "rings, from the centre",
    "radial-reversed": "rings, to the centre",
    "rise": "linear rise",
    "middle": "most in mid-scan",
    "ends": "least in mid-scan",
    "even": "even (control)",
    "accuracy": "top-1",
    "agreement": "same prediction",
}
_LINES = {"rise": "-", "middle": "-.", "ends": ":"}
_CONTROL: Style = {"color": "0.45", "ls": "--", "marker": ""}
_DOT: Style = {"color": COLOURS[6], "ls": "", "marker": "o", "ms": 4}
_IN_SHARES = ("view", "scan")
"""Groups without levels."""
_SHARES: dict[str, Style] = {"accuracy": _DOT, "agreement": {**_DOT, "mfc": "white"}}


def sheets(results: Sequence[Robustness]) -> Iterator[Sheet]:
    """A figure for each model."""
    for result in results:
        yield Sheet(
            f"robustness-{result.meta['model']}", partial(draw, result), caption(result), [result]
        )


def tables(results: Sequence[Robustness]) -> dict[str, str]:
    """Every number as CSV, the main ones as LaTeX, models side by side."""
    return {"robustness.csv": csv_table(results), "robustness.tex": latex_table(results)}


def report(result: Robustness) -> str:
    """Accuracies, means over corruptions, and what the checklist found."""
    meta = result.meta
    lines = [f"{label(result)}, {meta['images_used']} images"]
    lines.append(f"  {'':34} {'top-1':>6} {'':16} {'change':>7}")
    for condition in meta["conditions"]:
        accuracy, change = condition["numbers"]["accuracy"], condition["numbers"]["change"]
        lines.append(
            f"  {condition['name']:34} {accuracy['value']:>6.1f} {interval(accuracy, '.1f'):16} "
            f"{change['value']:>+7.1f} {interval(change, '.1f')}"
        )
    for name, number in _means(result).items():
        lines.append(
            f"  {name:34} {number['value']:>6.1f} {interval(number, '.1f'):16} {number['unit']}"
        )
    for check in (meta["checklist"] or {}).get("checks", ()):
        if not check["passed"]:
            lines.append(f"  sign of gradient masking: {check['name']}: {check['evidence']}")
    lines += [f"  {note}" for note in meta["notes"]]
    return "\n".join(map(str.rstrip, lines))


@each
def draw(result: Robustness) -> Figure:
    """Top-1 accuracy of one model under everything it was put to, a panel for each group.

    Bars are intervals (`caption` says which), the dotted line is the accuracy on clean images.
    Grey and dashed are controls that know nothing of the model or of its scan.
    """
    small = [group for group in _PANELS if _series(result, group)]
    heat = bool(_series(result, "corruption"))
    rows = -(-len(small) // 3)
    heights = [2.0] * rows + [0.75] * bool(small) + [2.2] * heat
    with matplotlib.style.context(STYLE):
        figure = plt.figure(figsize=(7.2, sum(heights) + 0.3), layout="constrained")
        grid = figure.add_gridspec(max(1, len(heights)), 3, height_ratios=heights or None)
        for i, group in enumerate(small):
            ax = figure.add_subplot(grid[divmod(i, 3)])
            _shares(ax, result, group) if group in _IN_SHARES else _curves(ax, result, group)
        if small:
            _legend(figure.add_subplot(grid[rows, :]), result, small)
        if heat:
            _heat_map(figure.add_subplot(grid[-1, :]), result)
        figure.suptitle(label(result))
    plt.close(figure)
    return figure


def _series(result: Robustness, group: str) -> dict[str, list[dict[str, Any]]]:
    """Series -> its conditions by rising level."""
    found: dict[str, list[dict[str, Any]]] = {}
    for condition in result.meta["conditions"]:
        if condition["group"] == group:
            found.setdefault(condition["series"], []).append(condition)
    return {name: sorted(of, key=lambda c: c["level"] or 0) for name, of in found.items()}


def _numbers(conditions: Sequence[dict[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Values (k,), and how far their intervals reach below and above, (2, k)."""
    rows = [condition["numbers"][name] for condition in conditions]
    value, low, high = (np.array([row[key] for row in rows]) for key in ("value", "low", "high"))
    return value, np.maximum(0, [value - low, high - value])  # else -1e-15 where they meet


def _clean(result: Robustness) -> float:
    return result.meta["numbers"]["clean accuracy"]["value"]


def _orders(result: Robustness) -> dict[str, Style]:
    """Order of the patches -> its style, in all panels."""
    ways = ("radial", "radial-reversed", "salient", *result.meta["directions"])
    places = (4, 5, 6, 0, 1, 2, 3)
    styles: dict[str, Style] = {"random": _CONTROL}
    for i, name in enumerate(ways):
        k = places[i % len(places)]
        styles.setdefault(name, {"color": COLOURS[k], "ls": "-", "marker": MARKERS[k]})
    return styles


def _styles(result: Robustness, group: str) -> dict[str, Style]:
    """Series -> its style."""
    series = _series(result, group)
    if group == "drop":
        return {name: style for name, style in _orders(result).items() if name in series}
    if group == "information":
        styles = {"even": _CONTROL}
        for name in series.keys() - styles:
            profile, _, path = name.partition(" ")
            styles[name] = {**_orders(result)[path], "ls": _LINES[profile], "marker": ""}
        return styles
    styles = {}
    free = iter(range(len(COLOURS)))
    for name in series:
        styles[name] = _CONTROL
        if name != "random":
            k = 6 if group in ("shuffle", "shift") else next(free)
            styles[name] = {"color": COLOURS[k], "marker": MARKERS[k]}
    return styles


def _curves(ax: Axes, result: Robustness, group: str) -> None:
    styles = _styles(result, group)
    factor = 100 if group in ("drop", "information") else 1
    levels: set[float] = set()
    for name, conditions in _series(result, group).items():
        x = np.array([factor * condition["level"] for condition in conditions])
        value, size = _numbers(conditions, "accuracy")
        alone = len(conditions) == 1  # a line to it would tell of what was not measured
        if group != "shuffle" and not alone:  # shuffling leaves no image untouched
            x, value = np.append(0, x), np.append(_clean(result), value)
            size = np.append(np.zeros((2, 1)), size, axis=1)
        levels.update(x.tolist())
        style = styles[name] | ({"ls": ""} if alone else {})
        ax.errorbar(x, value, size, ms=2.5, lw=1, elinewidth=0.5, **style)
    if group == "shuffle":
        ax.set_xscale("log", base=2)
        ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticks(sorted(levels), _tick_labels(sorted(levels), group == "shuffle"))
    ax.axhline(_clean(result), color="0.3", lw=0.7, ls=":", zorder=0)
    ax.set_ylim(-2, 102)
    ax.set_title(_PANELS[group][0])
    ax.set_xlabel(_PANELS[group][1])
    ax.set_ylabel("top-1 (%)")


def _tick_labels(levels: Sequence[float], logarithmic: bool) -> list[str]:
    """The levels in words, without those that would run into the one before."""
    labels, last = [], 0.0
    for level in levels:
        near = logarithmic and level < 1.3 * last
        labels.append("" if near else f"{level:g}")
        last = last if near else level
    return labels


def _shares(ax: Axes, result: Robustness, group: str) -> None:
    series = _series(result, group)
    conditions = [condition for of in series.values() for condition in of]
    for (name, style), shift in zip(_SHARES.items(), (-0.12, 0.12), strict=True):
        value, size = _numbers(conditions, name)
        y = np.arange(len(conditions)) + shift
        ax.errorbar(value, y, xerr=size, elinewidth=0.5, **style)
    ax.axvline(_clean(result), color="0.3", lw=0.7, ls=":", zorder=0)
    ax.set_yticks(range(len(series)), [name.replace("-", "\n") for name in series])
    ax.set_ylim(len(series) - 0.5, -0.5)
    ax.set_xlim(-2, 102)
    ax.set_title(_PANELS[group][0])
    ax.set_xlabel(_PANELS[group][1])


def _legend(ax: Axes, result: Robustness, groups: Sequence[str]) -> None:
    """What the styles mean in all panels, under a heading for each kind."""
    sections: dict[str, dict[str, Style]] = {}
    if "attack" in groups:
        sections["attack"] = _styles(result, "attack")
    if "information" in groups:
        lines = {name: {"color": "0.2", "ls": line} for name, line in _LINES.items()}
        sections["pixels lost"] = {**lines, "even": _CONTROL}
    if set(_IN_SHARES) & set(groups):
        sections["share of images"] = _SHARES
    orders = _styles(result, "drop")
    if "information" in groups:
        orders |= {name: _orders(result)[name] for name in result.meta["directions"]}
    if orders:
        sections["order"] = orders
    ax.axis("off")
    for i, (heading, styles) in enumerate(sections.items()):
        _section(ax, heading, styles, 0.19 * i)


def _section(ax: Axes, heading: str, styles: dict[str, Style], left: float) -> None:
    handles = [
        Line2D([], [], label=_word(name), **{"lw": 1, "ms": 3, **style})
        for name, style in styles.items()
    ]
    drawn = ax.legend(
        handles=handles,
        title=heading,
        loc="upper left",
        bbox_to_anchor=(left, 1),
        ncols=1 + len(styles) // 6,
        fontsize=6,
        title_fontsize=6,
        alignment="left",
        labelspacing=0.25,
        borderpad=0,
        borderaxespad=0,
    )
    drawn.get_title().set_fontweight("bold")
    ax.add_artist(drawn)  # else the next one takes its place


def _word(name: str) -> str:
    return _WORDS.get(name, name.replace("_", " ").replace("-reversed", ", reversed"))


def _heat_map(ax: Axes, result: Robustness) -> None:
    series = _series(result, "corruption")
    levels = [condition["level"] for condition in next(iter(series.values()))]
    table = np.stack([_numbers(conditions, "accuracy")[0] for conditions in series.values()], 1)
    image = ax.imshow(table, cmap="viridis", vmin=0, vmax=100, aspect="auto")
    for (row, column), value in np.ndenumerate(table):
        colour = "white" if value < 60 else "black"
        ax.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=6, color=colour)
    counted = sum(name in result.meta["benchmark"] for name in series)
    if 0 < counted < len(series):
        ax.axvline(counted - 0.5, color="white", lw=3)
    ax.set_xticks(range(len(series)), [_word(name) for name in series], rotation=40, ha="right")
    ax.set_yticks(range(len(levels)), [f"{level:g}" for level in levels])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_ylabel("severity")
    baseline = result.meta.get("baseline")
    if baseline:
        for column, name in enumerate(series):
            value = baseline["CE"].get(name, {}).get("value")
            text = "-" if value is None else f"{value:.0f}"
            ax.text(column, -0.6, text, ha="center", va="bottom", fontsize=6)
        ax.text(-0.6, -0.6, "CE (%)", ha="right", va="bottom", fontsize=6)
    ax.set_title(f"Corruptions: {_summary(result)}", pad=14 if baseline else 6)
    bar = ax.figure.colorbar(image, ax=ax, pad=0.01, aspect=12)
    bar.set_label("top-1 (%)")
    bar.outline.set_visible(False)


def _summary(result: Robustness) -> str:
    """The mean error, and mCE where there is a baseline."""
    parts = []
    means = _means(result)
    if "mean corruption error" in means:
        parts.append(f"mean error {words(means['mean corruption error'], '.1f')} %")
    if "mCE" in means:
        baseline = result.meta["baseline"]["model"]
        parts.append(f"mCE against {baseline} {words(means['mCE'], '.1f')} %")
    return "; ".join(parts)


def caption(result: Robustness) -> str:
    """What the figure shows, in sentences: images, intervals, attacks, perturbations."""
    meta, config = result.meta, result.meta["config"]
    level = f"{100 * config['confidence']:.0f} %"
    lines = [
        f"{label(result)} on {meta['images_used']} images ({meta['images']['source']}), "
        f"{meta['preprocessing']['size'][0]} x {meta['preprocessing']['size'][1]} px, seed "
        f"{config['seed']}. Bars: {level} Wilson intervals; dotted: clean accuracy, "
        f"{words(meta['numbers']['clean accuracy'], '.1f')} %."
    ]
    if _series(result, "attack"):
        starts = "one random start" if config["restarts"] == 1 else f"{config['restarts']} starts"
        targets = config.get("targets", 0)
        driven = f", what withstands towards each of {targets} other classes" if targets else ""
        lines.append(
            f"Attacks: eps in {config['norm']}, pixels in [0, 1], on the margin of the logits; PGD "
            f"{config['steps']} steps from eps down to eps / {config['steps']}, {starts}{driven}; "
            "the control is a random change of the same size."
        )
    checks = meta["checklist"]
    if checks:
        count = checks["checks"][0]["numbers"]["correct"]
        found = "; ".join(
            f"{check['name']}: {check['evidence']}"
            for check in checks["checks"]
            if not check["passed"]
        )
        lines.append(
            f"Signs of gradient masking, tried on {count} images: {found or 'none'}."
            + (" The attacks may overstate robustness." if found else "")
        )
    if _series(result, "corruption"):
        lines.append(
            "Corruptions: by corrupt-tta after ImageNet-C, not to be compared with published "
            "tables. Means are over the severities shown and the benchmark's 15 corruptions; the "
            "other four stand behind the white line."
        )
    baseline = meta.get("baseline")
    if baseline:
        lines.append(
            f"CE: errors in % of those of {baseline['model']} on the same pictures"
            + "".join(
                f"; {name} {words(baseline[name], '.1f')} % over {baseline[name]['corruptions']} "
                "corruptions"
                for name in ("mCE", "relative mCE")
                if name in baseline
            )
            + "."
        )
    groups = {condition["group"] for condition in meta["conditions"]}
    if groups & {"drop", "information"}:
        lines.append(
            f"Patches and pixels: a grid of {config['grid']} x {config['grid']}; what is gone "
            f"becomes {_FILLS[config['fill']]}. Orders say which patch goes first, or along "
            "which way pixels are lost."
        )
    return "\n".join([*lines, *meta["notes"]]) + "\n"


_FILLS = {
    "mean": "the mean colour of the training images",
    "black": "black",
    "blur": "the image blurred by an eighth of its side",
}


def csv_table(results: Sequence[Robustness]) -> str:
    """One row for each model, condition and number; means over corruptions come last."""
    rows = []
    for result in results:
        meta = result.meta
        first = [meta["model"], meta["facts"].get("weights", ""), meta["images_used"]]
        rows += [[*first, *of, name, entry] for of, name, entry in _entries(result)]
    return csv_text(["model", "weights", "images", "group", "series", "level", "number"], rows)


def _entries(result: Robustness) -> Iterator[tuple[tuple[str, str, str], str, dict[str, Any]]]:
    """(group, series, level), the name of a number, and the number."""
    for condition in result.meta["conditions"]:
        level = "" if condition["level"] is None else f"{condition['level']:g}"
        for name, entry in condition["numbers"].items():
            yield (condition["group"], condition["series"], level), name, entry
    for kind in ("CE", "relative CE"):
        for series, entry in result.meta.get("baseline", {}).get(kind, {}).items():
            yield ("corruption", series, ""), kind, entry
    for name, entry in _means(result).items():
        yield ("corruption", "mean", ""), name, entry


def _means(result: Robustness) -> dict[str, dict[str, Any]]:
    """Means over corruptions."""
    names = ("mean corruption error", "mCE", "relative mCE")
    known = {**result.meta["numbers"], **result.meta.get("baseline", {})}
    return {name: known[name] for name in names if name in known}


def latex_table(results: Sequence[Robustness]) -> str:
    """A row for each attack, view and mean over corruptions, a column for each model."""
    columns = []
    for result in results:
        rows = {
            _row_name(condition): condition["numbers"]["accuracy"]
            for condition in result.meta["conditions"]
            if condition["group"] in ("clean", "attack", *_IN_SHARES)
        }
        columns.append({**rows, **{f"{k} (%)": v for k, v in _means(result).items()}})
    names = dict.fromkeys(name for column in columns for name in column)
    return latex_tabular(
        ["", *(label(result) for result in results)],
        ([name, *(latex_cell(column.get(name, {})) for column in columns)] for name in names),
        f"top-1 in % and errors in %; {results[0].meta['images']['source']}",
    )


def _row_name(condition: dict[str, Any]) -> str:
    if condition["group"] == "attack":
        return f"{_word(condition['series'])}, {condition['level']:g}/255"
    return condition["series"] or condition["group"]
