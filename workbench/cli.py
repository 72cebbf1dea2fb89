"""The `vssm` command: every method from the command line, with the same words everywhere."""

import fnmatch
import json
import logging
import os
import socket
import subprocess
import sys
import time
import urllib.request
import webbrowser
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ActionYesNo, ArgumentParser, Namespace

REPOSITORY = Path(__file__).parents[1]
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `vssm`; returns the exit code: 0, 2 for input that cannot be used, 130 for Ctrl-C."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stderr)
    try:
        args = parser().parse_args(_underscored(sys.argv[1:] if arguments is None else arguments))
        command = args.subcommand
        return COMMANDS[command](args[command])
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


def parser() -> ArgumentParser:
    """The parser of all commands."""
    from workbench.methods.attribution import AttributionConfig
    from workbench.methods.erf import ErfConfig
    from workbench.methods.resolution import ResolutionConfig
    from workbench.methods.robustness import RobustnessConfig
    from workbench.methods.scan_maps import ScanMapsConfig
    from workbench.methods.sensitivity import SensitivityConfig
    from workbench.train import TrainConfig

    top = ArgumentParser(prog="vssm", description="See what a visual state-space model looks at.")
    commands = top.add_subcommands(required=True, dest="subcommand")

    models = ArgumentParser(description="List models.")
    models.add_argument("pattern", nargs="?", default=None, help="such as 'vim_*'; any timm model")
    models.add_argument("--json", action="store_true", help="print JSON")
    commands.add_subcommand("models", models)

    paths = ArgumentParser(description="List scan paths; with --draw, draw them.")
    paths.add_argument("pattern", nargs="?", default="*", help="such as 'hilbert*', or a set")
    paths.add_argument("--grid", type=str, default="8,8", help="rows,columns of the grid")
    paths.add_argument("--draw", default=None, help="the picture's file: .pdf, .png or .svg")
    paths.add_argument("--json", action="store_true", help="print JSON")
    commands.add_subcommand("paths", paths)

    erf = ArgumentParser(description="Effective receptive fields of models on images.")
    add_common(erf)
    erf.add_argument(
        "--before_after",
        action=ActionYesNo,
        default=True,
        help="measure every trained model before training too (the same seed, untrained)",
    )
    erf.add_class_arguments(ErfConfig, skip={"seed"})
    commands.add_subcommand("erf", erf)

    maps = ArgumentParser(description="What each scan direction carries to a place, in the image.")
    add_common(maps)
    maps.add_class_arguments(ScanMapsConfig, skip={"seed"})
    commands.add_subcommand("scan-maps", maps)

    sizes = ArgumentParser(description="Models over image sizes: what holds, and what it costs.")
    add_common(sizes, size=False)
    sizes.add_argument("--data", default=None, help="labelled images, in place of --images")
    sizes.add_argument(
        "--sizes",
        nargs="+",
        type=int,
        default=None,
        help="pixels, such as 32 64 128; by default from half to 3 times the native size",
    )
    sizes.add_argument(
        "--object_size",
        nargs="+",
        default=["grows"],
        help="grows (pictures are scaled to the size), constant (their scale stays), or both",
    )
    sizes.add_argument("--erf_images", type=int, default=4, help="images for receptive fields")
    sizes.add_argument(
        "--published", nargs="+", default=[], help="VMamba's table: DeiT-S, Swin-T ... in grey"
    )
    sizes.add_argument("--confidence", type=float, default=0.95, help="level of the intervals")
    sizes.add_argument("--resamples", type=int, default=2000, help="bootstrap resamples")
    sizes.add_class_arguments(ResolutionConfig, skip={"object_size", "classes"})
    commands.add_subcommand("resolution", sizes)

    attribution = ArgumentParser(description="Which pixels a prediction rests on, and a check.")
    add_common(attribution)
    attribution.add_class_arguments(AttributionConfig, skip={"seed"})
    commands.add_subcommand("attribution", attribution)

    sensitivity = ArgumentParser(description="Which of B, C and delta breaks under attack.")
    add_common(sensitivity)
    sensitivity.add_argument("--data", default=None, help="labelled images, in place of --images")
    sensitivity.add_argument(
        "--views",
        nargs="+",
        default=["all"],
        help="all, or some of gradient,perturb,cut,transplant,bounds,horizon",
    )
    sensitivity.add_argument(
        "--eps",
        nargs="+",
        default=["0.01", "0.03", "0.1", "0.3"],
        help="budgets inside the model, relative to the RMS of each row",
    )
    sensitivity.add_class_arguments(SensitivityConfig, skip={"seed", "views", "eps"})
    commands.add_subcommand("sensitivity", sensitivity)

    robustness = ArgumentParser(
        description="What predictions withstand: attacks, corruptions, lost or moved parts, turns."
    )
    add_common(robustness)
    robustness.add_argument("--data", default=None, help="labelled images, in place of --images")
    robustness.add_argument(
        "--baseline",
        default=None,
        help="for mCE: one of the models measured, or a result file of vssm robustness",
    )
    several = {
        "attacks": "fgsm, pgd, autoattack, or none",
        "eps_255": "distances of the attacks in units of 1/255",
        "autoattack_eps_255": "distances for autoattack; by default the largest of eps_255",
        "corruptions": "all, none, or names such as fog",
        "severities": "of the corruptions, 1 to 5",
        "probes": "drop, drop-scan, information, shuffle, views, all or none",
        "dropped": "shares of the patches that are taken away",
        "lost": "shares of the pixels that are lost, up to 0.5",
        "grids": "patches along a side that are shuffled; by default those that divide the image",
    }
    for name, meaning in several.items():
        default = getattr(RobustnessConfig, name)
        texts = None if default is None else [str(value) for value in default]
        robustness.add_argument(f"--{name}", nargs="+", type=str, default=texts, help=meaning)
    robustness.add_class_arguments(RobustnessConfig, skip={"seed", *several})
    commands.add_subcommand("robustness", robustness)

    evaluate = ArgumentParser(description="Accuracy of models on labelled images, one crop each.")
    evaluate.add_argument("--model", nargs="+", required=True, help="one or many names")
    evaluate.add_argument("--weights", nargs="+", default=["auto"], help="as in vssm erf")
    evaluate.add_argument("--data", required=True, help="an .npz pack or a folder of class folders")
    evaluate.add_argument("--limit", type=int, default=None, help="take so many images at most")
    evaluate.add_argument("--size", nargs="+", type=str, default=None, help="one or many sizes")
    evaluate.add_argument("--json", action="store_true", help="print JSON")
    evaluate.add_argument("--seed", type=int, default=0, help="of random weights")
    evaluate.add_argument("--device", default=None, help="cpu, cuda, cuda:1")
    commands.add_subcommand("evaluate", evaluate)

    train = ArgumentParser(description="Train a model; the same command goes on after a stop.")
    train.add_argument("--config", action="config", help="a YAML file with these options")
    train.add_argument("--model", required=True, help="the name of a registered model")
    train.add_argument("--data", required=True, help="an .npz pack or a folder of class folders")
    train.add_argument("--out", default="out/train", help="folder for checkpoint, curve, weights")
    train.add_argument("--device", default=None, help="cpu, cuda, cuda:1")
    train.add_class_arguments(TrainConfig)
    commands.add_subcommand("train", train)

    show = ArgumentParser(description="Print what a result file holds; with --out, draw it.")
    show.add_argument("result", help="a result file (.npz)")
    show.add_argument("--out", default=None, help="folder for the figure")
    show.add_argument("--json", action="store_true", help="print JSON")
    commands.add_subcommand("show", show)

    app = ArgumentParser(description="Open the app in the browser.")
    app.add_argument("--port", type=int, default=8501, help="port on this machine")
    app.add_argument("--weights", default=None, help="folder with checkpoints to choose from")
    app.add_argument("--results", default=None, help="folder with result files to show")
    app.add_argument("--headless", action="store_true", help="do not open a browser window")
    commands.add_subcommand("app", app)
    return top


