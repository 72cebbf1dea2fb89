"""One number of several models against image size, as a Vega-Lite chart."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from workbench.figures.colours import COLOURS, styles
from workbench.methods.resolution.curve import UNITS
from workbench.results import Resolution

SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "triangle-right")
MOST = 6
"""Curves that colour and shape tell apart, on light and on dark."""

GREY = "#888888"


class Number(NamedTuple):
    """A number of a curve in words."""

    title: str
    meaning: str


NUMBERS = {
    "top1": Number("Accuracy", "images whose first answer is right (Wilson intervals)"),
    "top5": Number("Accuracy, five answers", "images whose first five answers hold the right one"),
    "drop": Number(
        "Change of accuracy",
        "accuracy relative to that at the trained size (paired intervals)",
    ),
    "refit": Number(
        "Accuracy, head refitted",
        "right answers of a linear head fitted to the features of this size, on images held out",
    ),
    "agreement": Number(
        "Agreement", "images with the same prediction as at the trained size (Wilson intervals)"
    ),
    "kl": Number("Divergence", "KL of the predicted probabilities from those at the trained size"),
    "margin": Number(
        "Margin",
        "probability of the trained size's prediction over that of the next best class; negative "
        "where the prediction changed",
    ),
    "cka": Number(
        "Feature similarity",
        "linear CKA of the pooled features with those at the trained size; 1 for the same geometry",
    ),
    "A50": Number(
        "Receptive field, A50",
        "smallest set of pixels that holds half of the receptive field of the last stage's centre, "
        "over the first images",
    ),
    "crossness": Number(
        "Receptive field, cross-ness",
        "how far the row and column through the centre stand out in that field; 1 without a cross",
    ),
    "horizon": Number(
        "Memory of the scans",
        "steps in which a scan's state halves, as a share of its sequence; median over layers",
    ),
    "latency": Number("Time of one image", "one forward pass, with quartiles"),
    "cpu": Number("Processor time", "of all threads, for one image, with quartiles"),
    "waiting": Number(
        "Waiting for a processor",
        "share of the time of that image in which its threads could have run, but other work had "
        "the processors; with more than 10 %, times are those of a busy machine",
    ),
    "throughput": Number("Throughput", "images in batches, with quartiles"),
    "flops": Number("Operations", "of one image; a multiply-add is two"),
    "memory": Number("Peak memory", "what tensors hold at once beside weights and input"),
}
"""What the page can show, by the names of `UNITS`."""

LABELLED = ("top1", "top5", "drop", "refit")
LOGARITHMIC = ("horizon", "latency", "cpu", "throughput", "flops", "memory")


def axis(number: str) -> str:
    """Title and unit of a number."""
    unit = UNITS[number]
    return NUMBERS[number].title + (f" ({unit})" if unit else "")


def written(value: float, low: float, high: float) -> str:
    """A number with its interval; "" where it was not measured."""
    if not np.isfinite(value):
        return ""
    return f"{value:.3g} [{low:.3g}, {high:.3g}]" if np.isfinite(low) else f"{value:.3g}"


def _rows(curve: Resolution, label: str, number: str) -> list[dict[str, Any]]:
    rows = []
    for size, value, low, high in zip(curve.sizes, *curve.number(number), strict=True):
        if np.isfinite(value):
            known = np.isfinite(low)
            rows.append(
                {
                    "model": label,
                    "size": int(size),
                    "value": float(value),
                    "low": float(low) if known else None,
                    "high": float(high) if known else None,
                    "image size": f"{size} px",
                    NUMBERS[number].title: f"{written(value, low, high)} {UNITS[number]}".strip(),
                }
            )
    return rows


def chart(
    curves: Sequence[Resolution], labels: Sequence[str], number: str, sizes: Sequence[int]
) -> dict[str, Any]:
    """A Vega-Lite specification: lines with intervals, on a log-2 axis that spans `sizes`.

    Dashed lines are the sizes trained at; pointing anywhere gives the numbers of the nearest point.
    """
    each = zip(curves, labels, strict=True)
    rows = [row for curve, label in each for row in _rows(curve, label, number)]
    models = list(labels)
    places = styles(models)
    legend = {"orient": "top", "title": None, "columns": 2, "labelLimit": 400, "symbolOpacity": 1}
    shape = {
        "field": "model",
        "scale": {"domain": models, "range": [SHAPES[place] for place in places]},
        "legend": legend,
    }
    span = [min(sizes) / 1.1, max(sizes) * 1.1]
    return {
        "height": 380,
        "data": {"values": rows},
        "encoding": {
            "x": {
                "field": "size",
                "type": "quantitative",
                "scale": {"type": "log", "base": 2, "domain": span, "nice": False},
                "axis": {
                    "values": list(sizes),
                    "format": "d",
                    "title": "image size (px)",
                    "labelOverlap": "greedy",
                    "grid": False,
                },
            },
            "color": {
                "field": "model",
                "scale": {"domain": models, "range": [COLOURS[place] for place in places]},
                "legend": legend,
            },
        },
        "layer": [*_trained(curves), *_lines(number, rows, shape)],
    }


def _trained(curves: Sequence[Resolution]) -> list[dict[str, Any]]:
    """A dashed line at every size trained at, with its name at the bottom."""
    sizes = sorted({curve.meta["native"] for curve in curves})
    data = {"values": [{"size": size, "text": f"trained at {size} px"} for size in sizes]}
    text = {"type": "text", "align": "left", "dx": 5, "dy": -5}
    return [
        {
            "data": data,
            "mark": {"type": "rule", "strokeDash": [4, 4], "strokeWidth": 1.5},
            "encoding": {"color": {"value": GREY}},
        },
        {
            "data": data,
            "mark": text,
            "encoding": {
                "text": {"field": "text"},
                "y": {"value": "height"},
                "color": {"value": GREY},
            },
        },
    ]


def _ticks(rows: Sequence[dict[str, Any]]) -> list[float]:
    """1, 2, 5, 10 ... around some values; 1, 10 ... when they are over many decades."""
    values = [row["value"] for row in rows]
    first, last = (math.floor(math.log10(end(values))) for end in (min, max))
    steps = (1, 2, 5) if last - first < 3 else (1,)
    return [step * 10.0**power for power in range(first, last + 2) for step in steps]


def _lines(
    number: str, rows: Sequence[dict[str, Any]], shape: dict[str, Any]
) -> list[dict[str, Any]]:
    """Bands, lines and points of all curves."""
    y: dict[str, Any] = {"type": "quantitative", "title": axis(number), "scale": {"zero": False}}
    if number in LOGARITHMIC:
        y |= {
            "scale": {"type": "log", "nice": False, "padding": 12},
            "axis": {"values": _ticks(rows)},
        }
    nearest = {"type": "point", "on": "pointerover", "nearest": True, "clear": "pointerout"}
    tips = [{"field": name} for name in ("model", "image size", NUMBERS[number].title)]
    return [
        {
            "transform": [{"filter": "isValid(datum.low)"}],
            "mark": {"type": "area", "opacity": 0.12},
            "encoding": {"y": {**y, "field": "low"}, "y2": {"field": "high"}},
        },
        {"mark": {"type": "line", "strokeWidth": 2}, "encoding": {"y": {**y, "field": "value"}}},
        {
            "params": [{"name": "nearest", "select": nearest}],
            "mark": {"type": "point", "filled": True, "opacity": 1, "size": 70},
            "encoding": {"y": {**y, "field": "value"}, "shape": shape, "tooltip": tips},
        },
    ]
