"""Tables on quantisation, the atlas, tokens, objects and attribution, from the CSV tables that
`analyses/configs/lenses.yaml` gives and `remake.py` keeps.
"""

import csv
import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path

from workbench.figures.cells import csv_number, words

STORED = Path(__file__).parent / "results" / "lenses"
FAMILIES = ("vmamba_nano", "vim_nano", "mambavision_nano")
BITS = ("8", "6", "4", "3")
TENSORS = ("u", "delta", "B", "C", "y", "together")
MAPS = ("erf", "scan-maps", "tokens", "saliency", "integrated-gradients", "grad-cam")
CONTROLS = ("random", "edges", "centre")

Number = dict[str, float | None]


def lines(name: str) -> list[dict[str, str]]:
    """The lines of a stored table."""
    with (STORED / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def model_of(line: dict[str, str]) -> str:
    """A model without the tag of its weights."""
    return line["model"].partition(".")[0]


def numbers(name: str) -> dict[tuple[str, str], Number]:
    """(model, number) -> what a table says."""
    return {(model_of(line), line["number"]): csv_number(line) for line in lines(name)}


def divergences() -> dict[tuple[str, ...], str]:
    """(model, tensor, granularity, range, bits) -> KL."""
    names = ("tensor", "granularity", "range", "bits")
    return {
        (model_of(line), *(line[name] for name in names)): f"{float(line['value']):.2g}"
        for line in lines("quantize")
        if line["number"] == "KL"
    }


def bits() -> Iterator[list[str]]:
    """KL of all tensors at once."""
    known = divergences()
    yield ["", "8 bits", *BITS[1:]]
    for model, shared, span in product(
        FAMILIES, ("tensor", "channel", "token"), ("dynamic", "static")
    ):
        found = [known[model, "together", shared, span, count] for count in BITS]
        yield [f"`{model}`, per {shared}, {span}", *found]


def tensors() -> Iterator[list[str]]:
    """KL of one tensor at a time."""
    known = divergences()
    yield ["", *TENSORS]
    for model in FAMILIES:
        yield [f"`{model}`", *(known[model, name, "tensor", "dynamic", "4"] for name in TENSORS)]


def reach() -> Iterator[list[str]]:
    """Reach of the first and the last layer, of the sum of directions where there are several."""
    found = numbers("atlas")
    yield ["", "first", "last"]
    for model in FAMILIES:
        layers: dict[str, Number] = {}
        for (of, name), value in found.items():
            kind, _, place = name.partition("/")
            layer, _, direction = place.rpartition("/")
            if of == model and kind == "reach" and (direction == "all" or layer not in layers):
                layers[layer] = value
        depth = sorted(layers, key=lambda layer: [int(n) for n in re.findall(r"\d+", layer)])
        ends = [words(layers[depth[i]], ".1f") for i in (0, -1)]
        yield [f"`{model}`", *(f"{said} px" for said in ends)]


def norms() -> Iterator[list[str]]:
    """Norms of the tokens of the last block."""
    found = numbers("tokens")
    yield ["", "median", "largest", "outliers", "in the flat half"]
    for model in (*FAMILIES, "vit_nano"):
        layers = [name.partition("/")[2] for of, name in found if of == model]
        last = max(layers, key=lambda layer: [int(n) for n in re.findall(r"\d+", layer)])

        def value(name: str, digits: str, model: str = model, last: str = last) -> str:
            known = found.get((model, f"{name}/{last}"), {}).get("value")
            return "-" if known is None else f"{known:{digits}}"

        flat = value("flat", ".0f")
        yield [
            f"`{model}`",
            value("median", ".3g"),
            value("largest", ".2f"),
            f"{value('outliers', '.2f')} %",
            flat if flat == "-" else f"{flat} %",
        ]


def objects() -> Iterator[list[str]]:
    """Average precision of maps, and the pointing game."""
    found = numbers("objects")

    def cell(model: str, name: str) -> str:
        precision, pointing = (
            found[model, f"average precision/{name}"],
            found[model, f"pointing/{name}"],
        )
        return f"{precision['value']:.1f} ({pointing['value']:.0f})"

    yield ["", *(f"`{model}`" for model in FAMILIES), "no model"]
    for name in MAPS:
        yield [f"`{name}`", *(cell(model, name) for model in FAMILIES), ""]
    for name in CONTROLS:
        yield [f"`{name}`", "", "", "", cell(FAMILIES[0], name)]


def deletion() -> Iterator[list[str]]:
    """Areas under the curves of deletion and insertion."""
    found = numbers("attribution")

    def told(name: str) -> str:
        return words(found["vmamba_nano", name], ".2f")

    yield ["saliency", "area"]
    for kind in ("deletion", "insertion"):
        yield [f"{kind}, by the map, less that of random order", told(f"{kind} - random")]
    for title, name in (
        ("deletion, insertion by the map", "saliency"),
        ("by a Gaussian in the middle", "gaussian"),
    ):
        yield [title, f"{told(f'deletion/{name}')}, {told(f'insertion/{name}')}"]


def shuffled() -> Iterator[list[str]]:
    """Likeness to the maps of a network whose last weights are shuffled."""
    found = numbers("attribution")
    shares = (25, 50, 75, 100)
    yield ["last weights shuffled", *(f"{share} %" for share in shares)]
    likeness = [words(found["vmamba_nano", f"randomised {share}%"], ".2f") for share in shares]
    yield ["rank correlation of the maps", *likeness]