def add_common(command: ArgumentParser, size: bool = True) -> None:
    """The options that mean the same in every command."""
    command.add_argument("--config", action="config", help="a YAML file with these options")
    command.add_argument("--model", nargs="+", required=True, help="one or many names")
    command.add_argument(
        "--weights",
        nargs="+",
        default=["auto"],
        help="for each model, or one for all: a file, a folder, hf-hub:owner/name, official, "
        "random, or auto: what ships with the project, else random",
    )
    command.add_argument(
        "--images",
        nargs="+",
        default=["samples"],
        help="samples, a folder, image files or an .npz pack",
    )
    command.add_argument("--limit", type=int, default=None, help="take so many images at most")
    if size:
        command.add_argument("--size", type=str, default=None, help="pixels, 224 or 224,320")
    command.add_argument("--out", default="out", help="folder for results and figures")
    command.add_argument("--json", action="store_true", help="print the numbers as JSON")
    command.add_argument("--seed", type=int, default=0, help="of random weights and resampling")
    command.add_argument(
        "--device", default=None, help="cpu, cuda, cuda:1; a GPU when there is one"
    )
    command.add_argument("--force", action="store_true", help="measure again what is stored")


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


def pairs(models: Sequence[str], weights: Sequence[str]) -> list[tuple[str, str]]:
    """Each model with its weights; a single weight stands for all models."""
    if len(weights) == 1:
        weights = list(weights) * len(models)
    if len(weights) != len(models):
        raise ValueError(
            f"{len(models)} models but {len(weights)} weights: give one weight for all models or "
            "one for each"
        )
    return [(m, _shipped(m) if w == "auto" else w) for m, w in zip(models, weights, strict=True)]


