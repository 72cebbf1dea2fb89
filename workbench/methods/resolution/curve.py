"""From the points of several sizes to one model's curve, with intervals, and models compared."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from workbench.methods.resolution import metrics
from workbench.results import Erf, Resolution, ResolutionPoint
from workbench.statistics import Number, Sample, mean, relative_change, share

__all__ = ["UNITS", "compare", "curve"]


UNITS = {
    "top1": "% right",
    "top5": "% right",
    "drop": "% of native top-1",
    "refit": "% right",
    "agreement": "% as at native",
    "kl": "nats",
    "margin": "probability",
    "cka": "",
    "A50": "% of image",
    "crossness": "ratio",
    "horizon": "% of sequence",
    "latency": "ms",
    "cpu": "ms",
    "waiting": "% of the time",
    "throughput": "images/s",
    "flops": "GFLOP",
    "memory": "MB",
}
"""The numbers of a point and their units; docs/protocols.md says what they mean."""


def curve(
    points: Sequence[ResolutionPoint],
    fields: Mapping[int, Erf] | None = None,
    missing: Mapping[int, str] | None = None,
    confidence: float = 0.95,
) -> Resolution:
    """One model's curve from the points of its sizes, in any order.

    Numbers that compare with the native size are there once its point is. Intervals: Wilson's for
    shares of images, Student's for `kl`, `margin` and, linearised, `drop`, the quartiles for
    `latency`, `cpu` and `throughput`.

    Args:
        fields: receptive fields by size.
        missing: sizes without a point, and why.

    Raises:
        ValueError: without points, or when they are of different models, images or protocols.
    """
    if not points:
        raise ValueError("no size could be measured, so there is no curve")
    points = sorted(points, key=lambda point: point.meta["size"])
    first = points[0].meta
    _check_alike(points)
    native = first["config"]["native"]
    reference = next((p for p in points if p.meta["size"] == native), None)
    rows = [_row(p, reference, (fields or {}).get(p.meta["size"]), confidence) for p in points]
    sizes = np.array([point.meta["size"] for point in points])
    labelled = [_correct(p) for p in points if p.labels is not None]
    agrees = [_agrees(p, reference) for p in points] if reference else []
    meta = {
        key: first[key]
        for key in ("model", "facts", "config", "dtype", "device", "notes", "skipped", "provenance")
    }
    meta |= {
        "method": "resolution",
        "native": native,
        "object_size": first["config"]["object_size"],
        "classes": first["classes"],
        "images": {k: v for k, v in first["images"].items() if k != "names"},
        "images_used": len(points[0].logits),
        "preprocessing": {k: v for k, v in first["preprocessing"].items() if k != "size"},
        "interval": {"confidence": confidence},
        "points": rows,
        "missing": {str(size): reason for size, reason in sorted((missing or {}).items())},
        "exponents": _exponents(sizes, rows, native, confidence),
        "sources": [point.meta["hash"] for point in points],
    }
    return Resolution(
        meta=meta,
        sizes=sizes,
        correct=np.stack(labelled) if labelled else None,
        agrees=np.stack(agrees) if agrees else None,
    )


def compare(curves: Sequence[Resolution]) -> list[Resolution]:
    """The curves with the number `difference` where the first curve has the size too: top-1 minus
    that of the first on the same images, in points of percent.

    Raises:
        ValueError: when the curves are of different images.
    """
    first = curves[0]
    sample = Sample(first.meta["interval"]["confidence"])
    found = []
    for other in curves:
        if other.meta["images"]["fingerprint"] != first.meta["images"]["fingerprint"]:
            raise ValueError("models are compared on the same images only")
        if other.correct is None or first.correct is None:
            found.append(other)
            continue
        points = []
        for point, a in zip(other.points, other.correct, strict=True):
            at = np.flatnonzero(first.sizes == point["size"])
            if len(at):
                b = first.correct[at[0]]
                known = (a >= 0) & (b >= 0)
                entry = sample.points(a[known], b[known])
                point = {**point, "numbers": {**point["numbers"], "difference": entry}}
            points.append(point)
        found.append(replace(other, meta={**other.meta, "points": points}))
    return found


def _check_alike(points: Sequence[ResolutionPoint]) -> None:
    first = points[0].meta
    for point in points[1:]:
        for what, a, b in (
            ("models", first["model"], point.meta["model"]),
            ("weights", first["facts"].get("weights"), point.meta["facts"].get("weights")),
            ("configurations", first["config"], point.meta["config"]),
            ("images", first["images"]["fingerprint"], point.meta["images"]["fingerprint"]),
            ("images", first["images"]["names"], point.meta["images"]["names"]),
        ):
            if a != b:
                raise ValueError(f"points of different {what} make no curve")
    sizes = [point.meta["size"] for point in points]
    if len(set(sizes)) < len(sizes):
        raise ValueError(f"there are two points of one size among {sizes}")


def _correct(point: ResolutionPoint) -> np.ndarray:
    """(n,) int8: 1 right, 0 wrong, -1 unlabelled."""
    assert point.labels is not None
    right = (point.logits.argmax(axis=1) == point.labels).astype(np.int8)
    return np.where(point.labels < 0, np.int8(-1), right)


def _agrees(point: ResolutionPoint, reference: ResolutionPoint) -> np.ndarray:
    return (point.logits.argmax(axis=1) == reference.logits.argmax(axis=1)).astype(np.int8)


def _row(
    point: ResolutionPoint,
    reference: ResolutionPoint | None,
    field: Erf | None,
    confidence: float,
) -> dict[str, Any]:
    """The numbers of one size."""
    found: dict[str, Number] = {}

    def spread(key: str, values: np.ndarray, factor: float) -> None:
        if len(values):
            low, middle, high = factor * np.quantile(values, [0.25, 0.5, 0.75])
            found[key] = Number(middle, low, high)

    if point.labels is not None:
        known = point.labels >= 0
        correct = _correct(point)[known]
        found["top1"] = share(correct, confidence)
        if point.logits.shape[1] > 5:
            hits = metrics.in_top(point.logits[known], point.labels[known], 5)
            found["top5"] = share(hits, confidence)
        if point.refit is not None:
            found["refit"] = share(point.refit[known] == point.labels[known], confidence)
        if reference is not None:
            change = relative_change(correct, _correct(reference)[known], confidence)
            found["drop"] = change.times(100)
    if reference is not None:
        found["agreement"] = share(_agrees(point, reference), confidence)
        found["kl"] = mean(metrics.divergence(reference.logits, point.logits), confidence)
        found["margin"] = mean(metrics.margin(reference.logits, point.logits), confidence)
        found["cka"] = Number(metrics.cka(reference.features, point.features))
    for key in ("A50", "crossness"):
        if field is not None:
            entry = field.numbers[key]
            found[key] = Number(entry["value"], entry["low"], entry["high"])
    layers = _layers(point)
    if layers:
        found["horizon"] = Number(np.median([x["share"] for x in layers]))
    spread("latency", point.latency, 1e3)
    spread("cpu", point.cpu_seconds, 1e3)
    if point.waiting_seconds is not None:
        said = np.isfinite(point.waiting_seconds)
        if said.any():
            waited, ran = point.waiting_seconds[said].sum(), point.cpu_seconds[said].sum()
            found["waiting"] = Number(100 * waited / (waited + ran))
    spread("throughput", 1 / point.seconds, 1.0)
    for key, value in (("flops", point.meta["flops"]), ("memory", point.meta["peak_bytes"])):
        if value is not None:
            found[key] = Number(value / (1e9 if key == "flops" else 1e6))
    return {
        "size": point.meta["size"],
        "numbers": {
            key: replace(found[key], unit=unit).as_dict()
            for key, unit in UNITS.items()
            if key in found
        },
        "layers": layers,
    }


def _layers(point: ResolutionPoint) -> list[dict[str, float]]:
    """The memory horizon of each scan layer in steps, and the share of its sequence in %."""
    return [
        {
            "length": int(length),
            "low": float(low),
            "median": float(median),
            "high": float(high),
            "share": float(100 * median / length),
        }
        for length, (low, median, high) in zip(point.lengths, point.horizons, strict=True)
    ]


def _exponents(sizes: np.ndarray, rows: list[dict], native: int, confidence: float) -> dict:
    """How time, processor time and FLOPs grow with pixels, from the native size up where four
    sizes are there, else over all.
    """
    upper = sizes >= native
    chosen = upper if upper.sum() >= 4 else np.full(len(sizes), True)
    found = {}
    for key in ("latency", "cpu", "flops"):
        values = [row["numbers"].get(key, {}).get("value") or np.nan for row in rows]
        pixels, cost = sizes[chosen].astype(np.float64) ** 2, np.array(values)[chosen]
        growth = metrics.exponent(pixels, cost, confidence)
        found[key] = {**growth.as_dict(), "sizes": sizes[chosen].tolist()}
    return found
