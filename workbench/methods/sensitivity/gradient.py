"""First-order sensitivity: how much a relative change of the scan's tensors changes the loss.

A raw norm of dJ/dB says nothing about a model: rescaling rows of the projection (B_n * s, C_n / s)
changes it at will and changes no output. The products with the tensor itself do not.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from workbench.attacks.in_pixels import margins
from workbench.methods.sensitivity.subject import PARAMETERS, Case, Subject, row_rms
from workbench.trace import record

TENSORS = (*PARAMETERS, "A", "D")
LOSSES = ("margin", "cross-entropy")
MEASURES = ("elasticity", "linf", "l2", "signed", "raw")
"""With g = dJ/dtheta and s the row RMS of theta:

elasticity: sum |theta g|. linf: sum s |g|, the steepest rise of J for each unit of relative change
of every entry. l2: ||s g||_2, the same for a change of relative Euclidean size. signed:
sum theta g, equal for B and C by bilinearity, so it cannot rank them. raw: ||g||_2, which depends
on the gauge.
"""


def measure(case: Case) -> dict[str, Tensor]:
    """`gradient` (b, losses, sites, tensors, measures) float64; raw norms only when asked for."""
    found = sensitivities(case.subject, case.x, case.labels)
    kept = len(MEASURES) - (not case.config.raw_norms)
    return {"gradient": found[..., :kept]}


def sensitivities(subject: Subject, x: Tensor, labels: Tensor) -> Tensor:
    """(b, losses, sites, tensors, measures) float64, in the orders of the names above.

    Image by image, as A and D are shared by a batch; 0 for a D that is not there.

    Args:
        x: (b, 3, h, w) in [0, 1].
    """
    shape = (len(x), len(LOSSES), len(subject.sites), len(TENSORS), len(MEASURES))
    found = torch.zeros(shape, dtype=torch.float64)
    for i in range(len(x)):
        image, label = x[i : i + 1], labels[i : i + 1]
        with torch.enable_grad(), record(subject.model, *TENSORS, keep="graph") as seen:
            logits = subject.answer(image)
            losses = (margins(logits, label).sum(), F.cross_entropy(logits, label))
        places = [
            (s, t, name, tensors[name])
            for s, site in enumerate(subject.sites)
            for tensors in (seen[site.name],)
            for t, name in enumerate(TENSORS)
            if name in tensors
        ]
        for j, loss in enumerate(losses):
            gradients = torch.autograd.grad(
                loss, [place[-1] for place in places], retain_graph=j == 0
            )
            for (s, t, name, theta), g in zip(places, gradients, strict=True):
                found[i, j, s, t] = _measures(name, theta.detach(), g)
    return found


def _measures(name: str, theta: Tensor, g: Tensor) -> Tensor:
    theta, g = theta.double(), g.double()
    product, budget = theta * g, row_rms(name, theta) * g
    measured = (product.abs().sum(), budget.abs().sum(), budget.norm(), product.sum(), g.norm())
    return torch.stack(measured)
