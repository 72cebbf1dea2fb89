"""What is asked of the scans."""

from dataclasses import dataclass
from typing import Literal

from workbench.methods.method import QueryConfig

PUBLISHED = ("QK", "QwKw", "w")
"""Views as VMamba's figures have them; see `mixing.hidden_attention.VIEWS`."""


@dataclass(frozen=True)
class ScanMapsConfig(QueryConfig):
    """What is asked of the scans.

    Attributes:
        view: alpha (hidden attention), contribution (times u, the parts of the output), or as
            VMamba's figures have it: QK, QwKw or w.
        aggregate: over channels: abs (mean of absolute values), mean (signed) or norm.
        channel: this channel alone instead.
        with_D: count the skip connection D, on the diagonal.
        with_gate: multiply with the gate after the scan (Vim).
        with_convolution: count from before the convolution that precedes the scan.
        normalise: none; or, for a published view with aggregate mean, minmax or absmax over the
            whole matrix, as published.
    """

    view: Literal["alpha", "contribution", "QK", "QwKw", "w"] = "alpha"
    aggregate: Literal["abs", "mean", "norm"] = "abs"
    channel: int | None = None
    with_D: bool = False
    with_gate: bool = False
    with_convolution: bool = False
    normalise: Literal["none", "minmax", "absmax"] = "none"
    keep: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        for part in ("with_D", "with_gate", "with_convolution"):
            if getattr(self, part) and self.view in PUBLISHED:
                raise ValueError(f"the published view {self.view} has no {part}; leave it out")
        if self.with_convolution and self.view == "contribution":
            raise ValueError("the view contribution is of u, so leave with_convolution out")
        if self.normalise != "none" and (
            self.view not in PUBLISHED or self.aggregate != "mean" or self.channel is not None
        ):
            raise ValueError(
                f"normalise {self.normalise} is VMamba's, over the whole matrix; it needs one of "
                f"the views {', '.join(PUBLISHED)} and aggregate mean"
            )

    @property
    def channels(self) -> str | int:
        """What `HiddenAttention` takes as `aggregate`."""
        return self.aggregate if self.channel is None else self.channel