def _shipped(model: str) -> str:
    """`official` for a model whose trained weights ship with the project, else `random`."""
    import timm

    import workbench.models  # noqa: F401  (registers our names)

    config = timm.get_pretrained_cfg(model) if timm.is_model(model) else None
    return "official" if config is not None and config.file else "random"


def models_command(args: Namespace) -> int:
    """`vssm models [PATTERN]`."""
    import timm
    import torch

    from workbench.models import FAMILIES, nano

    ours = [
        name
        for name in timm.list_models()
        if name.split("_")[0] in (*FAMILIES, "s4nd") or name in nano.VARIANTS
    ]
    names = ours if args.pattern is None else fnmatch.filter(timm.list_models(), args.pattern)
    if not names:
        raise ValueError(f"no model matches {args.pattern!r}; `vssm models` lists our families")
    rows = []
    for name in names:
        config = timm.get_pretrained_cfg(name)
        parameters = None
        if name in ours:
            with torch.device("meta"):
                parameters = sum(p.numel() for p in timm.create_model(name).parameters())
        rows.append(
            {
                "model": name,
                "parameters": parameters,
                "input": config.input_size[-1] if config else None,
                "weights_licence": (config and config.license) or "",
            }
        )
    if args.json:
        print(json.dumps(rows, indent=2))
        return 0
    for row in rows:
        millions = f"{row['parameters'] / 1e6:.1f} M" if row["parameters"] else ""
        print(
            f"{row['model']:34} {millions:>9}  {row['input'] or '':>4} px  {row['weights_licence']}"
        )
    return 0


def paths_command(args: Namespace) -> int:
    """`vssm paths [PATTERN]`."""
    from workbench.figures import paths as pictures
    from workbench.figures.files import save_figure
    from workbench.paths import PADDING, SET_SOURCES, SETS, gallery

    try:
        height, width = (int(part) for part in args.grid.replace("x", ",").split(","))
        if min(height, width) < 1:
            raise ValueError
    except ValueError:
        raise ValueError(f"grid {args.grid!r} is not rows,columns such as 8,8") from None
    families, refused = gallery(height, width, args.pattern)
    file = Path(args.draw) if args.draw else None
    if file and file.suffix not in (".pdf", ".png", ".svg"):
        raise ValueError(f"--draw {file} must end in .pdf, .png or .svg")
    if file and not families:
        raise ValueError(next(iter(refused.values())))

    rows = []
    for family, paths in families.items():
        for path in paths:
            visited, padding = int((path.inverse >= 0).sum()), int((path.order == PADDING).sum())
            rows.append(
                {
                    "path": path.name,
                    "sets": [name for name, members in SETS.items() if path.name in members],
                    "cells": visited,
                    "padding": padding,
                    "jumps": path.jumps,
                    "source": family.source,
                    "order": path.order.tolist(),
                }
            )
    if args.json:
        print(json.dumps({"grid": [height, width], "paths": rows, "refused": refused}))
    else:
        width_of_source = max((len(row["source"]) for row in rows), default=0)
        print(f"{'path':34}{'covers':23}jumps  {'source':{width_of_source}}  sets")
        for row in rows:
            covers = "all cells" if row["cells"] == height * width else f"{row['cells']} cells"
            covers += f" + {row['padding']} padding" if row["padding"] else ""
            print(
                f"{row['path']:34}{covers:23}{row['jumps']:5}  {row['source']:{width_of_source}}  "
                f"{', '.join(row['sets']) or '-'}"
            )
        for name, reason in refused.items():
            print(f"{name:34}{reason.removeprefix(f'scan path {name!r} ')}")
        if args.pattern == "*":
            print(f"\n{'set':16} paths  source")
            for name, members in SETS.items():
                print(f"{name:16} {len(members):5}  {SET_SOURCES[name]}")
    if file:
        sheet = {f"{family.title}\n{family.source}": paths for family, paths in families.items()}
        picture = pictures.draw(sheet, refused)
        stem, formats = file.with_suffix(""), (file.suffix[1:],)
        written = save_figure(picture, stem, pictures.caption(sheet, refused), formats)
        print("wrote " + ", ".join(str(path) for path in written), file=sys.stderr)
    return 0


