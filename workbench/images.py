"""Images in, batches out: sources, safe decoding, and a model's preprocessing."""

import csv
import functools
import hashlib
import io
import itertools
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from timm.data.config import resolve_model_data_config
from timm.data.imagenet_info import ImageNetInfo
from torch import Tensor, nn

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")
"""File name endings that count as images, in upper or lower case."""

MEGAPIXELS = 64
"""Larger images are refused before they are decoded."""

SAMPLES = Path(__file__).resolve().parent.parent / "samples" / "images"

# the decoders behind SUFFIXES; others (EPS starts a program) are never tried
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
_FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
}
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)

Source = Any
"""What `open_images` takes; see there."""


class BadImage(ValueError):
    """One image that cannot be used: its `name`, and the `reason` in words."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name} {reason}.")
        self.name = name
        self.reason = reason

    def __reduce__(self) -> tuple[type["BadImage"], tuple[str, str]]:
        return type(self), (self.name, self.reason)


@dataclass(frozen=True)
class Batch:
    """Some images as a method gets them.

    tensor: (n, 3, h, w) normalised, on the model's device and of its dtype.
    pictures: (n, h, w, 3) uint8, the same images before normalisation.
    names: n texts.
    labels: n class indices in the numbering of the model (-1: not one of its classes), or None
        when nothing is known.
    indices: n places of the images in their source.
    """

    tensor: Tensor
    pictures: np.ndarray
    names: tuple[str, ...]
    labels: tuple[int, ...] | None
    indices: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.names)

    def part(self, start: int, stop: int) -> "Batch":
        """The images start ... stop - 1."""
        return Batch(
            self.tensor[start:stop],
            self.pictures[start:stop],
            self.names[start:stop],
            None if self.labels is None else self.labels[start:stop],
            self.indices[start:stop],
        )


class Images:
    """A list of images that are read one at a time.

    names: n texts, all different; "class/file" for class folders.
    labels: n indices into `classes`, or None.
    classes: class names, or None.
    imagenet_index: n ImageNet-1k class indices (0 ... 999; -1: none), or None.
    notes: what was done to images on loading beyond decoding them, one sentence each.
    """

    def __init__(
        self,
        title: str,
        names: Sequence[str],
        contents: Sequence[Any],
        labels: Sequence[int] | None = None,
        classes: Sequence[str] | None = None,
        imagenet_index: Sequence[int] | None = None,
    ) -> None:
        """`contents` holds a Path or a bytes-like object for each name."""
        self.title = title
        self.names = _distinct(names)
        self.labels = None if labels is None else list(labels)
        self.classes = None if classes is None else list(classes)
        self.imagenet_index = None if imagenet_index is None else list(imagenet_index)
        self._contents = list(contents)
        self._notes: dict[str, None] = {}

    def __len__(self) -> int:
        return len(self.names)

    @property
    def notes(self) -> list[str]:
        return list(self._notes)

    def load(self, i: int) -> Image.Image:
        """Image i upright in mode RGB; the first frame of an animation, transparency on white.

        Adds to `notes`. Raises `BadImage` for an image that is empty, too large, truncated or not
        an image.
        """
        image, notes = self.read(i)
        self._notes.update(dict.fromkeys(notes))
        return image

    def read(self, i: int) -> tuple[Image.Image, list[str]]:
        """What `load` returns, and the notes on this image, which are kept nowhere."""
        name, content = self.names[i], self._contents[i]
        try:
            size = content.stat().st_size if isinstance(content, Path) else len(content)
            if size == 0:
                raise BadImage(name, "is empty")
            file = content if isinstance(content, Path) else io.BytesIO(bytes(content))
            return _decode(file, name)
        except (BadImage, MemoryError):
            raise
        except Exception as error:  # decoders raise a dozen types on damaged data
            raise BadImage(name, _decoding_reason(error)) from error

    def targets(self, num_classes: int | None) -> list[int] | None:
        """Labels in the numbering of a model with that many classes, or None when unknown.

        The source's own labels when the model has as many classes as the source, the ImageNet-1k
        indices when it has 1000.
        """
        if self.labels is not None and self.classes and len(self.classes) == num_classes:
            return self.labels
        return self.imagenet_index if num_classes == 1000 else None

    def subset(self, indices: Sequence[int]) -> "Images":
        """The images at these places, in this order."""

        def pick(values: Sequence[Any] | None) -> list[Any] | None:
            return None if values is None else [values[i] for i in indices]

        names, contents = [self.names[i] for i in indices], [self._contents[i] for i in indices]
        return Images(
            self.title,
            names,
            contents,
            pick(self.labels),
            self.classes,
            pick(self.imagenet_index),
        )

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 over count, names and bytes; reads every file once, a block at a time."""
        digest = hashlib.sha256(f"{len(self)}\n".encode())
        for name, content in zip(self.names, self._contents, strict=True):
            inner = hashlib.sha256()
            try:
                for block in _blocks(content):
                    inner.update(block)
            except OSError:
                inner.update(b"unreadable")
            digest.update(f"{name}\0{inner.hexdigest()}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def describe(self) -> str:
        """One line: where the images come from and how many there are."""
        text = f"{self.title}: {_count(len(self), 'image')}"
        if self.classes:
            text += f" of {_count(len(self.classes), 'class', 'classes')}"
        return text


def open_images(source: Source, limit: int | None = None) -> Images:
    """Open images without decoding them.

    source: "samples" (the built-in images); a folder of images, sorted by name; a folder of class
        folders (the label is the place of the folder in sorted order; wnid names such as
        n01440764 give ImageNet indices); one file or a list of files; an `.npz` pack; bytes or a
        list of (name, bytes), as uploads come. A `labels.csv` beside the images, with columns
        `file` and `imagenet_index`, gives ImageNet indices. An `Images` is passed through.
    limit: at most this many, the first ones; from class folders the first ones of every class in
        turn, so that all classes are there.

    Raises `ValueError` when there is nothing to read.
    """
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise ValueError(f"limit is {limit!r}; give a number of images from 1 up, or None for all.")
    try:
        images = _open(source)
    except OSError as error:
        raise ValueError(
            f"{source} cannot be opened ({error.strerror or error}); check the path and its rights."
        ) from error
    if limit is None or limit >= len(images):
        return images
    return images.subset(_first(limit, images))


def _open(source: Source) -> Images:
    if isinstance(source, Images):
        return source
    if isinstance(source, bytes | bytearray | memoryview):
        return Images("upload", ["upload"], [source])
    if isinstance(source, list | tuple):
        return _open_list(source)
    if not isinstance(source, str | PurePath):
        raise ValueError(
            f"Images cannot come from {type(source).__name__}; give a folder, files, a pack, "
            'bytes or "samples".'
        )
    if source == "samples":
        return _open_folder(SAMPLES, "built-in samples")
    if not str(source):
        raise ValueError(
            f'The path of the images is empty; give a folder, {_reads()} or "samples".'
        )
    path = Path(source).expanduser()
    if path.is_dir():
        return _open_folder(path, path.resolve().name or str(path))
    if not path.exists():
        raise ValueError(
            f'There is nothing at {path}; give a folder of images, {_reads()} or "samples".'
        )
    if path.suffix.lower() == ".npz":
        return _open_pack(path)
    return Images(path.name, [path.name], [path])


def _open_list(source: Sequence[Any]) -> Images:
    if not source:
        raise ValueError(f"The list of images is empty; give at least one file: {_reads()}.")
    names, contents = [], []
    for i, item in enumerate(source):
        if isinstance(item, str | PurePath):
            path = Path(item).expanduser()
            if not path.is_file():
                raise ValueError(f"There is no file {path}; a list of images holds {_reads()}.")
            names.append(path.name)
            contents.append(path)
        elif isinstance(item, bytes | bytearray | memoryview):
            names.append(f"upload {i + 1}")
            contents.append(item)
        elif isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str):
            names.append(item[0])
            contents.append(item[1])
        else:
            raise ValueError(
                f"Image {i + 1} of the list is {type(item).__name__}; give file names, bytes or "
                "pairs (name, bytes)."
            )
        if not isinstance(contents[-1], Path | bytes | bytearray | memoryview):
            raise ValueError(
                f"{names[-1]} comes with {type(contents[-1]).__name__}; give pairs (name, bytes)."
            )
    return Images("files" if isinstance(contents[0], Path) else "uploads", names, contents)


