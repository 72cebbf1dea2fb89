"""Receptive fields one after the other, on one colour scale: for the page, and as a GIF."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from workbench.figures import overlay
from workbench.figures.label import label
from workbench.files import printable
from workbench.methods.erf.figure import shown_together
from workbench.results import Erf

SIDE, GAP, LINE = 256, 8, 28  # least side of a map, between maps, and below them for the label
SECONDS, LAST = 0.9, 2.0  # of a frame, and of the last
FONT = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


def tracks(results: Sequence[Erf]) -> list[list[Erf]]:
    """What plays side by side: the results of each model, in the order given; where there is one
    of each, all of them are one track.

    Raises:
        ValueError: for a single result, fields of different shapes or protocols, or models with
            unequal numbers.
    """
    if len(results) < 2:
        raise ValueError("one field does not move; give two results or more")
    shown_together(results)  # also the fields of two models share a grid
    models: dict[str, list[Erf]] = {}
    for result in results:
        models.setdefault(result.meta["model"], []).append(result)
    counts = {model: len(own) for model, own in models.items()}
    if set(counts.values()) == {1}:
        return [[own for (own,) in models.values()]]
    if len(set(counts.values())) > 1:
        said = ", ".join(f"{count} of {model}" for model, count in counts.items())
        raise ValueError(f"there are {said}; give as many results of every model")
    return list(models.values())


def frames(track: Sequence[Erf]) -> np.ndarray:
    """(n, h, w) uint8, places in the colour scheme; the track's largest value is the last colour.

    Raises:
        ValueError: for fields of different shapes or protocols.
    """
    return np.minimum(shown_together(track) * 256, 255).astype(np.uint8)


def gif(results: Sequence[Erf]) -> bytes:
    """The animation as a file: maps as whole blocks of pixels, each over its label.

    Raises:
        ValueError: as `tracks` does.
    """
    columns = [
        [_labelled(values, label(one)) for values, one in zip(frames(track), track, strict=True)]
        for track in tracks(results)
    ]
    palette = overlay.colours(np.arange(256, dtype=np.uint8)).tobytes()
    sheets = []
    for tiles in zip(*columns, strict=True):
        parted = [np.pad(tile, ((0, 0), (0, GAP))) for tile in tiles]
        sheets.append(Image.fromarray(np.concatenate(parted, axis=1)[:, :-GAP]))
        sheets[-1].putpalette(palette)
    buffer = BytesIO()
    times = [round(1000 * SECONDS)] * (len(sheets) - 1) + [round(1000 * LAST)]
    sheets[0].save(buffer, "GIF", save_all=True, append_images=sheets[1:], duration=times, loop=0)
    return buffer.getvalue()


def _labelled(values: np.ndarray, text: str) -> np.ndarray:
    """A map in blocks of pixels, and the text below it: the last colour on the first."""
    times = -(-SIDE // max(values.shape))
    map_ = overlay.enlarged(values, (times * values.shape[0], times * values.shape[1]))
    text = printable(text, 80)
    line = Image.new("L", (map_.shape[1], LINE))
    font = ImageFont.truetype(FONT, 14)
    font = ImageFont.truetype(FONT, min(14, 14 * line.width / max(font.getlength(text), 1)))
    ImageDraw.Draw(line).text((line.width / 2, LINE / 2), text, 255, font, anchor="mm")
    return np.concatenate([map_, np.asarray(line)])