def _config(args: Namespace, kind: type, **given: Any) -> Any:
    """A method's configuration from the options of its names, and what is `given`."""
    from dataclasses import fields

    names = [field.name for field in fields(kind) if field.name not in given]
    return kind(**{name: args[name] for name in names}, **given)


def listed(args: Namespace, name: str, kind: type = str) -> tuple | None:
    """The values of an option that takes several: "1,2 3" is 1, 2 and 3. None when not given."""
    if args[name] is None:
        return None
    parts = [part for text in args[name] for part in str(text).split(",") if part]
    try:
        return tuple(kind(part) for part in parts)
    except ValueError:
        raise ValueError(f"{name} must be numbers, not {' '.join(parts)}") from None


def _measured(
    args: Namespace,
    method: Any,
    config: Any,
    jobs: Sequence[tuple[str, str]] | None = None,
    size: Any = None,
    prepared: Callable | None = None,
) -> Iterator[tuple[str, Any]]:
    """Run a method on every model; yields the model's name and its result.

    Args:
        jobs: models and weights, by default those of the options.
        size: of the input, by default that of the options.
        prepared: makes the preprocessing from model and size; by default the model's own.
    """
    from workbench.images import open_images, preprocessing_for
    from workbench.runner import run, tqdm_progress
    from workbench.weights import create_model, facts_of

    source = args.images[0] if len(args.images) == 1 else args.images
    images = open_images(args.get("data") or source, args.limit)
    size = size or read_size(args.size)
    for name, weights in jobs or pairs(args.model, args.weights):
        model = create_model(name, weights, seed=args.seed, img_size=size)
        preprocessing = (prepared or preprocessing_for)(model, size)
        facts = facts_of(model)
        print(f"{name}: {facts['weights_label']}; {preprocessing.describe()}", file=sys.stderr)
        if facts["licence"]:
            print(f"  licence of the weights: {facts['licence']}", file=sys.stderr)
        result = run(
            method,
            model,
            images,
            config,
            preprocessing=preprocessing,
            out=Path(args.out),
            device=args.device,
            progress=tqdm_progress(name),
            facts=facts,
            force=args.force,
        )
        for image, reason in result.meta["skipped"].items():
            print(f"  left out: {image} {reason}", file=sys.stderr)
        yield name, result


def erf_command(args: Namespace) -> int:
    """`vssm erf`."""
    from workbench.figures import erf as pictures
    from workbench.figures.files import save_figure
    from workbench.images import preprocessing_for
    from workbench.methods import erf

    config = _config(args, erf.ErfConfig)
    out = Path(args.out)

    def prepared(model: Any, size: Any) -> Any:
        return erf.prepared(preprocessing_for(model, size), config)

    jobs = []
    for model, weights in pairs(args.model, args.weights):
        jobs.append((model, weights))  # first, so that weights that do not fit are found at once
        if args.before_after and weights != "random":
            jobs.append((model, "random"))
    size = read_size(args.size) or erf.preset_size(config)
    results = [result for _, result in _measured(args, erf, config, jobs, size, prepared)]
    results.sort(key=lambda result: result.meta["facts"]["training"], reverse=True)  # before, after
    files = save_figure(pictures.draw(results), out / "erf", pictures.caption(results))
    if config.split != "none":
        files += save_figure(pictures.draw_splits(results), out / "erf-splits")
    return _report(results, files, args.json)


def _report(results: Sequence[Any], files: Sequence[Path], as_json: bool) -> int:
    if as_json:
        rows = [
            {
                "model": r.meta["model"],
                "weights": r.meta["facts"]["weights"],
                "training": r.meta["facts"]["training"],
                "images": r.meta["images_used"],
                "numbers": r.numbers,
                "legacy": r.meta["legacy"],
                "result": f"{r.meta['model']}-{r.meta['hash']}.npz",
            }
            for r in results
        ]
        print(json.dumps(rows, indent=2))
    else:
        for result in results:
            print_result(result)
    print("wrote " + ", ".join(str(file) for file in files), file=sys.stderr)
    return 0


def print_result(result: Any) -> None:
    """A table of an effective receptive field's numbers."""
    meta = result.meta
    print(f"\n{meta['model']}, {meta['facts'].get('weights_label')}, {meta['images_used']} images")
    for name, entry in result.numbers.items():
        if entry["value"] is None:
            continue
        interval = ""
        if entry["low"] is not None:
            interval = f"[{entry['low']:.4g}, {entry['high']:.4g}]"
        print(f"  {name:14} {entry['value']:>9.4g} {entry['unit']:11} {interval}")


