"""Page: where every layer looks; a click on a point of the embedding opens the map that it is."""

from typing import Any

import numpy as np
import streamlit as st

from workbench.app import any_method
from workbench.app.session import Spec
from workbench.figures import overlay
from workbench.methods.scan_maps.figure import shown, site_title
from workbench.results import Atlas, Result

SIDE = 320
SUM = "sum of directions"


def points(result: Atlas) -> dict[str, Any]:
    """A Vega-Lite specification: every map a point, as in the figure, that can be chosen."""
    sites = result.meta["sites"]
    layers = list(dict.fromkeys(site["layer"] for site in sites))
    rows = [
        {
            "site": k,
            "query": q,
            "layer": site["layer"],
            "number": layers.index(site["layer"]),
            "direction": site_title(site),
            "x": float(x),
            "y": float(y),
        }
        for k, site in enumerate(sites)
        if site_title(site) != SUM
        for q, (x, y) in enumerate(result.places[k])
    ]
    one, two = (f"component {i + 1} ({s:.0%})" for i, s in enumerate(result.meta["variance"]))
    chosen = {"condition": {"param": "point", "value": 1}, "value": 0.35}
    return {
        "height": SIDE,
        "data": {"values": rows},
        "params": [{"name": "point", "select": {"type": "point", "fields": ["site", "query"]}}],
        "mark": {"type": "point", "filled": True, "size": 60, "cursor": "pointer"},
        "encoding": {
            "x": {"field": "x", "type": "quantitative", "title": one},
            "y": {"field": "y", "type": "quantitative", "title": two},
            "color": {
                "field": "number",
                "type": "quantitative",
                "title": "layer",
                "scale": {"scheme": "viridis"},
            },
            "shape": {
                "field": "direction",
                "type": "nominal",
                "legend": {"orient": "top", "symbolFillColor": "gray"},
            },
            "opacity": chosen,
            "tooltip": [{"field": name} for name in ("layer", "direction", "query")],
        },
    }


@st.fragment
def embedding(spec: Spec, result: Result) -> None:
    """The points of a result, and beside them the map of the one that was clicked."""
    assert isinstance(result, Atlas)
    st.markdown(f"**{spec.model}: every map a point.** Near points are maps alike; click one.")
    left, right = st.columns([3, 2], gap="medium")
    with left:
        event: Any = st.vega_lite_chart(
            points(result),
            key=f"atlas-points-{result.meta['hash']}",
            on_select="rerun",
            alt=f"Maps of {spec.model} in two principal components",
        )
    picked = event.selection.get("point") or [{"site": 0, "query": 0}]
    site, query = int(picked[-1]["site"]), int(picked[-1]["query"])
    entry, values = result.meta["sites"][site], result.maps[site, query]
    (row, column), cells, count = entry["queries"][query], entry["cells"], result.meta["compared"]
    heat = shown(values, float(np.nanmax(values, initial=0)))
    tall = round(SIDE * values.shape[0] / values.shape[1])
    with right:
        st.image(
            overlay.enlarged(overlay.colours(heat), (tall, SIDE)),
            width=SIDE,
            caption=f"{entry['layer']}, {site_title(entry)}: what the cell in row {row + 1}, "
            f"column {column + 1} of {cells[0]} x {cells[1]} is given, mean over {count} "
            f"image{'s' * (count > 1)}. Black is nothing, the brightest the most.",
            alt=f"Map of {entry['layer']}, {site_title(entry)}",
        )


any_method.page("atlas", below=embedding)
