"""`.npz` archives, read one array at a time and only up to a bearable size.

A compressed member says how long it is before it is unpacked, and a few megabytes can unpack to as
many gigabytes.
"""

import contextlib
import zipfile
from collections.abc import Iterator
from pathlib import PurePath
from typing import BinaryIO

import numpy as np
from numpy.lib.npyio import NpzFile

from workbench.files import opened

UNPACKED = 256 * 2**20
"""Bytes that a file may take in memory however small it is; a larger file may take four times its
size."""


class NotAnArchive(ValueError):
    """A file that is no `.npz`, or whose members cannot be read."""


class Arrays:
    """The arrays of an open archive, by name; what nobody asks for is not read."""

    def __init__(self, archive: NpzFile, size: int) -> None:
        self._archive, self._left = archive, bearable(size)
        assert archive.zip is not None
        self._zip, names = archive.zip, archive.zip.namelist()
        if len(set(names)) < len(names):
            raise NotAnArchive("it has members of the same name")
        self.names = [name.removesuffix(".npy") for name in names if name.endswith(".npy")]

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def length(self, name: str) -> int:
        """Bytes of an array once it is unpacked."""
        return self._zip.getinfo(f"{name}.npy").file_size

    def __getitem__(self, name: str) -> np.ndarray:
        length = self.length(name)
        self._left -= length
        if self._left < 0:
            raise NotAnArchive(f"its array {name} unpacks to {length / 2**20:,.0f} MB")
        return self._archive[name]


def bearable(size: int) -> int:
    """Bytes that a file of a size may unpack to."""
    return max(UNPACKED, 4 * size)


@contextlib.contextmanager
def open_npz(source: str | PurePath | BinaryIO) -> Iterator[Arrays]:
    """Open a path, or an open binary file such as an upload.

    Raises:
        NotAnArchive: for what is no archive.
        NotAFile, OSError: see `workbench.files.regular`.
        Exception: while reading, a damaged archive raises a dozen types.
    """
    with opened(source) as file:
        if not zipfile.is_zipfile(file):
            raise NotAnArchive("it is no .npz archive, or cut off")
        size = file.seek(0, 2)
        file.seek(0)
        with np.load(file, allow_pickle=False) as archive:
            if not isinstance(archive, NpzFile):
                raise NotAnArchive("it is no .npz archive")
            yield Arrays(archive, size)