def scan_maps_command(args: Namespace) -> int:
    """`vssm scan-maps`."""
    from workbench.figures import scan_maps as pictures
    from workbench.figures.files import save_figure
    from workbench.methods import scan_maps

    config = _config(args, scan_maps.ScanMapsConfig)
    out = Path(args.out)
    results, files = [], []
    for name, result in _measured(args, scan_maps, config):
        stem = out / f"scan-maps-{name}"
        files += save_figure(pictures.draw(result), stem, pictures.caption(result))
        if any(site["kind"] == "scan" for site in result.meta["sites"]):
            statistics = pictures.draw_statistics(result)
            files += save_figure(statistics, out / f"scan-statistics-{name}")
        results.append(result)
    if args.json:
        rows = [
            {
                "model": result.meta["model"],
                "weights": result.meta["facts"]["weights"],
                "images": result.meta["images_used"],
                "sites": result.meta["sites"],
                "numbers": result.meta["numbers"],
                "result": f"{result.meta['model']}-{result.meta['hash']}.npz",
            }
            for result in results
        ]
        print(json.dumps(rows, indent=2))
    else:
        for result in results:
            print_scans(result)
    print("wrote " + ", ".join(str(file) for file in files), file=sys.stderr)
    return 0


def attribution_command(args: Namespace) -> int:
    """`vssm attribution`."""
    from workbench.figures import attribution as pictures
    from workbench.figures.files import save_figure
    from workbench.methods import attribution

    config = _config(args, attribution.AttributionConfig)
    out = Path(args.out)
    rows, files = [], []
    for name, result in _measured(args, attribution, config):
        stem = out / f"attribution-{config.method}-{name}"
        files += save_figure(pictures.draw(result), stem, pictures.caption(result))
        rows.append(
            {
                "model": name,
                "weights": result.meta["facts"]["weights"],
                "numbers": result.meta["numbers"],
                "result": f"{result.meta['model']}-{result.meta['hash']}.npz",
            }
        )
        if not args.json:
            print_numbers(result)
    if args.json:
        print(json.dumps(rows, indent=2))
    print("wrote " + ", ".join(str(file) for file in files), file=sys.stderr)
    return 0


def print_numbers(result: Any) -> None:
    """A table of a result's numbers."""
    meta = result.meta
    print(f"\n{meta['model']}, {meta['facts'].get('weights_label')}")
    for name, entry in meta["numbers"].items():
        interval = "" if entry["low"] is None else f"[{entry['low']:.4g}, {entry['high']:.4g}]"
        print(f"  {name:34} {entry['value']:>9.4g} {entry['unit']:6} {interval}")


def print_scans(result: Any) -> None:
    """A table of the numbers of every scan direction."""
    meta = result.meta
    print(f"\n{meta['model']}, {meta['facts'].get('weights_label')}, {meta['images_used']} images")
    print(f"  {'':42} {'half-life':>15} {'distance':>9} {'delta':>9} {'|B|':>7} {'|C|':>7} share")
    for site, numbers in meta["numbers"].items():

        def value(name: str, numbers: dict = numbers) -> float:
            found = numbers[name]["value"]
            return float("nan") if found is None else found

        print(
            f"  {site:42} {value('horizon'):>9.3g} steps {value('horizon_along'):>6.3g} px "
            f"{value('delta'):>9.3g} {value('B'):>7.3g} {value('C'):>7.3g} {value('share'):4.1f} %"
        )


