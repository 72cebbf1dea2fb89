"""Square patches for attacks that may change only a few, as Patch-Fool does (Fu et al., ICLR 2022,
arXiv 2203.08392), chosen here also by when a scan comes by them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from workbench.attacks.in_pixels import InPixels, margins
from workbench.mixing.layers import cells_and_places
from workbench.trace import find_sites, scans

ON_THE_WAY = ("first", "middle", "last")
PLACES = (*ON_THE_WAY, "centre", "random", "gradient")


def patch_mask(
    model: InPixels,
    x: Tensor,
    labels: Tensor,
    place: str,
    side: int,
    count: int = 1,
    scan: str = "*",
    seeds: Sequence[int] = (),
) -> Tensor:
    """(b, 1, h, w) of 0 and 1: the pixels of the chosen squares, which lie side by side on a grid.

    Args:
        place: first, middle or last on the way of a scan; centre of the image; random; or gradient,
            where the gradient of the margin has the largest absolute sum.
        side: of a square, in pixels.
        count: how many squares.
        scan: pattern of site names; the first direction that matches gives the way.
        seeds: of random squares, one for each image.

    Raises:
        ValueError: for squares that do not fit, or a scan that the model does not have.
    """
    height, width = x.shape[-2:]
    # from the corner, or so that one square lies in the middle
    starts = [((n - side) // 2) % side if place == "centre" else 0 for n in (height, width)]
    corners = [
        (top, left)
        for top in range(starts[0], height - side + 1, side)
        for left in range(starts[1], width - side + 1, side)
    ]
    if count > len(corners):
        raise ValueError(
            f"an image of {height} x {width} pixels has room for {len(corners)} patches of {side} "
            f"pixels, not for {count}"
        )
    if place in ON_THE_WAY:
        times = _sums(scan_times(model, (height, width), scan)[None], corners, side)[0]
        left_out = len(corners) - count
        before = {"first": 0, "middle": left_out // 2, "last": left_out}[place]
        chosen = [np.argsort(times, kind="stable")[before : before + count]] * len(x)
    elif place == "centre":
        middles = np.array(corners) + side / 2 - (height / 2, width / 2)
        chosen = [np.argsort(np.hypot(*middles.T), kind="stable")[:count]] * len(x)
    elif place == "random":
        chosen = [np.random.default_rng(s).permutation(len(corners))[:count] for s in seeds]
    else:
        sizes = _sums(_gradient_size(model, x, labels), corners, side)
        chosen = np.argsort(-sizes, axis=1, kind="stable")[:, :count]
    mask = x.new_zeros(len(x), 1, height, width)
    for image, squares in zip(mask, chosen, strict=True):
        for top, left in (corners[k] for k in squares):
            image[:, top : top + side, left : left + side] = 1
    return mask


def scan_times(model: InPixels, size: tuple[int, int], scan: str = "*") -> np.ndarray:
    """(h, w) int: the step at which a scan direction reads each pixel's cell.

    Where it scans windows, every window starts at 0.

    Raises:
        ValueError: for a model without scans, or a pattern that matches none.
    """
    inner: Any = model.model
    first = find_sites(inner, scan)[0]
    site = next(site for site in scans(inner, size) if site == first)
    if site.path is None:
        raise ValueError(f"{site.name} does not say which way it takes, so no patch follows it")
    cells, places = cells_and_places(inner, site.module, site.path, size)
    steps = np.full(cells, -1)
    windows, times = np.nonzero(places >= 0)
    steps.flat[places[windows, times]] = times
    rows, columns = (np.arange(n) * m // n for n, m in zip(size, steps.shape, strict=True))
    return steps[rows][:, columns]


def _gradient_size(model: InPixels, x: Tensor, labels: Tensor) -> np.ndarray:
    """(b, h, w): the absolute gradient of the margin, summed over colours."""
    with torch.enable_grad():
        pixels = x.detach().requires_grad_()
        found = margins(model(pixels), labels).sum()
        (gradient,) = torch.autograd.grad(found, pixels)
    return gradient.abs().sum(dim=1).double().cpu().numpy()


def _sums(maps: np.ndarray, corners: list[tuple[int, int]], side: int) -> np.ndarray:
    """(n, h, w) -> (n, squares)."""
    sums = [maps[:, a : a + side, b : b + side].sum(axis=(1, 2)) for a, b in corners]
    return np.stack(sums, axis=1)
