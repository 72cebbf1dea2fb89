"""How an effective receptive field is measured, and the published protocols."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from workbench.methods.method import IntervalConfig
from workbench.position import read_position

if TYPE_CHECKING:
    from workbench.images import Preprocessing


@dataclass(frozen=True)
class ErfConfig(IntervalConfig):
    """How an effective receptive field is measured.

    Attributes:
        stage: the stage whose output is looked at, 1 to 4 (the last by default).
        layer: the path of any module instead of a stage, such as layers.2.blocks.1; with the axes
            of its output where they cannot be told, as in layers.2:bhwc or layers.2:blc.
        position: the output unit: centre, a cell such as 3,3, or fractions such as 0.5,0.5.
        score: what is differentiated: the sum of the unit's channels (sum) or of their positive
            parts (relu).
        measure: size of the gradient at a pixel, summed over colours: abs, square, relu (the
            negative part dropped), sum-relu (dropped after the sum over colours) or signed
            (absolute value after averaging over images).
        norm: apply the model's final norm to the last stage first.
        average: normalised lets every image weigh the same; raw averages gradients as they are.
        split: none, direction (one scan direction keeps its gradient) or route (one of B, C, delta,
            u, convolution, gate, residual).
        split_layer: split at this scan only, exactly additive; all scans otherwise.
        preset: a published protocol: luo2016, replknet, vmamba2024, vmamba2025 or
            openerf.
        chunk: images measured at a time.
    """

    stage: int | None = None
    layer: str | None = None
    position: str = "centre"
    score: Literal["sum", "relu"] = "sum"
    measure: Literal["abs", "square", "relu", "sum-relu", "signed"] = "abs"
    norm: bool = False
    average: Literal["normalised", "raw"] = "normalised"
    split: Literal["none", "direction", "route"] = "none"
    split_layer: str | None = None
    preset: Literal["luo2016", "replknet", "vmamba2024", "vmamba2025", "openerf"] | None = None
    chunk: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(chunk=1, stage=1)
        if self.position not in ("legacy", "openerf"):  # of presets
            read_position(self.position)


@dataclass(frozen=True)
class Preset:
    """A published protocol: measurement, image preparation, and how it was shown and counted.

    With `normed_last` a model whose own figures look behind the final norm is looked at there. A
    size of None is the model's own.
    """

    changes: dict
    resize: str
    size: int | None
    display: str
    quirks: tuple[str, ...]
    normed_last: bool = False


_LEGACY = {"score": "relu", "measure": "relu", "average": "raw", "position": "legacy"}
_H2 = "the unit and the square are taken at h // 2, which is off the true centre"
PRESETS: dict[str, Preset] = {
    "luo2016": Preset(
        {"score": "sum", "measure": "signed", "average": "raw", "position": "legacy"},
        "model",
        224,
        "linear",
        ("gradients are averaged over images with their sign, so they can cancel",),
    ),
    "replknet": Preset(
        _LEGACY,
        "squash",
        1024,
        "log10(x + 1)",
        (
            _H2,
            "negative gradients are dropped",
            "log10(x + 1) depends on the gradient's magnitude, and r(t) is counted on it",
        ),
    ),
    "vmamba2024": Preset(
        {**_LEGACY, "norm": True},
        "squash",
        1024,
        "x ** 0.25",
        (_H2, "negative gradients are dropped", "r(t) is counted on the power-scaled map"),
    ),
    "vmamba2025": Preset(
        _LEGACY,
        "crop",
        1024,
        "x ** 0.2",
        (_H2, "negative gradients are dropped", "Vim is taken after its final norm, others before"),
        normed_last=True,
    ),
    "openerf": Preset(
        {"measure": "sum-relu", "average": "raw", "position": "openerf", "norm": True},
        "model",
        None,
        "linear",
        (
            "the unit is the one above and left of the middle where patches are embedded, else at "
            "h // 2",
            "the negative part is dropped after the mean over colours, image by image",
        ),
    ),
}


def own_size(config: ErfConfig) -> int | None:
    """Side of the images in the preset's publication, in pixels; None for the model's own."""
    return PRESETS[config.preset].size if config.preset else None


def prepared(preprocessing: "Preprocessing", config: ErfConfig) -> "Preprocessing":
    """How images are brought to size: the model's way, or the preset's."""
    resize = PRESETS[config.preset].resize if config.preset else "model"
    if resize == "model":
        return preprocessing
    mode = "squash" if resize == "squash" else "center"
    return replace(preprocessing, crop_mode=mode, crop_pct=1.0, interpolation="bicubic")