def resolution_command(args: Namespace) -> int:
    """`vssm resolution`."""
    from dataclasses import fields

    from workbench.figures import resolution as pictures
    from workbench.figures.files import save_figure
    from workbench.methods.resolution import ResolutionConfig, native_size
    from workbench.methods.resolution_curve import Statistics, compare
    from workbench.runner import tqdm_progress
    from workbench.sweep import curve_of, open_data, save_curve, sweep
    from workbench.weights import create_model, facts_of

    names = [field.name for field in fields(ResolutionConfig) if field.name in args]
    options = {name: args[name] for name in names if name not in ("object_size", "classes")}
    statistics = Statistics(args.confidence, args.resamples, args.seed)
    pictures.check_published(args.published)
    source = args.images[0] if len(args.images) == 1 else args.images
    images = open_data(args.data or source, args.limit)
    out = Path(args.out)
    runs = []  # all of them looked through before the first is measured
    for protocol in dict.fromkeys(args.object_size):
        config = ResolutionConfig(object_size=protocol, **options)
        for name, weights in pairs(args.model, args.weights):
            model = create_model(name, weights, seed=args.seed, pos_embed=config.positions)
            native = config.native or native_size(model)
            steps = sweep(
                model,
                images,
                args.sizes or [round(native * f) for f in (0.5, 0.75, 1, 1.5, 2, 3)],
                config,
                labelled=args.data is not None,
                erf_images=args.erf_images,
                out=out / "points",
                device=args.device,
                progress=tqdm_progress(name),
                facts=facts_of(model),
                force=args.force,
            )
            runs.append((protocol, name, steps))

    curves: dict[str, list] = {}
    for protocol, name, steps in runs:
        done = []
        for step in steps:
            done.append(step)
            if step.reason:
                print(f"{name:28} {step.size:>5} px  missing: {step.reason}", file=sys.stderr)
            elif not args.json:
                # The native size is all that a point is compared with.
                shown = done if len(done) < 2 else [done[0], step]
                print_point(name, curve_of(shown, statistics), step.size)
        curve = curve_of(done, statistics)
        save_curve(curve, out)
        curves.setdefault(protocol, []).append(curve)

    files = []
    for protocol, found in curves.items():
        stem = out / ("resolution" if protocol == "grows" else f"resolution-{protocol}")
        files += save_figure(
            pictures.draw(found, args.published), stem, pictures.caption(found, args.published)
        )
        number = "top1" if found[0].correct is not None else "agreement"
        for suffix, text in (
            ("csv", pictures.csv_table(found, compare(found, statistics))),
            ("tex", pictures.latex_table(found, number)),
        ):
            files.append(stem.with_suffix(f".{suffix}"))
            files[-1].write_text(text, encoding="utf-8")
    if args.json:
        print(json.dumps([c.meta for found in curves.values() for c in found], indent=2))
    print("wrote " + ", ".join(str(file) for file in files), file=sys.stderr)
    return 0


def print_point(name: str, curve: Any, size: int) -> None:
    """One line on one size of a curve."""
    numbers = next(point["numbers"] for point in curve.points if point["size"] == size)
    parts = []
    for key, word in (
        ("top1", "top-1"), ("agreement", "agrees"), ("kl", "KL"), ("A50", "ERF A50"),
        ("latency", "time"),
    ):  # fmt: skip
        entry = numbers.get(key, {})
        if entry.get("value") is None:
            continue
        text = f"{word} {entry['value']:.4g} {entry['unit'].partition(' ')[0]}"
        if entry["low"] is not None:
            text += f" [{entry['low']:.4g}, {entry['high']:.4g}]"
        parts.append(text)
    print(f"{name:28} {size:>5} px  " + "  ".join(parts), flush=True)


def print_curve(curve: Any) -> None:
    """All sizes of a curve, and how time grows."""
    for point in curve.points:
        print_point(curve.meta["model"], curve, point["size"])
    for size, reason in curve.meta["missing"].items():
        print(f"{curve.meta['model']:28} {size:>5} px  missing: {reason}")
    for name, entry in curve.meta["exponents"].items():
        if entry["value"] is not None:
            interval = "" if entry["low"] is None else f" [{entry['low']:.3f}, {entry['high']:.3f}]"
            sizes = f"{entry['sizes'][0]} to {entry['sizes'][-1]} px"
            print(f"  {name} grows as pixels^{entry['value']:.3f}{interval}, {sizes}")


def sensitivity_command(args: Namespace) -> int:
    """`vssm sensitivity`."""
    from workbench.figures import sensitivity as pictures
    from workbench.figures.files import save_figure
    from workbench.methods import sensitivity

    views = listed(args, "views")
    config = _config(
        args,
        sensitivity.SensitivityConfig,
        views=sensitivity.VIEWS if views == ("all",) else views,
        eps=listed(args, "eps", float),
    )
    out = Path(args.out)
    results, files = [], []
    for name, result in _measured(args, sensitivity, config):
        stem = out / f"sensitivity-{name}"
        files += save_figure(pictures.draw(result), stem, pictures.caption(result))
        if pictures.has_narrow(result):
            files += save_figure(pictures.draw_narrow(result), out / f"{stem.name}-narrow")
        results.append(result)
        if not args.json:
            print("\n" + pictures.report(result))
    files.append(out / "sensitivity.csv")
    files[-1].write_text(pictures.csv_table(results), encoding="utf-8")
    if args.json:
        print(json.dumps([result.meta for result in results], indent=2))
    print("wrote " + ", ".join(str(file) for file in files), file=sys.stderr)
    return 0


