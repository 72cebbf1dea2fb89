"""A model with scan tensors quantised, against the same model without, image by image."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from workbench.attacks.in_pixels import margins
from workbench.images import Batch
from workbench.methods.method import Partial
from workbench.methods.quantize.config import TENSORS, TOGETHER, QuantizeConfig
from workbench.methods.quantize.uniform import largest, quantised
from workbench.results import Quantization, QuantizationRanges
from workbench.statistics import FEWEST_SKEWED, NEVER, Sample
from workbench.trace import Recording, patch, record

UNKNOWN = -1
TAILS = ("max", "99.9 % quantile", "kurtosis")
"""Of |x|, of |x|, and of x (3 for a normal distribution), over a tensor of one image and site."""


@dataclass(frozen=True)
class Condition:
    """What is quantised, and how; fields as of `QuantizeConfig`."""

    tensor: str
    granularity: str
    range: str
    bits: int

    @property
    def name(self) -> str:
        """Such as `delta/token/static/4`."""
        return f"{self.tensor}/{self.granularity}/{self.range}/{self.bits}"

    def changes(self, sites: list[str], ranges: QuantizationRanges | None) -> dict[str, Any]:
        """The functions that `patch` takes."""
        names = TENSORS if self.tensor == TOGETHER else (self.tensor,)
        return {name: {site: self._change(site, name, ranges) for site in sites} for name in names}

    def _change(self, site: str, name: str, ranges: QuantizationRanges | None) -> Any:
        if self.range == "dynamic":
            return lambda x: quantised(x, self.bits, largest(x, self.granularity))
        if ranges is None:
            raise ValueError("static ranges need calibration images; call it through workbench.run")
        reach = torch.tensor(ranges.of(site, name, self.granularity))
        return lambda x: quantised(x, self.bits, reach)


def conditions(config: QuantizeConfig) -> list[Condition]:
    """Every combination, each once."""
    return list(
        dict.fromkeys(
            Condition(tensor, granularity, kind, bits)
            for tensor in config.tensors
            for granularity in config.granularities
            for kind in config.ranges
            for bits in config.bits
        )
    )


def measure(
    model: nn.Module, batch: Batch, config: QuantizeConfig, ranges: QuantizationRanges | None
) -> Partial:
    """What a model answers with and without quantised scans.

    `labels` (n,), -1 where unknown; `predictions` and `margins` (n, 1 + conditions), the first
    without quantisation; `divergences` (n, conditions) in nats; `tails` (n, sites, tensors, 3).
    Margins are those of the label, of the unquantised prediction where none is known. One image at
    a time, so that a dynamic range sees no other image.

    Raises:
        ValueError: for a model without a selective scan, or whose answers are not the finite logits
            of two classes or more.
    """
    labels = np.full(len(batch), UNKNOWN) if batch.labels is None else np.array(batch.labels)
    found: dict[str, list[np.ndarray]] = {}
    sites: list[str] = []
    changes: list[dict[str, Any]] = []
    for image, label in zip(batch.tensor.split(1), labels, strict=True):
        with torch.no_grad(), record(model, *TENSORS) as seen:
            logits = [model(image)]
        _check(model, logits[0], seen)
        sites = sites or list(seen)
        if list(seen) != sites:
            raise ValueError(f"{type(model).__name__} scans at other sites on other images")
        changes = changes or [condition.changes(sites, ranges) for condition in conditions(config)]
        for change in changes:
            with torch.no_grad(), patch(model, sites, **change):
                logits.append(model(image))
        answers = torch.cat(logits).double().cpu()
        own = answers[0].argmax() if label == UNKNOWN else torch.tensor(label)
        chances = answers.log_softmax(dim=1)
        apart = (chances[0].exp() * (chances[0] - chances[1:])).sum(dim=1)
        row = {
            "predictions": answers.argmax(dim=1).numpy(),
            "margins": margins(answers, own.expand(len(answers))).numpy(),
            "divergences": apart.clamp(min=0).numpy(),  # below it by rounding only
            "tails": np.array([[_tails(seen[s][name]) for name in TENSORS] for s in sites]),
        }
        for name, value in row.items():
            found.setdefault(name, []).append(value)
    arrays = {name: np.stack(values) for name, values in found.items()}
    return Partial({"labels": labels, **arrays}, {"sites": sites})


def combine(measured: Partial, config: QuantizeConfig, meta: dict[str, Any]) -> Quantization:
    """One `Quantization` of all images."""
    sample, labels = Sample(config.confidence), measured["labels"]
    predictions, margin = measured["predictions"].T, measured["margins"].T
    divergences, tails = measured["divergences"].T, measured["tails"]
    known = labels != UNKNOWN
    right = (predictions == labels)[:, known].astype(np.int8)
    rows = []
    for i, condition in enumerate(conditions(config), start=1):
        numbers = {
            "agreement": sample.share(predictions[i] == predictions[0]),
            "margin change": sample.mean(margin[i] - margin[0], "logits"),
            "KL": sample.mean(divergences[i - 1], "nats", NEVER),
        }
        if known.any():
            numbers["accuracy"] = sample.share(right[i])
            numbers["accuracy change"] = sample.points(right[i], right[0])
        rows.append({"name": condition.name, **asdict(condition), "numbers": numbers})
    numbers = {"accuracy": sample.share(right[0])} if known.any() else {}
    numbers["margin"] = sample.mean(margin[0], "logits")
    for t, name in enumerate(TENSORS):
        for k, what in enumerate(TAILS):
            numbers[f"{what} of {name}"] = sample.mean(
                tails[:, :, t, k].mean(axis=1), "", FEWEST_SKEWED
            )
    meta = {
        **meta,
        "conditions": rows,
        "numbers": numbers,
        "sites": measured.constants["sites"],
        "tensors": list(TENSORS),
        "tails": list(TAILS),
        "labelled": int(known.sum()),
    }
    return Quantization(
        meta=meta,
        predictions=predictions,
        margins=margin.astype(np.float32),
        divergences=divergences.astype(np.float32),
        labels=labels,
        tails=tails.astype(np.float32),
    )


def _tails(x: Tensor) -> list[float]:
    values = x.double().numpy()
    size, centred = np.abs(values), values - values.mean()
    spread = np.square(centred).mean()
    # a tensor that is the same everywhere has no tails
    kurtosis = (centred**4).mean() / spread**2 if spread else np.nan
    return [size.max(), np.quantile(size, 0.999), kurtosis]


def _check(model: nn.Module, logits: Tensor, seen: Recording) -> None:
    kind = type(model).__name__
    if not seen:
        raise ValueError(
            f"{kind} has no selective scan, so there are no scan tensors to quantise; give a model "
            "that scans"
        )
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ValueError(
            f"{kind} answers with the shape {tuple(logits.shape)}, where margins and divergences "
            "need the logits of two classes or more; give a model with a classifier"
        )
    if not logits.isfinite().all():
        raise ValueError(f"{kind} answers with logits that are not finite; check its weights")
