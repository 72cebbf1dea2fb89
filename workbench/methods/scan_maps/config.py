"""What is asked of the scans."""

from dataclasses import dataclass
from typing import Literal

from workbench.methods.method import IntervalConfig
from workbench.position import read_position

PUBLISHED = ("QK", "QwKw", "w")
"""Views as VMamba's figures have them; see `mixing.hidden_attention.VIEWS`."""


@dataclass(frozen=True)
class ScanMapsConfig(IntervalConfig):
    """What is asked of the scans.

    Attributes:
        layer: a layer's number counted from 0 (-1 is the last), a module path or its beginning
            such as layers.2.blocks.1, or a pattern; all layers by default.
        query: the cell asked about: centre, a cell such as 3,3, fractions of the image such as
            0.5,0.5, or class for the class token.
        view: alpha (hidden attention), contribution (times u, the parts of the output), or as
            VMamba's figures have it: QK, QwKw or w.
        aggregate: over channels: abs (mean of absolute values), mean (signed) or norm.
        channel: this channel alone instead.
        with_D: count the skip connection D, on the diagonal.
        with_gate: multiply with the gate after the scan (Vim).
        with_convolution: count from before the convolution that precedes the scan.
        normalise: none; or, for a published view with aggregate mean, minmax or absmax over the
            whole matrix, as published.
        keep: images whose own maps are kept; the mean is over all.
        chunk: images measured at a time.
    """

    layer: str = "*"
    query: str = "centre"
    view: Literal["alpha", "contribution", "QK", "QwKw", "w"] = "alpha"
    aggregate: Literal["abs", "mean", "norm"] = "abs"
    channel: int | None = None
    with_D: bool = False
    with_gate: bool = False
    with_convolution: bool = False
    normalise: Literal["none", "minmax", "absmax"] = "none"
    keep: int = 16
    chunk: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(chunk=1, keep=1)
        if self.query != "class":
            read_position(self.query)
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