def robustness_command(args: Namespace) -> int:
    """`vssm robustness`."""
    from workbench.figures import robustness as pictures
    from workbench.figures.files import save_figure
    from workbench.methods import robustness
    from workbench.methods.corruption_errors import against
    from workbench.results import Robustness, load

    kinds = dict.fromkeys(("attacks", "corruptions", "probes"), str)
    kinds |= dict.fromkeys(("eps_255", "autoattack_eps_255", "dropped", "lost"), float)
    kinds |= dict.fromkeys(("severities", "grids"), int)
    several = {name: listed(args, name, kind) for name, kind in kinds.items()}
    config = _config(args, robustness.RobustnessConfig, **several)
    base = None
    if args.baseline and args.baseline not in args.model:
        base = load(args.baseline)
        if not isinstance(base, Robustness):
            raise ValueError(f"{args.baseline} holds no result of vssm robustness")
    results = [result for _, result in _measured(args, robustness, config)]
    if args.baseline:
        base = base or next(r for r in results if r.meta["model"] == args.baseline)
        results = [against(result, base) for result in results]
    out, files = Path(args.out), []
    for result in results:
        stem = out / f"robustness-{result.meta['model']}"
        files += save_figure(pictures.draw(result), stem, pictures.caption(result))
    for suffix, text in (
        ("csv", pictures.csv_table(results)),
        ("tex", pictures.latex_table(results)),
    ):
        files.append(out / f"robustness.{suffix}")
        files[-1].write_text(text, encoding="utf-8")
    if args.json:
        print(json.dumps([result.meta for result in results], indent=2))
    else:
        for result in results:
            print_robustness(result)
    print("wrote " + ", ".join(str(file) for file in files), file=sys.stderr)
    return 0


def print_robustness(result: Any) -> None:
    """A table of accuracies, means over corruptions, and what the checklist found."""
    meta = result.meta
    print(f"\n{meta['model']}, {meta['facts'].get('weights_label')}, {meta['images_used']} images")
    print(f"  {'':34} {'top-1':>6} {'':16} {'change':>7}")

    def interval(entry: dict) -> str:
        return "" if entry["low"] is None else f"[{entry['low']:.1f}, {entry['high']:.1f}]"

    for condition in meta["conditions"]:
        accuracy, change = condition["numbers"]["accuracy"], condition["numbers"]["change"]
        print(
            f"  {condition['name']:34} {accuracy['value']:>6.1f} {interval(accuracy):16} "
            f"{change['value']:>+7.1f} {interval(change)}"
        )
    means = {**meta["numbers"], **meta.get("baseline", {})}
    for name in ("mean corruption error", "mCE", "relative mCE"):
        if name in means:
            entry = means[name]
            print(f"  {name:34} {entry['value']:>6.1f} {interval(entry):16} {entry['unit']}")
    for check in (meta["checklist"] or {}).get("checks", ()):
        if not check["passed"]:
            print(f"  sign of gradient masking: {check['name']}: {check['evidence']}")
    for note in meta["notes"]:
        print(f"  {note}")


def evaluate_command(args: Namespace) -> int:
    """`vssm evaluate`."""
    from tqdm import tqdm

    from workbench.images import open_images, preprocessing_for
    from workbench.train import accuracy
    from workbench.weights import create_model, facts_of

    images = open_images(args.data, args.limit)
    rows = []
    for name, weights in pairs(args.model, args.weights):
        for size in [read_size(size) for size in args.size or [None]]:
            model = create_model(name, weights, seed=args.seed, img_size=size)
            model.to(args.device or "cpu")
            preprocessing = preprocessing_for(model, size)
            with tqdm(total=len(images), desc=f"{name} {size or ''}", file=sys.stderr) as bar:
                correct, count = accuracy(
                    model,
                    images,
                    preprocessing,
                    progress=lambda done, _, b=bar: b.update(done - b.n),
                )
            facts = facts_of(model)
            rows.append(
                {
                    "model": name,
                    "weights": facts["weights"],
                    "size": list(preprocessing.size),
                    "correct": correct,
                    "images": count,
                    "top1": round(100 * correct / count, 2),
                }
            )
            if not args.json:
                print(
                    f"{name:20} {preprocessing.size[0]:>4} px  {rows[-1]['top1']:6.2f} % top-1  "
                    f"({correct} of {count})  {facts['weights_label']}"
                )
    if args.json:
        print(json.dumps(rows, indent=2))
    return 0


