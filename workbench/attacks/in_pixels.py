"""A model as an attack meets it: pixels in [0, 1] in, logits out, and how far off a mistake is."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workbench.images import preprocessing_for

LOSSES = ("margin", "cross-entropy")


class InPixels(nn.Module):
    """`model` with its normalisation inside: x (b, 3, h, w) in [0, 1] -> logits (b, classes).

    Always in evaluation mode, which also puts `model` there, and without autocast. A model in half
    precision is run as a float32 copy.

    Args:
        mean, std: per channel, of values in [0, 1]; by default those the model was trained with.

    Attributes:
        notes: what was done to the model, one sentence each.
    """

    def __init__(
        self,
        model: nn.Module,
        mean: tuple[float, float, float] | None = None,
        std: tuple[float, float, float] | None = None,
    ) -> None:
        super().__init__()
        preprocessing = preprocessing_for(model)
        notes = []
        if mean is None and std is None and preprocessing.note:
            notes.append(f"normalised by the {preprocessing.note}")
        dtypes = {p.dtype for p in model.parameters() if p.is_floating_point()}
        half = dtypes - {torch.float32, torch.float64}
        if half:
            notes.append(f"a float32 copy of the {str(half.pop()).removeprefix('torch.')} model")
            model = copy.deepcopy(model).float()
        if any(module.training for module in model.modules()):
            notes.append("the model came in training mode and was put in evaluation mode")
        self.notes = tuple(notes)
        self.model = model
        like = next(model.parameters(), torch.zeros(()))
        for name, values in (("mean", mean), ("std", std)):
            given = torch.tensor(getattr(preprocessing, name) if values is None else values)
            self.register_buffer(name, given.to(like).view(-1, 1, 1), persistent=False)
        self.eval()

    def train(self, mode: bool = True) -> "InPixels":
        return super().train(False)

    def normalised(self, x: Tensor) -> Tensor:
        """What `model` gets for x."""
        return (x.to(self.mean) - self.mean) / self.std

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            logits = self.model(self.normalised(x))
        return logits.to(self.mean)


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """(b,): the logit of the label minus the largest other one; negative where the model errs."""
    own = labels[:, None]
    others = logits.scatter(1, own, -torch.inf).amax(dim=1)
    return logits.gather(1, own)[:, 0] - others


def losses(logits: Tensor, labels: Tensor, loss: str) -> Tensor:
    """(b,): what an attack raises; minus the margin, which does not saturate, or cross-entropy."""
    if loss == "margin":
        return -margins(logits, labels)
    return F.cross_entropy(logits, labels, reduction="none")


def towards(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """(b,): the logit of the target minus that of the label; above 0 the model errs."""
    return (logits.gather(1, targets[:, None]) - logits.gather(1, labels[:, None]))[:, 0]
