"""What can be said of a file before it is read, and how text out of a file is shown."""

import contextlib
import stat
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import BinaryIO

_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a folder",
}


class NotAFile(ValueError):
    """What is no file of a known length, so that reading it may wait or go on for ever."""


def regular(path: str | PurePath) -> Path:
    """The path of what is a file.

    Raises:
        NotAFile: for folders, pipes, sockets and devices, also behind links.
        OSError: when there is nothing.
    """
    path = Path(path)
    kind = stat.S_IFMT(path.stat().st_mode)
    if kind != stat.S_IFREG:
        raise NotAFile(f"{path} is {_KINDS.get(kind, 'no file')}, not a file; give a file")
    return path


@contextlib.contextmanager
def opened(source: str | PurePath | BinaryIO) -> Iterator[BinaryIO]:
    """A regular file, or what is open already from its beginning, to read bytes from."""
    if isinstance(source, str | PurePath):
        with regular(source).open("rb") as file:
            yield file
    else:
        source.seek(0)
        yield source


def printable(text: object, most: int = 300) -> str:
    """Text of one line without control characters, shortened in its middle.

    Names out of files reach terminals, where escape sequences act.
    """
    line = "".join(c if c.isprintable() else _escaped(c) for c in str(text)[: 4 * most])
    length = len(str(text))
    if len(line) <= most and length <= 4 * most:
        return line
    return f"{line[: most // 2]} ... ({length:,} characters)"


def _escaped(character: str) -> str:
    return " " if character in "\n\t\r" else repr(character)[1:-1]
