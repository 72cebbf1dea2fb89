"""Several sizes of a family side by side: the claim that robustness falls with size."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from workbench.methods.sensitivity.claims import SIZE, comparison, correct, judged
from workbench.methods.sensitivity.metrics import answers
from workbench.methods.sensitivity.perturb import HIGHEST
from workbench.methods.sensitivity.subject import RANKED
from workbench.results import Sensitivity
from workbench.statistics import Resamples


def compare(results: Sequence[Sensitivity]) -> list[Sensitivity]:
    """The results, with a verdict on size where a family has several sizes among them.

    Sizes are compared on the same images, each with the next larger one, by numbers that are
    positive where the larger one is weaker: `perturb`, doublings between the smallest flipping
    budgets, of images that both get right; `cut`, points between the accuracies that withstand
    every cut; `patching`, points between the accuracies under attack.
    """
    return [_with_verdict(result, _family(result, results)) for result in results]


def _family(result: Sensitivity, results: Sequence[Sensitivity]) -> list[Sensitivity]:
    """Its sizes, the smallest first: same family, state of training, images and configuration."""

    def kind(other: Sensitivity) -> tuple:
        meta = other.meta
        same = (meta["trained"], meta["images"]["fingerprint"], meta["used"])
        return meta["model"].partition("_")[0], *same, meta["preprocessing"]["size"]

    alike = {r.meta["parameters"]: r for r in results if kind(r) == kind(result)}
    return [alike[size] for size in sorted(alike)]


def _with_verdict(result: Sensitivity, sizes: Sequence[Sensitivity]) -> Sensitivity:
    if len(sizes) < 2:
        return result
    used = result.meta["used"]
    draw = Resamples(len(result.clean), used["resamples"], used["confidence"], used["seed"])
    found = [entry for pair in pairwise(sizes) for entry in _comparisons(*pair, draw)]
    correct(found, used["confidence"])
    claim = judged(SIZE, found, len(result.clean), result.meta["trained"])
    claims = [claim if old["claim"] == SIZE else old for old in result.meta["claims"]]
    return replace(result, meta={**result.meta, "claims": claims})


def _comparisons(small: Sensitivity, large: Sensitivity, draw: Resamples) -> list[dict[str, Any]]:
    names = f"{small.meta['model']} over {large.meta['model']}"
    found = []

    def points(view: str, what: str, left: np.ndarray, right: np.ndarray) -> None:
        more = 100.0 * (left.astype(float) - right)
        samples, whole = draw.weights @ more, float(more.mean())
        found.append(comparison(SIZE, view, f"{what}, {names}", whole, samples, draw, "points"))

    if small.flipping is not None and large.flipping is not None:
        both = ((small.clean >= 0) & (large.clean >= 0)).astype(float)
        # What the highest budget does not flip counts as flipped there.
        a, b = (
            np.log2(np.clip(budgets, HIGHEST / 1024, HIGHEST))
            for budgets in (small.flipping, large.flipping)
        )
        for i, name in enumerate(RANKED):
            more = (a - b)[:, i] * both
            value = float(more.sum() / both.sum()) if both.any() else 0.0
            what, samples = f"budget of {name}, {names}", draw.ratios(more, both)
            found.append(comparison(SIZE, "perturb", what, value, samples, draw, "doublings"))
    if small.cut is not None and large.cut is not None:
        withstood = (np.nanmin(answers(cut), axis=(1, 2)) for cut in (small.cut, large.cut))
        points("cut", "accuracy that withstands every cut", *withstood)
    if small.adversarial is not None and large.adversarial is not None:
        points("patching", "accuracy under attack", small.adversarial >= 0, large.adversarial >= 0)
    return found
