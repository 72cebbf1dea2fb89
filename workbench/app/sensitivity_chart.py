"""The chart that compares models by what B, C and delta carry."""

from collections.abc import Sequence
from typing import Any

from workbench.figures.cells import words
from workbench.methods.sensitivity.figure import COLOURS, RANKED
from workbench.results import Sensitivity

SHARE = "share of first-order sensitivity (%)"


def shares(results: Sequence[Sensitivity], budget: str = "linf") -> dict[str, Any]:
    """A Vega-Lite specification: for each model three bars with intervals.

    budget: how a change is measured, one of those in `meta["views"]["gradient"]["shares"]`.
    """
    rows = []
    for result in results:
        found = result.meta["views"]["gradient"]["shares"][f"margin, {budget}"]
        for tensor in RANKED:
            entry = found[tensor]
            told = words(entry, ".1f", " %")
            row = {"model": result.meta["model"], "tensor": tensor, "share": told}
            rows.append(row | {name: entry[name] for name in ("value", "low", "high")})
    models = [result.meta["model"] for result in results]
    return {
        "height": 260,
        "data": {"values": rows},
        "encoding": {
            "x": {
                "field": "model",
                "type": "nominal",
                "sort": models,
                "axis": {"title": None, "labelAngle": 0},
            },
            "xOffset": {"field": "tensor", "sort": list(RANKED)},
            "tooltip": [{"field": name} for name in ("model", "tensor", "share")],
        },
        "layer": [
            {
                "mark": "bar",
                "encoding": {
                    "y": {"field": "value", "type": "quantitative", "title": SHARE},
                    "color": {
                        "field": "tensor",
                        "scale": {
                            "domain": list(RANKED),
                            "range": [COLOURS[name] for name in RANKED],
                        },
                        "legend": {"orient": "top", "title": None},
                    },
                },
            },
            {
                "mark": {"type": "rule", "color": "#888888", "strokeWidth": 2},
                "encoding": {
                    "y": {"field": "low", "type": "quantitative"},
                    "y2": {"field": "high"},
                },
            },
        ],
    }
