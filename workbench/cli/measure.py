"""`vssm erf`, `vssm scan-maps` ...: a command for each method."""

import dataclasses
import inspect
import json
import sys
import webbrowser
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from docstring_parser import parse
from jsonargparse import ArgumentParser, Namespace

from workbench import figures, methods
from workbench.cli.options import add_fields, add_option, read_fields
from workbench.fields import read_option
from workbench.memory import keep_freed_memory
from workbench.results import Result, file_name
from workbench.study import Study


def parser(name: str) -> ArgumentParser:
    """The parser of a method's command."""
    method, drawn = methods.get(name), figures.of(name)
    made = ArgumentParser(prog=f"vssm {name}", description=methods.METHODS[name] + ".")
    made.add_argument("--config", action="config", help="a YAML file with these options")
    made.add_argument("--json", action="store_true", help="print JSON")
    made.add_argument("--open", action="store_true", help="show the first figure")
    add_fields(made, Study, out=Path("out"), before_after=method.before_after)
    add_fields(made, method.Config, skip={field.name for field in dataclasses.fields(Study)})
    for function in (method.compare, drawn.sheets):
        meanings = {found.arg_name: found.description for found in parse(function.__doc__).params}
        for option in _further(function):
            meaning = meanings.get(option.name)
            add_option(made, option.name, option.annotation, option.default, meaning)
    return made


def command(name: str, args: Namespace) -> int:
    """Measure, write figures and tables, print the numbers."""
    method, drawn = methods.get(name), figures.of(name)
    study = read_fields(args, Study)
    config = read_fields(args, method.Config)
    compared, shown = (_read(args, function) for function in (method.compare, drawn.sheets))
    from workbench import distributed  # torch, once it is known that something is measured

    keep_freed_memory()
    results = study.run(method, config, **compared)
    if distributed.rank() > 0:
        return 0
    files = figures.files.publish(results, study.out, hashed=True, **shown)
    if args.json:
        print(json.dumps([summary(result) for result in results], indent=2))
    else:
        for result in results:
            print("\n" + drawn.report(result))
    told(files, args.open)
    return 0


def told(files: Sequence[Path], shown: bool = False) -> None:
    """Say what was written, and show the first picture where that is asked for."""
    print("wrote " + ", ".join(map(str, files)), file=sys.stderr)
    picture = next((file for file in files if file.suffix == ".png"), None)
    if shown and picture:
        webbrowser.open(picture.resolve().as_uri())


def summary(result: Result) -> dict[str, Any]:
    """What `--json` prints of a result: all that its file says in words, and the file's name."""
    meta = result.meta
    hashed = "hash" in meta
    file = file_name(meta["method"], meta["model"], meta["hash"]) if hashed else None
    return {**meta, "result": file}


def _further(function: Callable) -> list[inspect.Parameter]:
    """A function's arguments after the results, which are options too."""
    return list(inspect.signature(function).parameters.values())[1:]


def _read(args: Namespace, function: Callable) -> dict[str, Any]:
    return {
        option.name: read_option(option.name, args[option.name], option.annotation)
        for option in _further(function)
    }
