"""Which scans are looked into, and which token is marked."""

from dataclasses import dataclass

from workbench.methods.method import IntervalConfig
from workbench.position import read_position


@dataclass(frozen=True)
class StateConfig(IntervalConfig):
    """Which scans are looked into, and which token is marked.

    Attributes:
        layer: a layer's number counted from 0 (-1 is the last), a module path or its beginning
            such as layers.2.blocks.1, or a pattern; all scans by default.
        query: the token whose fading is followed: centre, a cell such as 3,3, fractions of the
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
