"""Several models side by side: Holm over all, and whether robustness falls with size."""

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
from workbench.statistics import Sample, linear


def compare(results: Sequence[Sensitivity]) -> list[Sensitivity]:
    """The results with verdicts corrected over the comparisons of all of them, and a verdict on
    size where a family has several sizes among them.

    Sizes are compared on the same images, each with the next larger one, by numbers that are
    positive where the larger one is weaker: `perturb`, doublings between the smallest flipping
    budgets, of images that both get right; `cut`, points between the accuracies that withstand
    every cut; `patching`, points between the accuracies under attack.
    """
    families = {tuple(id(r) for r in _family(result, results)): result for result in results}
    about_size = {
        sizes: _size_comparisons(_family(result, results)) for sizes, result in families.items()
    }
    own = [
        [dict(entry) for claim in result.meta["claims"] for entry in claim.get("comparisons", ())
         if claim["claim"] != SIZE]
        for result in results
    ]  # fmt: skip
    made = [entry for found in (*own, *about_size.values()) for entry in found]
    correct(made, results[0].meta["used"]["confidence"])
    return [
        _with_verdicts(
            result,
            [*entries, *about_size[tuple(id(r) for r in _family(result, results))]],
            {"models": len(results), "comparisons": len(made)},
        )
        for result, entries in zip(results, own, strict=True)
    ]


def _with_verdicts(
    result: Sensitivity, made: Sequence[dict[str, Any]], corrected: dict[str, int]
) -> Sensitivity:
    claims = []
    for old in result.meta["claims"]:
        own = [entry for entry in made if entry["claim"] == old["claim"]]
        trained = result.meta["trained"]
        claims.append(judged(old["claim"], own, len(result.clean), trained) if own else old)
    return replace(result, meta={**result.meta, "claims": claims, "corrected": corrected})


def _family(result: Sensitivity, results: Sequence[Sensitivity]) -> list[Sensitivity]:
    """Its sizes, the smallest first: same family, state of training, images and configuration."""

    def kind(other: Sensitivity) -> tuple:
        meta = other.meta
        same = (meta["trained"], meta["images"]["fingerprint"], meta["used"])
        return meta["model"].partition("_")[0], *same, meta["preprocessing"]["size"]

    alike = {r.meta["parameters"]: r for r in results if kind(r) == kind(result)}
    return [alike[size] for size in sorted(alike)]


def _size_comparisons(sizes: Sequence[Sensitivity]) -> list[dict[str, Any]]:
    sample = Sample(sizes[0].meta["used"]["confidence"])
    return [entry for pair in pairwise(sizes) for entry in _comparisons(*pair, sample)]


def _comparisons(small: Sensitivity, large: Sensitivity, sample: Sample) -> list[dict[str, Any]]:
    names = f"{small.meta['model']} over {large.meta['model']}"
    found = []

    def points(view: str, what: str, left: np.ndarray, right: np.ndarray) -> None:
        more = 100.0 * (left.astype(float) - right)
        found.append(comparison(SIZE, view, f"{what}, {names}", more, "points", sample))

    if small.flipping is not None and large.flipping is not None:
        both = ((small.clean >= 0) & (large.clean >= 0)).astype(float)
        # What the highest budget does not flip counts as flipped there.
        a, b = (
            np.log2(np.clip(budgets, HIGHEST / 1024, HIGHEST))
            for budgets in (small.flipping, large.flipping)
        )
        for i, name in enumerate(RANKED):
            more = (a - b)[:, i] * both
            values = linear(more, both) if both.any() else more
            what = f"budget of {name}, {names}"
            found.append(comparison(SIZE, "perturb", what, values, "doublings", sample))
    if small.cut is not None and large.cut is not None:
        withstood = (np.nanmin(answers(cut), axis=(1, 2)) for cut in (small.cut, large.cut))
        points("cut", "accuracy that withstands every cut", *withstood)
    if small.adversarial is not None and large.adversarial is not None:
        points("patching", "accuracy under attack", small.adversarial >= 0, large.adversarial >= 0)
    return found
