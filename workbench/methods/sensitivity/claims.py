"""Published claims as hypotheses: supported, not supported or undecided, with the comparisons.

The claims are those of Du, Li and Xu (arXiv 2403.10935) as "Mamba in Vision: A Comprehensive
Survey" (section 6.5) repeats them. Their procedure is not published in full; they are tested here
under the definitions of this package.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from workbench.methods.sensitivity.gradient import LOSSES, MEASURES, TENSORS
from workbench.methods.sensitivity.metrics import restored
from workbench.methods.sensitivity.perturb import HIGHEST
from workbench.methods.sensitivity.subject import RANKED
from workbench.statistics import Resamples

WEAK, DEFENDS, SIZE = (
    "B and C are weak points",
    "delta defends",
    "robustness falls with size",
)
ONE_SIZE = "one size says nothing of it; measure several sizes of a family"
FEWEST = 20
"""Images below which nothing is decided: bootstrap intervals of fewer are too narrow."""
Rows = Mapping[str, Sequence[Sequence[str]]]


def claims(
    arrays: Mapping[str, np.ndarray], rows: Rows, draw: Resamples, trained: bool
) -> list[dict[str, Any]]:
    """What the views of one model say to the claims.

    Every comparison is a number that is positive where it speaks for the claim, with a bootstrap p
    value corrected by Holm over all comparisons. A view speaks for a claim when all its comparisons
    do, against it when all speak against it. A claim is supported when a view speaks for it and
    none against it, not supported the other way round, else undecided; always undecided from fewer
    than `FEWEST` images, or for an untrained model, whose ranks are no evidence.

    arrays, rows: as in `Sensitivity`, of whatever views there are.
    """
    made = [*_weak(arrays, rows, draw), *_defends(arrays, rows, draw)]
    correct(made, draw.confidence)
    return [
        judged(claim, [e for e in made if e["claim"] == claim], len(arrays["clean"]), trained)
        for claim in (WEAK, DEFENDS, SIZE)
    ]


def correct(made: Sequence[dict[str, Any]], confidence: float) -> None:
    """Note in comparisons that were made together the corrected p values and what each says."""
    for entry, p in zip(made, holm([entry["p"] for entry in made]), strict=True):
        entry["p_corrected"] = p
        certain = p < 1 - confidence
        says = "against" if entry["either_way"] or (entry["value"] or 0) < 0 else "for"
        entry["says"] = says if certain else "nothing"


def judged(claim: str, own: Sequence[dict[str, Any]], images: int, trained: bool) -> dict[str, Any]:
    """The verdict on a claim from its corrected comparisons."""
    few = images < FEWEST
    views = {entry["view"]: _agreed(own, entry["view"]) for entry in own}
    reason = "" if own else ONE_SIZE if claim == SIZE else "no view that speaks to it was taken"
    if own and not trained:
        reason = "the weights are random, and ranks before training are no evidence"
    elif own and few:
        reason = f"fewer than {FEWEST} images decide nothing"
    return {
        "claim": claim,
        "verdict": "undecided" if few or not trained else verdict(views.values()),
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
    value: float,
    samples: np.ndarray,
    draw: Resamples,
    unit: str,
    either_way: bool = False,
) -> dict[str, Any]:
    """A number that is positive where it speaks for a claim, with its bootstrap p value.

    either_way: whether it speaks against the claim on both sides of 0.
    """
    finite = samples[np.isfinite(samples)]
    p = 1.0
    if len(finite):
        tail = min((finite <= 0).mean(), (finite >= 0).mean())
        p = float(min(1.0, 2 * max(tail, 1 / (len(finite) + 1))))
    return {
        "claim": claim,
        "view": view,
        "what": what,
        "p": p,
        "either_way": either_way,
        **draw.number(value, samples, unit),
    }


def _weak(arrays: Mapping[str, np.ndarray], rows: Rows, draw: Resamples) -> list[dict[str, Any]]:
    found = []

    def paired(view: str, name: str, more: np.ndarray, unit: str) -> None:
        what = f"{name} above delta"
        samples = draw.weights @ more
        found.append(comparison(WEAK, view, what, float(more.mean()), samples, draw, unit))

    if "gradient" in arrays:
        margin = arrays["gradient"][:, LOSSES.index("margin")].sum(axis=1)
        linf = margin[..., MEASURES.index("linf")][:, [TENSORS.index(name) for name in RANKED]]
        whole = linf.sum(axis=1, keepdims=True)
        share = 100 * linf / np.where(whole > 0, whole, 1)
        for i in (0, 1):
            paired("gradient", RANKED[i], share[:, i] - share[:, 2], "% of sensitivity")
    if "flipping" in arrays:
        # What the highest budget does not flip counts as flipped there.
        budgets = np.log2(np.clip(arrays["flipping"], HIGHEST / 1024, HIGHEST))
        for i in (0, 1):
            paired("perturb", RANKED[i], budgets[:, 2] - budgets[:, i], "doublings of the budget")
    if "cut" in arrays:
        margin, where = np.nanmean(arrays["cut"], axis=2), _wide(rows["cut"])
        for name in ("B", "C"):
            paired("cut", name, margin[:, where[name]] - margin[:, where["delta"]], "logits")
    if "patching" in arrays:
        moved, lost = restored(arrays["clean"], arrays["adversarial"], arrays["patching"])
        where = _wide(rows["patching"])
        for name in ("B", "C"):
            more = moved[:, where[name], 0] - moved[:, where["delta"], 0]
            found.append(_fraction(WEAK, f"{name} above delta", more, lost, draw))
    return found


def _defends(arrays: Mapping[str, np.ndarray], rows: Rows, draw: Resamples) -> list[dict[str, Any]]:
    found = []
    if "cut" in arrays:
        margin, where = np.nanmean(arrays["cut"], axis=2), _wide(rows["cut"])
        fall = margin[:, where["none"]] - margin[:, where["delta"]]
        # A rise without delta's gradient shows an attack that went through delta. A fall is what
        # has been read as defence: it shows that delta led the whole gradient astray.
        found.append(
            comparison(
                DEFENDS, "cut", "margin lost without delta's gradient", float(fall.mean()),
                draw.weights @ fall, draw, "logits", either_way=True,
            )
        )  # fmt: skip
    if "patching" in arrays:
        moved, lost = restored(arrays["clean"], arrays["adversarial"], arrays["patching"])
        worse = -moved[:, _wide(rows["patching"])["delta"], 0]
        found.append(_fraction(DEFENDS, "harm of putting clean delta back", worse, lost, draw))
    return found


def _fraction(
    claim: str, what: str, above: np.ndarray, lost: np.ndarray, draw: Resamples
) -> dict[str, Any]:
    value = float(above.sum() / lost.sum()) if lost.any() else 0.0
    samples = draw.ratios(above, lost)
    return comparison(claim, "patching", what, value, samples, draw, "of the margin lost")


def _wide(rows: Sequence[Sequence[str]]) -> dict[str, int]:
    return {tensors: i for i, (tensors, scope) in enumerate(rows) if scope == "all"}
