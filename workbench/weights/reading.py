"""Weight files of any format, told by their content and not by their names."""

from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch

from workbench.files import printable, regular
from workbench.weights.pickles import read_torch

_OTHERS = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself: run `git lfs pull`"),
    (b"\x1f\x8b", "a gzip archive: unpack it first"),
    (b"7z\xbc\xaf", "a 7-Zip archive: unpack it first"),
    (b"BZh", "a bzip2 archive: unpack it first"),
    (b"\xfd7zXZ", "an xz archive: unpack it first"),
    (b"\x89HDF", "an HDF5 file (Keras), which is not read"),
    (b"GGUF", "a GGUF file, which is not read"),
    (b"\x93NUMPY", "a NumPy array, not weights"),
    (b"<", "a web page, not weights: download the file itself"),
    (b"{", "a JSON text, not weights"),
)


def read(path: Path) -> tuple[str, Mapping]:
    """The format of a weight file and its content.

    Raises:
        ValueError: naming what it is instead, or that it is damaged.
    """
    with regular(path).open("rb") as file:
        start = file.read(512)
    if not start:
        raise ValueError(f"{path.name} is empty")
    # a length may begin as other formats do, but theirs make no length that the file has
    length = int.from_bytes(start[:8], "little")
    if start[8:9] == b"{" and length <= path.stat().st_size:
        return "safetensors", _read_safetensors(path)
    if start[:4] == b"PK\x03\x04":
        return "torch", read_torch(path, zipped=True)
    if start[:1] == b"\x80":  # how a pickle begins
        return "torch (before 1.6)", read_torch(path, zipped=False)
    if start[8:9] == b"{":  # cut short
        return "safetensors", _read_safetensors(path)
    for begin, name in _OTHERS:
        if start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(begin):
            raise ValueError(f"{path.name} is {name}")
    if start[257:262] == b"ustar":
        raise ValueError(f"{path.name} is a tar archive: unpack it first")
    if path.suffix == ".safetensors":
        raise ValueError(f"{path.name} is damaged or incomplete: it does not begin as safetensors")
    raise ValueError(f"{path.name} is not a checkpoint: neither safetensors nor torch.save")


def _read_safetensors(path: Path) -> Mapping:
    try:
        return safetensors.torch.load_file(path)
    except Exception as error:  # its own error, or torch's at types that torch does not know
        raise ValueError(f"{path.name} is damaged or incomplete ({printable(error)})") from error
