"""Pictures of maps for the page, as data URLs."""

import base64
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import matplotlib
import numpy as np
from PIL import Image

from workbench.methods.erf.display import display, power_of
from workbench.methods.erf.figure import COLOURS, shown
from workbench.methods.scan_maps import figure as scan_maps
from workbench.results import Erf

SIGNED = scan_maps.SIGNED
TICKS = (0.0, 0.01, 0.1, 1.0)
DENSEST = 256
"""Times the mean of a map that `density` still tells apart."""


def colours(values: np.ndarray, scheme: str = COLOURS) -> np.ndarray:
    """(h, w) in [0, 1] -> (h, w, 3) uint8."""
    return (matplotlib.colormaps[scheme](values)[..., :3] * 255).round().astype(np.uint8)


def enlarged(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Cells as blocks of pixels: (rows, columns, ...) -> (h, w, ...)."""
    row = np.arange(size[0]) * values.shape[0] // size[0]
    column = np.arange(size[1]) * values.shape[1] // size[1]
    return values[row[:, None], column]


def stops(scheme: str = COLOURS) -> list[str]:
    """A colour scheme as CSS colours from 0 to 1."""
    steps = colours(np.linspace(0, 1, 17)[None], scheme)[0].tolist()
    return [f"rgb({r},{g},{b})" for r, g, b in steps]


def over(picture: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """The map over the picture (h, w, 3) uint8: opaque where it is strong, clear where weak.

    The picture is taken half way to grey, so that its own colours are not read as heat.
    """
    faded = (picture + picture.mean(axis=2, keepdims=True)) / 2
    opacity = 0.85 * heat[..., None]
    mixed = faded * (1 - opacity) + colours(heat) * opacity
    return mixed.round().astype(np.uint8)


def data_url(picture: np.ndarray, photo: bool = False) -> str:
    """(h, w, 3 or 4) uint8 -> a PNG in a text, for the `src` of an image; a photograph, which is
    for the eye alone, is a JPEG of a tenth of the size.
    """
    buffer = BytesIO()
    form, options = ("jpeg", {"quality": 92}) if photo else ("png", {"compress_level": 1})
    Image.fromarray(picture).save(buffer, form.upper(), **options)
    return f"data:image/{form};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def pair(result: Erf, alt: str, scale: str = "power") -> dict[str, Any]:
    """What a photograph with its map shows of a result: see `workbench.app.click_map`.

    Args:
        scale: of `SCALES`.
    """
    values, transform = shown(result), result.meta["display"]
    power, exponent = power_of(transform), 1.0
    scaled, unit = bar(transform), f"gradient / its maximum (scale: {transform})"
    if scale == "rank":
        values, scaled, unit = ranks(values), bar("linear"), "pixels with a smaller gradient / all"
    elif scale == "density":
        values, scaled, unit = density(result.map), density_bar(), "gradient / its mean"
    elif scale == "linear" and power:
        exponent, scaled, unit = 1 / power, bar("linear"), "gradient / its maximum (scale: linear)"
    (rows, columns), (y, x) = result.meta["cells"], result.meta["centre"]
    height, width = result.map.shape
    return {
        **stack([indices(values)], [alt], exponent=exponent),
        "bar": scaled,
        "units": [unit],
        "centre": ((y + 0.5) / height, (x + 0.5) / width),
        "step": (1 / rows, 1 / columns),
        "scale": scale,
        "power": power or 1,
    }


SCALES = {
    "power": "the fourth root, as most papers draw fields",
    "linear": "gradient over its maximum",
    "rank": "how many pixels have a smaller gradient",
    "density": "gradient over its mean, 1 where all pixels count the same: one scale for all maps",
}


def density(values: np.ndarray) -> np.ndarray:
    """Values (h, w) over their mean, from 0 to `DENSEST`, by the fourth root: in [0, 1]."""
    mean = float(values.mean(dtype=np.float64))
    return (np.clip(values / mean, 0, DENSEST) / DENSEST) ** 0.25 if mean > 0 else values


def ranks(values: np.ndarray) -> np.ndarray:
    """How many values are smaller, over the most: (h, w) in [0, 1]."""
    smaller = np.searchsorted(np.sort(values, axis=None), values, side="left")
    return smaller / max(int(smaller.max()), 1)


def stack(
    maps: Sequence[np.ndarray],
    alts: Sequence[str],
    signed: bool = False,
    power: float = 1,
    exponent: float = 1,
) -> dict[str, Any]:
    """Maps of `indices` as pictures, the first also as a veil over the photograph; see `table`."""
    shades = table(signed, power, exponent)
    return {
        "veil": data_url(shades[maps[0]]),
        "maps": [
            {"src": data_url(shades[values][..., :3]), "alt": alt}
            for values, alt in zip(maps, alts, strict=True)
        ],
        "colours": base64.b64encode(shades.tobytes()).decode(),
    }


def indices(values: np.ndarray, signed: bool = False) -> np.ndarray:
    """Values in [0, 1], or [-1, 1], as places in `table`, uint8."""
    return (255 * ((values + 1) / 2 if signed else values)).round().astype(np.uint8)


def table(signed: bool = False, power: float = 1, exponent: float = 1) -> np.ndarray:
    """(256, 4) uint8: red, green, blue, and the opacity over a photograph, a power of the size of
    the value; exponent: of the values, before.
    """
    places = np.linspace(0, 1, 256) ** exponent
    sizes = np.abs(2 * places - 1) if signed else places
    shades = colours(places[None], SIGNED if signed else COLOURS)[0]
    return np.concatenate(
        [shades, (255 * sizes[:, None] ** power).round().astype(np.uint8)], axis=1
    )


def bar(transform: str) -> dict:
    """The colour bar: `stops` (CSS colours from 0 to 1) and `ticks` (text, place in [0, 1])."""
    power = power_of(transform)
    if power is None:
        return {"stops": stops(), "ticks": [["0", 0.0], ["1", 1.0]]}
    return {"stops": stops(), "ticks": [[f"{t:g}", t**power] for t in TICKS]}


def density_bar() -> dict:
    """The colour bar of `density`."""
    return {
        "stops": stops(),
        "ticks": [[f"{t}", (t / DENSEST) ** 0.25] for t in (0, 1, 10, 100, DENSEST)],
    }


def signed_bar() -> dict:
    """The colour bar of values in [-1, 1]."""
    return {"stops": stops(SIGNED), "ticks": [["-1", 0.0], ["0", 0.5], ["1", 1.0]]}


def scan_map(values: np.ndarray, top: float, signed: bool) -> np.ndarray:
    """A scan map as a picture (rows, columns, 3) uint8 on a scale from 0, or -`top`, to `top`."""
    return table(signed)[indices(scan_maps.shown(values, top), signed)][..., :3]


def routes(result: Erf) -> list[tuple[str, str, np.ndarray]]:
    """(name, share, picture) of the whole field and of every route, on the whole's scale."""
    assert result.splits is not None
    whole = result.maps.astype(np.float64).mean(axis=0)
    whole /= whole.sum()
    top = whole.max()
    found = [("whole", "100 %", colours(display(whole, "x ** 0.25")))]
    for name, route in zip(result.meta["splits"], result.splits, strict=True):
        picture = colours(np.clip(route / top, 0, 1) ** 0.25)
        found.append((name, f"{100 * route.sum():.3g} %", picture))
    return found
