"""One generated file, and what must come of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Case:
    """A file, or what is made of one.

    name: kind/what, the same for the same seed.
    run: reads it as the product does; returns whether everything that came out is right, and raises
        what the product raises. It is not called before `make` was.
    good: True must be taken, False must be refused, None may be either, but never wrong.
    make: writes the file.
    """

    name: str
    make: Callable[[], Any]
    run: Callable[[], bool]
    good: bool | None
