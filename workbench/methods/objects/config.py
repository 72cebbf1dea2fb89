"""Which maps are held against objects."""

from dataclasses import dataclass
from typing import Literal

from workbench.methods.attribution.config import Map
from workbench.methods.method import IntervalConfig

USUAL = ("erf", "scan-maps", "tokens", "saliency", "integrated-gradients", "grad-cam")
"""The maps that are taken where none are named, those of them that a model has."""


@dataclass(frozen=True)
class ObjectsConfig(IntervalConfig):
    """Which maps are held against objects.

    Attributes:
        maps: erf (receptive field of the last map's centre, image by image), scan-maps (what
            reaches the class token, or in the mean places all over the image, through all
            directions of a layer), tokens (norms behind the last block), or the methods of
            attribution: saliency, input-x-gradient, integrated-gradients, occlusion, grad-cam, and
            for Vim raw-attention, rollout, mamba-attribution. By default erf, scan-maps, tokens,
            saliency, integrated-gradients and grad-cam, those that the model has.
        layer: of scan-maps: a layer's number counted from 0 (-1 is the last) or a module path.
        queries: of scan-maps: rows, and columns, of the cells that are asked.
        target: of attribution: predicted, label, or a class number.
        keep: images whose maps are kept as examples.
        chunk: images measured at a time.
    """

    maps: tuple[Literal["erf", "scan-maps", "tokens"] | Map, ...] = ()
    layer: str = "-1"
    queries: int = 4
    target: str = "predicted"
    keep: int = 8
    chunk: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(queries=1, keep=1, chunk=1)
        object.__setattr__(self, "maps", tuple(dict.fromkeys(self.maps)))
