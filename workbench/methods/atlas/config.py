"""Where layers are asked."""

from dataclasses import dataclass

from workbench.methods.method import IntervalConfig


@dataclass(frozen=True)
class AtlasConfig(IntervalConfig):
    """Where layers are asked.

    Attributes:
        layer: a layer's number counted from 0 (-1 is the last), a module path or its beginning
            such as layers.2, or a pattern; all layers by default.
        queries: rows, and columns, of the cells that are asked, spread evenly over the image.
        keep: images whose maps are averaged and compared; the numbers are of all images.
        chunk: images measured at a time.
    """

    layer: str = "*"
    queries: int = 4
    keep: int = 16
    chunk: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(queries=1, keep=1, chunk=1)
