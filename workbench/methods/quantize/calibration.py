"""Static ranges: the largest values of the scan tensors over the calibration images."""

from typing import Any

import torch
from torch import nn

from workbench.images import BadImage, Batch, Images, Preprocessing
from workbench.methods.method import Config, Method, Partial, Run
from workbench.methods.quantize.config import TENSORS
from workbench.methods.quantize.uniform import largest
from workbench.results import QuantizationRanges
from workbench.trace import record


class Calibrate(Method):
    """The ranges of a model on some images; a run of its own, so that a stopped one goes on."""

    name = "quantize-ranges"
    Config = Config

    def measure(self, model: nn.Module, batch: Batch, config: Any) -> Partial:
        """`reach` (b, total) float64, laid out as `QuantizationRanges` has it.

        Raises:
            ValueError: for a model whose scans are others from image to image.
        """
        layouts, rows = [], []
        for image in batch.tensor.split(1):
            with torch.no_grad(), record(model, *TENSORS) as seen:
                model(image)
            tensors = {(s, name): x for s, of in seen.items() for name, x in of.items()}
            layouts.append([[*place, *x.shape] for place, x in tensors.items()])
            if layouts[-1] != layouts[0]:
                raise ValueError(
                    f"{type(model).__name__} scans other tensors on other images, so they have no "
                    "static ranges; ask for dynamic ones"
                )
            parts = [
                largest(x.double(), granularity).flatten()
                for x in tensors.values()
                for granularity in ("channel", "token")
            ]
            rows.append(torch.cat(parts) if parts else torch.empty(0))
        return Partial({"reach": torch.stack(rows).numpy()}, {"layout": layouts[0]})

    def combine(self, measured: Partial, config: Any, meta: dict[str, Any]) -> QuantizationRanges:
        meta = {**meta, "layout": measured.constants["layout"]}
        return QuantizationRanges(meta=meta, reach=measured["reach"].max(axis=0))


def calibrated(
    run: Run, model: nn.Module, images: Images, count: int, preprocessing: Preprocessing
) -> QuantizationRanges:
    """The ranges over the first `count` images that can be read."""
    found: list[int] = []
    for i in range(len(images)):
        try:
            images.read(i)
        except BadImage:
            continue
        found.append(i)
        if len(found) == count:
            break
    # of no image at all the run says why
    first = images.subset(found or range(len(images)))
    options: dict[str, Any] = {"preprocessing": preprocessing, "folder": "ranges"}
    ranges = run(Calibrate(), model, first, {}, **options)
    assert isinstance(ranges, QuantizationRanges)
    return ranges
