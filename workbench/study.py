"""One method on several models and the same images: what a figure of several models needs."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from workbench import distributed
from workbench.figures.resolution import line
from workbench.images import Images, open_images, preprocessing_for
from workbench.methods.resolution import ResolutionConfig, native_size
from workbench.methods.resolution_curve import Statistics, compare
from workbench.results import Resolution, Result
from workbench.runner import run, tqdm_progress
from workbench.sweep import Step, curve_of, open_data, save_curve, sweep
from workbench.weights import create_model, facts_of

Size = int | tuple[int, int]
Build = Callable[..., nn.Module]


def study(
    method: ModuleType,
    models: Sequence[str],
    images: Images | Any,
    config: Any,
    *,
    weights: Sequence[str] = ("auto",),
    size: Size | None = None,
    before_after: bool = False,
    seed: int = 0,
    limit: int | None = None,
    out: Path | None = None,
    device: str | None = None,
    force: bool = False,
    build: Build = create_model,
    **compared: Any,
) -> list[Result]:
    """Run a method on every model; with the same arguments a stopped study goes on.

    Args:
        weights: for each model, or one for all: as of `create_model`.
        size: of the input in pixels, (height, width) or a side; by default the models' own.
        before_after: measure every trained model before training too, with the same seed.
        limit: take so many images at most.
        device: by default a GPU where there is one.
        build: makes a model from name, weights, seed and img_size.
        compared: options of the method's `compare`.

    Raises:
        ValueError: when something of the input does not fit, in a sentence.
    """
    distributed.join()
    images = open_images(images, limit)
    if size is None and hasattr(method, "own_size"):
        size = method.own_size(config)
    results = []
    for name, source in pairs(models, weights):
        trained = build(name, source, seed=seed, img_size=size)
        subjects = [trained]
        if before_after and facts_of(trained)["training"] == "after training":
            subjects.insert(0, build(name, "random", seed=seed, img_size=size))
        for model in subjects:
            results.append(_measured(method, model, images, config, size, out, device, force))
    together: Callable | None = getattr(method, "compare", None)
    return together(results, **compared) if together else results


def _measured(
    method: ModuleType,
    model: nn.Module,
    images: Images,
    config: Any,
    size: Size | None,
    out: Path | None,
    device: str | None,
    force: bool,
) -> Result:
    facts = facts_of(model)
    preprocessing = preprocessing_for(model, size)
    if hasattr(method, "prepared"):
        preprocessing = method.prepared(preprocessing, config)
    announce(f"{facts['model']}: {facts['weights_label']}; {preprocessing.describe()}")
    if facts["licence"]:
        announce(f"  licence of the weights: {facts['licence']}")
    result = run(
        method,
        model,
        images,
        config,
        preprocessing=preprocessing,
        out=out,
        device=device or distributed.device(),
        progress=tqdm_progress(facts["model"]),
        facts=facts,
        force=force,
    )
    for image, reason in result.meta["skipped"].items():
        announce(f"  left out: {image} {reason}")
    return result


def pairs(models: Sequence[str], weights: Sequence[str]) -> list[tuple[str, str]]:
    """Each model with its weights; a single weight stands for all models.

    Raises:
        ValueError: when there are neither as many weights as models nor one.
    """
    if len(weights) not in (1, len(models)):
        raise ValueError(
            f"{len(models)} models but {len(weights)} weights: give one weight for all models or "
            "one for each"
        )
    if len(weights) == 1:
        weights = list(weights) * len(models)
    return list(zip(models, weights, strict=True))


def announce(text: str) -> None:
    """Tell the person at the terminal, once for all processes."""
    if distributed.rank() == 0:
        print(text, file=sys.stderr)


def sweeps(
    models: Sequence[str],
    images: Images | Any,
    config: ResolutionConfig,
    *,
    sizes: Sequence[int] = (),
    weights: Sequence[str] = ("auto",),
    labelled: bool = False,
    erf_images: int = 4,
    statistics: Statistics = Statistics(),  # noqa: B008
    seed: int = 0,
    limit: int | None = None,
    out: Path | None = None,
    device: str | None = None,
    force: bool = False,
    build: Build = create_model,
) -> list[Resolution]:
    """The curves of models over image sizes; points are printed as they arrive.

    Args:
        sizes: in pixels, by default from half to 3 times the native size of each model.
        labelled: count right answers.
        erf_images: so many of the first images also give a receptive field.
        out: a folder for the curves and, below it, their points; the rest as in `study`.

    Raises:
        ValueError: before anything is measured, when some model cannot take some size or images.
    """
    distributed.join()
    images = open_data(images, limit)
    started = []
    for name, source in pairs(models, weights):
        model = build(name, source, seed=seed, pos_embed=config.positions)
        native = config.native or native_size(model)
        steps = sweep(
            model,
            images,
            sizes or [round(native * factor) for factor in (0.5, 0.75, 1, 1.5, 2, 3)],
            config,
            labelled=labelled,
            erf_images=erf_images,
            out=out and out / "points",
            device=device or distributed.device(),
            progress=tqdm_progress(name),
            facts=facts_of(model),
            force=force,
        )
        started.append((name, steps))
    curves = []
    for name, steps in started:
        done: list[Step] = []
        for step in steps:
            done.append(step)
            if step.reason:
                announce(f"{name:28} {step.size:>5} px  missing: {step.reason}")
            else:
                # The native size is all that a point is compared with.
                shown = curve_of(done if len(done) < 2 else [done[0], step], statistics)
                announce(line(shown, step.size))
        curves.append(curve_of(done, statistics))
        if out and distributed.rank() == 0:
            save_curve(curves[-1], out)
    return compare(curves)
