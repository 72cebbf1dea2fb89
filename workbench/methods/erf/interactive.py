"""A page of its own in which fields follow the mouse: one file, without server or network.

The maps of all cells of the result's image are measured again with its protocol, and stored in the
page as small pictures of 8 bits.
"""

import base64
import html
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import nn

from workbench.devices import frozen_eval
from workbench.figures import overlay
from workbench.figures.label import label
from workbench.figures.pair import PAIR, coarse_first, payload
from workbench.geometry import feature_map, grid_of
from workbench.images.preprocessing import Preprocessing
from workbench.methods.erf.cells import fields, small
from workbench.methods.erf.config import ErfConfig
from workbench.methods.erf.figure import caption, with_interval
from workbench.methods.erf.measure import protocol
from workbench.results import Erf

MOST_BYTES = 3_300_000
"""Of all maps, before they are compressed: the page stays below 5 MB."""
NUMBERS = ("A50", "r50", "radius", "participation", "crossness")

Progress = Callable[[int, int], None]


def offered(
    result: Erf, model: nn.Module, among: int = 1, progress: Progress = lambda *_: None
) -> dict[str, Any]:
    """The maps of all cells on the result's picture, as the browser takes them.

    Args:
        model: that of the result.
        among: results on the page, which share its size.

    Raises:
        ValueError: for a result without a picture.
    """
    if result.picture is None:
        raise ValueError(f"the result of {label(result)} holds no picture to show")
    config = _config(result)
    x = Preprocessing.of(result.meta["preprocessing"]).tensor(result.picture[None])
    device = next(model.parameters()).device
    with frozen_eval(model, device):
        settled = protocol(config, model)
        with torch.no_grad():
            features = feature_map(model, x.to(device), settled.stage, settled.layer, settled.norm)
        grid = grid_of(model, features, tuple(x.shape[-2:]), x.shape[1])
        cells = coarse_first(*grid.cells)
        side = max(int((MOST_BYTES / among / len(cells)) ** 0.5), 8)
        maps = []
        for first in range(0, len(cells), 4):
            progress(first, len(cells))
            found = fields(model, x.to(device), config, cells[first : first + 4])
            maps.append(small(found, min(side, 112)))
        progress(len(cells), len(cells))
    stored = base64.b64encode(payload(cells, np.concatenate(maps)[:, None], left=0)).decode()
    return {
        "key": result.meta["hash"],
        "size": tuple(x.shape[-2:]),
        **asdict(grid),
        "stored": f"data:application/gzip;base64,{stored}",
    }


def _config(result: Erf) -> ErfConfig:
    config = {k: v for k, v in result.meta["config"].items() if k in ErfConfig.__dataclass_fields__}
    return ErfConfig(**{**config, "split": "none", "split_layer": None})


def page(results: Sequence[Erf], cells: Sequence[dict[str, Any]]) -> str:
    """The HTML of results, each with what `offered` gives of it."""
    panels = [(result, _data(result, own)) for result, own in zip(results, cells, strict=True)]
    sections = "\n".join(_section(i, result) for i, (result, _) in enumerate(panels))
    parts = {
        "sections": sections,
        "caption": html.escape(caption(results)),
        "provenance": html.escape(_provenance(results)),
        "pair": _script(f"<style>{PAIR['css']}</style>{PAIR['html']}"),
        "draw": PAIR["js"].replace("export default function", "function draw"),
        "data": _script([data for _, data in panels]),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], TEMPLATE)


def _script(value: Any) -> str:
    """A value in JavaScript, within a script element."""
    return json.dumps(value).replace("</", "<\\/").replace("<!--", "<\\!--")


def _data(result: Erf, cells: dict[str, Any]) -> dict[str, Any]:
    assert result.picture is not None
    (rows, columns), (row, column) = result.meta["cells"], result.meta["cell"]
    return {
        **overlay.pair(result, f"Receptive field of {label(result)}"),
        "photo": overlay.data_url(result.picture),
        "photo_alt": "The photograph with the receptive field over it",
        "below": f"Cell {row}, {column} of {rows} x {columns}. A click keeps what is seen.",
        "cells": cells,
    }


def _section(number: int, result: Erf) -> str:
    rows = "".join(
        f"<tr><th>{name}</th><td>{html.escape(with_interval(result, name))}</td></tr>"
        for name in NUMBERS
    )
    title, about = html.escape(str(result.meta["facts"]["model"])), html.escape(label(result))
    return (
        f'<section><h2>{title}</h2><p>{about}</p><div class="host" id="panel-{number}"></div>'
        f"<table>{rows}</table></section>"
    )


def _provenance(results: Sequence[Erf]) -> str:
    told = [
        {key: result.meta[key] for key in ("facts", "images", "config", "provenance", "hash")}
        for result in results
    ]
    return json.dumps(told, indent=2)


TEMPLATE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Effective receptive fields</title>
<style>
:root { color-scheme: light dark; --st-font: system-ui, sans-serif;
  --st-text-color: light-dark(#222, #eee); --st-primary-color: light-dark(#8b2582, #d06ac6);
  --st-secondary-background-color: light-dark(#f5f4f7, #211e27); }
body { font: 16px/1.5 var(--st-font); color: var(--st-text-color); margin: 2rem auto;
  max-width: 90rem; padding: 0 1.5rem; }
main { display: grid; grid-template-columns: repeat(auto-fit, minmax(18rem, 1fr)); gap: 2rem; }
h1, h2 { line-height: 1.2; margin: 0; } section p { margin: .2rem 0 .8rem; font-size: .85rem; }
table { font-size: .85rem; margin-top: .8rem; } th { text-align: left; padding-right: 1rem; }
pre { overflow-x: auto; font-size: .75rem; } details { margin-top: 2rem; }
</style>
<h1>Effective receptive fields</h1>
<p>Which pixels does the unit under the mouse depend on?</p>
<main>
{{sections}}
</main>
<p>{{caption}}</p>
<details><summary>How this was measured</summary><pre>{{provenance}}</pre></details>
<script type="module">
{{draw}}
const pair = {{pair}};
({{data}}).forEach((data, number) => {
  const root = document.getElementById(`panel-${number}`).attachShadow({ mode: "open" });
  root.innerHTML = pair;
  draw({ data, parentElement: root, setTriggerValue() {} });
});
</script>
</html>
"""
