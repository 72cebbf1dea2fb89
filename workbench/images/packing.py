"""Many images and their labels as one `.npz` pack, which `open_images` reads."""

import csv
import io
from pathlib import Path

import numpy as np
from PIL import Image

from workbench.files import printable
from workbench.images.boxes import LAST
from workbench.images.decoding import BadImage
from workbench.images.preprocessing import Preprocessing
from workbench.images.sources import Images
from workbench.results import save_arrays

QUALITY = 95
"""Of the JPEG images in a pack."""


def pack(images: Images, file: Path, size: int | tuple[int, int] | None = None) -> list[str]:
    """Write a pack; returns a sentence for each image and box that cannot be used.

    size: (h, w) in pixels, or one side: scaled to cover it, the centre cut out; None to leave the
        pictures as they are.

    Raises `ValueError` when no image can be used or the file cannot be written.
    """
    cut = None
    if size is not None:
        cut = Preprocessing((size, size) if isinstance(size, int) else size, crop_pct=1.0)
    encoded, kept, left_out, boxes = [], [], [], []
    for i in range(len(images)):
        try:
            picture = images.load(i)
        except BadImage as bad:
            left_out.append(str(bad))
            continue
        buffer = io.BytesIO()
        if images.boxes is not None:
            own, said = images.boxes_of(i, picture.size)
            left_out += said
            boxes.append(own if cut is None else cut.boxes(own, picture.size))
        picture = picture if cut is None else Image.fromarray(cut.picture(picture))
        picture.save(buffer, "JPEG", quality=QUALITY, subsampling=0)
        encoded.append(buffer.getvalue())
        kept.append(i)
    if not kept:
        raise ValueError(f"none of the {len(images)} images can be read: {left_out[0]}")
    arrays = {
        "jpeg": np.frombuffer(b"".join(encoded), np.uint8),
        "offsets": np.cumsum([0, *map(len, encoded)]),
        "filename": np.array([images.names[i] for i in kept]),
    }
    if boxes:
        arrays["box"] = np.concatenate(boxes) - LAST
        arrays["box_image"] = np.repeat(np.arange(len(kept)), [len(own) for own in boxes])
    labels, classes, numbers = images.labels, images.classes, images.imagenet_index
    if labels is None and numbers is not None:  # known by their ImageNet numbers alone
        known = sorted(set(numbers))
        labels, classes = [known.index(number) for number in numbers], [str(n) for n in known]
    if labels is not None:
        names = classes or [str(label) for label in range(max(labels) + 1)]
        arrays |= {"label": np.array([labels[i] for i in kept]), "name": np.array(names)}
        if numbers is not None:
            of = dict(zip(labels, numbers, strict=True))
            arrays["imagenet_index"] = np.array([of.get(k, -1) for k in range(len(names))])
    save_arrays(file, arrays, {})
    return left_out


def label(images: Images, table: Path) -> Images:
    """The images with labels from a CSV file with columns `file` and `label`.

    Raises:
        ValueError: for a file without these columns, and an image that is not in it.
    """
    with table.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        reader = csv.DictReader(file)
        try:
            rows = list(reader)
        except csv.Error as error:
            raise ValueError(f"{table} is no table that can be read ({error})") from error
    if not {"file", "label"} <= set(reader.fieldnames or ()):
        raise ValueError(f"{table} needs the columns file and label, in its first line")
    found = {row["file"]: row["label"] for row in rows if row["file"] and row["label"]}
    missing = [name for name in images.names if name not in found]
    if missing:
        raise ValueError(
            f"{table} has no label for {printable(missing[0])} ({len(missing)} of {len(images)} "
            "images); the column file holds names as below the folder"
        )
    classes = sorted({found[name] for name in images.names})
    labelled = images.subset(range(len(images)))
    labelled.labels = [classes.index(found[name]) for name in images.names]
    labelled.classes, labelled.imagenet_index, labelled.empty_classes = classes, None, []
    return labelled
