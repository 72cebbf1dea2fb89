"""Pictures, report and table of what attacks do through B, C and delta."""

import textwrap
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import matplotlib
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

from workbench.figures.cells import csv_text, words
from workbench.figures.files import STYLE, Sheet
from workbench.figures.label import label
from workbench.figures.several import each, together
from workbench.results import Sensitivity

# Okabe and Ito's colours
COLOURS = {"B": "#0072B2", "C": "#D55E00", "delta": "#009E73", "u": "#CC79A7"}
MARKERS = {"B": "o", "C": "s", "delta": "^", "u": "D"}
RANKED = ("B", "C", "delta")
BANNER = "RANDOM WEIGHTS: ranks of B, C and delta before training are not evidence"
SHOWN = ("linf", "l2", "l2 of own norm")
"""Conventions of a relative change whose shares stand in the titles, in this order."""
FEW = 4
"""So many directions have room for their names side by side."""
_SIGN = {"for": "for", "against": "against", "nothing": "undecided"}


def layers(result: Sensitivity) -> tuple[list[str], list[str]]:
    """Scan modules and direction names, in order."""
    sites = [site for (site,) in result.meta["rows"]["sites"]]
    modules = dict.fromkeys(site.rpartition("/")[0] for site in sites)
    directions = dict.fromkeys(site.rpartition("/")[2] for site in sites)
    return list(modules), list(directions)


def sheets(results: Sequence[Sensitivity]) -> Iterator[Sheet]:
    """A figure for each model, and one of single layers and directions where they were measured."""
    for result in results:
        stem = f"sensitivity-{result.meta['model']}"
        yield Sheet(stem, partial(draw, result), caption(result), [result])
        if has_narrow(result):
            yield Sheet(f"{stem}-narrow", partial(draw_narrow, result), caption(result), [result])
    if any(len(sizes) > 1 for sizes in _families(results).values()):
        yield Sheet("sensitivity-sizes", partial(draw_sizes, results), caption_sizes(results))


def tables(results: Sequence[Sensitivity]) -> dict[str, str]:
    """Every number of every view as CSV."""
    return {"sensitivity.csv": csv_table(results)}


