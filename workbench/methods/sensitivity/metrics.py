"""From values of every image to numbers with intervals, view by view.

Intervals are over images, paired wherever two conditions are compared; docs/statistics.md says of
which kind and from how many images on.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from workbench.methods.sensitivity.gradient import LOSSES, MEASURES, TENSORS
from workbench.methods.sensitivity.patching import WAYS
from workbench.methods.sensitivity.perturb import HIGHEST
from workbench.methods.sensitivity.subject import RANKED
from workbench.statistics import FEWEST_HEAVY, FEWEST_SKEWED, Number, Sample, ratio

CONVENTIONS = ("elasticity", "linf", "l2", "l2 of own norm")
"""What a relative change of one size means: of every entry, or of all entries together."""


def of_gradient(
    values: np.ndarray, sites: Sequence[str], entries: Sequence[Sequence[int]], sample: Sample
) -> dict[str, Any]:
    """Shares of B, C and delta in their summed sensitivity by every convention, and the table over
    sites.

    values: (n, losses, sites, tensors, measures). entries: by site, how many numbers an image has
    in each of `PARAMETERS`.
    """
    measures = MEASURES[: values.shape[-1]]
    found = {
        f"{name}, {kind}": {
            tensor: sample.mean(parts[:, i], "%") for i, tensor in enumerate(RANKED)
        }
        for loss, name in enumerate(LOSSES)
        for kind, parts in shares_of(values[:, loss], entries).items()
    }
    signed, size = (values[..., measures.index(kind)] for kind in ("signed", "elasticity"))
    gap = np.abs(signed[..., 0] - signed[..., 1]) / np.maximum(size[..., 0], 1e-300)
    table = values[:, LOSSES.index("margin")].mean(axis=0)
    return {
        "shares": found,
        "entries": dict(zip(RANKED, np.sum(entries, axis=0).tolist(), strict=False)),
        "sites": list(sites),
        "tensors": list(TENSORS),
        "table": {kind: table[..., i].tolist() for i, kind in enumerate(measures)},
        "identity_gap": float(gap.max()),
    }


def shares_of(values: np.ndarray, entries: Sequence[Sequence[int]]) -> dict[str, np.ndarray]:
    """By convention, the share of B, C and delta in their summed sensitivity, in %: (n, 3).

    `elasticity`, `linf` and `l2` as in `gradient.MEASURES`; `l2 of own norm`: a budget relative to
    the tensor's own Euclidean norm, the root of its number of entries in units of its rows' RMS.

    values: (n, sites, tensors, measures). entries: as `of_gradient`.
    """
    ranked = [TENSORS.index(name) for name in RANKED]
    size = {kind: values[:, :, ranked, MEASURES.index(kind)] for kind in CONVENTIONS[:3]}
    size[CONVENTIONS[3]] = size["l2"] * np.sqrt(np.array(entries)[:, : len(RANKED)])
    totals = {kind: of.sum(axis=1) for kind, of in size.items()}
    wholes = {kind: of.sum(axis=1, keepdims=True) for kind, of in totals.items()}
    return {
        kind: 100 * of / np.where(wholes[kind] > 0, wholes[kind], 1.0)
        for kind, of in totals.items()
    }


def of_perturb(
    clean: np.ndarray,
    perturbed: np.ndarray,
    random: np.ndarray,
    flipping: np.ndarray,
    rows: Sequence[Sequence[str]],
    sample: Sample,
) -> dict[str, Any]:
    """Accuracy and margin at every budget, beside the random control; smallest flipping budgets.

    clean: (n,). perturbed: (n, rows, 2). random: (n, wide rows, draws). flipping: (n, 3).
    """
    found = []
    for i, (tensor, scope, eps) in enumerate(rows):
        single, many = perturbed[:, i, 0], perturbed[:, i, 1]
        row: dict[str, Any] = {
            "tensor": tensor,
            "scope": scope,
            "eps": float(eps),
            "one_step": sample.share(single >= 0),
            "accuracy": sample.share(many >= 0),
            "drop": sample.mean(clean - many, "logits"),
        }
        if i < random.shape[1]:
            drops = clean[:, None] - random[:, i]
            row["random"] = sample.mean(100.0 * (random[:, i] >= 0).mean(axis=1), "%")
            row["random_drop"] = sample.mean(drops.mean(axis=1), "logits")
            usual = float(np.median(drops.mean(axis=0)))
            row["gain"] = float((clean - many).mean() / usual) if usual > 0 else None
        found.append(row)
    smallest = {}
    for i, tensor in enumerate(RANKED):
        values = flipping[clean >= 0, i]
        smallest[tensor] = {
            "median": float(np.median(values)) if len(values) else None,
            "flipped": int(np.isfinite(values).sum()),
            "of": len(values),
            "mean": _geometric_mean(flipping[:, i], clean >= 0, sample),
        }
        if not np.isfinite(smallest[tensor]["median"] or 0):
            smallest[tensor]["median"] = None
    return {"rows": found, "flipping": smallest}


def _geometric_mean(budgets: np.ndarray, right: np.ndarray, sample: Sample) -> dict[str, Any]:
    """Over images that are right; what the highest budget does not flip counts as flipped there,
    so there is no interval where few are flipped.
    """
    logs = np.log2(np.clip(budgets, HIGHEST / 1024, HIGHEST)) * right
    flipped = np.count_nonzero(right & (budgets <= HIGHEST))
    fewest = FEWEST_SKEWED if flipped >= FEWEST_SKEWED else len(right) + 1
    found = ratio(logs, right.astype(float), sample.confidence, fewest)
    value, low, high = (x if x is None else 2**x for x in (found.value, found.low, found.high))
    return Number(value, low, high, "of the RMS of a row").as_dict()


def of_cut(
    cut: np.ndarray,
    alignment: np.ndarray,
    rows: Sequence[Sequence[str]],
    sample: Sample,
) -> dict[str, Any]:
    """Robust accuracy without the gradient of a path, and what is left when the worst is taken.

    The difference of margins is the median over images, as single images can carry a mean.
    cut: (n, rows, seeds), nan where a seed was not run. alignment: (n, rows, 2).
    """
    right = answers(cut)
    means, first = np.nanmean(right, axis=2), right[..., 0]
    margins = np.nanmean(cut, axis=2)
    found = []
    for i, (tensors, scope) in enumerate(rows):
        narrow = scope != "all"  # with the first seed only
        left = margins[:, i] - (cut[:, 0, 0] if narrow else margins[:, 0])
        found.append(
            {
                "tensors": tensors,
                "scope": scope,
                "accuracy": sample.mean(100 * means[:, i], "%"),
                "difference": sample.points(means[:, i], first[:, 0] if narrow else means[:, 0]),
                "margin_difference": sample.median(left, "logits"),
                "cosine": sample.mean(alignment[:, i, 0], "", FEWEST_SKEWED),
                "cut_off": sample.mean(alignment[:, i, 1], "of the norm", FEWEST_SKEWED),
            }
        )
    wide = [i for i, row in enumerate(rows) if row[1] == "all"]
    return {
        "rows": found,
        "withstands": sample.share(np.nanmin(right, axis=(1, 2)) > 0),
        "seeds": {found[i]["tensors"]: (100 * right[:, i].mean(axis=0)).tolist() for i in wide},
    }


def answers(margins: np.ndarray) -> np.ndarray:
    """1 where a margin is not negative, 0 where it is, nan where there is none."""
    return np.where(np.isnan(margins), np.nan, margins >= 0)


def of_patching(
    clean: np.ndarray,
    adversarial: np.ndarray,
    margins: np.ndarray,
    rows: Sequence[Sequence[str]],
    sample: Sample,
) -> dict[str, Any]:
    """Fractions of the lost margin that patching gives back, or takes, and accuracy after it.

    Ratios of means over the images that are right when clean and wrong when attacked; the mean of
    ratios would blow up where little was lost. margins: (n, rows, 4).
    """
    moved, lost = restored(clean, adversarial, margins)
    found = [
        {"tensors": tensors, "scope": scope}
        | {way: sample.ratio(moved[:, i, w], lost, "") for w, way in enumerate(WAYS)}
        | {f"accuracy, {WAYS[w]}": sample.share(margins[:, i, w] >= 0) for w in (0, 2)}
        for i, (tensors, scope) in enumerate(rows)
    ]
    wide = {tensors: i for i, (tensors, scope) in enumerate(rows) if scope == "all"}
    interactions = {}
    for name in wide:
        parts = name.split(" + ")
        if len(parts) > 1:
            for w in (0, 2):
                alone = moved[:, [wide[part] for part in parts], w].sum(axis=1)
                beyond = moved[:, wide[name], w] - alone
                interactions[f"{WAYS[w]}: {name}"] = sample.ratio(beyond, lost, "")
    return {"rows": found, "images": int((lost > 0).sum()), "interactions": interactions}


def restored(
    clean: np.ndarray, adversarial: np.ndarray, margins: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Margin that patching gives back or takes, (n, rows, 4), and the margin lost, (n,).

    Both 0 for images that do not count.
    """
    lost = np.where((clean > 0) & (adversarial < 0), clean - adversarial, 0.0)
    back = margins[..., :2] - adversarial[:, None, None]
    taken = clean[:, None, None] - margins[..., 2:]
    moved = np.concatenate([back, taken], axis=2)
    return np.where(lost[:, None, None] > 0, moved, 0.0), lost


