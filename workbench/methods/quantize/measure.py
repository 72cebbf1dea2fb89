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
from workbench.statistics import NEVER, Sample
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

    def changes(
        self, sites: list[str], ranges: QuantizationRanges | None, count: int
    ) -> dict[str, Any]:
        """The functions that `patch` takes, for a pass of `count` images, each by itself."""
        names = TENSORS if self.tensor == TOGETHER else (self.tensor,)

        def each(function: Any) -> Any:
            return lambda x: torch.cat([function(own) for own in x.chunk(count)])

        return {
            name: {site: each(self._change(site, name, ranges)) for site in sites} for name in names
        }

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
    Margins are those of the label, of the unquantised prediction where none is known. Images go
    through together, but a dynamic range sees no other image.

    Raises:
        ValueError: for a model without a selective scan, or whose answers are not the finite logits
            of two classes or more.
    """
    count = len(batch)
    labels = np.full(count, UNKNOWN) if batch.labels is None else np.array(batch.labels)
    with torch.no_grad(), record(model, *TENSORS) as seen:
        logits = [model(batch.tensor)]
    _check(model, logits[0], seen)
    sites = list(seen)
    for condition in conditions(config):
        with torch.no_grad(), patch(model, sites, **condition.changes(sites, ranges, count)):
            logits.append(model(batch.tensor))
    answers = torch.stack(logits, dim=1).double().cpu()  # (n, 1 + conditions, classes)
    known = torch.from_numpy(labels)
    own = torch.where(known == UNKNOWN, answers[:, 0].argmax(dim=1), known)
    chances = answers.log_softmax(dim=2)
    apart = (chances[:, :1].exp() * (chances[:, :1] - chances[:, 1:])).sum(dim=2)
    every = own[:, None].expand(answers.shape[:2]).flatten()
    tails = [[[_tails(x) for x in seen[s][name].chunk(count)] for name in TENSORS] for s in sites]
    return Partial(
        {
            "labels": labels,
            "predictions": answers.argmax(dim=2).numpy(),
            "margins": margins(answers.flatten(0, 1), every).view(answers.shape[:2]).numpy(),
            "divergences": apart.clamp(min=0).numpy(),  # below it by rounding only
            "tails": np.moveaxis(np.array(tails), 2, 0),
        },
        {"sites": sites},
    )


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
            numbers[f"{what} of {name}"] = sample.mean(tails[:, :, t, k].mean(axis=1), "", NEVER)
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
