"""The `vssm` command: every method from the command line, with the same words everywhere."""

import logging
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from jsonargparse import ArgumentParser, Namespace

COMMANDS = ("models", "paths", "train", "evaluate", "figures", "show", "app")
"""Modules of this package with `parser()` and `command(args)`; methods come before them."""

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `vssm`; returns the exit code: 0, 2 for input that cannot be used, 130 for Ctrl-C."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stderr)
    try:
        args = parse(sys.argv[1:] if arguments is None else arguments)
        name = args.subcommand
        if name in COMMANDS:
            return import_module(f"{__name__}.{name}").command(args[name])
        from workbench.cli import methods

        return methods.command(name, args[name])
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


def parser() -> ArgumentParser:
    """The parser of all commands."""
    from workbench import catalogue
    from workbench.cli import methods

    top = ArgumentParser(prog="vssm", description="See what a visual state-space model looks at.")
    commands = top.add_subcommands(required=True, dest="subcommand")
    for name in catalogue.names():
        commands.add_subcommand(name, methods.parser(name))
    for name in COMMANDS:
        commands.add_subcommand(name, import_module(f"{__name__}.{name}").parser())
    return top


def parse(arguments: Sequence[str]) -> Namespace:
    """The options of a command; ends the process with exit code 2 for options that do not exist."""
    return parser().parse_args(_underscored(arguments))


def _underscored(arguments: Sequence[str]) -> list[str]:
    """`--before-after` is `--before_after`: options are spelt with either."""
    spelt = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name.startswith("--"):
            argument = "--" + name[2:].replace("-", "_") + equals + value
        spelt.append(argument)
    return spelt


def _sentence(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        where = f" ({error.filename})" if error.filename else ""
        return f"{error.strerror}{where}"
    return str(error) or type(error).__name__