@each
def draw(result: Sensitivity) -> Figure:
    """One panel for each view that was taken, and below them the verdicts.

    First-order sensitivity of B, C and delta for every layer and direction on one scale; accuracy
    against the budget, dashed under random signs; what one scan's output can do at most, and does;
    margin gained or lost without a path's gradient; margin that patching gives back and takes,
    with bars for intervals and a tick for the random floor; half-lives under attack.
    """
    panels: dict[str, Callable[[Axes, Sensitivity], None]] = {
        "perturb": _budgets,
        "bounds": _ceilings,
        "cut": _cuts,
        "patching": _patchings,
        "horizon": _horizons,
    }
    views = result.meta["views"]
    below = [view for view in panels if view in views]
    lines = -(-len(below) // 2)
    maps = "gradient" in views
    text = _verdict_lines(result)
    heights = [1.0] * maps + [1.0] * lines + [0.07 * len(text)]
    with matplotlib.style.context(STYLE):
        figure = plt.figure(figsize=(7.2, 2.35 * sum(heights) + 0.3), layout="constrained")
        grid = figure.add_gridspec(len(heights), 6, height_ratios=heights)
        if maps:
            _maps(
                figure, [figure.add_subplot(grid[0, 2 * i : 2 * i + 2]) for i in range(3)], result
            )
        for i, view in enumerate(below):
            alone = i == len(below) - 1 and i % 2 == 0
            column = slice(0, 6) if alone else slice(3 * (i % 2), 3 * (i % 2) + 3)
            panels[view](figure.add_subplot(grid[maps + i // 2, column]), result)
        words = figure.add_subplot(grid[-1, :])
        words.set_axis_off()
        verdicts = words.text(0, 1, "\n".join(text), va="top", fontsize=7)
        verdicts.set_in_layout(False)  # long lines would take their width from all panels
        figure.suptitle(label(result), fontsize=9)
    plt.close(figure)
    return figure


def _maps(figure: Figure, axes: Sequence[Axes], result: Sensitivity) -> None:
    modules, directions = layers(result)
    view = result.meta["views"]["gradient"]
    table = np.array(view["table"]["linf"])  # (sites, tensors)
    values = table[:, [view["tensors"].index(name) for name in RANKED]]
    values = values.reshape(len(modules), len(directions), 3)
    for i, (ax, name) in enumerate(zip(axes, RANKED, strict=True)):
        image = ax.imshow(values[..., i], cmap="magma", vmin=0, vmax=values.max(), aspect="auto")
        shares = [view["shares"].get(f"margin, {kind}", {}).get(name) for kind in SHOWN]
        told = " / ".join(f"{share['value']:.0f}" for share in shares if share)
        count = view.get("entries", {}).get(name)
        numbers = f"\n{count:,} numbers an image" if count else ""
        ax.set_title(f"sensitivity to {name}: {told} %{numbers}", fontsize=7)
        _direction_ticks(ax, directions, fontsize=5.5)
        ax.set_yticks(range(len(modules)), range(len(modules)) if i == 0 else [])
        ax.spines[:].set_visible(False)
        ax.tick_params(length=0)
    axes[0].set_ylabel("scan layer")
    bar = figure.colorbar(image, ax=list(axes), fraction=0.03, pad=0.01)
    bar.set_label("margin lost for each unit\nof relative change (logits)")
    bar.outline.set_linewidth(0.4)


def _with_interval(ax: Axes, x: float, entry: dict, colour: str, width: float = 0.8) -> None:
    if entry["value"] is None:
        return
    ax.bar(x, entry["value"], width, color=colour)
    if entry["low"] is not None:
        ax.plot([x, x], [entry["low"], entry["high"]], color="black", lw=0.8)


def _budgets(ax: Axes, result: Sensitivity) -> None:
    rows = [row for row in result.meta["views"]["perturb"]["rows"] if row["scope"] == "all"]
    for i, name in enumerate(COLOURS):
        own = [row for row in rows if row["tensor"] == name]
        # side by side, so that equal ones are all seen
        eps = np.array([row["eps"] for row in own]) * 1.1 ** (i - (len(COLOURS) - 1) / 2)
        value, low, high = (
            [row["accuracy"][key] for row in own] for key in ("value", "low", "high")
        )
        style = {"color": COLOURS[name], "marker": MARKERS[name], "ms": 3.5, "lw": 0.8}
        ax.plot(eps, value, **style, label=name)
        ax.vlines(eps, low, high, color=COLOURS[name], lw=0.8)
        ax.plot(eps, [row["random"]["value"] for row in own], **style, ls="--", mfc="white")
    ax.axhline(result.meta["clean"]["value"], color="0.6", lw=0.6)
    ax.set_xscale("log")
    eps = sorted({row["eps"] for row in rows})
    ax.set_xticks(eps, [f"{e:g}" for e in eps])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_ylim(-3, 103)
    ax.set_xlabel("budget inside the model, of the RMS of a row")
    ax.set_ylabel("accuracy (%)")
    ax.set_title("perturbed in all layers; hollow: random signs")
    ax.legend(loc="lower left")


def _ceilings(ax: Axes, result: Sensitivity) -> None:
    modules, directions = layers(result)
    rows = result.meta["views"]["bounds"]["rows"]
    eps = result.meta["used"]["narrow_eps"]
    for i, name in enumerate(RANKED):
        own = [row for row in rows if row["tensor"] == name]
        for kind, mark in (("bound", "_"), ("attack", MARKERS[name]), ("random", ".")):
            values = np.array([100 * row[kind]["value"] for row in own])
            values = values.reshape(len(modules), len(directions)).mean(axis=1)
            x = np.arange(len(modules)) + 0.22 * (i - 1)
            size = {"bound": 9, "attack": 3.5, "random": 4}[kind]
            ax.plot(x, values, mark, color=COLOURS[name], ms=size, mew=1.2, ls="",
                    mfc="none" if kind == "random" else None)  # fmt: skip
    _plain_log(ax)
    ax.set_xticks(range(len(modules)))
    ax.set_xlabel("scan layer, mean over directions")
    ax.set_ylabel("change of its output (%)")
    ax.set_title(f"one scan, budget {eps:g}: bar ceiling, sign FGSM, dot random")


def _plain_log(ax: Axes) -> None:
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    ax.yaxis.set_minor_locator(NullLocator())


def _cuts(ax: Axes, result: Sensitivity) -> None:
    view = result.meta["views"]["cut"]
    rows = [row for row in view["rows"] if row["scope"] == "all" and row["tensors"] != "none"]
    for i, row in enumerate(rows):
        _with_interval(ax, i, row["margin_difference"], COLOURS.get(row["tensors"], "0.6"))
    ax.axhline(0, color="black", lw=0.6)
    names = [row["tensors"].replace(" + ", "+\n") for row in rows]
    ax.set_xticks(range(len(rows)), [n if n.count("\n") < 3 else "all" for n in names])
    ax.set_ylabel("margin after the attack,\nagainst no cut (logits)")
    eps, left = result.meta["used"]["cut_eps_255"], view["withstands"]
    ax.set_title(f"gradient cut, image attack {eps:g}/255; withstands all: {left['value']:.0f} %")


def _patchings(ax: Axes, result: Sensitivity) -> None:
    view = result.meta["views"]["patching"]
    rows = [row for row in view["rows"] if row["scope"] == "all"]
    for i, row in enumerate(rows):
        for shift, way, colour in ((-0.2, "recovered", "#0072B2"), (0.2, "induced", "#D55E00")):
            _with_interval(ax, i + shift, row[way], colour, 0.38)
            floor = row[f"{way}, random"]["value"]
            if floor is not None:
                ax.plot([i + shift - 0.19, i + shift + 0.19], [floor] * 2, color="0.4", lw=1.2)
    for way, colour in (("recovered", "#0072B2"), ("induced", "#D55E00")):
        ax.bar(0, 0, color=colour, label=way)
    ax.plot([], [], color="0.4", lw=1.2, label="random floor")
    ax.axhline(0, color="black", lw=0.6)
    names = [row["tensors"].replace("scan output", "y").replace(" + ", "+\n") for row in rows]
    ax.set_xticks(range(len(rows)), names)
    ax.set_ylabel("of the margin lost")
    eps = result.meta["used"]["patching_eps_255"]
    ax.set_title(f"patching in all layers, attack {eps:g}/255, {view['images']} images")
    ax.set_ylim(top=1.3 * ax.get_ylim()[1])
    ax.legend(loc="upper left", ncols=3, fontsize=6, columnspacing=1)


def _horizons(ax: Axes, result: Sensitivity) -> None:
    modules, directions = layers(result)
    rows = result.meta["views"]["horizon"]["rows"]
    for k, direction in enumerate(directions):
        own = [row for row in rows if row["site"].endswith(f"/{direction}")]
        x = np.arange(len(own)) + 0.12 * (k - (len(directions) - 1) / 2)
        value, low, high = (
            np.array([np.nan if row["shift"][key] is None else row["shift"][key] for row in own])
            for key in ("value", "low", "high")
        )
        ax.errorbar(x, value, [value - low, high - value], fmt=".", lw=0.8, ms=4, label=direction)
    ax.axhline(0, color="black", lw=0.6)
    ax.set_xticks(range(len(modules)))
    ax.set_xlabel("scan layer")
    ax.set_ylabel("half-life, attacked over\nclean (doublings)")
    eps = result.meta["used"]["patching_eps_255"]
    ax.set_title(f"memory under attack, {eps:g}/255")
    ax.margins(y=0.2)
    if len(directions) > FEW:
        ax.legend(ncols=FEW, loc="upper center", bbox_to_anchor=(0.5, -0.28), fontsize=6)
    else:
        ax.legend(ncols=len(directions), loc="upper left", fontsize=6)


def _direction_ticks(ax: Axes, directions: Sequence[str], **style: Any) -> None:
    """Names of directions below an axis; many of them stand upright."""
    if len(directions) > FEW:
        ax.set_xticks(range(len(directions)), directions, rotation=90, **style)
    else:
        names = [name.replace("-", "\n") for name in directions]
        ax.set_xticks(range(len(directions)), names, **style)


def has_narrow(result: Sensitivity) -> bool:
    """Whether layers or directions were measured alone."""
    return any(
        row["scope"] != "all"
        for view in _NARROW
        for row in result.meta["views"].get(view, {}).get("rows", ())
    )


@each
def draw_narrow(result: Sensitivity) -> Figure:
    """What one layer alone, or one direction alone, does: margin lost to a perturbation inside,
    margin gained by cutting its gradient, margin that patching recovers, with intervals.

    Raises:
        ValueError: for a result without narrow scopes.
    """
    if not has_narrow(result):
        raise ValueError("this result has no layers or directions alone; measure with narrow")
    modules, directions = layers(result)
    views = [view for view in _NARROW if view in result.meta["views"]]
    kinds = [modules, directions] if len(directions) > 1 else [modules]
    with matplotlib.style.context(STYLE):
        size = (2.4 * len(views) + 0.4, 2.1 * len(kinds))
        figure, axes = plt.subplots(
            len(kinds), len(views), figsize=size, layout="constrained", squeeze=False
        )
        for line, scopes in zip(axes, kinds, strict=True):
            for ax, view in zip(line, views, strict=True):
                _scopes(ax, result, view, scopes, numbered=scopes is modules)
        figure.suptitle(label(result), fontsize=9)
    plt.close(figure)
    return figure


_NARROW = {  # view -> the number drawn, and its axis
    "perturb": ("drop", "margin lost (logits)"),
    "cut": ("margin_difference", "margin without its\ngradient (logits)"),
    "patching": ("recovered", "recovered, of the\nmargin lost"),
}


def _scopes(
    ax: Axes, result: Sensitivity, view: str, scopes: Sequence[str], numbered: bool
) -> None:
    number, axis = _NARROW[view]
    rows = {
        (row.get("tensor") or row["tensors"], row["scope"]): row[number]
        for row in result.meta["views"][view]["rows"]
    }
    if not any((name, scope) in rows for name in RANKED for scope in scopes):
        ax.set_axis_off()  # no cuts in one direction alone
        return
    for i, name in enumerate(RANKED):
        found = [(x, rows[name, scope]) for x, scope in enumerate(scopes) if (name, scope) in rows]
        found = [(x, entry) for x, entry in found if entry["value"] is not None]
        x = np.array([place for place, _ in found]) + 0.15 * (i - 1)
        value, low, high = (
            np.array([entry[key] for _, entry in found], float) for key in ("value", "low", "high")
        )
        ax.errorbar(
            x, value, [value - low, high - value], fmt=MARKERS[name], ms=3, lw=0.8,
            color=COLOURS[name], label=name,
        )  # fmt: skip
    ax.axhline(0, color="black", lw=0.6)
    if numbered:
        ax.set_xticks(range(len(scopes)), range(len(scopes)))
    else:
        _direction_ticks(ax, scopes)
    ax.set_xlabel("scan layer alone" if numbered else "direction alone, in all layers")
    ax.set_ylabel(axis)
    ax.legend(fontsize=6, loc="upper left")


@together
def draw_sizes(results: Sequence[Sensitivity]) -> Figure:
    """Models against their number of parameters: shares of first-order sensitivity, smallest
    flipping budgets, accuracies; bars are intervals, lines join the sizes of a family.

    Raises:
        ValueError: when no result has a view that is drawn.
    """
    panels: dict[str, tuple[str, str, Callable[[dict], dict[str, dict]]]] = {
        "gradient": (
            "share of sensitivity, linf",
            "share (%)",
            lambda views: views["gradient"]["shares"]["margin, linf"],
        ),
        "perturb": (
            "smallest flipping budget",
            "of the RMS of a row",
            lambda views: {name: v["mean"] for name, v in views["perturb"]["flipping"].items()},
        ),
        "cut": (
            "accuracy that withstands every cut",
            "accuracy (%)",
            lambda views: {"withstands": views["cut"]["withstands"]},
        ),
    }
    shown = [view for view in panels if all(view in r.meta["views"] for r in results)]
    if not shown:
        raise ValueError(f"sizes are compared by {', '.join(panels)}; none was taken of all models")
    families = _families(results)
    with matplotlib.style.context(STYLE):
        size = (2.4 * len(shown) + 0.3, 2.6)
        figure, axes = plt.subplots(
            1, len(shown), figsize=size, layout="constrained", squeeze=False
        )
        for ax, view in zip(axes[0], shown, strict=True):
            title, unit, numbers = panels[view]
            for line, (family, sizes) in zip(("-", "--", ":"), families.items(), strict=False):
                found = [numbers(r.meta["views"]) for r in sizes]
                for i, name in enumerate(found[0]):
                    # beside each other, where intervals would cover one another
                    beside = 1.02 ** (i - (len(found[0]) - 1) / 2)
                    millions = [beside * r.meta["parameters"] / 1e6 for r in sizes]
                    label = f"{family}: {name}" if len(families) > 1 else name
                    entries = [of[name] for of in found]
                    _size_line(ax, millions, entries, name, line, label)
            ax.set_xscale("log")
            ax.set_xticks(
                [r.meta["parameters"] / 1e6 for r in results],
                [f"{r.meta['parameters'] / 1e6:.3g}" for r in results],
            )
            ax.xaxis.set_minor_locator(NullLocator())
            if view == "perturb":
                _plain_log(ax)
            else:
                ax.set_ylim(0, None)
            ax.set_xlabel("parameters (millions)")
            ax.set_ylabel(unit)
            ax.set_title(title)
            if len(ax.get_legend_handles_labels()[1]) > 1:
                ax.legend()
        if not all(result.meta["trained"] for result in results):
            figure.suptitle(BANNER, fontsize=8, color="#B00020", weight="bold")
    plt.close(figure)
    return figure


def _families(results: Sequence[Sensitivity]) -> dict[str, list[Sensitivity]]:
    """Results by family, the smallest size first."""
    found: dict[str, list[Sensitivity]] = {}
    for result in sorted(results, key=lambda r: r.meta["parameters"]):
        found.setdefault(result.meta["model"].partition("_")[0], []).append(result)
    return found


def _size_line(
    ax: Axes, millions: Sequence[float], entries: Sequence[dict], name: str, line: str, label: str
) -> None:
    style = {"color": COLOURS.get(name, "black"), "marker": MARKERS.get(name, "o"), "ms": 3.5}
    values = [np.nan if entry["value"] is None else entry["value"] for entry in entries]
    ax.plot(millions, values, ls=line, label=label, **style)
    for x, entry in zip(millions, entries, strict=True):
        if entry["low"] is not None:
            ax.plot([x, x], [entry["low"], entry["high"]], color=style["color"], lw=0.8)


def caption_sizes(results: Sequence[Sensitivity]) -> str:
    """What the figure over sizes shows."""
    names = ", ".join(
        f"{result.meta['model']} ({result.meta['parameters'] / 1e6:.3g} M)" for result in results
    )
    return (
        f"Sizes side by side: {names}. Budgets: geometric mean over images that are right when "
        "clean; an image that the highest budget does not flip counts as flipped there. "
        f"{caption(results[0])}"
    )


def _verdict_lines(result: Sensitivity) -> list[str]:
    lines = [] if result.meta["trained"] else [BANNER]
    for claim in result.meta["claims"]:
        said = ", ".join(f"{view} {_SIGN[says]}" for view, says in claim["views"].items())
        why = "; ".join(filter(None, (claim["reason"], said)))
        line = f'"{claim["claim"]}": {claim["verdict"]}' + (f" ({why})" if why else "")
        lines += textwrap.wrap(line, 118, subsequent_indent="    ")
    return lines


def report(result: Sensitivity) -> str:
    """The verdicts with every comparison behind them, and the main numbers, as text."""
    meta = result.meta
    count = len(result.clean)
    lines = [f"{label(result)}: {count} images, accuracy {_words(meta['clean'])}"]
    if meta["labelled"] < count:
        lines.append(f"{count - meta['labelled']} without a label: the prediction stands for it")
    if not meta["trained"]:
        lines.append(BANNER)
    views = meta["views"]
    if "gradient" in views:
        entries = views["gradient"].get("entries", {})
        if entries:
            told = ", ".join(f"{name} {count}" for name, count in entries.items())
            lines.append(f"gradient: numbers in an image's tensors {told}")
        for kind, shares in views["gradient"]["shares"].items():
            lines.append(f"gradient: share of sensitivity, {kind}: {_each(shares)}")
    if "perturb" in views:
        smallest = views["perturb"]["flipping"]
        budgets = [
            f"{name} {'over 1' if s['median'] is None else format(s['median'], '.3g')}"
            for name, s in smallest.items()
        ]
        lines.append("perturb: median budget that flips an image " + ", ".join(budgets))
    if "cut" in views:
        lines.append(f"cut: withstands every cut {_words(views['cut']['withstands'])}")
        for row in views["cut"]["rows"]:
            if row["scope"] == "all":
                lines.append(f"  without {row['tensors']}: accuracy {_words(row['accuracy'])}")
    if "patching" in views:
        after = "accuracy, recovered"
        for row in views["patching"]["rows"]:
            if row["scope"] == "all":
                lines.append(
                    f"patching {row['tensors']}: recovered {_words(row['recovered'])}, induced "
                    f"{_words(row['induced'])}"
                    + (f", accuracy {_words(row[after])}" if after in row else "")
                )
    if "bounds" in views:
        lines.append(f"bounds: exceeded {views['bounds']['exceeded']} times")
    for claim in meta["claims"]:
        lines.append(f'"{claim["claim"]}": {claim["verdict"].upper()}')
        if claim["reason"]:
            lines.append(f"  {claim['reason']}")
        for entry in claim["comparisons"]:
            lines.append(
                f"  {entry['view']}: {entry['what']} {_words(entry)}, beyond "
                f"{entry.get('smallest', 0):g}: p {entry['p_corrected']:.2g} "
                f"({_SIGN[entry['says']]})"
            )
    return "\n".join(lines)


def _words(entry: dict) -> str:
    told = words(entry, ".3g")
    return f"{told} {entry['unit']}".rstrip() if told else "none"


def _each(entries: dict[str, dict]) -> str:
    return ", ".join(f"{name} {_words(entry)}" for name, entry in entries.items())


def caption(result: Sensitivity) -> str:
    """What the figure shows, by which protocol, on how many images."""
    used = result.meta["used"]
    level = f"{100 * used['confidence']:g} %"
    return (
        f"{label(result)}, {len(result.clean)} images. Sensitivity: steepest change of the margin "
        "with a relative change of every entry, the scale of a row being its RMS over steps; in "
        f"titles its shares by {', '.join(SHOWN)}. "
        f"Perturbations inside the model: {used['steps']} projected gradient steps on the margin, "
        f"{used['draws']} random draws. Attacks on the image: l_inf PGD of {used['attack_steps']} "
        f"steps, {used['attack_seeds']} seeds. Patching: ratio of means over images that are "
        "right when clean and wrong when attacked. Margins without a gradient: medians. "
        f"Intervals: {level}, over images of one trained network, which say nothing of another "
        f"seed's; claims: {_holm(result)}."
    )


def _holm(result: Sensitivity) -> str:
    corrected = result.meta.get("corrected")
    if not corrected or corrected["models"] < 2:
        return "Holm over all comparisons"
    return f"Holm over all {corrected['comparisons']} comparisons of {corrected['models']} models"


def csv_table(results: Sequence[Sensitivity]) -> str:
    """All numbers of all views, one line each."""
    rows: list[list[Any]] = []
    for result in results:
        model = result.meta["model"]
        for view, found in result.meta["views"].items():
            for row in found.get("rows", ()):
                name = " ".join(str(v) for v in row.values() if isinstance(v, str | float))
                for number, entry in row.items():
                    if isinstance(entry, dict):
                        rows.append([model, view, name, number, entry])
            for kind, shares in found.get("shares", {}).items():
                for tensor, entry in shares.items():
                    rows.append([model, view, tensor, kind, entry])
        for claim in result.meta["claims"]:
            rows.append([model, "claim", claim["claim"], claim["verdict"], "", "", "", ""])
    return csv_text(["model", "view", "row", "number"], rows)
