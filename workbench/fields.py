"""Values of typed fields, from the texts and lists that a command line or a YAML file gives."""

import functools
import types
import typing
from typing import Any

from docstring_parser import parse

from workbench.files import printable
from workbench.methods.method import choices, chosen

LARGEST = 16384
"""Pixels a side."""


def meanings(kind: type) -> dict[str, str | None]:
    """Field of a dataclass -> what its docstring, or that of a base, says of it."""
    return {
        found.arg_name: found.description
        for one in reversed(kind.__mro__)
        for found in parse(one.__doc__ or "").params
    }


def read_option(name: str, value: Any, hint: Any) -> Any:
    """A value of the type that a field has, from a text, or a list of texts or values.

    Raises:
        ValueError: for texts that are no numbers where numbers are meant, and for what is none of
            the type's choices.
    """
    if value is None:
        return None
    if hint in READERS:
        return READERS[hint](value)
    if inner := several(hint):
        value = _listed(value, name, inner)
    return chosen(name, value, hint)


def checked(name: str, value: Any, hint: Any) -> Any:
    """`read_option`, and the value's type checked against the field's.

    Raises:
        ValueError: also for another type.
    """
    from jsonargparse import ArgumentError, ArgumentParser

    value = read_option(name, value.item() if hasattr(value, "item") else value, hint)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument(f"--{name}", type=hint)
    try:
        return parser.parse_object({name: value})[name]
    except (TypeError, OverflowError, ArgumentError) as error:
        kind = getattr(hint, "__name__", str(hint)).removesuffix(" | None")
        raise ValueError(f"{name} must be {kind}, not {printable(repr(value), 60)}") from error


def read_size(text: Any) -> int | tuple[int, int]:
    """224 -> 224, "224,320" -> (224, 320)."""
    parts = text if isinstance(text, list | tuple) else str(text).replace("x", ",").split(",")
    try:
        numbers = [int(part) for part in parts]
    except (ValueError, TypeError):
        numbers = []
    if len(numbers) not in (1, 2) or min(numbers, default=0) < 1:
        raise ValueError(
            f"size {printable(text, 60)!r} is not a number of pixels such as 224 or 224,320"
        )
    if max(numbers) > LARGEST:
        raise ValueError(f"size {max(numbers)} is more than {LARGEST} pixels")
    return numbers[0] if len(numbers) == 1 else (numbers[0], numbers[1])


READERS = {int | tuple[int, int] | None: read_size}


@functools.cache
def several(hint: Any) -> type | None:
    """x of a type tuple[x, ...], alone or among others; None for another type."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for option in options:
        inner = typing.get_args(option)
        if typing.get_origin(option) is tuple and inner[-1] is Ellipsis:
            literal = choices(inner[0])
            return type(literal[0]) if literal else inner[0]
    return None


def _listed(values: Any, name: str, kind: type) -> tuple:
    """Names may hold commas (files do), so only brackets tell where a list of them ends; numbers
    and choices may be parted by commas alone.
    """
    texts = values if isinstance(values, list | tuple) else [values]
    parts: list[Any] = []
    for text in texts:
        if not isinstance(text, str):
            parts.append(text)
        elif text.startswith("[") and text.endswith("]"):
            parts += [part.strip().strip("\"'") for part in text[1:-1].split(",")]
        elif name in _NAMES:
            parts.append(text)
        else:
            parts += [part for part in text.split(",") if part]
    try:
        return tuple(kind(part) if isinstance(part, str) else part for part in parts if part != "")
    except ValueError:
        shown = printable(" ".join(map(str, parts)), 60)
        raise ValueError(f"{name} must be numbers, not {shown}") from None


_NAMES = ("model", "weights", "images")
