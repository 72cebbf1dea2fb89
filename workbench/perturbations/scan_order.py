"""Trained scans that read their tokens in another order, or keep nothing of them.

How much of what a network answers rests on the order of its scans, and how much on their states:
the weights stay, the order or the state goes. The image is left as it is.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from workbench.trace import Site, patch


@contextmanager
def reordered(model: nn.Module, sites: Sequence[Site], seed: int = 0) -> Iterator[None]:
    """Inside the block every direction of every scan reads the cells in a random order of its own,
    one for all images; what it gives goes back to where it belongs. Steps that are no cell, such as
    those of a class token or of padding, stay where they are.

    Args:
        sites: all directions, with their paths: `workbench.scans(model, size)` of the images' size.
        seed: of the orders.
    """
    orders = {
        site.name: torch.from_numpy(random_order(site, np.random.default_rng((seed, i))))
        for i, site in enumerate(sites)
    }

    def at(places: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda x: x[..., places.to(x.device)]

    taken = {name: at(order) for name, order in orders.items()}
    put_back = {name: at(order.argsort()) for name, order in orders.items()}
    with patch(model, **dict.fromkeys(("u", "delta", "B", "C"), taken), y=put_back):
        yield


def random_order(site: Site, draw: np.random.Generator) -> np.ndarray:
    """(length,) the step that is read in the place of each, of a site that knows its path."""
    assert site.path is not None
    steps = np.arange(len(site.path.order))
    cells = site.path.order >= 0
    steps[cells] = draw.permutation(steps[cells])
    return steps


@contextmanager
def without_state(model: nn.Module) -> Iterator[None]:
    """Inside the block no token reaches another through a scan: what is left of y is D u."""
    with patch(model, B=torch.zeros_like):
        yield
