"""The views of a batch, and one result of all batches."""

from dataclasses import asdict

import numpy as np
from torch import Tensor, nn

from workbench.images import Batch
from workbench.methods.method import Partial
from workbench.methods.sensitivity import bounds, cut, gradient, horizon, metrics, patching, perturb
from workbench.methods.sensitivity.claims import claims
from workbench.methods.sensitivity.config import SensitivityConfig, settled
from workbench.methods.sensitivity.subject import PARAMETERS, Case, Subject
from workbench.results import Sensitivity
from workbench.statistics import Sample

_MEASURES = {
    "gradient": gradient.measure,
    "perturb": perturb.measure,
    "cut": cut.measure,
    "patching": patching.measure,
    "bounds": bounds.measure,
    "horizon": horizon.measure,
}
_ATTACKED = {"patching", "horizon"}
_ARRAYS = (
    "gradient", "perturbed", "random", "flipping", "cut", "alignment", "patching", "bounds",
    "horizon", "adversarial",
)  # fmt: skip


def measure(model: nn.Module, batch: Batch, config: SensitivityConfig) -> Partial:
    """The arrays of `Sensitivity`, image by image.

    Constants: the names of their `rows`, the model's number of `parameters`, and by site how many
    `entries` an image has in each of B, C, delta and u.
    Where an image has no label the model's own prediction takes its place. Runs in float32.

    Raises:
        ValueError: for a model without a selective scan.
    """
    config = settled(config)
    subject = Subject.of(model)
    case = Case(subject, batch, config)
    found: dict[str, Tensor] = {"labelled": case.labelled, "clean": case.margins()}
    if _ATTACKED & set(config.views):
        found["adversarial"] = case.margins(case.twin)
    for view in config.views:
        found |= _MEASURES[view](case)
    rows = {
        "sites": [(site.name,) for site in subject.sites],
        "perturb": perturb.rows(subject, config),
        "cut": [(row.name, row.scope) for row in cut.rows(subject, config)],
        "patching": [(row.name, row.scope) for row in patching.rows(subject, config)],
    }
    named = {key: [[str(part) for part in row] for row in value] for key, value in rows.items()}
    entries = [
        [case.clean[site][name].numel() // len(case.x) for name in PARAMETERS]
        for (site,) in rows["sites"]
    ]
    arrays = {key: value.detach().cpu().numpy() for key, value in found.items()}
    parameters = sum(p.numel() for p in model.parameters())
    return Partial(arrays, {"rows": named, "entries": entries, "parameters": parameters})


def combine(measured: Partial, config: SensitivityConfig, meta: dict) -> Sensitivity:
    """One `Sensitivity` of all images."""
    used = settled(config)
    rows = measured.constants["rows"]
    sites = [site for (site,) in rows["sites"]]
    arrays = {key: value.astype(np.float64) for key, value in measured.arrays.items()}
    clean = arrays["clean"]
    sample = Sample(used.confidence)
    entries = measured.constants["entries"]
    views = {
        "gradient": lambda: metrics.of_gradient(arrays["gradient"], sites, entries, sample),
        "perturb": lambda: metrics.of_perturb(
            clean,
            arrays["perturbed"],
            arrays["random"],
            arrays["flipping"],
            rows["perturb"],
            sample,
        ),
        "cut": lambda: metrics.of_cut(arrays["cut"], arrays["alignment"], rows["cut"], sample),
        "patching": lambda: metrics.of_patching(
            clean, arrays["adversarial"], arrays["patching"], rows["patching"], sample
        ),
        "bounds": lambda: metrics.of_bounds(arrays["bounds"], sites, sample),
        "horizon": lambda: metrics.of_horizon(arrays["horizon"], sites, sample),
    }
    trained = meta["facts"].get("training") != "before training"
    meta = {
        **meta,
        "config": asdict(config),
        "used": asdict(used),
        "rows": rows,
        "labelled": int(measured["labelled"].sum()),
        "clean": sample.share(clean >= 0),
        "trained": trained,
        "parameters": measured.constants["parameters"],
        "entries": entries,
        "views": {view: views[view]() for view in used.views},
        "claims": claims(arrays, rows, entries, sample, trained),
    }
    if "adversarial" in arrays:
        meta["attacked"] = sample.share(arrays["adversarial"] >= 0)
    kept = {key: arrays[key].astype(np.float32) for key in _ARRAYS if key in arrays}
    return Sensitivity(meta=meta, clean=clean.astype(np.float32), **kept)
