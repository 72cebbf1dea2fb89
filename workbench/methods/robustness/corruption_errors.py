"""Corruption errors of a model against those of a baseline model: mCE and relative mCE
(Hendrycks & Dietterich, ICLR 2019, arXiv 1903.12261, section 4).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from workbench.perturbations.corruptions import BENCHMARK, NAMES
from workbench.results import Result, Robustness, load
from workbench.statistics import FEWEST_SKEWED, Number, groups, jackknife


def corruption_errors(
    errors: np.ndarray, clean: np.ndarray, base: np.ndarray, base_clean: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """CE and relative CE of each corruption, in %.

    CE is the sum over severities of a model's errors over that of the baseline's; relative CE the
    same of what corruption adds to the clean error. nan where the baseline's sum is not positive.

    Args:
        errors, base: (..., c, s), error rates for c corruptions at s severities.
        clean, base_clean: (...,), error rates on clean images.

    Returns:
        Two arrays (..., c).
    """

    def ratio(own: np.ndarray, other: np.ndarray) -> np.ndarray:
        own, other = own.sum(axis=-1), other.sum(axis=-1)
        return 100 * own / np.where(other > 1e-9, other, np.nan)

    added = errors - clean[..., None, None]
    return ratio(errors, base), ratio(added, base - base_clean[..., None, None])


def compare(results: Sequence[Robustness], baseline: str | None = None) -> list[Robustness]:
    """Each result `against` the baseline: the model of that name among them, or a result file.

    Raises:
        ValueError: as `against`, and when there is no such model or file.
    """
    if baseline is None:
        return list(results)
    found: Result | None = next((r for r in results if r.meta["model"] == baseline), None)
    found = found or load(baseline)
    if not isinstance(found, Robustness):
        raise ValueError(f"{baseline} holds no result of vssm robustness")
    return [against(result, found) for result in results]


def against(result: Robustness, baseline: Robustness) -> Robustness:
    """The result with `meta["baseline"]`: by corruption `CE` and `relative CE` against the baseline
    model's errors on the same pictures, and their means `mCE` and `relative mCE`.

    The means are over those of the benchmark's 15 corruptions that both hold, at the severities
    that both hold, and where they are defined: `corruptions` says over how many. Intervals are of a
    jackknife of logarithms that leaves the same images out for both models; fewer than
    `FEWEST_SKEWED` images have none, nor has what is not positive for some that are left.

    Raises:
        ValueError: when images, labels, size or seed differ, or without a common corruption.
    """
    one, other = result.meta, baseline.meta
    for what, a, b in (
        ("images", one["images"]["fingerprint"], other["images"]["fingerprint"]),
        ("images", one["images"]["names"], other["images"]["names"]),
        ("labels", result.labels.tolist(), baseline.labels.tolist()),
        ("preprocessing", _cut(one["preprocessing"]), _cut(other["preprocessing"])),
        ("seeds", one["config"]["seed"], other["config"]["seed"]),
    ):
        if a != b:
            raise ValueError(
                f"{other['model']} was measured with other {what} than {one['model']}, so its "
                "errors are no baseline; measure both alike"
            )
    names, severities = _common(result, baseline)
    rows = np.concatenate([_wrong(of, names, severities) for of in (result, baseline)])
    parts = groups(rows.shape[1], max(one["config"]["resamples"], 1))
    left = [np.delete(rows, part, axis=1).mean(axis=1) for part in parts]
    # all images come first, then all but those of each group; of each the model and its baseline
    rates = np.stack([rows.mean(axis=1), *left]).reshape(len(parts) + 1, 2, -1)
    clean, errors = rates[..., 0], rates[..., 1:].reshape(*rates.shape[:2], len(names), -1)
    enough = rows.shape[1] >= FEWEST_SKEWED and len(parts) > 1
    both = corruption_errors(errors[:, 0], clean[:, 0], errors[:, 1], clean[:, 1])

    def entry(values: np.ndarray) -> dict[str, Any]:
        number = Number(values[0], unit="% of baseline")
        if enough and (values > 0).all():
            logs = np.log(values)
            _, half = jackknife(logs[0], logs[1:], parts, one["config"]["confidence"])
            low, high = (float(values[0] * np.exp(side * half)) for side in (-1, 1))
            number = replace(number, low=low, high=high)
        return number.as_dict()

    found: dict[str, Any] = {"model": other["model"], "hash": other["hash"]}
    for kind, values in zip(("CE", "relative CE"), both, strict=True):
        found[kind] = {name: entry(values[:, i]) for i, name in enumerate(names)}
        counted = [
            i for i, name in enumerate(names) if name in BENCHMARK and np.isfinite(values[0, i])
        ]
        if counted:
            mean = entry(values[:, counted].mean(axis=1))
            found[kind.replace("CE", "mCE")] = {**mean, "corruptions": len(counted)}
    return replace(result, meta={**one, "baseline": found})


def _cut(preprocessing: dict[str, Any]) -> dict[str, Any]:
    """What decides the pictures; mean and std come after."""
    return {k: v for k, v in preprocessing.items() if k not in ("mean", "std")}


def _common(*results: Robustness) -> tuple[list[str], list[int]]:
    """Corruptions and severities that all results hold."""
    shared = set.intersection(
        *(
            {
                (condition["series"], condition["level"])
                for condition in result.meta["conditions"]
                if condition["group"] == "corruption"
            }
            for result in results
        )
    )
    if not shared:
        raise ValueError("the results have no corruption in common; measure both with the same")
    names = [name for name in NAMES if any(name == series for series, _ in shared)]
    return names, sorted({int(level) for _, level in shared})


def _wrong(result: Robustness, names: Sequence[str], severities: Sequence[int]) -> np.ndarray:
    """(1 + c * s, n) 1 wrong, 0 right, of images with labels: clean, then by corruption."""
    rows = [result.row(f"corruption/{name}/{level}") for name in names for level in severities]
    return 1.0 - result.correct[[0, *rows]][:, result.labels >= 0]
