"""How often the intervals of the workbench hold the truth.

    python benchmarks/coverage.py imagenette_val_128.npz --boxes tinyimagenet20_val_64.npz

A population is the values of many images: receptive fields of 300 validation images at 64 px by the
trained small models, and what every other method measures of 200, kept in a temporary folder once
it is measured; and the per-image values in `samples/results`. Its number is the truth. Images are
drawn from it with replacement, n at a time, and coverage is how often the interval that the
workbench gives to n images holds the truth: 95 % is meant. `--quick` draws less often, and takes
50 images of one model for the 200 of three, 100 of two for the 300 of all.
"""

# numba asks for a package of this name, and finds this file when a benchmark beside it is run.
if __name__ == "coverage":
    raise ImportError("this is a benchmark, not the package that measures what tests reach")

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

# First, because it decides how torch's threads wait.
from workbench.process import prepare  # isort: skip

prepare()
import numpy as np
from scipy.stats import binom

from workbench import (
    ErfConfig,
    atlas,
    attribution,
    create_model,
    decompose,
    erf,
    objects,
    open_images,
    preprocessing_for,
    quantize,
    scan_maps,
    state,
    tokens,
)
from workbench import run as run_method
from workbench.methods.erf.metrics import FEWEST, estimates, numbers
from workbench.methods.method import Config, Method, Partial
from workbench.methods.robustness.corruption_errors import _common, _wrong
from workbench.methods.sensitivity.metrics import restored, shares_of
from workbench.methods.sensitivity.perturb import HIGHEST
from workbench.results import load
from workbench.statistics import (
    FEWEST_HEAVY,
    FEWEST_SKEWED,
    Number,
    difference,
    mean,
    median,
    ratio,
    share,
)

FAMILIES = ("vmamba_nano", "vim_nano", "mambavision_nano")
FIELDS = [(name, "abs") for name in (*FAMILIES, "resnet_nano")] + [
    (name, measure) for measure in ("relu", "square", "signed") for name in FAMILIES[:2]
]
COUNTS = (4, 10, 25, 50, 100)
MANY = {"resamples": 50, "keep": 1000}
METHODS = (
    (scan_maps, scan_maps.Config(**MANY)),
    (attribution, attribution.Config(method="saliency", perturbations=0, fractions=10, **MANY)),
    (tokens, tokens.Config(**MANY)),
    (quantize, quantize.Config(bits=(8, 4, 3), granularities=("tensor",), ranges=("dynamic",))),
    (state, state.Config(**MANY)),
    (decompose, decompose.Config(**MANY)),
    (atlas, atlas.Config(**MANY)),
    (objects, objects.Config(maps=("erf", "scan-maps", "tokens", "saliency"), **MANY)),
)
"""Methods whose numbers are taken as they print them, with what they measure."""
SAMPLES = Path(__file__).parents[1] / "samples" / "results"
KEPT = Path(tempfile.gettempdir()) / "vssm-coverage"
Row = tuple[str, int, list[float]]
Population = tuple[np.ndarray, ...]
"""Arrays whose first axis is the images."""


