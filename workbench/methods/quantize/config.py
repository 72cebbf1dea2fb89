"""Which scan tensors are quantised, to how many bits, over which ranges."""

from dataclasses import dataclass
from typing import Literal

from workbench.methods.method import IntervalConfig

TENSORS = ("u", "delta", "B", "C", "y")
"""The scan tensors that depend on the image; the state h never leaves the scan."""
TOGETHER = "together"
MOST_BITS = 32


@dataclass(frozen=True)
class QuantizeConfig(IntervalConfig):
    """Which scan tensors are quantised, to how many bits, over which ranges.

    Attributes:
        tensors: of u, delta, B, C and y, each alone in all scans; together: all five at once.
        bits: of a value, its sign among them, 2 to 32.
        granularities: what shares a range: a whole tensor of one direction, a channel (a state
            entry of B and C), or a token.
        ranges: dynamic (of the image itself) or static (of the calibration images).
        calibration: images, the first that can be read, that give the static ranges.
        chunk: images measured at a time.
    """

    tensors: tuple[Literal["together", "u", "delta", "B", "C", "y"], ...] = (TOGETHER, *TENSORS)
    bits: tuple[int, ...] = (8, 6, 4, 3)
    granularities: tuple[Literal["tensor", "channel", "token"], ...] = (
        "tensor",
        "channel",
        "token",
    )
    ranges: tuple[Literal["dynamic", "static"], ...] = ("dynamic", "static")
    calibration: int = 4
    chunk: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in ("tensors", "bits", "granularities", "ranges"):
            if not getattr(self, field):
                raise ValueError(f"{field} must name at least one, not none")
        for bits in self.bits:
            if not 2 <= bits <= MOST_BITS:
                raise ValueError(f"bits must be between 2 and {MOST_BITS}, not {bits}")
        self.at_least(calibration=1, chunk=1)
