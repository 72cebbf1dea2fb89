"""The `vssm` command: every method from the command line, with the same words everywhere.

Nothing is imported before it is known to be needed: torch and timm take seconds.
"""

import difflib
import logging
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from workbench import methods
from workbench.former import OPTIONS
from workbench.process import prepare

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

COMMANDS = {
    "models": "list models",
    "paths": "list scan paths, or draw them",
    "train": "train a model; the same command goes on after a stop",
    "evaluate": "accuracy of models on labelled images",
    "figures": "all figures and tables of a paper from one YAML file",
    "show": "print what result files hold, or draw them",
    "app": "open the app in the browser",
}
"""Modules of this package with `parser()` and `command(args)`; methods come before them."""

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `vssm`; returns the exit code: 0, 2 for input that cannot be used, 130 for Ctrl-C."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        prepare()
        logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stderr)
        name, args = parse(arguments)
        if name is None:
            return 0
        return _module(name).command(*([name] if name in methods.METHODS else []), args)
    except KeyboardInterrupt:
        print("vssm: stopped; finished chunks are kept, the same command goes on", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        return 0
    except (ValueError, OSError, MemoryError, ImportError) as error:
        if os.environ.get("VSSM_DEBUG"):
            raise
        print(f"vssm: {_sentence(error)}", file=sys.stderr)
        return 2


def parse(arguments: Sequence[str]) -> tuple[str | None, Any]:
    """A command and its options; None after --help or --version, which are answered here.

    Ends the process with exit code 2 for options that do not exist.

    Raises:
        ValueError: for a command that does not exist, naming the nearest.
    """
    name, rest = command_of(arguments)
    if name is None:
        return None, None
    return name, parser(name).parse_args(_underscored(rest))


def command_of(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """The command and its arguments, see `parse`."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return None, []
    if arguments[0] == "--version":
        from importlib.metadata import version

        print(f"vssm-workbench {version('vssm-workbench')}")
        return None, []
    name, rest = arguments[0], list(arguments[1:])
    known = {**methods.METHODS, **COMMANDS}
    spelt = name.replace("_", "-")
    if spelt not in known:
        near = difflib.get_close_matches(spelt, known, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
        what = "option" if name.startswith("-") else "command"
        raise ValueError(f"there is no {what} {name!r}; {hint}")
    return spelt, rest


def usage() -> str:
    """What `vssm --help` prints."""
    lines = ["usage: vssm COMMAND [options]", "", "See what a visual state-space model looks at."]
    for title, table in (("methods", methods.METHODS), ("more commands", COMMANDS)):
        lines += ["", f"{title}:", *(f"  {name:12}  {text}" for name, text in table.items())]
    return "\n".join([*lines, "", "vssm COMMAND --help lists the options of a command."])


def parser(name: str) -> "ArgumentParser":
    """The parser of one command."""
    made = _module(name).parser(*([name] if name in methods.METHODS else []))
    made.prog = f"vssm {name}"
    return made


def _module(name: str) -> Any:
    return import_module(f"{__name__}.{'measure' if name in methods.METHODS else name}")


def _underscored(arguments: Sequence[str]) -> list[str]:
    """`--before-after` is `--before_after`: options are spelt with either, or as they once were."""
    spelt = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name.startswith("--"):
            name = name[2:].replace("-", "_")
            argument = "--" + OPTIONS.get(name, name) + equals + value
        spelt.append(argument)
    return spelt


def _sentence(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        where = f" ({error.filename})" if error.filename else ""
        return f"{error.strerror}{where}"
    return str(error) or type(error).__name__