def train_command(args: Namespace) -> int:
    """`vssm train`."""
    from dataclasses import fields

    import torch
    from tqdm import tqdm

    from workbench.images import open_images
    from workbench.train import TrainConfig, Trainer, read_data
    from workbench.weights import create_model

    config = TrainConfig(**{field.name: args[field.name] for field in fields(TrainConfig)})
    images = open_images(args.data)
    print(f"reading {images.describe()}", file=sys.stderr)
    data = read_data(images, config.load_size)
    model = create_model(
        args.model, "random", seed=config.seed, num_classes=data.classes, img_size=config.size
    )
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    trainer = Trainer(model, data, config, Path(args.out), device)
    if trainer.step:
        print(f"going on at step {trainer.step} of {trainer.steps}", file=sys.stderr)
    with tqdm(total=trainer.steps, initial=trainer.step, unit="step", file=sys.stderr) as bar:

        def progress(step: int, steps: int, loss: float) -> None:
            bar.update(step - bar.n)
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)

        try:
            trainer.run(progress)
        except KeyboardInterrupt:
            trainer.save()
            raise
    print(f"wrote {trainer.out / 'weights.safetensors'}", file=sys.stderr)
    return 0


def show_command(args: Namespace) -> int:
    """`vssm show RESULT.npz`."""
    from workbench.figures import attribution, erf, resolution, robustness, scan_maps, sensitivity
    from workbench.figures.files import save_figure
    from workbench.results import load

    result: Any = load(args.result)
    shown = {
        "erf": (lambda: erf.draw([result]), lambda: erf.caption([result]), print_result),
        "scan-maps": (
            lambda: scan_maps.draw(result),
            lambda: scan_maps.caption(result),
            print_scans,
        ),
        "attribution": (
            lambda: attribution.draw(result),
            lambda: attribution.caption(result),
            print_numbers,
        ),
        "resolution": (
            lambda: resolution.draw([result]),
            lambda: resolution.caption([result]),
            print_curve,
        ),
        "robustness": (
            lambda: robustness.draw(result),
            lambda: robustness.caption(result),
            print_robustness,
        ),
        "sensitivity": (
            lambda: sensitivity.draw(result),
            lambda: sensitivity.caption(result),
            lambda result: print(sensitivity.report(result)),
        ),
    }
    if result.kind not in shown:
        raise ValueError(f"vssm show does not draw results of the kind {result.kind}; use --json")
    draw, caption, write = shown[result.kind]
    if args.json:
        print(json.dumps(result.meta, indent=2))
    else:
        write(result)
        print("\n" + caption())
        versions = ", ".join(
            f"{k} {v}" for k, v in result.meta["provenance"].get("versions", {}).items()
        )
        print(versions)
    if args.out:
        files = save_figure(draw(), Path(args.out) / Path(args.result).stem, caption())
        print("wrote " + ", ".join(str(file) for file in files), file=sys.stderr)
    return 0


def app_command(args: Namespace) -> int:
    """`vssm app`: the app on this machine only."""
    environment = dict(os.environ)
    for option, variable in (("weights", "VSSM_WEIGHTS"), ("results", "VSSM_RESULTS")):
        folder = args[option]
        if folder is not None:
            if not Path(folder).is_dir():
                raise ValueError(f"--{option} {folder} is not a folder")
            environment[variable] = str(Path(folder).resolve())
    _check_port(args.port)
    command = [sys.executable, "-m", "streamlit", "run", str(REPOSITORY / "app.py")]
    command += ["--server.address", "127.0.0.1", "--server.port", str(args.port)]
    # Headless, because Streamlit otherwise asks for an e-mail address before the first start.
    command += ["--server.headless", "true", "--browser.gatherUsageStats", "false"]
    process = subprocess.Popen(command, env=environment, cwd=REPOSITORY)
    try:
        if not args.headless and _answers(args.port, process):
            webbrowser.open(f"http://127.0.0.1:{args.port}")
        return process.wait()
    except KeyboardInterrupt:
        process.wait()  # it got the same Ctrl-C
        return 0


def _answers(port: int, process: subprocess.Popen, patience: float = 60.0) -> bool:
    """Whether the app's server answers before it ends or `patience` seconds pass."""
    end = time.monotonic() + patience
    while time.monotonic() < end and process.poll() is None:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=1).close()
            return True
        except OSError:
            time.sleep(0.2)
    return False


def _check_port(port: int) -> None:
    if not 1 <= port <= 65535:
        raise ValueError(f"port {port} is not between 1 and 65535")
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise ValueError(f"port {port} is in use on this machine; choose another with --port")


COMMANDS = {
    "models": models_command,
    "paths": paths_command,
    "erf": erf_command,
    "scan-maps": scan_maps_command,
    "attribution": attribution_command,
    "resolution": resolution_command,
    "robustness": robustness_command,
    "sensitivity": sensitivity_command,
    "evaluate": evaluate_command,
    "train": train_command,
    "show": show_command,
    "app": app_command,
}

if __name__ == "__main__":
    sys.exit(main())