def of_bounds(values: np.ndarray, sites: Sequence[str], sample: Sample) -> dict[str, Any]:
    """Ceiling and reached change of every scan's output, in parts of its size.

    values: (n, sites, 3, 3). `exceeded` counts images and tensors beyond the ceiling by more than
    rounding (1e-5 of it): none, or something is wrong.
    """
    unit = "of mean |C h|"
    rows = [
        {
            "site": site,
            "tensor": tensor,
            "bound": sample.mean(values[:, i, j, 0], unit, FEWEST_HEAVY),
            "attack": sample.mean(values[:, i, j, 1], unit, FEWEST_HEAVY),
            "random": sample.mean(values[:, i, j, 2], unit, FEWEST_HEAVY),
        }
        for i, site in enumerate(sites)
        for j, tensor in enumerate(RANKED)
    ]
    beyond = values[..., 1:] > values[..., :1] * (1 + 1e-5)
    return {"rows": rows, "exceeded": int(beyond.sum())}


def of_horizon(values: np.ndarray, sites: Sequence[str], sample: Sample) -> dict[str, Any]:
    """Half-life and log spectral radius, clean and under attack. values: (n, 2, sites, 2)."""
    rows = []
    for i, site in enumerate(sites):
        clean, there = values[:, 0, i], values[:, 1, i]
        longer = np.log2(there[:, 0] / clean[:, 0])
        rows.append(
            {
                "site": site,
                "horizon": sample.mean(clean[:, 0], "steps"),
                "horizon_attacked": sample.mean(there[:, 0], "steps"),
                "shift": sample.mean(longer, "doublings"),
                "log_radius": sample.mean(clean[:, 1], ""),
                "log_radius_attacked": sample.mean(there[:, 1], ""),
                "log_radius_shift": sample.mean(there[:, 1] - clean[:, 1], ""),
            }
        )
    return {"rows": rows}
