"""Published claims as hypotheses: supported, not supported or undecided, with the comparisons.

The claims are those of Du, Li and Xu (arXiv 2403.10935) as "Mamba in Vision: A Comprehensive
Survey" (section 6.5) repeats them. Their procedure is not published in full; they are tested here
under the definitions of this package.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from workbench.methods.sensitivity.gradient import LOSSES
from workbench.methods.sensitivity.metrics import CONVENTIONS, restored, shares_of
from workbench.methods.sensitivity.perturb import HIGHEST
from workbench.methods.sensitivity.subject import RANKED
from workbench.statistics import FEWEST_SKEWED, Sample, linear

WEAK, DEFENDS, SIZE = (
    "B and C are weak points",
    "delta defends",
    "robustness falls with size",
)
ONE_SIZE = "one size says nothing of it; measure several sizes of a family"
FEWEST = FEWEST_SKEWED
"""Images below which nothing is decided."""
SMALLEST = {
    "% of sensitivity": 5.0,
    "doublings": 0.5,
    "logits": 0.1,
    "of the margin lost": 0.05,
    "points": 5.0,
}
"""Smallest effect that speaks for or against a claim, by unit: what would matter, chosen beforehand
and not from data."""
Rows = Mapping[str, Sequence[Sequence[str]]]


def claims(
    arrays: Mapping[str, np.ndarray],
    rows: Rows,
    entries: Sequence[Sequence[int]],
    sample: Sample,
    trained: bool,
) -> list[dict[str, Any]]:
    """What the views of one model say to the claims.

    Every comparison is a number that is positive where it speaks for the claim, with Student's p
    value of being beyond the smallest effect of its unit (`SMALLEST`) on one side or the other,
    corrected by Holm over all comparisons. A view speaks for a claim when all its comparisons do,
    in every convention of what a relative change is, and against it when all speak against it. A
    claim is supported when a view speaks for it and none against, not supported the other way
    round, else undecided; always undecided from fewer than `FEWEST` images, or for an untrained
    model, whose ranks are no evidence.

    arrays, rows, entries: as in `Sensitivity` and its meta, of whatever views there are.
    """
    made = [*_weak(arrays, rows, entries, sample), *_defends(arrays, rows, sample)]
    correct(made, sample.confidence)
    return [
        judged(claim, [e for e in made if e["claim"] == claim], len(arrays["clean"]), trained)
        for claim in (WEAK, DEFENDS, SIZE)
    ]


def correct(made: Sequence[dict[str, Any]], confidence: float) -> None:
    """Note in comparisons that were made together the corrected p values and what each says."""
    for entry, p in zip(made, holm([entry["p"] for entry in made]), strict=True):
        entry["p_corrected"] = p
        certain = p < 1 - confidence
        entry["says"] = ("for" if entry["value"] > 0 else "against") if certain else "nothing"


def judged(claim: str, own: Sequence[dict[str, Any]], images: int, trained: bool) -> dict[str, Any]:
    """The verdict on a claim from its corrected comparisons."""
    few = images < FEWEST
    views = {entry["view"]: _agreed(own, entry["view"]) for entry in own}
    reason = "" if own else ONE_SIZE if claim == SIZE else "no view that speaks to it was taken"
    if own and not trained:
        reason = "the weights are random, and ranks before training are no evidence"
    elif own and few:
        reason = f"fewer than {FEWEST} images decide nothing"
    found = "undecided" if few or not trained else verdict(views.values())
    decisive = [
        {entry.get("convention", "") for entry in own if entry["view"] == view}
        for view, says in views.items()
        if says != "nothing"
    ]
    if found != "undecided" and all(len(one) == 1 and "" not in one for one in decisive):
        names = ", ".join(sorted(set.union(*decisive)))
        reason = f"by the convention {names} alone"
    return {
        "claim": claim,
        "verdict": found,
        "reason": reason,
        "views": views,
        "comparisons": list(own),
    }


def verdict(says: Any) -> str:
    """supported, not supported or undecided, from "for", "against" and "nothing" of the views."""
    said = set(says) - {"nothing"}
    if said == {"for"}:
        return "supported"
    return "not supported" if said == {"against"} else "undecided"


def holm(p: Sequence[float]) -> list[float]:
    """p values corrected for their number (Holm, Scand. J. Stat. 1979)."""
    order = np.argsort(p)
    corrected = np.empty(len(p))
    corrected[order] = np.maximum.accumulate(
        np.minimum(1.0, np.asarray(p, float)[order] * np.arange(len(p), 0, -1))
    )
    return corrected.tolist()


def _agreed(entries: Sequence[dict], view: str) -> str:
    says = {entry["says"] for entry in entries if entry["view"] == view}
    return says.pop() if len(says) == 1 else "nothing"


def comparison(
    claim: str,
    view: str,
    what: str,
    values: np.ndarray,
    unit: str,
    sample: Sample,
    convention: str = "",
) -> dict[str, Any]:
    """The mean over images (n,) of what is positive where it speaks for a claim, and its p value.

    convention: of what a relative change of one size is, where the number depends on it.

    p is of both sides: that the mean is not beyond the smallest effect of the unit.
    """
    value, n = float(values.mean()), len(values)
    error = float(values.std(ddof=1)) / np.sqrt(n) if n > 1 else np.inf
    beyond = abs(value) - SMALLEST[unit]
    p = float(beyond <= 0) if error == 0 else 2 * stats.t.sf(beyond / error, max(n - 1, 1))
    return {
        "claim": claim,
        "view": view,
        "what": f"{what}, {convention}" if convention else what,
        "convention": convention,
        "p": float(min(1.0, p)),
        "smallest": SMALLEST[unit],
        **sample.mean(values, unit),
    }


def _weak(
    arrays: Mapping[str, np.ndarray],
    rows: Rows,
    entries: Sequence[Sequence[int]],
    sample: Sample,
) -> list[dict[str, Any]]:
    found = []

    def above(view: str, name: str, values: np.ndarray, unit: str, convention: str = "") -> None:
        what = f"{name} above delta"
        found.append(comparison(WEAK, view, what, values, unit, sample, convention))

    if "gradient" in arrays:
        shares = shares_of(arrays["gradient"][:, LOSSES.index("margin")], entries)
        for kind in CONVENTIONS[1:]:
            for i in (0, 1):
                more = shares[kind][:, i] - shares[kind][:, 2]
                above("gradient", RANKED[i], more, "% of sensitivity", kind)
    if "flipping" in arrays:
        # What the highest budget does not flip counts as flipped there.
        budgets = np.log2(np.clip(arrays["flipping"], HIGHEST / 1024, HIGHEST))
        for i in (0, 1):
            above("perturb", RANKED[i], budgets[:, 2] - budgets[:, i], "doublings", "linf")
    if "cut" in arrays:
        margin, where = np.nanmean(arrays["cut"], axis=2), _wide(rows["cut"])
        for name in ("B", "C"):
            above("cut", name, margin[:, where[name]] - margin[:, where["delta"]], "logits")
    if "patching" in arrays:
        moved, lost = restored(arrays["clean"], arrays["adversarial"], arrays["patching"])
        where = _wide(rows["patching"])
        for name in ("B", "C"):
            more = moved[:, where[name], 0] - moved[:, where["delta"], 0]
            above("patching", name, _fraction(more, lost), "of the margin lost")
    return found


def _defends(arrays: Mapping[str, np.ndarray], rows: Rows, sample: Sample) -> list[dict[str, Any]]:
    found = []
    if "cut" in arrays:
        margin, where = np.nanmean(arrays["cut"], axis=2), _wide(rows["cut"])
        # Attacks that do more harm without delta's gradient were held back by it, as claimed;
        # whoever knows it cuts the gradient, so `withstands` says what such a defence is worth.
        fall = margin[:, where["none"]] - margin[:, where["delta"]]
        what = "margin lost without delta's gradient"
        found.append(comparison(DEFENDS, "cut", what, fall, "logits", sample))
    if "patching" in arrays:
        moved, lost = restored(arrays["clean"], arrays["adversarial"], arrays["patching"])
        worse = _fraction(-moved[:, _wide(rows["patching"])["delta"], 0], lost)
        what = "harm of putting clean delta back"
        found.append(comparison(DEFENDS, "patching", what, worse, "of the margin lost", sample))
    return found


def _fraction(above: np.ndarray, lost: np.ndarray) -> np.ndarray:
    return linear(above, lost) if lost.any() else np.zeros(len(lost))


def _wide(rows: Sequence[Sequence[str]]) -> dict[str, int]:
    return {tensors: i for i, (tensors, scope) in enumerate(rows) if scope == "all"}
