"""Pictures in memory: tensors, arrays, PIL images, and loaders and datasets of these."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image

from workbench.images.decoding import as_rgb

MOST = 2**32
"""Bytes of pictures that are held at once."""

VALUES = ("0-255", "0-1", "normalised")
Moments = tuple[Sequence[float], Sequence[float]]


@dataclass
class Held:
    """Pictures, each (h, w, 3) uint8, and what is known of them.

    values: one of `VALUES`, None for PIL images and arrays of bytes.
    size: (h, w) of tensors, which are as the model takes them; None where they differ, and for
        pictures (h, w, 3) and PIL images, which are prepared as photographs are.
    """

    pictures: list[np.ndarray] = field(default_factory=list)
    labels: list[int] | None = None
    classes: list[str] | None = None
    values: str | None = None
    size: tuple[int, int] | None = None


def hold(source: Any, limit: int | None, values: str | None, moments: Moments) -> Held:
    """Read pictures of a source, at most `limit`.

    Args:
        values: of numbers that are not bytes: one of `VALUES`, by default the one that they fit.
        moments: mean and std of the three colours, of those that are normalised.

    Raises:
        ValueError: for what is no picture, or has other values.
    """
    arrays, labels, total = [], [], 0
    for picture, label in itertools.islice(_pairs(source), limit):
        arrays.append(_picture(picture))
        labels.append(label)
        total += arrays[-1][0].size
        if total > MOST:
            raise ValueError(
                f"the first {len(arrays)} pictures have {MOST / 2**30:g} GB: give limit=, the "
                "number of pictures to take, or a folder, which is read one file at a time"
            )
    if not arrays:
        raise ValueError(f"there is no picture in this {type(source).__name__}")
    floats = [array for array, _ in arrays if array.dtype != np.uint8]
    values = _recognised(floats, values, moments) if floats else None
    found = Held([_bytes(array, values, moments) for array, _ in arrays], values=values)
    if all(label is not None for label in labels):
        found.labels = labels
        found.classes = _classes(source)
    sizes = {array.shape[:2] for array, _ in arrays}
    if len(sizes) == 1 and all(first for _, first in arrays):
        (found.size,) = sizes
    return found


_Picture = Image.Image | np.ndarray | torch.Tensor


def _pairs(source: Any) -> Iterator[tuple[Any, int | None]]:
    """Single pictures with their labels, of whatever is nested as loaders and datasets do."""
    picture, label = _parted(source)
    if isinstance(picture, np.ndarray | torch.Tensor) and picture.ndim == 4:
        labels = itertools.repeat(None) if label is None else np.asarray(label).reshape(-1)
        for one, its in zip(picture, labels, strict=False):
            yield one, None if its is None else int(its)
    elif isinstance(picture, _Picture):
        yield picture, None if label is None else int(label)
    elif isinstance(picture, str | bytes) or not hasattr(picture, "__getitem__") | hasattr(
        picture, "__iter__"
    ):
        raise ValueError(
            f"{type(picture).__name__} is no picture: give tensors (3, h, w), arrays (h, w, 3) or "
            "PIL images, or files"
        )
    else:
        for part in _each(picture):
            yield from _pairs(part)


def _each(source: Any) -> Iterable[Any]:
    if hasattr(source, "__len__") and hasattr(source, "__getitem__"):
        return (source[i] for i in range(len(source)))  # a Dataset need not end by itself
    return iter(source)


_PICTURES = ("image", "images", "pixel_values", "img", "x")
_LABELS = ("label", "labels", "target", "y")


def _parted(item: Any) -> tuple[Any, Any]:
    """What an item of a dataset or loader has as picture and as label."""
    if isinstance(item, Mapping):
        found = [
            next((item[k] for k in names if k in item), None) for names in (_PICTURES, _LABELS)
        ]
        if found[0] is None:
            raise ValueError(f"none of {', '.join(map(str, item))} is called image")
        return found[0], found[1]
    if isinstance(item, tuple | list) and len(item) >= 2 and isinstance(item[0], _Picture):
        first, second = item[:2]
        nested = isinstance(item, tuple) or getattr(first, "ndim", 0) == 4
        if _is_label(second) or (nested and _colours(first) != _colours(second)):
            return first, second if _is_label(second) else None
    return item, None


def _is_label(value: Any) -> bool:
    kind = str(getattr(value, "dtype", type(value).__name__))
    return "int" in kind and getattr(value, "ndim", 0) < 2


def _colours(picture: Any) -> Any:
    """What two pictures have in common, and a picture and its mask or target have not."""
    return getattr(picture, "mode", None) or (type(picture), getattr(picture, "shape", ())[:-2])


def _classes(source: Any) -> list[str] | None:
    names = getattr(source, "classes", None) or getattr(
        getattr(source, "dataset", None), "classes", None
    )
    return None if names is None else [str(name) for name in names]


def _picture(picture: Any) -> tuple[np.ndarray, bool]:
    """(h, w, 3), and whether its colours came first, as models take them."""
    if isinstance(picture, Image.Image):
        return np.asarray(as_rgb(picture)[0]), False
    tensor = isinstance(picture, torch.Tensor)
    if isinstance(picture, torch.Tensor):
        picture = picture.detach().cpu()
        picture = (picture.float() if picture.is_floating_point() else picture).numpy()
    array = picture[..., None] if picture.ndim == 2 else picture
    shape = array.shape
    first = len(shape) == 3 and shape[0] in (1, 3) and (tensor or shape[2] not in (1, 3))
    if (not first and (len(shape) != 3 or shape[2] not in (1, 3))) or 0 in shape:
        raise ValueError(
            f"a picture of shape {picture.shape} is neither (3, h, w) nor (h, w, 3); give RGB"
        )
    array = np.moveaxis(array, 0, 2) if first else array
    if array.dtype.kind not in "iuf":
        raise ValueError(f"a picture of {array.dtype} holds no colours; give uint8 or float32")
    whole = array.dtype.kind in "iu" and array.min() >= 0 and array.max() <= 255
    return np.repeat(array, 3 // array.shape[2], 2).astype(np.uint8 if whole else np.float64), first


def _recognised(arrays: Sequence[np.ndarray], values: str | None, moments: Moments) -> str:
    low = np.min([array.min((0, 1)) for array in arrays], 0)
    high = np.max([array.max((0, 1)) for array in arrays], 0)
    fits = {name: _fits(*(_unit(edge, name, moments) for edge in (low, high))) for name in VALUES}
    if values is None:  # a picture in 0 to 255 is brighter than all that is normalised
        values = next((name for name in ("0-1", "normalised", "0-255") if fits[name]), None)
    elif values not in VALUES:
        raise ValueError(f"values must be one of {', '.join(VALUES)}, not {values!r}")
    if values is None or not fits[values]:
        mean, std = (" ".join(f"{part:g}" for part in each) for each in moments)
        raise ValueError(
            f"pictures with values from {low.min():.3g} to {high.max():.3g} are not "
            f"{values or '0 to 1, 0 to 255'}{'' if values else ' or'} normalised (mean {mean}, std "
            f"{std}); give them so, or as files"
        )
    return values


def _fits(low: np.ndarray, high: np.ndarray) -> bool:
    return bool((low >= -0.01).all() and (high <= 1.01).all())


def _unit(values: np.ndarray, meaning: str | None, moments: Moments) -> np.ndarray:
    """Colours as shares of white."""
    if meaning == "normalised":
        mean, std = (np.array(each, np.float64) for each in moments)
        return values * std + mean
    return values / (1 if meaning == "0-1" else 255)


def _bytes(array: np.ndarray, meaning: str | None, moments: Moments) -> np.ndarray:
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    return np.rint(255 * _unit(array, meaning, moments).clip(0, 1)).astype(np.uint8)
