"""Where images come from: folders, files, packs, uploads; read one at a time."""

import csv
import functools
import glob
import hashlib
import io
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from PIL import Image
from timm.data.constants import IMAGENET_DEFAULT_MEAN as IMAGENET_MEAN
from timm.data.constants import IMAGENET_DEFAULT_STD as IMAGENET_STD
from timm.data.imagenet_info import ImageNetInfo
from torch import Tensor

from workbench import places
from workbench.archives import open_npz
from workbench.files import NotAFile, printable, regular
from workbench.images import boxes
from workbench.images.decoding import BadImage, decode, decoding_reason
from workbench.images.folders import SUFFIXES, look
from workbench.images.held import Moments, hold

SAMPLES = places.SAMPLES / "images"

LARGEST = 2**30
"""Bytes of an image file; longer ones are not read, not even for the fingerprint."""

Source = Any
"""What `open_images` takes; see there."""


@dataclass(frozen=True)
class Batch:
    """Some images as a method gets them.

    tensor: (n, 3, h, w) normalised, on the model's device and of its dtype.
    pictures: (n, h, w, 3) uint8, the same images before normalisation.
    names: n texts.
    labels: n class indices in the numbering of the model (-1: not one of its classes), or None
        when nothing is known.
    indices: n places of the images in their source.
    boxes: (k, 4) float64 of each image, the edges left, top, right and bottom of its objects in
        pixels of `pictures`; None where the source has no boxes.
    """

    tensor: Tensor
    pictures: np.ndarray
    names: tuple[str, ...]
    labels: tuple[int, ...] | None
    indices: tuple[int, ...]
    boxes: tuple[np.ndarray, ...] | None = None

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
            None if self.boxes is None else self.boxes[start:stop],
        )


