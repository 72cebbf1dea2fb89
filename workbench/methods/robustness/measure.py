"""Robustness: what predictions withstand of attacks, corruptions, lost and moved parts, and turns.

Every condition is measured on every image and kept, so that differences can be paired.
"""

import json
from typing import Any

import numpy as np
import torch
from torch import nn

from workbench.attacks.checklist import checklist
from workbench.attacks.in_pixels import InPixels, margins
from workbench.images import Batch
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


def measure(model: nn.Module, batch: Batch, config: RobustnessConfig) -> dict[str, np.ndarray]:
    """Predictions and margins of a batch under every condition.

    `labels` (n,), and for each condition `prediction:<name>` (n,) int64 and `margin:<name>` (n,)
    float32, -1 and nan where the label is unknown. Without any labels, what the model says of the
    clean images counts as right. `facts` (n,): a JSON text, the same for all images of the batch;
    those of the first chunk go through the checklist of gradient masking too.
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
    partial = {"labels": labels}
    for condition in wanted:
        predicted = np.full(len(labels), UNKNOWN)
        margin = np.full(len(labels), np.nan, np.float32)
        if len(known):
            images = condition.make(subject)
            with torch.no_grad():
                logits = network(images)
            predicted[known] = logits.argmax(dim=1).cpu().numpy()
            margin[known] = margins(logits, subject.labels).cpu().numpy()
        partial[f"prediction:{condition.name}"] = predicted
        partial[f"margin:{condition.name}"] = margin
    facts = {
        "labels": "predicted" if batch.labels is None else "given",
        "directions": list(directions_of(network)),
        "missing": missing,
        "notes": list(network.notes),
        "checklist": None,
    }
    attacked = any(condition.group == "attack" for condition in wanted)
    if attacked and batch.indices[0] < config.chunk and (partial["margin:clean"] > 0).any():
        settings = config.attack("pgd", max(config.eps_255))
        verdict = checklist(network, subject.x, subject.labels, settings)
        facts["checklist"] = verdict.as_dict()
    return {**partial, "facts": np.full(len(labels), json.dumps(facts))}


def combine(
    partials: list[dict[str, np.ndarray]], config: RobustnessConfig, meta: dict[str, Any]
) -> Robustness:
    """One `Robustness` from the partial results of all chunks.

    Raises:
        ValueError: when no image has a known label.
    """
    names = [key.partition(":")[2] for key in partials[0] if key.startswith("margin:")]
    texts = dict.fromkeys(str(text) for partial in partials for text in partial["facts"])
    told = [json.loads(text) for text in texts]
    labels = np.concatenate([partial["labels"] for partial in partials])
    predictions, margin = (
        np.stack([np.concatenate([p[f"{what}:{name}"] for p in partials]) for name in names])
        for what in ("prediction", "margin")
    )
    known = labels != UNKNOWN
    if not known.any():
        raise ValueError(
            "no image is of a class that the model knows, so right answers cannot be counted; give "
            "images of its classes, or images without labels to count unchanged predictions"
        )
    statistics = {key: getattr(config, key) for key in ("confidence", "resamples", "seed")}
    right = (predictions == labels)[:, known].astype(np.int8)
    numbers = condition_numbers(right, predictions[:, known], margin[:, known], statistics)
    rows = [
        {**_parts(name), "name": name, "numbers": of}
        for name, of in zip(names, numbers, strict=True)
    ]
    counted = [row["group"] == "corruption" and row["series"] in BENCHMARK for row in rows]
    summary = {"clean accuracy": numbers[0]["accuracy"]}
    if any(counted):
        summary["mean corruption error"] = mean_error(1 - right[counted], statistics)
    facts = told[0]
    checklists = (of["checklist"] for of in told if of["checklist"] is not None)
    meta = {
        **meta,
        "conditions": rows,
        "numbers": summary,
        "images_used": int(known.sum()),
        "labels": facts["labels"],
        "directions": facts["directions"],
        "benchmark": [name for name in BENCHMARK if any(r["series"] == name for r in rows)],
        "missing": facts["missing"],
        "checklist": next(checklists, None),
        "notes": [*meta["notes"], *_notes(facts, meta["preprocessing"]["size"], any(counted))],
    }
    return Robustness(meta=meta, predictions=predictions, margins=margin, labels=labels)


def _parts(name: str) -> dict[str, Any]:
    group, series, level = (*name.split("/"), "", "")[:3]
    return {"group": group, "series": series, "level": float(level) if level else None}


def _notes(facts: dict[str, Any], size: list[int], corrupted: bool) -> list[str]:
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
    return notes + [f"Left out: {probe}, as {why}." for probe, why in facts["missing"].items()]
