"""Does a map depend on what the network has learnt? Model randomisation (Adebayo et al., Sanity
checks for saliency maps, NeurIPS 2018, arXiv 1810.03292): the weights are destroyed from the output
back, and a map that stays as it was explains the image and not the network.
"""

from collections.abc import Callable
from copy import deepcopy

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor, nn

SHARES = (0.25, 0.5, 0.75, 1.0)
"""Of the weights' tensors, counted from the output."""


def shuffled(model: nn.Module, share: float, seed: int) -> nn.Module:
    """A copy whose last tensors of weights have their entries in random order.

    Shuffled rather than drawn anew, every tensor keeps its scale and sign, such as decays that must
    stay decays, whatever the model. A larger share shuffles the tensors of a smaller one alike.
    """
    other = deepcopy(model)
    weights = list(other.parameters())[::-1]
    for number, weight in enumerate(weights[: round(share * len(weights))]):
        random = torch.Generator().manual_seed(seed * 65536 + number)
        order = torch.randperm(weight.numel(), generator=random).to(weight.device)
        weight.data = weight.data.flatten()[order].view_as(weight)
    return other


def similarity(
    model: nn.Module, maps: Tensor, mapped: Callable[[nn.Module], Tensor], seed: int
) -> np.ndarray:
    """Spearman's correlation of the sizes of maps (n, h, w) with those of the same method on the
    shuffled networks of `SHARES`: (n, shares) float32 in [-1, 1], nan for a map without contrast.

    Args:
        mapped: maps of a network for the same images and targets.
    """
    found = [_spearman(maps, mapped(shuffled(model, share, seed))) for share in SHARES]
    return np.stack(found, axis=1).astype(np.float32)


def _spearman(a: Tensor, b: Tensor) -> np.ndarray:
    ranks = [rankdata(x.detach().abs().flatten(1).double().cpu().numpy(), axis=1) for x in (a, b)]
    x, y = (r - r.mean(axis=1, keepdims=True) for r in ranks)
    norm = np.sqrt((x**2).sum(axis=1) * (y**2).sum(axis=1))
    return np.divide((x * y).sum(axis=1), norm, out=np.full(len(x), np.nan), where=norm > 0)
