"""What pictures of layers and directions share: the image, its maps, and their scale."""

from collections.abc import Sequence
from textwrap import fill
from typing import Any, TypeVar

import numpy as np
from matplotlib.axes import Axes

from workbench.results import Result

POWER = 0.25
T = TypeVar("T")


def evenly(found: Sequence[T], most: int) -> list[T]:
    """At most so many of them, the first and the last among them."""
    places = np.linspace(0, len(found) - 1, min(len(found), most)).round().astype(int)
    return [found[i] for i in places]


def layers(result: Result) -> dict[str, list[dict]]:
    """The sites of a result by layer, in order."""
    found: dict[str, list[dict]] = {}
    for site in result.meta["sites"]:
        found.setdefault(site["layer"], []).append(site)
    return found


def shown(values: np.ndarray, top: float) -> np.ndarray:
    """Values on a common scale: sign(x) |x / top| ** 0.25, in [-1, 1]."""
    x = np.nan_to_num(values) / (top or 1.0)
    return np.sign(x) * np.abs(x) ** POWER


def frame(ax: Axes) -> None:
    """Leave nothing but the picture."""
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)


def mark(ax: Axes, site: dict) -> None:
    """A cross on the cell asked about, in a map."""
    if site["query"] is not None:
        ax.plot(site["query"][1], site["query"][0], "+", color="#3cf03c", ms=6, mew=1.0)


def picture(ax: Axes, result: Any, site: dict) -> None:
    """The first image, with a cross on the cell asked about."""
    if result.picture is None:
        ax.set_axis_off()
        return
    ax.imshow(result.picture)
    if site["query"] is not None:
        y, x = (site["offset"][i] + site["query"][i] * site["stride"][i] for i in (0, 1))
        ax.plot(x, y, "+", color="#3cf03c", ms=6, mew=1.0)
    many = result.meta["images_used"] > 1
    ax.set_title(f"first of {result.meta['images_used']} images" if many else "image")


def wrapped(layer: str, letters: int = 24) -> str:
    """A module's name on lines of at most `letters`, broken at its dots."""
    return fill(layer.replace(".", ". "), letters).replace(". ", ".")


def number(result: Result, key: str, site: dict, part: str = "value") -> float:
    """A number `key/site` of a result, or its low or high; nan where there is none."""
    found = result.meta["numbers"].get(f"{key}/{site['name']}", {}).get(part)
    return np.nan if found is None else found


def by_depth(ax: Axes, result: Result, key: str, sites: Sequence[dict], **looks: Any) -> None:
    """A line of a number against the number of the layer, with its interval."""
    depth = [site["number"] for site in sites]
    value, low, high = (
        np.array([number(result, key, site, part) for site in sites], float)
        for part in ("value", "low", "high")
    )
    ax.plot(depth, value, "o-", ms=3, **looks)
    ax.fill_between(depth, low, high, color=looks["color"], alpha=0.2, lw=0)
