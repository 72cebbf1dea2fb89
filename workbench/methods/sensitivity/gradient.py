"""First-order sensitivity: how much a relative change of the scan's tensors changes the loss.

A raw norm of dJ/dB says nothing about a model: rescaling rows of the projection (B_n * s, C_n / s)
changes it at will and changes no output. The products with the tensor itself do not.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from workbench.attacks.in_pixels import margins
from workbench.kernels import selective_scan
from workbench.methods.sensitivity.subject import PARAMETERS, Case, Subject, by_image, row_rms
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
    """(b, losses, sites, tensors, measures) float64, in the orders of the names above; 0 for a D
    that is not there.

    Args:
        x: (b, 3, h, w) in [0, 1].
    """
    shape = (len(x), len(LOSSES), len(subject.sites), len(TENSORS), len(MEASURES))
    found = torch.zeros(shape, dtype=torch.float64)
    with torch.enable_grad(), record(subject.model, keep="graph") as seen:
        logits = subject.answer(x)
        losses = margins(logits, labels), F.cross_entropy(logits, labels, reduction="none")
    asked = (*PARAMETERS, "y")
    places = [(site.name, name) for site in subject.sites for name in asked]
    for j, loss in enumerate(losses):
        inputs = [seen[site][name] for site, name in places]
        gradients = torch.autograd.grad(loss.sum(), inputs, retain_graph=j == 0)
        slopes = dict(zip(places, gradients, strict=True))
        for s, site in enumerate(subject.sites):
            tensors = {name: tensor.detach() for name, tensor in seen[site.name].items()}
            of = {name: slopes[site.name, name] for name in asked}
            weights = _of_weights(tensors, of["y"])
            tensors, of = by_image(tensors, len(x)), by_image(of, len(x))
            of |= {name: g.unflatten(0, (len(x), -1)).sum(dim=1) for name, g in weights.items()}
            for t, name in enumerate(TENSORS):
                if name in of:
                    found[:, j, s, t] = _measures(name, tensors[name], of[name])
    return found


def _of_weights(tensors: Mapping[str, Tensor], slope: Tensor) -> dict[str, Tensor]:
    """dJ/dA (b, d, n) and, where there is a D, dJ/dD (b, d) of every image or window, which a batch
    shares.

    Args:
        slope: dJ/dy, (b, d, l).
    """
    u, delta, A, B, C = (tensors[name] for name in ("u", "delta", "A", "B", "C"))
    # the images one below the other as channels of one image, each with an A and a group of its own
    images = len(u)
    A = A.repeat(images, 1).requires_grad_()
    with torch.enable_grad():
        y = selective_scan(u.flatten(0, 1)[None], delta.flatten(0, 1)[None], A, B[None], C[None])
    (found,) = torch.autograd.grad(y, A, slope.flatten(0, 1)[None])
    weights = {"A": found.unflatten(0, (images, -1))}
    return weights | ({"D": (slope * u).sum(dim=-1)} if "D" in tensors else {})


def _measures(name: str, theta: Tensor, g: Tensor) -> Tensor:
    """(b, measures) of theta, with or without a batch, and its gradients (b, ...)."""
    theta, g = theta.double(), g.double()
    product, budget = (theta * g).flatten(1), (row_rms(name, theta) * g).flatten(1)
    measured = (
        product.abs().sum(dim=1),
        budget.abs().sum(dim=1),
        budget.norm(dim=1),
        product.sum(dim=1),
        g.flatten(1).norm(dim=1),
    )
    return torch.stack(measured, dim=1)
