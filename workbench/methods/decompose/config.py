"""Which layers are taken apart, and where."""

from dataclasses import dataclass

from workbench.methods.method import IntervalConfig
from workbench.position import read_position


@dataclass(frozen=True)
class DecomposeConfig(IntervalConfig):
    """Which layers are taken apart, and where.

    Attributes:
        layer: a layer's number counted from 0 (-1 is the last), a module path or its beginning
            such as layers.2.blocks.1, or a pattern; all layers by default.
        query: the cell whose output is taken apart: centre, a cell such as 3,3, fractions of the
            image such as 0.5,0.5, or class for the class token.
        keep: images whose own maps are kept; the mean is over all.
        chunk: images measured at a time.
    """

    layer: str = "*"
    query: str = "centre"
    keep: int = 8
    chunk: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(keep=1, chunk=1)
        if self.query != "class":
            read_position(self.query)
