"""Quantisation: what predictions keep when scan tensors are rounded to few bits.

`uniform` rounds, `calibration` finds the static ranges, `measure` puts a model to every condition.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from workbench.methods.method import Method, Partial, Run
from workbench.methods.quantize.config import QuantizeConfig
from workbench.results import Quantization as Result
from workbench.results import QuantizationRanges

if TYPE_CHECKING:
    from torch import nn

    from workbench.images import Batch, Images, Preprocessing


class Quantize(Method):
    """See the module.

    Attributes:
        ranges: static ones, None before `parts` has calibrated.
    """

    name = "quantize"
    Config = QuantizeConfig
    scans = True

    def __init__(self, ranges: QuantizationRanges | None = None) -> None:
        self.ranges = ranges

    def parts(
        self,
        run: Run,
        model: nn.Module,
        images: Images,
        config: QuantizeConfig,
        preprocessing: Preprocessing,
        labelled: bool = False,
    ) -> Iterator[Any]:
        """One, after a run over the calibration images where there are static ranges."""
        ranges = None
        if "static" in config.ranges:
            calibrated = self._file("calibration").calibrated
            ranges = calibrated(run, model, images, config.calibration, preprocessing)
        yield run(Quantize(ranges), model, images, config, preprocessing=preprocessing)

    def measure(self, model: nn.Module, batch: Batch, config: QuantizeConfig) -> Partial:
        return self._file("measure").measure(model, batch, config, self.ranges)

    def combine(self, measured: Partial, config: QuantizeConfig, meta: dict[str, Any]) -> Result:
        meta = {**meta, "calibration": self.ranges.meta["images"]["names"] if self.ranges else []}
        return self._file("measure").combine(measured, config, meta)


method = Quantize()