def _open_folder(folder: Path, title: str) -> Images:
    if not folder.is_dir():
        raise ValueError(
            f"The folder {folder} does not exist; give a folder of images, or install the project "
            "from its repository to have the built-in samples."
        )
    files = _image_files(folder.iterdir())
    if files:
        names = [file.name for file in files]
        return Images(title, names, files, imagenet_index=_listed_indices(folder, names))
    folders = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    labels: list[int] = []
    for label, inner in enumerate(folders):
        found = _image_files(inner.rglob("*"))
        files += found
        labels += [label] * len(found)
    if not files:
        raise ValueError(
            f"{folder} holds no image, neither directly nor in class folders; put {_reads()} "
            "there or give another folder."
        )
    classes = [inner.name for inner in folders]
    names = [file.relative_to(folder).as_posix() for file in files]
    index = _imagenet_numbers() if all(_WNID.fullmatch(name) for name in classes) else {}
    numbers = [index.get(classes[label], -1) for label in labels] if index else None
    return Images(title, names, files, labels, classes, numbers)


def _open_pack(path: Path) -> Images:
    try:
        with np.load(path, allow_pickle=False) as archive:
            pack = {name: archive[name] for name in archive.files}
    except Exception as error:  # a damaged zip raises a dozen types
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ValueError(
            f"{path} is not a readable image pack ({reason}); give an .npz with the arrays jpeg "
            "and offsets."
        ) from error

    def wrong(what: str) -> ValueError:
        return ValueError(
            f"{path} is not an image pack: {what}; it needs jpeg (bytes,) uint8 and "
            "offsets (N + 1,), image i being jpeg[offsets[i]:offsets[i + 1]]."
        )

    for name in ("jpeg", "offsets"):
        if name not in pack:
            raise wrong(f"it has no array {name}")
    data, offsets = pack["jpeg"], pack["offsets"]
    if data.dtype != np.uint8 or data.ndim != 1:
        raise wrong(f"jpeg is {data.dtype} {data.shape}")
    if offsets.dtype.kind not in "iu" or offsets.ndim != 1 or len(offsets) < 2:
        raise wrong(f"offsets is {offsets.dtype} {offsets.shape}")
    ends = offsets.tolist()
    if any(b < a for a, b in itertools.pairwise(ends)):
        raise wrong("offsets do not rise")
    if ends[0] < 0 or ends[-1] > len(data):
        raise wrong(f"offsets reach from {ends[0]} to {ends[-1]}, but jpeg has {len(data)} bytes")
    count = len(ends) - 1
    names = _texts(pack["filename"]) if "filename" in pack else [f"{i:05d}" for i in range(count)]
    if len(names) != count:
        raise wrong(f"filename has {len(names)} entries for {count} images")
    labels = classes = numbers = None
    if "label" in pack:
        labels = pack["label"].tolist()
        known = len(pack["name"]) if "name" in pack else max(labels, default=0) + 1
        if len(labels) != count or not all(isinstance(k, int) and 0 <= k < known for k in labels):
            raise wrong(f"label needs {count} whole numbers from 0 to {known - 1}")
        classes = _texts(pack.get("name", np.arange(known)))
        if "imagenet_index" in pack:
            index = pack["imagenet_index"].tolist()
            if len(index) != known:
                raise wrong(f"imagenet_index has {len(index)} entries for {known} classes")
            numbers = [int(index[k]) for k in labels]
    contents = [data[a:b] for a, b in itertools.pairwise(ends)]
    return Images(path.name, names, contents, labels, classes, numbers)


