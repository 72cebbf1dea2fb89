"""Robustness: what predictions withstand of attacks, corruptions, lost and moved parts, and turns.

Every condition is measured on every image and kept, so that differences can be paired.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from workbench.attacks.checklist import checklist
from workbench.attacks.in_pixels import InPixels, margins
from workbench.images import Batch
from workbench.methods.method import Partial
from workbench.methods.robustness.conditions import (
    Subject,
    conditions,
    directions_of,
    in_unit,
)
from workbench.methods.robustness.config import RobustnessConfig
from workbench.methods.robustness.metrics import condition_numbers, mean_error
from workbench.perturbations.corruptions import BENCHMARK, MADE_FOR
from workbench.results import Robustness

UNKNOWN = -1


def measure(model: nn.Module, batch: Batch, config: RobustnessConfig) -> Partial:
    """Predictions and margins of a batch under every condition.

    `labels` (n,), `predictions` (n, conditions) int64 and `margins` (n, conditions) float32, -1 and
    nan where the label is unknown. Without any labels, what the model says of the clean images
    counts as right. The images of the first chunk go through the `checklist` of gradient masking
    too: (n,) JSON texts, all the same, else empty. Constants: the names of the `conditions`, and
    what is known of the model.
    """
    network = InPixels(model)
    x = in_unit(batch.pictures).to(network.mean)
    if batch.labels is None:
        with torch.no_grad():
            labels = network(x).argmax(dim=1).cpu().numpy()
    else:
        labels = np.array(batch.labels)
    known = np.flatnonzero(labels != UNKNOWN)
    subject = Subject(
        network,
        x[known],
        batch.pictures[known],
        torch.from_numpy(labels[known]).to(x.device),
        tuple(batch.indices[i] for i in known),
    )
    wanted, missing = conditions(config, network, (x.shape[2], x.shape[3]))
    names = [condition.name for condition in wanted]
    predictions = np.full((len(labels), len(names)), UNKNOWN)
    margin = np.full(predictions.shape, np.nan, np.float32)
    for i, condition in enumerate(wanted if len(known) else ()):
        images = condition.make(subject)
        with torch.no_grad(), condition.around():
            logits = network(images)
        predictions[known, i] = logits.argmax(dim=1).cpu().numpy()
        margin[known, i] = margins(logits, subject.labels).cpu().numpy()
    arrays = {"labels": labels, "predictions": predictions, "margins": margin}
    arrays["checklist"] = np.empty(0, str)
    attacked = any(condition.group == "attack" for condition in wanted)
    right = (margin[:, names.index("clean")] > 0).any()
    if attacked and batch.indices[0] < config.chunk and right:
        settings = config.attack("pgd", max(config.eps_255))
        verdict = checklist(network, subject.x, subject.labels, settings)
        arrays["checklist"] = np.full(len(labels), json.dumps(verdict.as_dict()))
    constants = {
        "conditions": names,
        "labels": "predicted" if batch.labels is None else "given",
        "directions": list(directions_of(network)),
        "missing": missing,
        "notes": list(network.notes),
    }
    return Partial(arrays, constants)


def combine(measured: Partial, config: RobustnessConfig, meta: dict[str, Any]) -> Robustness:
    """One `Robustness` of all images.

    Raises:
        ValueError: when no image has a known label.
    """
    facts, labels = measured.constants, measured["labels"]
    predictions, margin = (
        np.ascontiguousarray(measured[what].T) for what in ("predictions", "margins")
    )
    known = labels != UNKNOWN
    if not known.any():
        raise ValueError(
            "no image is of a class that the model knows, so right answers cannot be counted; give "
            "images of its classes, or images without labels to count unchanged predictions"
        )
    right = (predictions == labels)[:, known].astype(np.int8)
    numbers = condition_numbers(right, predictions[:, known], margin[:, known], config.confidence)
    rows = [
        {**_parts(name), "name": name, "numbers": of}
        for name, of in zip(facts["conditions"], numbers, strict=True)
    ]
    counted = [row["group"] == "corruption" and row["series"] in BENCHMARK for row in rows]
    summary = {"clean accuracy": numbers[0]["accuracy"]}
    if any(counted):
        summary["mean corruption error"] = mean_error(1 - right[counted], config.confidence)
    checked = measured["checklist"]
    meta = {
        **meta,
        "conditions": rows,
        "numbers": summary,
        "images_used": int(known.sum()),
        "labels": facts["labels"],
        "directions": facts["directions"],
        "benchmark": [name for name in BENCHMARK if any(r["series"] == name for r in rows)],
        "missing": facts["missing"],
        "checklist": json.loads(str(checked[0])) if len(checked) else None,
        "notes": [*meta["notes"], *_notes(facts, meta["preprocessing"]["size"], any(counted))],
    }
    return Robustness(meta=meta, predictions=predictions, margins=margin, labels=labels)


def _parts(name: str) -> dict[str, Any]:
    group, series, level = (*name.split("/"), "", "")[:3]
    return {"group": group, "series": series, "level": float(level) if level else None}


def _notes(facts: Mapping[str, Any], size: list[int], corrupted: bool) -> list[str]:
    notes = [f"On the model: {note}." for note in facts["notes"]]
    if facts["labels"] == "predicted":
        notes.append(
            "No labels of the model's classes are known: what it says of the clean images counts "
            "as right."
        )
    if corrupted and max(size) != MADE_FOR:
        notes.append(
            f"The severities of the corruptions were chosen for pictures of {MADE_FOR} px; at "
            f"{size[0]} x {size[1]} px blurs and warps are stronger or weaker."
        )
    return notes + [f"Left out: {name}, as {why}." for name, why in facts["missing"].items()]
