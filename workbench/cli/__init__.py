"""The `vssm` command: every method from the command line, with the same words everywhere.

Nothing is imported before it is known to be needed: torch and timm take seconds.
"""

import difflib
import logging
import os
import re
import sys
from argparse import ArgumentError, RawDescriptionHelpFormatter
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from jsonargparse import DefaultHelpFormatter

from workbench import methods
from workbench.cli.examples import EXAMPLES
from workbench.files import printable
from workbench.former import OPTIONS
from workbench.process import prepare

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

COMMANDS = {
    "models": "list models",
    "paths": "list scan paths, or draw them",
    "train": "train a model; the same command goes on after a stop",
    "evaluate": "accuracy of models on labelled images",
    "pack": "make one file of a folder of images, with their labels",
    "figures": "all figures and tables of a paper from one YAML file",
    "show": "print what result files hold, or draw them",
    "export": "receptive fields as a page that follows the mouse, or as a GIF",
    "warm": "compile the scan for this GPU ahead",
    "app": "open the app in the browser",
    "completion": "print what makes a shell complete commands and options",
}
"""Modules of this package with `parser()` and `command(args)`; methods come before them."""

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `vssm`; returns the exit code: 0, 2 for what cannot be done, 130 for Ctrl-C.

    With `--debug` anywhere, or VSSM_DEBUG in the environment, errors come with their traceback.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments or bool(os.environ.get("VSSM_DEBUG"))
    arguments = [argument for argument in arguments if argument != "--debug"]
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
    except Exception as error:
        if debug:
            raise
        print(f"vssm: {_sentence(error)}", file=sys.stderr)
        return 2


def parse(arguments: Sequence[str]) -> tuple[str | None, Any]:
    """A command and its options; None after --help or --version, which are answered here.

    Raises:
        ValueError: for a command or an option that does not exist, naming the nearest, and for a
            value of another type.
    """
    name, rest = command_of(arguments)
    if name is None:
        return None, None
    _check_config(rest)
    made = parser(name)
    try:
        return name, made.parse_args(_underscored(rest))
    except ArgumentError as error:
        raise ValueError(_refused(made, str(error))) from None


WORDS = {
    "pretrained": "--weights official",
    "checkpoint": "--weights FILE",
    "batch_size": "--chunk",
    "gpu": "--device cuda",
    "cpu": "--device cpu",
    "resolution": "--size",
    "output": "--out",
}
"""Options of other programs -> ours."""


def _refused(made: "ArgumentParser", said: str) -> str:
    """What the parser said, in one sentence."""
    said = " ".join(said.split())
    known = [option[2:] for action in made._actions for option in action.option_strings]
    if unknown := re.match("unrecognized arguments: ([^ =]+)", said):
        word, option = unknown[1], unknown[1].lstrip("-")
        if not word.startswith("-"):
            first = " a model is --model NAME, images are --images PATH;" * ("model" in known)
            return f"{word!r} belongs to no option;{first} see {made.prog} --help"
        near = [f"--{name}" for name in difflib.get_close_matches(option, known, 1)]
        if option in WORDS and WORDS[option].split()[0][2:] in known:
            near = [WORDS[option]]
        hint = f"did you mean {near[0].replace('_', '-')}?" if near else f"see {made.prog} --help"
        return f"there is no option {word.replace('_', '-')}; {hint}"
    wrong = re.match(r'Parser key "(\w+)":.*?<class \'(\w+)\'>.*(?:Got|Given) value: (.*)', said)
    if wrong:
        return f"--{wrong[1]} must be {wrong[2]}, not {wrong[3]}"
    return said.removeprefix("argument ")


def _check_config(arguments: Sequence[str]) -> None:
    """Read the file of `--config` strictly before the parser reads it.

    Raises:
        ValueError: in a sentence with the line.
    """
    for before, argument in zip(["", *arguments], arguments, strict=False):
        name, _, file = argument.partition("=")
        if before == "--config" or (name == "--config" and file):
            from workbench.yamlfile import read_yaml

            read_yaml(argument if before == "--config" else file)


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
    known = commands()
    spelt = name.replace("_", "-")
    if spelt not in known:
        near = difflib.get_close_matches(spelt, known, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
        what = "option" if name.startswith("-") else "command"
        raise ValueError(f"there is no {what} {name!r}; {hint}")
    return spelt, rest


def commands() -> dict[str, str]:
    """Every command and what it does."""
    return {**methods.METHODS, **COMMANDS}


def usage() -> str:
    """What `vssm --help` prints."""
    lines = ["usage: vssm COMMAND [options]", "", "See what a visual state-space model looks at."]
    for title, table in (("methods", methods.METHODS), ("more commands", COMMANDS)):
        lines += ["", f"{title}:", *(f"  {name:12}  {text}" for name, text in table.items())]
    lines += ["", "vssm COMMAND --help lists the options of a command, with examples."]
    return "\n".join([*lines, "--debug, with any command, shows the traceback of an error."])


def parser(name: str) -> "ArgumentParser":
    """The parser of one command."""
    made = _module(name).parser(*([name] if name in methods.METHODS else []))
    made.prog = f"vssm {name}"
    made.exit_on_error = False
    made.formatter_class = _Help
    usual = (f"vssm {name} --model vmamba_nano --images samples",)
    made.epilog = "\n  ".join(["examples:", *EXAMPLES.get(name, usual)])
    return made


class _Help(RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Examples keep their lines."""


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


EXPECTED = (ValueError, OSError, MemoryError, ImportError)
"""What the engine raises with a sentence for the user; anything else is a fault of its own."""


def _sentence(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        said = error.strerror + (f" ({error.filename})" if error.filename else "")
    else:
        said = str(error)
    said = printable(said, 2000)
    if isinstance(error, EXPECTED):
        return said or f"{type(error).__name__}: choose a smaller size, or fewer at once"
    return (
        f"this should not have happened ({type(error).__name__}: {printable(said)}); the same "
        "command with --debug shows where: please report it with that"
    )
