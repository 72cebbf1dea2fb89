"""Cut the gradient of B, C, delta or u while an image is attacked; the answers stay the same.

Read both ways. Accuracy that rises under a cut: the attacker was using this path. Accuracy that
falls: the whole gradient was led astray by it, which is masking and no defence. What a model
withstands is the minimum over all cuts.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from workbench.methods.sensitivity.config import SensitivityConfig
from workbench.methods.sensitivity.subject import PARAMETERS, RANKED, Case, Subject
from workbench.trace import patch

JOINT = ((), *((name,) for name in PARAMETERS), ("B", "C"), RANKED, PARAMETERS)


@dataclass(frozen=True)
class Cut:
    """Tensors whose gradient is cut, at the sites of a scope ("all", or a layer's module)."""

    tensors: tuple[str, ...]
    scope: str
    sites: tuple[str, ...]

    @property
    def name(self) -> str:
        return " + ".join(self.tensors) or "none"


def rows(subject: Subject, config: SensitivityConfig) -> list[Cut]:
    """Nothing, every tensor alone and the sets of `JOINT` in all layers; then, where narrow scopes
    are asked for, B, C and delta in every layer."""
    scopes = subject.scopes("all").items()
    found = [Cut(names, scope, sites) for scope, sites in scopes for names in JOINT]
    layers = subject.scopes("layer") if config.narrow else {}
    return found + [
        Cut((name,), scope, sites) for scope, sites in layers.items() for name in RANKED
    ]


@contextmanager
def without_gradient(subject: Subject, cut: Cut) -> Iterator[None]:
    """Inside the block no gradient passes the cut tensors; their values are what they were."""
    if not cut.tensors:
        yield
        return
    with patch(subject.model, list(cut.sites), **dict.fromkeys(cut.tensors, Tensor.detach)):
        yield


def measure(case: Case) -> dict[str, Tensor]:
    """`cut` (b, cuts, seeds): margin of the intact model on images attacked without the cut
    gradients; cuts in one layer have the first seed only, the rest nan. `alignment` (b, cuts, 2):
    cosine between the cut input gradient of the margin and the whole one, and the norm of what was
    cut off over that of the whole."""
    config = case.config
    margins, alignments = [], []
    whole = _gradient(case, Cut((), "all", ()))
    for cut in rows(case.subject, config):
        seeds = config.attack_seeds if cut.scope == "all" else 1
        found = [_margin_after(case, cut, i) for i in range(seeds)]
        missing = torch.full_like(found[0], torch.nan)
        margins.append(torch.stack(found + [missing] * (config.attack_seeds - seeds), dim=1))
        alignments.append(_alignment(whole, _gradient(case, cut)))
    return {"cut": torch.stack(margins, dim=1), "alignment": torch.stack(alignments, dim=1)}


def _margin_after(case: Case, cut: Cut, number: int) -> Tensor:
    with without_gradient(case.subject, cut):
        found = case.attack(case.config.cut_eps_255, number)
    return case.margins(found)


def _gradient(case: Case, cut: Cut) -> Tensor:
    x = case.x.detach().requires_grad_()
    with torch.enable_grad(), without_gradient(case.subject, cut):
        (found,) = torch.autograd.grad(case.subject.margins(x, case.labels).sum(), x)
    return found.flatten(1)


def _alignment(whole: Tensor, left: Tensor) -> Tensor:
    tiny = torch.finfo(whole.dtype).tiny
    norm = whole.norm(dim=1)
    cosine = (whole * left).sum(dim=1) / (norm * left.norm(dim=1)).clamp(min=tiny)
    return torch.stack([cosine, (whole - left).norm(dim=1) / norm.clamp(min=tiny)], dim=1)
