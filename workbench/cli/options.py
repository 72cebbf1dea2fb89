"""Options from the fields of a dataclass, and a dataclass from options."""

import dataclasses
import typing
from collections.abc import Collection
from typing import Any

from jsonargparse import ActionYesNo, ArgumentParser, Namespace

from workbench.fields import READERS, meanings, read_option, several
from workbench.methods.method import choices


def add_fields(
    command: ArgumentParser, kind: type, skip: Collection[str] = (), **defaults: Any
) -> None:
    """Options for the fields of a dataclass, with the words of its docstring.

    Fields that hold several values take them spelt "1 2", "1,2" or "[1,2]"; switches stand alone or
    before true or false.

    Args:
        defaults: in place of the dataclass's own.
    """
    told = meanings(kind)
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        if field.name not in skip:
            default = defaults.get(field.name, field.default)
            add_option(command, field.name, hints[field.name], default, told.get(field.name))


def add_option(
    command: ArgumentParser, name: str, hint: Any, default: Any, meaning: str | None = None
) -> None:
    """One option of a type."""
    option: dict[str, Any] = {"default": default, "help": meaning}
    if allowed := [str(value) for value in choices(hint) if value is not None]:
        # the dataclass says what is wrong with another value, in the words of the library
        option |= {"type": str, "metavar": "{" + ",".join(allowed) + "}"}
    elif hint in READERS or several(hint):
        option["type"] = str
    elif hint in (bool, bool | None):
        option |= {"action": ActionYesNo, "nargs": "?"}
    else:
        option["type"] = hint
    if several(hint):
        option["nargs"] = "+"
        if isinstance(default, tuple):
            option["default"] = [str(value) for value in default]
    command.add_argument(f"--{name}", **option)


def read_fields(args: Namespace, kind: type, **given: Any) -> Any:
    """A dataclass from the options of its names, and what is `given`."""
    hints = typing.get_type_hints(kind)
    found = dict(given)
    for field in dataclasses.fields(kind):
        if field.name not in found and field.name in args:
            found[field.name] = read_option(field.name, args[field.name], hints[field.name])
    return kind(**found)
