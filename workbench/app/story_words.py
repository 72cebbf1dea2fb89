"""The sentences of the story: each is made of the numbers of stored results, and turns with them.

Every function gives a title and what it says. Two numbers differ where their intervals do not meet,
or, of the same photographs, where that of their difference holds no 0.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from workbench.methods.erf.metrics import column_share, row_share
from workbench.paths import ScanPath
from workbench.results import Erf, Resolution, ScanMaps, Sensitivity
from workbench.statistics import mean

Number = Mapping[str, Any]
Words = tuple[str, str]


def order(path: ScanPath) -> Words:
    """How far apart neighbours are along a path."""
    steps = np.diff(path.inverse.reshape(path.height, path.width), axis=0)
    return (
        "A scan reads in rows",
        f"A state-space model reads the picture cell by cell, {len(path)} cells in a line. The "
        f"neighbour on the right comes one step later, the neighbour below {steps.max()} steps "
        "later: up and down is far, left and right is near.",
    )


def stripe(field: Erf) -> Words:
    """Whether the row or the column through the unit stands out."""
    row, column = (field.numbers[f"{name}_share"] for name in ("row", "column"))
    shapes = {1: "a stripe along its row", -1: "a stripe along its column", 0: "no stripe"}
    centre = field.meta["centre"]
    more = [row_share(p, centre) - column_share(p, centre) for p in field.maps]
    difference = mean(np.array(more), fewest=2).as_dict()
    seen = shapes[_compared({"value": 0, "low": 0, "high": 0}, difference)]
    return (
        f"So {field.meta['model']} sees {seen}",
        f"Of the gradient of **{field.meta['model']}**'s middle output, {told(row)} lies "
        f"in a thin band along its row and {told(column)} in one along its column, over "
        f"{field.meta['images_used']} photographs.",
    )


def cross(maps: ScanMaps, field: Erf) -> Words:
    """What each direction brings, and whether a cross is left of them in the field."""
    shares = [numbers["share"]["value"] for numbers in maps.meta["numbers"].values()]
    stands_out = field.numbers["crossness"]
    found = _ends(stands_out)[0] > 1
    return (
        f"Scans in {len(shares)} directions {'make a cross' if found else 'see all around'}",
        f"Each scan of **{maps.meta['model']}** knows only what it has already read, and brings "
        f"{min(shares):.0f} to {max(shares):.0f} % of a layer's output. In the field of the whole "
        f"network the row and column through the middle hold {stands_out['value']:.2f} times "
        f"what the distance alone would give them: {'a' if found else 'no'} cross stands out.",
    )


def training(tracks: Sequence[Sequence[Erf]]) -> Words:
    """What training does to the width of each family's field."""
    areas = [(track[0].numbers["A50"], track[-1].numbers["A50"]) for track in tracks]
    each = [
        f"{_went(before, after)} in **{track[0].meta['model']}**"
        for track, (before, after) in zip(tracks, areas, strict=True)
    ]
    return (
        _title("Training", areas),
        f"The share of the pixels that holds half of the gradient {', '.join(each)}.",
    )


def resolution(curves: Sequence[Resolution]) -> Words:
    """What the largest size does to field and accuracy."""
    ends = [(curve.meta["native"], int(curve.sizes[-1])) for curve in curves]
    areas, right = (
        [
            tuple(_at(curve, name, size) for size in sizes)
            for curve, sizes in zip(curves, ends, strict=True)
        ]
        for name in ("A50", "top1")
    )
    each = [
        f"{_went(before, after)} in **{curve.meta['model']}**"
        for curve, (before, after) in zip(curves, areas, strict=True)
    ]
    changes = [after["value"] - before["value"] for before, after in right]
    largest = " and ".join(map(str, sorted({last for _, last in ends})))
    return (
        _title("Another resolution", areas),
        f"From the size of training to {largest} px that share {', '.join(each)}. Right answers "
        f"change by {min(changes):+.0f} to {max(changes):+.0f} points.",
    )


def attack(results: Sequence[Sensitivity]) -> Words:
    """Which tensor carries most, for two ways to measure a change."""
    same, length = (
        [_largest(result, budget) for result in results]
        for budget in ("margin, linf", "margin, l2")
    )
    first = {tensor for tensor, _ in same}
    each = [
        ", ".join(
            f"{tensor} with {share:.0f} % in **{result.meta['model']}**"
            for result, (tensor, share) in zip(results, found, strict=True)
        )
        for found in (same, length)
    ]
    return (
        f"An attack moves {first.pop()} most" if len(first) == 1 else "What an attack moves",
        f"Where every entry of B, C and delta may change alike, the margin hangs most on {each[0]}."
        f" Where each tensor may change by the same length, it hangs on {each[1]}.",
    )


def _largest(result: Sensitivity, budget: str) -> tuple[str, float]:
    shares = result.meta["views"]["gradient"]["shares"][budget]
    tensor = max(shares, key=lambda name: shares[name]["value"])
    return tensor, shares[tensor]["value"]


def _at(curve: Resolution, name: str, size: int) -> Number:
    """A number of a curve at one of its sizes."""
    place = curve.sizes.tolist().index(size)
    return {
        part: float(values[place])
        for part, values in zip(("value", "low", "high"), curve.number(name), strict=True)
    }


def _ends(number: Number) -> tuple[float, float]:
    """The interval, or twice the value where there is none."""
    low, high = number["low"], number["high"]
    return (number["value"],) * 2 if low is None or np.isnan(low) else (low, high)


def _compared(before: Number, after: Number) -> int:
    """1 where a number is surely larger after, -1 where smaller, else 0."""
    (low, high), (later_low, later_high) = _ends(before), _ends(after)
    return int(later_low > high) - int(later_high < low)


def _went(before: Number, after: Number) -> str:
    way = _compared(before, after)
    if not way:
        return f"stays near {told(after)}"
    return f"{'grows' if way > 0 else 'falls'} from {_number(before['value'])} to {told(after)}"


def _title(what: str, areas: Sequence[Sequence[Number]]) -> str:
    """What happens to the fields of several models."""
    found = [way for before, after in areas if (way := _compared(before, after))]
    if not found:
        return f"{what} leaves it as it is"
    if len(set(found)) > 1:
        return f"{what} widens some and narrows others"
    some = "" if len(found) == len(areas) else f" in {len(found)} of {len(areas)}"
    return f"{what} {'widens' if found[0] > 0 else 'narrows'} it{some}"


def _number(value: float) -> str:
    """Two digits, but no exponent."""
    return f"{value:.2g}" if value < 10 else f"{value:.0f}"


def told(number: Number) -> str:
    """A share in words."""
    return f"{_number(number['value'])} %"
