"""`vssm erf`, `vssm scan-maps` ...: a command for each method."""

import inspect
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from jsonargparse import ActionYesNo, ArgumentParser, Namespace

from workbench import catalogue, distributed, figures
from workbench.cli.options import (
    add_config,
    add_run,
    images_of,
    models_of,
    read_config,
    read_size,
)
from workbench.results import Result
from workbench.runner import file_name

_HIDDEN = ("classes", "object_size")  # of ResolutionConfig: set by the data; several at once


def parser(name: str) -> ArgumentParser:
    """The parser of a method's command."""
    method = catalogue.method(name)
    made = ArgumentParser(description=(method.__doc__ or "").partition("\n\n")[0])
    add_run(made)
    if name == "resolution":
        _add_sweep(made)
    else:
        made.add_argument("--size", type=str, default=None, help="pixels, 224 or 224,320")
        made.add_argument(
            "--before_after",
            action=ActionYesNo,
            default=name == "erf",
            help="measure every trained model before training too (the same seed, untrained)",
        )
        for option in _compared(method):
            made.add_argument(f"--{option.name}", type=option.annotation, default=option.default)
    add_config(made, catalogue.config_class(name), skip={"seed", *_HIDDEN})
    return made


def command(name: str, args: Namespace) -> int:
    """Measure, write figures and tables, print the numbers."""
    if name == "resolution":
        groups, options = _swept(args), {"published": args.published}
    else:
        groups, options = [_studied(name, args)], {}
    if distributed.rank() > 0:
        return 0
    results = [result for group in groups for result in group]
    files = []
    for group in groups:
        files += figures.files.publish(group, Path(args.out), **options)
    if args.json:
        print(json.dumps([summary(result) for result in results], indent=2))
    else:
        for result in results:
            print("\n" + figures.of(result.kind).report(result))
    print("wrote " + ", ".join(map(str, files)), file=sys.stderr)
    return 0


def summary(result: Result) -> dict[str, Any]:
    """What `--json` prints of a result: all that its file says in words, and the file's name."""
    meta = result.meta
    file = f"{file_name(meta['model'])}-{meta['hash']}.npz" if "hash" in meta else None
    return {**meta, "result": file}


def _studied(name: str, args: Namespace) -> list[Result]:
    from workbench.study import study

    method = catalogue.method(name)
    models, options = _shared(args)
    options |= {option.name: args[option.name] for option in _compared(method)}
    options |= {"size": read_size(args.size), "before_after": args.before_after}
    config = read_config(args, catalogue.config_class(name))
    return study(method, models, images_of(args), config, **options)


def _shared(args: Namespace) -> tuple[Sequence[str], dict[str, Any]]:
    """The models, and the options that `study` and `sweeps` share."""
    models, build = models_of(args)
    names = ("weights", "seed", "limit", "device", "force")
    options = {name: args[name] for name in names}
    return models, {**options, "out": Path(args.out), "build": build}


def _compared(method: ModuleType) -> list[inspect.Parameter]:
    """Options of the method's `compare`, after its first argument, the results."""
    compare = getattr(method, "compare", None)
    return list(inspect.signature(compare).parameters.values())[1:] if compare else []


def _add_sweep(made: ArgumentParser) -> None:
    made.add_argument(
        "--sizes",
        nargs="+",
        type=int,
        default=[],
        help="pixels, such as 32 64 128; by default from half to 3 times the native size",
    )
    made.add_argument(
        "--object_size",
        nargs="+",
        default=["grows"],
        help="grows (pictures are scaled to the size), constant (their scale stays), or both",
    )
    made.add_argument("--erf_images", type=int, default=4, help="images for receptive fields")
    made.add_argument(
        "--published", nargs="+", default=[], help="VMamba's table: DeiT-S, Swin-T ... in grey"
    )
    made.add_argument("--confidence", type=float, default=0.95, help="level of the intervals")
    made.add_argument("--resamples", type=int, default=2000, help="bootstrap resamples")


def _swept(args: Namespace) -> list[Sequence[Result]]:
    """For each protocol the curves of all models."""
    from workbench.figures.resolution import check_published
    from workbench.methods.resolution_curve import Statistics
    from workbench.study import sweeps

    check_published(args.published)
    models, options = _shared(args)
    options |= {"sizes": args.sizes, "erf_images": args.erf_images}
    options |= {"labelled": args.data is not None}
    options |= {"statistics": Statistics(args.confidence, args.resamples, args.seed)}
    return [
        sweeps(
            models,
            images_of(args),
            read_config(args, catalogue.config_class("resolution"), object_size=protocol),
            **options,
        )
        for protocol in dict.fromkeys(args.object_size)
    ]
