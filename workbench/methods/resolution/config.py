"""How a model is measured at a size, and over which sizes."""

from dataclasses import dataclass, fields
from typing import Literal

from workbench.methods.method import Config, IntervalConfig

Protocol = Literal["grows", "constant"]


@dataclass(frozen=True)
class _Adaptation(Config):
    native: int | None = None
    positions: Literal["class-aware", "official"] = "class-aware"
    windows: Literal["fixed", "scaled"] = "fixed"
    kernels: Literal["resampled", "fixed"] = "resampled"
    restrict: bool = True
    classes: tuple[int, ...] | None = None
    folds: int = 5
    probes: int = 5
    chunk: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(native=1, folds=0, probes=0, chunk=1)
        if self.folds == 1:
            raise ValueError("folds must be 0 (no refitted head) or at least 2, not 1")


@dataclass(frozen=True)
class PointConfig(_Adaptation):
    """How a model is measured at one size; the fields are those of `ResolutionConfig`."""

    object_size: Protocol = "grows"


@dataclass(frozen=True)
class ResolutionConfig(_Adaptation, IntervalConfig):
    """How a model is measured over sizes.

    Resize protocols are never mixed: with object_size="grows" the whole picture is scaled to the
    size, as the papers do, so that things appear larger at larger sizes (which helps by itself:
    Touvron et al., FixRes, NeurIPS 2019); with "constant" things keep the pixels they have at the
    training size.

    Attributes:
        sizes: in pixels, such as 32 64 128; by default from half to 3 times the native size.
        object_size: grows (the picture is scaled to the size) or constant (its scale stays that of
            the native size: less of it is seen at smaller sizes, and more of it, then the mean
            colour, at larger ones), or both, each measured on its own.
        native: the training size in pixels; the model's own by default.
        positions: how Vim's position embedding is resized: class-aware, or official (the published
            code, which takes a spatial row for the class token).
        windows: of MambaVision: fixed (as published, padded to whole windows) or scaled with the
            size.
        kernels: of S4ND: resampled where objects grow, its own way to another size, or fixed.
        restrict: let a head of 1000 ImageNet classes choose among the classes of the data only,
            where those are known by their ImageNet numbers.
        classes: the classes of the head to choose among, by number; by default all, or what
            `restrict` says.
        folds: groups of images for the refitted head, 0 for none.
        probes: images, the first ones, that are also measured one by one: time, memory, FLOPs and
            the scans' memory horizon.
        chunk: images measured at a time.
        erf_images: so many of the first images (or all) also give a receptive field, 0 for none.
    """

    object_size: tuple[Protocol, ...] = ("grows",)
    sizes: tuple[int, ...] = ()
    erf_images: int = 10

    def __post_init__(self) -> None:
        if isinstance(self.object_size, str):
            object.__setattr__(self, "object_size", (self.object_size,))
        super().__post_init__()
        self.at_least(erf_images=0)
        if not self.object_size:
            raise ValueError("object_size must be grows, constant or both, not none")
        for size in self.sizes:
            if size < 1:
                raise ValueError(f"size {size} is not a number of pixels from 1 up")

    @property
    def point(self) -> PointConfig:
        """What each of the sizes is measured with; of the first protocol."""
        shared = {field.name: getattr(self, field.name) for field in fields(_Adaptation)}
        return PointConfig(**shared, object_size=self.object_size[0])
