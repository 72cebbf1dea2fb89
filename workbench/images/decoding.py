"""One image file to one RGB picture, upright; nothing but known decoders ever runs."""

import io
import math
import re
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from workbench.files import printable

MEGAPIXELS = 64
"""Larger images are refused before they are decoded."""

# the decoders behind the suffixes of `folders`; others (EPS starts a program) are never tried
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
_DEPTHS = tuple(float(2**bits - 1) for bits in (8, 10, 12, 14, 16))
"""Largest values of grey images of 8 to 16 bits."""


class BadImage(ValueError):
    """One image that cannot be used: its `name`, and the `reason` in words."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name} {reason}.")
        self.name = name
        self.reason = reason

    def __reduce__(self) -> tuple[type["BadImage"], tuple[str, str]]:
        return type(self), (self.name, self.reason)


def _too_large(name: str, pixels: float) -> BadImage:
    return BadImage(name, f"has {pixels / 1e6:.0f} megapixels, more than the limit of {MEGAPIXELS}")


def decode(file: Path | io.BytesIO, name: str) -> tuple[Image.Image, list[str]]:
    try:
        image = _opened(file)
    except Image.DecompressionBombError as error:
        # Pillow gives up before telling the size, except in words
        number = re.search(r"\d+", str(error))
        raise _too_large(name, float(number[0]) if number else math.inf) from error
    notes = []
    with image:
        pixels = image.width * image.height
        if pixels > MEGAPIXELS * 1_000_000:
            raise _too_large(name, pixels)
        # MPO holds the same photo again as preview or depth: nothing is lost, nothing to say
        if image.format != "MPO" and getattr(image, "is_animated", False):
            notes.append(f"{name}: only the first frame is used.")
        image.load()
        rgb, more = as_rgb(image, name)
    return rgb, notes + more


def as_rgb(image: Image.Image, name: str = "image") -> tuple[Image.Image, list[str]]:
    """A picture upright and in mode RGB, and what had to be done beyond that, in sentences."""
    upright, turned = _upright(image)
    rgb, changed = _to_rgb(upright, name)
    return rgb, [f"{name}: {note}" for note in (turned, changed) if note]


def _opened(file: Path | io.BytesIO) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            return Image.open(file, formats=_FORMATS)
        except ValueError as error:
            # Pillow guards itself against long comments by giving up the picture with them.
            if "MAX_TEXT" not in str(error) and "Decompressed data too large" not in str(error):
                raise
            data = file.read_bytes() if isinstance(file, Path) else file.getvalue()
            return Image.open(io.BytesIO(_without_text(data)), formats=_FORMATS)


def _without_text(png: bytes) -> bytes:
    """A PNG file without its chunks of text: length, name, content and checksum each."""
    kept, at = [png[:8]], 8
    while at + 8 <= len(png):
        end = at + 12 + int.from_bytes(png[at : at + 4], "big")
        if png[at + 4 : at + 8] not in (b"tEXt", b"zTXt", b"iTXt", b"iCCP"):
            kept.append(png[at:end])
        at = end
    return b"".join(kept)


def _upright(image: Image.Image) -> tuple[Image.Image, str]:
    try:
        return ImageOps.exif_transpose(image), ""
    except Exception:  # damaged EXIF raises many types, and the picture itself is fine
        return image, "its EXIF data cannot be read, so it may lie on its side."


def _to_rgb(image: Image.Image, name: str) -> tuple[Image.Image, str]:
    """The image in mode RGB and a note, "" when nothing needs saying."""
    if image.mode.startswith("I") or image.mode == "F":
        return _from_grey(image, name)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        if np.asarray(rgba.getchannel("A")).min() < 255:
            white = Image.new("RGBA", rgba.size, "white")
            rgb = Image.alpha_composite(white, rgba).convert("RGB")
            return rgb, "its transparent parts are shown on white."
        return rgba.convert("RGB"), ""
    # `convert` copies; a plain RGB image only has to be let go of its file
    return image.convert("RGB"), ""


def _from_grey(image: Image.Image, name: str) -> tuple[Image.Image, str]:
    """A grey image of more than 8 bits. Such files do not say their range: the smallest usual one
    that holds the values is meant.
    """
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise BadImage(name, "holds values that are not finite numbers")
    low, high = float(values.min()), float(values.max())
    usual = (1.0, *_DEPTHS) if image.mode == "F" else _DEPTHS
    top = next((top for top in usual if low >= 0 and high <= top), high)
    bottom = min(low, 0.0)
    grey = _grey((values - bottom) * (255 / ((top - bottom) or 1.0)))
    bits = 16 if image.mode.startswith("I;16") else 32
    if bits == 16 and top == _DEPTHS[-1]:
        return grey, ""
    return grey, f"its {bits}-bit grey values from {bottom:g} to {top:g} became 0 to 255."


def _grey(values: np.ndarray) -> Image.Image:
    return Image.fromarray(np.rint(values).astype(np.uint8)).convert("RGB")


def decoding_reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "is no longer there"
    if isinstance(error, PermissionError):
        return "may not be read"
    if isinstance(error, Image.UnidentifiedImageError):
        return "is not an image that can be read"
    text = (str(error).splitlines() or [""])[0].rstrip(".")
    if "truncated" in text.lower():
        return "is truncated"
    return f"cannot be decoded ({printable(text) or type(error).__name__})"