def _texts(array: np.ndarray) -> list[str]:
    """Text of an array of text, bytes (UTF-8) or numbers."""
    values = array.tolist()
    return [v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v) for v in values]


_WNID = re.compile(r"n\d{8}")


@functools.cache
def _imagenet_numbers() -> dict[str, int]:
    return {wnid: i for i, wnid in enumerate(ImageNetInfo("imagenet-1k").label_names())}


def _listed_indices(folder: Path, names: Sequence[str]) -> list[int] | None:
    """ImageNet indices of the files from `labels.csv`, where there is one that names some."""
    path = folder / "labels.csv"
    if not path.is_file():
        return None
    found: dict[str, int] = {}
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        for row in csv.DictReader(file):
            # a hint may name further classes after the first: "282 (tiger cat); 281 also accepted"
            text = row.get("imagenet_index") or row.get("imagenet_hint") or ""
            number = re.match(r"\s*(\d{1,3})\b", text)
            if number and row.get("file"):
                found[str(row["file"])] = int(number[1])
    return [found.get(name, -1) for name in names] if found else None


def _image_files(paths: Iterator[Path]) -> list[Path]:
    found = (p for p in paths if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    return sorted(p for p in found if p.is_file())


def _first(limit: int, images: Images) -> list[int]:
    if images.labels is None:
        return list(range(limit))
    seen: dict[int, int] = {}
    turns = []
    for i, label in enumerate(images.labels):
        turns.append((seen.get(label, 0), i))
        seen[label] = seen.get(label, 0) + 1
    # a shuffled pack stays a fair random subset; class folders, sorted by class, would not be one
    if images.labels != sorted(images.labels):
        return list(range(limit))
    return sorted(i for _, i in sorted(turns)[:limit])


def _distinct(names: Sequence[str]) -> list[str]:
    """The names, with " (2)", " (3)" ... behind those that came before."""
    seen: set[str] = set()
    result = []
    for name in names:
        unique, k = name, 2
        while unique in seen:
            unique, k = f"{name} ({k})", k + 1
        seen.add(unique)
        result.append(unique)
    return result


def _blocks(content: Any) -> Iterator[bytes]:
    if not isinstance(content, Path):
        yield bytes(content)
        return
    with content.open("rb") as file:
        while block := file.read(1 << 20):
            yield block


def _count(n: int, one: str, many: str | None = None) -> str:
    return f"{n} {one if n == 1 else many or one + 's'}"


def _reads() -> str:
    return f"files ending in {', '.join(SUFFIXES)} (or an .npz pack)"


def _too_large(name: str, pixels: float) -> BadImage:
    return BadImage(name, f"has {pixels / 1e6:.0f} megapixels, more than the limit of {MEGAPIXELS}")


def _decode(file: Path | io.BytesIO, name: str) -> tuple[Image.Image, list[str]]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(file, formats=_FORMATS)
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
        upright, note = _upright(image)
        if note:
            notes.append(f"{name}: {note}")
        rgb, note = _to_rgb(upright, name)
        if note:
            notes.append(f"{name}: {note}")
    return rgb, notes


def _upright(image: Image.Image) -> tuple[Image.Image, str]:
    try:
        return ImageOps.exif_transpose(image), ""
    except Exception:  # damaged EXIF raises many types, and the picture itself is fine
        return image, "its EXIF data cannot be read, so it may lie on its side."


def _to_rgb(image: Image.Image, name: str) -> tuple[Image.Image, str]:
    """The image in mode RGB and a note, "" when nothing needs saying."""
    if image.mode.startswith("I;16"):
        grey = np.asarray(image).astype(np.float64) / 257
        return _grey(grey), ""
    if image.mode in ("I", "F"):
        values = np.asarray(image).astype(np.float64)
        if not np.isfinite(values).all():
            raise BadImage(name, "holds values that are not finite numbers")
        low, high = float(values.min()), float(values.max())
        # such files do not say their range: the smallest usual one that holds the values is meant
        usual = (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0)
        top = next((top for top in usual if low >= 0 and high <= top), high)
        bottom = min(low, 0.0)
        return _grey((values - bottom) * (255 / ((top - bottom) or 1.0))), (
            f"its 32-bit grey values from {bottom:g} to {top:g} became 0 to 255."
        )
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        if np.asarray(rgba.getchannel("A")).min() < 255:
            white = Image.new("RGBA", rgba.size, "white")
            rgb = Image.alpha_composite(white, rgba).convert("RGB")
            return rgb, "its transparent parts are shown on white."
        return rgba.convert("RGB"), ""
    # `convert` copies; a plain RGB image only has to be let go of its file
    return image.convert("RGB"), ""


def _grey(values: np.ndarray) -> Image.Image:
    return Image.fromarray(np.rint(values).astype(np.uint8)).convert("RGB")


def _decoding_reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "is no longer there"
    if isinstance(error, PermissionError):
        return "may not be read"
    if isinstance(error, Image.UnidentifiedImageError):
        return "is not an image that can be read"
    text = (str(error).splitlines() or [""])[0].rstrip(".")
    if "truncated" in text.lower():
        return "is truncated"
    return f"cannot be decoded ({text or type(error).__name__})"


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the model's input; the numbers equal timm's and torchvision's.

    size: (h, w) in pixels.
    crop_pct: in (0, 1], the part of the resized image that the crop keeps.
    crop_mode: "center" scales the image to cover size / crop_pct and keeps its proportions;
        "squash" scales it to exactly that, whatever its proportions; "border" fits the whole image
        in and fills up with the mean colour; "resize" is "center" with crop_pct 1.
    interpolation: "bicubic", "bilinear" or "lanczos".
    object_size: (h, w) that sets the scale of the image in place of `size`, so that things keep
        their size in pixels; `size` then cuts off, or shows more of the image and around it the
        mean colour. None for `size` itself.
    mean, std: per channel, of values in [0, 1].
    note: a remark for `describe`, of no influence.

    Raises `ValueError` for values outside these.
    """

    size: tuple[int, int]
    crop_pct: float = 0.875
    crop_mode: str = "center"
    interpolation: str = "bicubic"
    mean: tuple[float, float, float] = _MEAN
    std: tuple[float, float, float] = _STD
    note: str = field(default="", compare=False)
    object_size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.crop_mode == "resize":
            object.__setattr__(self, "crop_mode", "center")
            object.__setattr__(self, "crop_pct", 1.0)
        if self.crop_mode not in ("center", "squash", "border"):
            raise ValueError(
                f'crop_mode is "{self.crop_mode}"; use "center", "squash", "border" or "resize".'
            )
        if self.interpolation not in _FILTERS:
            raise ValueError(
                f'interpolation is "{self.interpolation}"; use "bicubic", "bilinear" or "lanczos".'
            )
        if not 0 < self.crop_pct <= 1:
            raise ValueError(f"crop_pct is {self.crop_pct}; it must be above 0 and at most 1.")
        for name, size in (("size", self.size), ("object_size", self.object_size or self.size)):
            if len(size) != 2 or not all(isinstance(x, int) and x > 0 for x in size):
                raise ValueError(f"{name} is {size}; give (height, width) in pixels, from 1 up.")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError("mean and std need three numbers each, those of std above 0.")

    def picture(self, image: Image.Image) -> np.ndarray:
        """(h, w, 3) uint8: the part of an RGB image that the model sees, before normalisation."""
        h, w = self.object_size or self.size
        scaled = (math.floor(h / self.crop_pct), math.floor(w / self.crop_pct))
        if self.crop_mode == "center":
            image = _less_elongated(image, self.size)
        resized = image.resize(self._resized(image, scaled), _FILTERS[self.interpolation])
        fill = (0, 0, 0)
        if self.crop_mode == "border" or self.object_size:
            fill = tuple(round(255 * v) for v in self.mean)
        return np.array(_centre(resized, self.size, fill))

    def _resized(self, image: Image.Image, scaled: tuple[int, int]) -> tuple[int, int]:
        """(width, height) after scaling; `scaled` is the (height, width) to cover or to fit."""
        h, w = scaled
        if self.crop_mode == "squash":
            return w, h
        if self.crop_mode == "center" and h == w:
            # torchvision: the short side exact, the long side rounded down
            short = min(image.size)
            width, height = (int(h * side / short) for side in image.size)
            return (h, height) if image.width == short else (width, h)
        choose = max if self.crop_mode == "border" else min
        ratio = choose(image.height / h, image.width / w)
        return max(1, round(image.width / ratio)), max(1, round(image.height / ratio))

    def tensor(self, pictures: np.ndarray | Sequence[np.ndarray]) -> Tensor:
        """(n, 3, h, w) float32, normalised, from pictures (n, h, w, 3) uint8."""
        stacked = torch.from_numpy(np.stack(list(pictures))).permute(0, 3, 1, 2)
        mean, std = self._moments(torch.device("cpu"), torch.float32)
        return (stacked.contiguous().float() / 255).sub_(mean).div_(std)

    def denormalise(self, tensor: Tensor) -> Tensor:
        """The way back: (n, 3, h, w) normalised -> values that are in [0, 1] for real pictures.

        Differentiable, on the tensor's device and of its dtype; nothing is clipped.
        """
        mean, std = self._moments(tensor.device, tensor.dtype)
        return tensor * std + mean

    def _moments(self, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        mean, std = (torch.tensor(v, device=device, dtype=dtype) for v in (self.mean, self.std))
        return mean.view(3, 1, 1), std.view(3, 1, 1)

    def describe(self) -> str:
        """One line for captions and reports."""
        h, w = self.size
        shown = {
            "center": f"short side to size / {self.crop_pct:g}, centre crop",
            "squash": f"squashed to size / {self.crop_pct:g}, centre crop",
            "border": f"fitted into size / {self.crop_pct:g}, mean colour around",
        }[self.crop_mode]
        if self.crop_mode == "center" and self.crop_pct == 1:
            shown = "short side to size, centre crop"
        mean, std = (" ".join(f"{v:.3g}" for v in values) for values in (self.mean, self.std))
        if self.object_size:
            shown += f", scaled as for {self.object_size[0]} x {self.object_size[1]} px"
        text = f"{h} x {w} px, {shown}, {self.interpolation}, mean {mean}, std {std}"
        return f"{text} ({self.note})" if self.note else text

    def as_dict(self) -> dict[str, Any]:
        """What decides the numbers, for `meta` and hashes."""
        scale = {"object_size": list(self.object_size)} if self.object_size else {}
        return {
            **scale,
            "size": list(self.size),
            "crop_pct": self.crop_pct,
            "crop_mode": self.crop_mode,
            "interpolation": self.interpolation,
            "mean": list(self.mean),
            "std": list(self.std),
        }


def preprocessing_for(model: nn.Module, size: int | tuple[int, int] | None = None) -> Preprocessing:
    """The preprocessing a model was trained for, at its own size or at another.

    Without a pretrained configuration on the model: ImageNet mean and std, 224 px, crop_pct 0.875,
    and a note that says so.
    """
    given = (size, size) if isinstance(size, int) else size
    if not getattr(model, "pretrained_cfg", None):
        h, w = given or (224, 224)
        return Preprocessing(
            (h, w), note="ImageNet default, as the model has no pretrained configuration"
        )
    cfg: dict[str, Any] = resolve_model_data_config(model)
    h, w = given or cfg["input_size"][-2:]
    return Preprocessing(
        size=(h, w),
        crop_pct=cfg["crop_pct"],
        crop_mode=cfg["crop_mode"] or "center",
        interpolation=cfg["interpolation"],
        mean=tuple(cfg["mean"]),
        std=tuple(cfg["std"]),
    )


def _less_elongated(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Cut the far ends off a strip that the centre crop drops anyway.

    Scaling up a strip of 10 x 1,000,000 pixels would need gigabytes.
    """
    keep = math.ceil(16 * min(image.size) * max(size) / min(size))
    if max(image.size) <= keep:
        return image
    w, h = min(image.width, keep), min(image.height, keep)
    left, top = (image.width - w) // 2, (image.height - h) // 2
    return image.crop((left, top, left + w, top + h))


def _centre(image: Image.Image, size: tuple[int, int], fill: tuple[int, ...]) -> Image.Image:
    """Crop to (h, w) around the centre, or fill up to it, by torchvision's rounding."""
    h, w = size
    across, down = max(w - image.width, 0), max(h - image.height, 0)
    if across or down:
        full = Image.new("RGB", (image.width + across, image.height + down), fill)
        full.paste(image, (across // 2, down // 2))
        image = full
    left, top = round((image.width - w) / 2), round((image.height - h) / 2)
    return image.crop((left, top, left + w, top + h))