class Images:
    """A list of images that are read one at a time.

    names: n texts, all different; "class/file" for class folders.
    labels: n indices into `classes`, or None.
    classes: class names, or None.
    imagenet_index: n ImageNet-1k class indices (0 ... 999; -1: none), or None.
    empty_classes: classes without an image in the whole source, of which this may be a part.
    notes: what was done to images on loading beyond decoding them, one sentence each.
    left_out: what of the source was not taken for an image and why, one sentence each.
    size: (h, w) of tensors, which are as a model takes them; None for everything else.
    boxes: (k, 4) float64 of each image, the edges left, top, right and bottom of its objects in
        pixels of the upright picture; None where the source has no boxes.
    """

    size: tuple[int, int] | None = None
    boxes: list[np.ndarray] | None = None

    def __init__(
        self,
        title: str,
        names: Sequence[str],
        contents: Sequence[Any],
        labels: Sequence[int] | None = None,
        classes: Sequence[str] | None = None,
        imagenet_index: Sequence[int] | None = None,
    ) -> None:
        """`contents` holds a Path, a bytes-like object or a picture (h, w, 3) for each name."""
        self.title = title
        self.names = _distinct(names)
        self.labels = None if labels is None else list(labels)
        self.classes = None if classes is None else list(classes)
        self.imagenet_index = None if imagenet_index is None else list(imagenet_index)
        named = set(self.labels or ())
        self.empty_classes = [c for k, c in enumerate(self.classes or ()) if k not in named]
        self.left_out: list[str] = []
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
        if _is_picture(content):
            return Image.fromarray(content), []
        try:
            size = content.stat().st_size if isinstance(content, Path) else len(content)
            if size == 0:
                raise BadImage(name, "is empty")
            if size > LARGEST:
                raise BadImage(name, f"has {size / 2**30:.1f} GB, more than an image file")
            file = content if isinstance(content, Path) else io.BytesIO(bytes(content))
            return decode(file, name)
        except (BadImage, MemoryError):
            raise
        except Exception as error:  # decoders raise a dozen types on damaged data
            raise BadImage(name, decoding_reason(error)) from error

    def boxes_of(self, i: int, extent: tuple[int, int]) -> tuple[np.ndarray, list[str]]:
        """The boxes of image i, of (width, height), that can be used; sentences on the others."""
        assert self.boxes is not None
        return boxes.usable(self.boxes[i], self.names[i], extent)

    def targets(self, num_classes: int | None, names: Sequence[str] | str = ()) -> list[int] | None:
        """Labels in the numbering of a model with that many classes, or None when unknown.

        By name where both name their classes and have one in common, -1 for those that the model
        does not have (wnid names such as n01440764 are ImageNet's); else the source's own labels
        when the model has as many classes as the source, or the source does not name its classes;
        the ImageNet-1k indices when the model has 1000.

        Args:
            names: of the model's classes, see `Provenance.class_names`.
        """
        if self.labels is not None and self.classes and not isinstance(names, str):
            place = {name.casefold(): i for i, name in enumerate(names)}
            found = [place.get(_in_words(name).casefold(), -1) for name in self.classes]
            if max(found, default=-1) >= 0:
                return [found[label] for label in self.labels]
        if self.labels is not None and num_classes:
            known = len(self.classes) if self.classes else num_classes
            if known == num_classes and max(self.labels, default=0) < num_classes:
                return self.labels
        return self.imagenet_index if num_classes == 1000 else None

    def targets_of(self, model: Any) -> list[int] | None:
        """`targets` of a model; the source's own labels where its classes have no number."""
        count = getattr(model, "num_classes", None)
        names = getattr(getattr(model, "provenance", None), "class_names", ())
        return self.labels if count is None else self.targets(count, names)

    def subset(self, indices: Sequence[int]) -> "Images":
        """The images at these places, in this order."""

        def pick(values: Sequence[Any] | None) -> list[Any] | None:
            return None if values is None else [values[i] for i in indices]

        names, contents = [self.names[i] for i in indices], [self._contents[i] for i in indices]
        part = Images(
            self.title,
            names,
            contents,
            pick(self.labels),
            self.classes,
            pick(self.imagenet_index),
        )
        part.empty_classes, part.left_out = self.empty_classes, self.left_out
        part.size, part.boxes = self.size, pick(self.boxes)
        return part

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 over count, names, bytes and boxes; reads every file once, a block at a time."""
        digest = hashlib.sha256(f"{len(self)}\n".encode())
        for name, content in zip(self.names, self._contents, strict=True):
            inner = hashlib.sha256()
            try:
                for block in _blocks(content):
                    inner.update(block)
            except (OSError, NotAFile):
                inner.update(b"unreadable")
            digest.update(f"{name}\0{inner.hexdigest()}\n".encode("utf-8", "surrogateescape"))
        for own in self.boxes or ():
            digest.update(f"{own.tolist()}\n".encode())
        return digest.hexdigest()

    def describe(self) -> str:
        """One line: where the images come from and how many there are."""
        text = f"{self.title}: {_count(len(self), 'image')}"
        if self.classes:
            text += f" of {_count(len(self.classes), 'class', 'classes')}"
        return text


def open_images(
    source: Source,
    limit: int | None = None,
    *,
    values: str | None = None,
    normalisation: Moments = (IMAGENET_MEAN, IMAGENET_STD),
) -> Images:
    """Open images; files are not decoded yet.

    source: "samples" (the built-in images); a folder of images, sorted by name; a folder of class
        folders (the label is the place of the folder in sorted order; wnid names such as
        n01440764 give ImageNet indices); a file, a pattern such as photos/*.jpg or a list of these;
        an `.npz` pack; bytes or a list of (name, bytes), as uploads come. A `labels.csv` beside the
        images, with columns `file` and `imagenet_index`, gives their order and ImageNet indices. A
        `boxes.csv` with columns `file`, `left`, `top`, `right` and `bottom`, or an array `box`
        (images, 4) of a pack, gives boxes around objects: first and last pixels, counted from 0.
        PIL images and arrays (h, w, 3) are prepared as files are; tensors and arrays (b, 3, h, w)
        are what a model takes, at their size, and kept in 8 bits; a list, Dataset or DataLoader of
        these, with labels or without. An `Images` is passed through.
    limit: at most this many, the first ones; from class folders the first ones of every class in
        turn, so that all classes are there.
    values: of tensors that are not uint8: "0-1", "0-255" or "normalised"; by default what they fit,
        and the images' title says which.
    normalisation: mean and std of normalised tensors.

    Raises `ValueError` when there is nothing to read.
    """
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise ValueError(f"limit is {limit!r}; give a number of images from 1 up, or None for all.")
    try:
        opened = _open(source)
    except OSError as error:
        raise ValueError(
            f"{source} cannot be opened ({error.strerror or error}); check the path and its rights."
        ) from error
    images = _held(source, limit, values, normalisation) if opened is None else opened
    if limit is None or limit >= len(images):
        return images
    return images.subset(_first(limit, images))


def _held(source: Any, limit: int | None, values: str | None, moments: Moments) -> Images:
    found = hold(source, limit, values, moments)
    title = f"{type(source).__name__} in memory"
    if found.values:
        title += f", taken as {found.values}, in 8 bits"
    names = [f"image {i + 1}" for i in range(len(found.pictures))]
    images = Images(title, names, found.pictures, found.labels, found.classes)
    images.size = found.size
    return images


def _is_picture(content: Any) -> bool:
    return isinstance(content, np.ndarray) and content.ndim == 3


def _is_file(item: Any) -> bool:
    named = isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str)
    return named or isinstance(item, str | PurePath | bytes | bytearray | memoryview)


def _open(source: Source) -> Images | None:
    """Images of files and their bytes; None for what is something else."""
    if isinstance(source, Images):
        return source
    if isinstance(source, list | tuple) and all(_is_file(item) for item in source):
        return _open_list(source)
    if isinstance(source, bytes | bytearray | memoryview):
        return Images("upload", ["upload"], [source])
    if not isinstance(source, str | PurePath):
        return None
    if source == "samples":
        return _open_folder(SAMPLES, "built-in samples")
    if not str(source):
        raise ValueError(
            f'The path of the images is empty; give a folder, {_reads()} or "samples".'
        )
    if re.match(r"\w+://", str(source)):
        raise ValueError(f"{source} is elsewhere; download it, and give the file.")
    path = places.found(source)
    if path.is_dir():
        return _open_folder(path, path.resolve().name or str(path))
    # a pattern that the shell was told to leave alone; Path.glob takes no absolute one
    found = [] if path.exists() else sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207
    if found:
        return _open_list([file for file in found if Path(file).is_file()] or found)
    if not path.exists():
        raise ValueError(
            f'There is nothing at {path}; give a folder of images, {_reads()} or "samples".'
        )
    regular(path)
    if path.suffix.lower() == ".npz":
        return _open_pack(path)
    return Images(path.name, [path.name], [path])


def _open_list(source: Sequence[Any]) -> Images:
    if not source:
        raise ValueError(f"The list of images is empty; give at least one file: {_reads()}.")
    names, contents = [], []
    for i, item in enumerate(source):
        if isinstance(item, str | PurePath):
            images = _open(item)
            assert images is not None
            if images.classes:
                raise ValueError(f"{item} has classes of its own, so it cannot stand in a list")
            names += images.names
            contents += images._contents
        elif isinstance(item, tuple):
            if not isinstance(item[1], bytes | bytearray | memoryview):
                raise ValueError(
                    f"{item[0]} comes with {type(item[1]).__name__}; give pairs (name, bytes)."
                )
            names.append(item[0])
            contents.append(item[1])
        else:
            names.append(f"upload {i + 1}")
            contents.append(item)
    return Images("files" if isinstance(contents[0], Path) else "uploads", names, contents)


def _open_folder(folder: Path, title: str) -> Images:
    if not folder.is_dir():
        raise ValueError(
            f"The folder {folder} does not exist; give a folder of images, or install the project "
            "from its repository to have the built-in samples."
        )
    found = look(folder)
    if not found.files:
        said = f" ({' '.join(found.left_out)})" if found.left_out else ""
        raise ValueError(
            f"{folder} holds no image, neither directly nor in class folders{said}; put {_reads()} "
            "there or give another folder."
        )
    files = found.files
    names = [file.relative_to(folder).as_posix() for file in files]
    if found.labels is None or found.classes is None:
        listed = _listed_indices(folder)
        place = {name: i for i, name in enumerate(listed)}
        files = sorted(
            files, key=lambda file: place.get(file.relative_to(folder).as_posix(), len(place))
        )
        names = [file.relative_to(folder).as_posix() for file in files]
        numbers = [listed.get(name, -1) for name in names]
        numbers = numbers if any(number >= 0 for number in numbers) else None
    else:
        known = all(_WNID.fullmatch(name) for name in found.classes)
        index = _imagenet_numbers() if known else {}
        classes = [found.classes[label] for label in found.labels]
        numbers = [index.get(name, -1) for name in classes] if index else None
    images = Images(title, names, files, found.labels, found.classes, numbers)
    images.boxes, said = boxes.of_folder(folder, names)
    images.left_out = [*found.left_out, *said]
    return images


_PACK = ("jpeg", "offsets", "filename", "label", "name", "imagenet_index", *boxes.ARRAYS)


def _open_pack(path: Path) -> Images:
    try:
        with open_npz(path) as archive:
            pack = {name: archive[name] for name in _PACK if name in archive}
    except Exception as error:  # a damaged zip raises a dozen types
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ValueError(
            f"{path} is not a readable image pack ({printable(reason)}); give an .npz with the "
            "arrays jpeg and offsets."
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
    images = Images(path.name, names, contents, labels, classes, numbers)
    try:
        images.boxes = boxes.of_pack(pack, count)
    except ValueError as error:
        raise wrong(str(error)) from None
    return images


def _texts(array: np.ndarray) -> list[str]:
    """Text of an array of text, bytes (UTF-8) or numbers."""
    values = array.tolist()
    return [v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v) for v in values]


def _rows(path: Path, reader: csv.DictReader) -> Iterator[dict[str, Any]]:
    try:
        yield from reader
    except csv.Error as error:
        raise ValueError(
            f"{path} is no table that can be read ({error}, line {reader.line_num + 1}); mend it, "
            "or move it away."
        ) from error


_WNID = re.compile(r"n\d{8}")


@functools.cache
def _in_words(name: str) -> str:
    """A class's name; of a wnid that of ImageNet."""
    number = _imagenet_numbers().get(name) if _WNID.fullmatch(name) else None
    if number is None:
        return name
    return ImageNetInfo("imagenet-1k").index_to_description(number).partition(",")[0]


@functools.cache
def _imagenet_numbers() -> dict[str, int]:
    return {wnid: i for i, wnid in enumerate(ImageNetInfo("imagenet-1k").label_names())}


def _listed_indices(folder: Path) -> dict[str, int]:
    """ImageNet indices, -1 where there is none, of the files in `labels.csv`, in its order."""
    path = folder / "labels.csv"
    if not path.is_file():
        return {}
    found: dict[str, int] = {}
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        for row in _rows(path, csv.DictReader(file)):
            # a hint may name further classes after the first: "282 (tiger cat); 281 also accepted"
            text = row.get("imagenet_index") or row.get("imagenet_hint") or ""
            number = re.match(r"\s*(\d{1,3})\b", text)
            if row.get("file"):
                found[str(row["file"])] = int(number[1]) if number else -1
    return found


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
        yield (repr(content.shape).encode() if _is_picture(content) else b"") + bytes(content)
        return
    if content.stat().st_size > LARGEST:
        raise OSError("too long to be read")
    with regular(content).open("rb") as file:
        while block := file.read(1 << 20):
            yield block


def _count(n: int, one: str, many: str | None = None) -> str:
    return f"{n} {one if n == 1 else many or one + 's'}"


def _reads() -> str:
    return f"files ending in {', '.join(SUFFIXES)} (or an .npz pack)"
