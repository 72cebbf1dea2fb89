"""How an attribution is made and checked."""

from dataclasses import dataclass
from typing import Literal

from workbench.methods.method import IntervalConfig

METHODS = {
    "saliency": "|gradient| of the logit, summed over colours",
    "input-x-gradient": "input times gradient of the logit, summed over colours",
    "integrated-gradients": "input minus baseline times the mean gradient between them",
    "occlusion": "fall of the logit when a patch is replaced by the baseline",
    "grad-cam": "feature maps weighted by their mean gradient, positive part",
    "raw-attention": "hidden attention of Vim's class token, mean over layers",
    "rollout": "hidden attention of Vim, multiplied over layers",
    "mamba-attribution": "the same, weighted by gradients of the residual stream",
}
"""The methods and what their maps show."""


Map = Literal[
    "saliency",
    "input-x-gradient",
    "integrated-gradients",
    "occlusion",
    "grad-cam",
    "raw-attention",
    "rollout",
    "mamba-attribution",
]
"""The maps, by the methods that make them."""


@dataclass(frozen=True)
class AttributionConfig(IntervalConfig):
    """How an attribution is made and checked.

    Attributes:
        method: one of saliency, input-x-gradient, integrated-gradients, occlusion, grad-cam, and
            for Vim raw-attention, rollout, mamba-attribution.
        target: the class asked about: predicted, label, or a class number.
        stage: for grad-cam, the stage whose map is used, 1 to 4. By default the last one that the
            prediction reads in all places: that is the one before the last block where a class
            token is read.
        layer: for grad-cam, the path of a module instead.
        start: for Vim's maps, the first layer; by default 5/8 of the depth.
        as_published: Vim's maps with their published slips.
        baseline: what stands for "nothing there": mean (the mean colour of the training images),
            blur (the image, blurred) or black.
        steps: points of the path of integrated gradients.
        patch: side of the occluding patch in pixels; by default an eighth of the image.
        faithfulness: also measure deletion and insertion, with three baselines.
        fractions: points of a deletion or insertion curve.
        randomisation: also measure how alike the maps of networks with shuffled weights are.
        perturbations: samples for infidelity and max-sensitivity; 0 leaves them out.
        keep: images whose maps are kept.
        chunk: images measured at a time.
    """

    method: Map = "integrated-gradients"
    target: str = "predicted"
    stage: int | None = None
    layer: str | None = None
    start: int | None = None
    as_published: bool = False
    baseline: Literal["mean", "blur", "black"] = "mean"
    steps: int = 32
    patch: int | None = None
    faithfulness: bool = True
    fractions: int = 20
    randomisation: bool = False
    perturbations: int = 0
    keep: int = 16
    chunk: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.target not in ("predicted", "label") and not self.target.isdecimal():
            raise ValueError(
                f"target must be predicted, label or a class number, not {self.target!r}"
            )
        self.at_least(stage=1, steps=1, fractions=1, keep=1, chunk=1)
