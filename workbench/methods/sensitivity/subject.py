"""What is under study: a model open to hooks, and a batch with its clean and adversarial runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from workbench.attacks.in_pixels import InPixels, margins
from workbench.attacks.pixels import AttackConfig, attack
from workbench.images import Batch
from workbench.methods.sensitivity.config import SensitivityConfig
from workbench.trace import Site, record, scans

PARAMETERS = ("B", "C", "delta", "u")
"""Scan tensors that depend on the image; A and D are weights."""
RANKED = ("B", "C", "delta")
"""Those that the published claims compare."""
Run = dict[str, dict[str, Tensor]]
"""Site name -> tensor name -> tensor, `by_image`."""


@dataclass(frozen=True)
class Subject:
    """A model that answers for pictures in [0, 1], its scans open to hooks.

    Attributes:
        model: for `record` and `patch`.
        answer: the same model behind its normalisation, (b, 3, h, w) in [0, 1] -> logits.
        sites: every direction of every scan.
    """

    model: nn.Module
    answer: nn.Module
    sites: tuple[Site, ...]

    @classmethod
    def of(cls, model: nn.Module) -> "Subject":
        """Raises ValueError for a model without a selective scan."""
        answer = InPixels(model)
        sites = tuple(scans(answer.model))
        if not sites:
            raise ValueError(
                f"{type(model).__name__} has no selective scan, so B, C and delta cannot be "
                "perturbed; attacks and perturbations of the image can be: vssm robustness"
            )
        return cls(answer.model, answer, sites)

    def margins(self, x: Tensor, labels: Tensor) -> Tensor:
        """(b,), the label's logit minus the largest other; negative where the model is wrong."""
        return margins(self.answer(x), labels)

    def recorded(self, x: Tensor) -> Run:
        """All scan tensors of a forward pass, detached, on the model's device, `by_image`."""
        with torch.no_grad(), record(self.model, keep="graph") as seen:
            self.answer(x)
        return {site: by_image(tensors, len(x)) for site, tensors in seen.items()}

    def scopes(self, which: str) -> dict[str, tuple[str, ...]]:
        """Names of sites by scope: "all", "layer" (one for each scan) or "direction" (one for each
        direction, in all layers at once)."""
        found: dict[str, tuple[str, ...]] = {}
        for site in self.sites:
            key = {"all": "all", "layer": site.module, "direction": site.direction}[which]
            found[key] = (*found.get(key, ()), site.name)
        return found

    def narrow_scopes(self) -> dict[str, tuple[str, ...]]:
        """Every layer alone and, where there are several, every direction alone."""
        directions = self.scopes("direction")
        return self.scopes("layer") | (directions if len(directions) > 1 else {})


class Case:
    """A batch under study.

    Attributes:
        subject: the model.
        x: (b, 3, h, w) float32 in [0, 1].
        labels: (b,), the given ones; where none was given, the predictions.
        labelled: (b,) whether a label was given.
        indices: places of the images in their source: what seeds depend on, not on the batch.
    """

    def __init__(self, subject: Subject, batch: Batch, config: SensitivityConfig) -> None:
        self.subject, self.config = subject, config
        pictures = torch.from_numpy(batch.pictures).to(batch.tensor.device)
        self.x = pictures.permute(0, 3, 1, 2).float() / 255
        with torch.no_grad():
            predicted = subject.answer(self.x).argmax(dim=1)
        given = torch.tensor(batch.labels or (-1,) * len(self.x)).to(predicted)
        self.labelled = given >= 0
        self.labels = torch.where(self.labelled, given, predicted)
        self.indices = batch.indices
        self._signs: dict[tuple, Tensor] = {}

    @cached_property
    def clean(self) -> Run:
        """Scan tensors of the clean run."""
        return self.subject.recorded(self.x)

    @cached_property
    def slopes(self) -> Run:
        """Gradients of the clean margins to B, C, delta and u of every site."""
        with torch.enable_grad(), record(self.subject.model, *PARAMETERS, keep="graph") as seen:
            total = self.subject.margins(self.x, self.labels).sum()
        places = [(site, name) for site in seen for name in PARAMETERS]
        found: Run = {}
        gradients = torch.autograd.grad(total, [seen[s][name] for s, name in places])
        for (site, name), gradient in zip(places, gradients, strict=True):
            found.setdefault(site, {})[name] = gradient.nan_to_num(0, 0, 0)
        return {site: by_image(of, len(self.x)) for site, of in found.items()}

    def signs(self, like: Tensor, number: int) -> Tensor:
        """Random signs of the shape of a tensor, the same for a number; drawn image by image."""
        key = number, tuple(like.shape[1:])
        if key not in self._signs:
            generators = [
                torch.Generator().manual_seed(seed * 4096 + number) for seed in self.seeds()
            ]
            bits = [torch.randint(0, 2, key[1], generator=g, dtype=torch.int8) for g in generators]
            self._signs[key] = torch.stack(bits).to(like.device) * 2 - 1
        return self._signs[key].to(like.dtype)

    @cached_property
    def twin(self) -> Tensor:
        """The adversarial images."""
        return self.attack(self.config.patching_eps_255, 0)

    def attack(self, eps_255: float, number: int) -> Tensor:
        """The images after the attack number 0, 1 ... of a distance: same number, same start."""
        seed = self.config.seed * 4096 + number
        # no targets: cuts and patching compare attacks of the same effort
        strength = AttackConfig(
            eps_255=eps_255, steps=self.config.attack_steps, targets=0, seed=seed
        )
        return attack(self.subject.answer, self.x, self.labels, strength, self.indices).x

    def seeds(self, number: int = 0) -> list[int]:
        """One for each image, for the random draw of that number."""
        words = [
            np.random.SeedSequence((self.config.seed, i, number)).generate_state(1)
            for i in self.indices
        ]
        return [int(word[0]) for word in words]

    @cached_property
    def attacked(self) -> Run:
        """Scan tensors of the adversarial run."""
        return self.subject.recorded(self.twin)

    def mean(self, values: Tensor) -> Tensor:
        """(b,) of values (b * windows, ...)."""
        return values.reshape(len(self.x), -1).mean(dim=1)

    def margins(self, x: Tensor | None = None) -> Tensor:
        """(b,) on x, or the clean images."""
        with torch.no_grad():
            return self.subject.margins(self.x if x is None else x, self.labels)


WEIGHTS = ("A", "D")
"""Scan tensors that all images share."""


def by_image(tensors: Mapping[str, Tensor], images: int) -> dict[str, Tensor]:
    """Scan tensors (images * windows, ...), windows of an image one after another, as (images,
    windows, ...); one window where a scan runs over the whole image. Weights as they are."""
    return {
        name: tensor if name in WEIGHTS else tensor.unflatten(0, (images, -1))
        for name, tensor in tensors.items()
    }


def by_scan(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The other way round: as the scan takes them."""
    return {
        name: tensor if name in WEIGHTS else tensor.flatten(0, 1)
        for name, tensor in tensors.items()
    }


def row_rms(name: str, tensor: Tensor) -> Tensor:
    """The scale of a scan tensor that relative budgets are taken from, broadcastable to it.

    Root mean square over the steps of each (image, window, channel or state) row of u, delta, B and
    C: it follows every rescaling of a row and is not zero where the tensor crosses zero. A and D
    have no steps; their own size.
    """
    if name in WEIGHTS:
        return tensor.abs()
    return tensor.square().mean(dim=-1, keepdim=True).sqrt()