def kept(name: str, measure: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """What was measured once, from its file."""
    KEPT.mkdir(exist_ok=True)
    file = KEPT / f"{name}.npz"
    if not file.exists():
        np.savez(file, **measure())
    return dict(np.load(file))


def fields(pack: Path, name: str, measure: str, count: int = 300) -> dict[str, np.ndarray]:
    """`maps` (images, height, width) and the `centre` of the unit."""

    def measured() -> dict[str, np.ndarray]:
        model = create_model(name, "official")
        config = ErfConfig(measure=measure, chunk=10, resamples=0)
        options = {"preprocessing": preprocessing_for(model)}
        found = run_method(erf, model, open_images(pack, count), config, **options)
        return {"maps": found.maps, "centre": np.array(found.meta["centre"])}

    return kept(f"{name}-{measure}-{count}", measured)


def field_rows(
    pack: Path, draws: int, quick: bool
) -> Iterator[tuple[str, int, dict[str, float], list[float]]]:
    """Population, n, coverage by number (nan without an interval), and A50 of the mean map and as
    estimated, over the truth."""
    for name, measure in FIELDS[:2] if quick else FIELDS:
        found = fields(pack, name, measure, 100 if quick else 300)
        maps, centre = found["maps"], tuple(found["centre"])
        weights = 1 / np.maximum(np.abs(maps).sum(axis=(1, 2), dtype=np.float64), 1e-30)

        def plain(at: np.ndarray) -> dict[str, float]:
            total = np.tensordot(weights[at], maps[at].astype(np.float64), 1)  # noqa: B023
            return numbers(np.abs(total), centre)  # noqa: B023

        truth = plain(np.arange(len(maps)))
        for n in COUNTS if measure == "abs" else COUNTS[1:4]:
            rng = np.random.default_rng(n)
            hits, ratios = [], []
            for _ in range(max(20, draws * 10 // max(10, n // 2))):
                at = rng.integers(len(maps), size=n)
                values = plain(at)
                # of however few images: what the limits are chosen by
                given = estimates(maps[at], weights[at], centre, values, 200, 0.95, 2)
                ratios.append([values["A50"] / truth["A50"], given["A50"].value / truth["A50"]])
                hits.append([_holds(given[key], truth[key]) for key in truth])
            cover = dict(zip(truth, 100 * np.mean(hits, axis=0), strict=True))
            yield f"{name}, {measure}", n, cover, np.mean(ratios, axis=0).tolist()


def _holds(number: Number, truth: float) -> float:
    if number.low is None or not np.isfinite(number.low):
        return np.nan
    slack = 1e-9 * max(1.0, abs(truth))
    return float(number.low - slack <= truth <= number.high + slack)


def per_image() -> Iterator[tuple[str, Callable[..., Number], Population]]:
    """Kind of number, the function that gives it with an interval, and its values by image."""
    for name in FAMILIES:
        yield from _sensitivity(load(SAMPLES / "sensitivity" / f"{name}.npz"))
    for name in ("vmamba_nano", "resnet_nano"):
        result = load(SAMPLES / "robustness" / f"{name}.npz")
        hits = result.correct.astype(np.float64)
        for i in range(0, len(hits), 12):
            yield "robustness: accuracy", _share, (hits[i],)
            yield "robustness: change from clean", difference, (hits[i], hits[0])
            yield "robustness: margin", mean, (result.margins[i].astype(np.float64),)
        errors = _wrong(result, *_common(result))[1:].mean(axis=0)
        yield "robustness: mean error", mean, (errors,)
    for name in ("vmamba_nano", "vim_nano", "vit_nano"):
        result = load(SAMPLES / "resolution" / f"{name}-resolution.npz")
        native = list(result.sizes).index(result.meta["native"])
        hits = result.correct.astype(np.float64)
        for i in (0, 4, 8):
            yield "resolution: accuracy, agreement", _share, (hits[i],)
            yield "resolution: difference of models", difference, (hits[i], hits[native])
            yield "resolution: drop", ratio, (hits[i] - hits[native], hits[native])


def _share(hits: np.ndarray) -> Number:
    return share(hits, 0.95).times(0.01)


def _skewed(values: np.ndarray) -> Number:
    return mean(values, fewest=FEWEST_SKEWED)


def _heavy(values: np.ndarray) -> Number:
    return mean(values, fewest=FEWEST_HEAVY)


def _sensitivity(result) -> Iterator[tuple[str, Callable[..., Number], Population]]:
    arrays = {key: np.asarray(value, np.float64) for key, value in vars(result).items()
              if isinstance(value, np.ndarray)}  # fmt: skip
    clean, view = arrays["clean"], "sensitivity: "
    for values in shares_of(arrays["gradient"][:, 0], result.meta["entries"]).values():
        for i in range(3):
            yield view + "shares of first-order sensitivity", mean, (values[:, i],)
    for i in range(0, 16, 3):
        yield view + "margins lost inside", mean, (clean - arrays["perturbed"][:, i, 1],)
    right = (clean >= 0).astype(np.float64)
    for i in range(3):
        flipping = arrays["flipping"][:, i]
        if np.count_nonzero(right * (flipping <= HIGHEST)) >= FEWEST_SKEWED:
            logs = np.log2(np.clip(flipping, HIGHEST / 1024, HIGHEST)) * right
            yield view + "flipping budgets, logarithms", ratio, (logs, right)
    margin, hits = np.nanmean(arrays["cut"], axis=2), np.nanmean(arrays["cut"] >= 0, axis=2)
    for i in (1, 2, 3, 4):
        yield view + "margin without a gradient", median, (margin[:, i] - margin[:, 0],)
        yield view + "accuracy without a gradient", difference, (hits[:, i], hits[:, 0])
        yield view + "cosines, parts cut off", _skewed, (arrays["alignment"][:, i, 0],)
    moved, lost = restored(clean, arrays["adversarial"], arrays["patching"])
    for i in range(9):
        for way in (0, 2):
            yield view + "fractions patched", ratio, (moved[:, i, way], lost)
    for site in range(0, arrays["bounds"].shape[1], 3):
        for values in arrays["bounds"][:, site].reshape(len(clean), -1).T:
            yield view + "bounds", _heavy, (values,)
        yield view + "half-lives", mean, (arrays["horizon"][:, 0, site, 0],)


def measured(source: Path, name: str, method: Method, config: Config, count: int) -> Partial:
    """What a method measures of many images, image by image; from a file the second time."""

    def once() -> dict[str, np.ndarray]:
        model = create_model(name, "official")
        options = {"preprocessing": preprocessing_for(model)}
        # on the class, because a method may run another instance of itself
        with mock.patch.object(type(method), "combine", autospec=True) as combine:
            combine.side_effect = original
            run_method(method, model, open_images(source, count), config, **options)
        found: Partial = combine.call_args.args[1]
        return {**found.arrays, "constants": np.array(json.dumps(found.constants))}

    original = type(method).combine
    found = kept(f"{name}-{method.name}-{count}", once)
    return Partial(found, json.loads(str(found.pop("constants"))))


def drawn(whole: Partial, count: int, at: np.ndarray) -> Partial:
    """Some of the `count` images of a partial result, by number; pictures may be of the first."""
    arrays = {key: x[at] if len(x) == count else x for key, x in whole.arrays.items()}
    return Partial(arrays, whole.constants)


def intervals(meta: Any, name: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every number of a result, by the names that lead to it."""
    if isinstance(meta, dict):
        if {"value", "low", "high"} <= meta.keys():
            yield name, meta
        else:
            for key, value in meta.items():
                yield from intervals(value, f"{name}|{key}")
    elif isinstance(meta, list):
        for i, value in enumerate(meta):
            yield from intervals(value, f"{name}|{i}")


def method_rows(
    pack: Path, boxes: Path | None, quick: bool, only: list[str] | None
) -> Iterator[Row]:
    """As `mean_rows`, of the numbers that methods print: images are drawn before `combine`."""
    families, draws, count = (FAMILIES[:1], 80, 50) if quick else (FAMILIES, 400, 200)
    for method, config in METHODS:
        if (only and method.name not in only) or (method is objects and boxes is None):
            continue
        cover: dict[tuple[str, int], list[float]] = {}
        for name in families:
            images = boxes if method is objects else pack
            whole = measured(images, name, method, config, count)
            told = method.combine(whole, replace(config, resamples=0), {}).meta
            truth = {key: number["value"] for key, number in intervals(told)}
            for n in COUNTS[1:]:
                rng = np.random.default_rng(n)
                hits: dict[str, list[float]] = {key: [] for key in truth}
                for at in rng.integers(count, size=(draws, n)):
                    result = method.combine(drawn(whole, count, at), config, {})
                    for key, number in intervals(result.meta):
                        if key in truth and number["low"] is not None:
                            low, high = number["low"], number["high"]
                            slack = 1e-9 * max(1.0, abs(truth[key]))
                            hits[key].append(low - slack <= truth[key] <= high + slack)
                for key, found in hits.items():
                    if len(found) > draws / 2:
                        kind = key.rpartition("|")[2].partition("/")[0].partition(" of ")[0]
                        cover.setdefault((kind, n), []).append(100 * float(np.mean(found)))
        for (kind, n), found in sorted(cover.items()):
            yield f"{method.name}: {kind}", n, found


def mean_rows(draws: int) -> Iterator[Row]:
    """Kind, n, and the coverage of each of its numbers, of those that have an interval."""
    kinds: dict[str, list[tuple[Callable[..., Number], Population]]] = {}
    for kind, function, population in per_image():
        if np.isfinite(np.concatenate(population)).all() and np.ptp(population[0]) > 0:
            kinds.setdefault(kind, []).append((function, population))
    for kind, found in kinds.items():
        for n in (10, 25, 50, 100, 200):
            cover = []
            for function, population in found:
                rng, truth = np.random.default_rng(n), function(*population).value
                size = len(population[0])
                hits = [
                    _holds(function(*(values[at] for values in population)), truth)
                    for at in rng.integers(size, size=(draws, n))
                ]
                if np.mean(np.isfinite(hits)) > 0.5:
                    cover.append(100 * float(np.nanmean(hits)))
            yield kind, n, cover


def surely_below(cover: list[float], draws: int) -> bool:
    """Whether the least of these holds in fewer than 92 % by more than chance: 5 % over all of
    them (Bonferroni)."""
    hits = round(min(cover) / 100 * draws)
    return bool(binom.cdf(hits, draws, 0.92) * len(cover) < 0.05)


def table(rows: Iterator[Row], draws: int) -> list[str]:
    """A line for each kind of number and n; the least is bold where it is `surely_below`."""
    lines = ["| number | n | populations | median | least | most |", "|---|--:|--:|--:|--:|--:|"]
    for kind, n, cover in rows:
        told = [f"{f(cover):.1f}" for f in (np.median, np.min, np.max)] if cover else [*"---"]
        if cover and surely_below(cover, draws):
            told[1] = f"**{told[1]}**"
        lines.append(f"| {kind} | {n} | {len(cover)} | " + " | ".join(told) + " |")
        print(lines[-1], flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pack", type=Path, help="the Imagenette validation pack")
    parser.add_argument("--boxes", type=Path, help="a pack with boxes, for maps against objects")
    parser.add_argument("--out", type=Path, help="write STEM.md")
    parser.add_argument("--only", nargs="+", help="methods, by their names")
    parser.add_argument("--quick", action="store_true", help="a fifth of the draws")
    args = parser.parse_args()
    draws = 80 if args.quick else 400
    text = f"# Coverage of intervals\n\n{__doc__}\n"
    lines: list[str] = []
    found = () if args.only else field_rows(args.pack, draws, args.quick)
    for name, n, cover, (plain, corrected) in found:
        if not lines:
            heads = ["receptive fields of", "n", *cover, "A50 of the mean map", "A50 estimated"]
            lines = ["| " + " | ".join(heads) + " |", "|---" + "|--:" * (len(heads) - 1) + "|"]
        few = n < FEWEST.get(name.partition(", ")[2], n + 1)
        cells = [
            "-" if np.isnan(x) else f"({x:.0f})" if few else f"{x:.0f}" for x in cover.values()
        ]
        row = [name, str(n), *cells, f"{plain:.3f}", f"{corrected:.3f}"]
        lines.append("| " + " | ".join(row) + " |")
        print(lines[-1], flush=True)
    text += (
        "## Numbers of receptive fields\n\nCoverage in %, and A50 of the mean map of n images and "
        "as estimated, over the truth. In parentheses: fewer images than the workbench gives an "
        "interval from. `anisotropy` never has one.\n\n" + "\n".join(lines) + "\n\n"
        "## Other numbers\n\nCoverage in % over the populations of a kind; - without interval. "
        "Bold: below 92 % by more than chance, over all of the kind.\n\n"
    )
    told = [*(table(mean_rows(draws), draws) if not args.only else ())]
    rows = method_rows(args.pack, args.boxes, args.quick, args.only)
    told += table(rows, draws)[2 if told else 0 :]
    if args.out:
        args.out.with_suffix(".md").write_text(text + "\n".join(told) + "\n")


if __name__ == "__main__":
    main()
