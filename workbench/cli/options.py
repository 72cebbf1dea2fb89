"""Options that mean the same in every command, and how they are read."""

import dataclasses
import types
import typing
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from docstring_parser import parse
from jsonargparse import ActionYesNo, ArgumentParser, Namespace
from torch import nn


def add_models(command: ArgumentParser, required: bool = True) -> None:
    """Which models, with which weights, where."""
    command.add_argument("--model", nargs="+", required=required, help="one or many names")
    command.add_argument(
        "--weights",
        nargs="+",
        default=["auto"],
        help="for each model, or one for all: a file, a folder, hf-hub:owner/name, official, "
        "random, or auto: what ships with the project, else random",
    )
    command.add_argument("--limit", type=int, default=None, help="take so many images at most")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.add_argument("--seed", type=int, default=0, help="of random weights and resampling")
    command.add_argument("--device", default=None, help="cpu, cuda, cuda:1; a GPU if there is one")


def add_run(command: ArgumentParser) -> None:
    """What every measurement takes."""
    command.add_argument("--config", action="config", help="a YAML file with these options")
    add_models(command, required=False)
    add_repository(command)
    command.add_argument(
        "--images",
        nargs="+",
        default=["samples"],
        help="samples, a folder, image files or an .npz pack",
    )
    command.add_argument("--data", default=None, help="labelled images, in place of --images")
    command.add_argument("--out", default="out", help="folder for results and figures")
    command.add_argument("--force", action="store_true", help="measure again what is stored")


def add_repository(command: ArgumentParser) -> None:
    """A model of somebody's repository."""
    command.add_argument(
        "--repo", default=None, help="a folder whose code runs with your rights, and gives a model"
    )
    command.add_argument(
        "--adapter", default=None, help="a file that makes its model; docs/your-model.md"
    )


def check_repository(args: Namespace) -> bool:
    """Whether a repository is given.

    Raises:
        ValueError: for one of --repo and --adapter, and for a folder or file that is not there.
    """
    if (args.repo is None) != (args.adapter is None):
        raise ValueError("--repo and --adapter go together: the folder, and a file with make()")
    if args.repo is None:
        return False
    from workbench.standin.adapter import check_adapter
    from workbench.standin.imports import check_folder

    check_folder(args.repo)
    check_adapter(args.adapter)
    return True


def models_of(args: Namespace) -> tuple[Sequence[str], Callable[..., nn.Module]]:
    """The models' names, and what builds one from name, weights, seed and img_size.

    Raises:
        ValueError: for neither or both of --model and --repo, and as `check_repository`.
    """
    foreign = check_repository(args)
    if (args.model is None) != foreign:
        raise ValueError("give models by --model, or one of a repository by --repo and --adapter")
    if not foreign:
        from workbench.weights import create_model

        return args.model, create_model

    def build(name: str, weights: str, *, seed: int, img_size: Any = None, **_: Any) -> nn.Module:
        from workbench import standin

        own = None if weights in ("auto", "random") else weights
        return standin.load(args.repo, args.adapter, size=img_size or 224, weights=own, seed=seed)

    return [Path(args.repo).resolve().name], build


def add_config(command: ArgumentParser, kind: type, skip: Collection[str] = ()) -> None:
    """The fields of a method's configuration; those that hold several values take them spelt
    "1,2" or "1 2", and switches stand alone or before true or false.
    """
    several = _several(kind)
    switches = {name for name, hint in typing.get_type_hints(kind).items() if hint is bool}
    command.add_class_arguments(kind, skip={*skip, *several, *switches})
    meanings = {found.arg_name: found.description for found in parse(kind.__doc__ or "").params}
    for field in dataclasses.fields(kind):
        if field.name in skip:
            continue
        option, help = f"--{field.name}", meanings.get(field.name)
        if field.name in several:
            default = field.default
            texts = [str(value) for value in default] if isinstance(default, tuple) else default
            command.add_argument(option, nargs="+", type=str, default=texts, help=help)
        elif field.name in switches:
            command.add_argument(
                option, action=ActionYesNo, nargs="?", default=field.default, help=help
            )


def read_config(args: Namespace, kind: type, **given: Any) -> Any:
    """A method's configuration from the options of its names, and what is `given`."""
    several = _several(kind)
    found = dict(given)
    for field in dataclasses.fields(kind):
        if field.name in found or field.name not in args:
            continue
        value = args[field.name]
        if field.name in several and value is not None:
            value = _listed(value, field.name, several[field.name])
        found[field.name] = value
    return kind(**found)


def read_size(text: str | None) -> int | tuple[int, int] | None:
    """224 -> 224, "224,320" -> (224, 320), None -> None (the model's own)."""
    if text is None:
        return None
    try:
        numbers = [int(part) for part in str(text).replace("x", ",").split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2) or min(numbers, default=0) < 1:
        raise ValueError(f"size {text!r} is not a number of pixels such as 224 or 224,320")
    return numbers[0] if len(numbers) == 1 else (numbers[0], numbers[1])


def images_of(args: Namespace) -> Any:
    """What `open_images` takes."""
    return args.data or (args.images[0] if len(args.images) == 1 else args.images)


def _several(kind: type) -> dict[str, type]:
    """Fields of the type tuple[x, ...], each with x."""
    found = {}
    for name, hint in typing.get_type_hints(kind).items():
        options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        for option in options:
            inner = typing.get_args(option)
            if typing.get_origin(option) is tuple and inner[-1] is Ellipsis:
                found[name] = inner[0]
    return found


def _listed(texts: Any, name: str, kind: type) -> tuple:
    parts = [part for text in texts for part in str(text).split(",") if part]
    try:
        return tuple(kind(part) for part in parts)
    except ValueError:
        raise ValueError(f"{name} must be numbers, not {' '.join(parts)}") from None
