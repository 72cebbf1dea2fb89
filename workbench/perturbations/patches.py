"""Images with parts taken away or moved, in an order that may be that of a scan.

Images are (b, 3, h, w) float in [0, 1], cut into a grid of n x n patches that are numbered along
rows. An order says which patch goes first; taking away the first patches along a scan path takes
its beginning, and along the reversed path its end. Patch drop and shuffle: Naseer et al., NeurIPS
2021, arXiv 2105.10497; information drop: Malik et al., arXiv 2406.09407. Here every image has draws
of its own, which depend on the seed and the image's index only.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor, nn

from workbench.paths import covering_paths

FILLS = ("black", "mean", "blur")
"""What stands for a pixel that is gone: black (which no photograph is), the mean colour of the
training images, or the image blurred by an eighth of its side."""

GRIDS = (2, 4, 7, 8, 14, 16, 28)
"""Patches along a side for the patch shuffle."""

PROFILES = {
    "rise": lambda t: t,
    "middle": lambda t: 1 - np.abs(2 * t - 1),
    "ends": lambda t: np.abs(2 * t - 1),
    "even": lambda t: np.full_like(t, 0.5),
}
"""How the share of lost pixels goes along the scan, from t = 0 to t = 1: a linear rise, most in the
middle, least in the middle, or the same everywhere (the control). The mean is 1/2 in each, so that
equally many pixels are lost."""


def check_grid(grid: int, height: int, width: int) -> None:
    """Raise ValueError unless `grid` patches fit along both sides of an image."""
    if grid < 1 or height % grid or width % grid:
        raise ValueError(
            f"{height} x {width} pixels cannot be cut into {grid} x {grid} equal patches; choose a "
            "grid that divides both sides"
        )


def filling(x: Tensor, fill: str, colour: Sequence[float]) -> Tensor:
    """(b, 3, h, w): what stands for the pixels of x that are gone.

    Args:
        fill: one of `FILLS`.
        colour: mean colour of the training images, in [0, 1].

    Raises:
        ValueError: for an unknown fill.
    """
    if fill == "black":
        return torch.zeros_like(x)
    if fill == "mean":
        return torch.tensor(colour).to(x).view(3, 1, 1).expand_as(x)
    if fill == "blur":
        sigma = min(x.shape[-2:]) / 8
        blurred = ndimage.gaussian_filter(x.detach().cpu().numpy(), (0, 0, sigma, sigma))
        return torch.from_numpy(blurred).to(x)
    raise ValueError(f"fill must be one of {', '.join(FILLS)}, not {fill!r}")


def path_order(path: str, grid: int, count: int) -> Tensor:
    """(count, grid * grid) int64: the patches along a scan path, the same for every image.

    `radial` goes in rings from the centre outwards, `radial-reversed` inwards.

    Raises:
        ValueError: for a path that does not visit every patch once.
    """
    (found,) = covering_paths((path,), grid, grid)
    return torch.from_numpy(found.order.astype(np.int64)).expand(count, -1)


def random_order(indices: Sequence[int], grid: int, seed: int = 0) -> Tensor:
    """(b, grid * grid) int64: for each image, by its index, an order of its own."""
    orders = [np.random.default_rng((seed, i, grid)).permutation(grid * grid) for i in indices]
    return torch.from_numpy(np.stack(orders))


def salient_order(model: nn.Module, x: Tensor, labels: Tensor, grid: int) -> Tensor:
    """(b, grid * grid) int64: patches by falling gradient mass.

    The mass of a patch is the sum over its pixels and colours of the absolute gradient of the
    label's logit.

    Args:
        model: from images in [0, 1] to logits.
        labels: (b,) int64.

    Raises:
        ValueError: when the grid does not divide the image.
    """
    check_grid(grid, *x.shape[-2:])
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        score = model(x).gather(1, labels[:, None]).sum()
        (gradient,) = torch.autograd.grad(score, x)
    mass = F.avg_pool2d(gradient.abs().sum(1), (x.shape[-2] // grid, x.shape[-1] // grid))
    return mass.flatten(1).argsort(dim=1, descending=True, stable=True)


def drop(x: Tensor, instead: Tensor, order: Tensor, share: float) -> Tensor:
    """x without the first `share` of the patches of an order, rounded to whole patches.

    Args:
        instead: what stands there, see `filling`.
        order: (b, n * n), for a grid of n.

    Raises:
        ValueError: when the grid does not divide the image.
    """
    grid = round(order.shape[1] ** 0.5)
    gone = torch.zeros(order.shape, dtype=torch.bool)
    gone.scatter_(1, order.cpu()[:, : round(share * order.shape[1])], True)
    return torch.where(_per_pixel(gone.unflatten(1, (grid, grid)), x), instead, x)


def shuffle(x: Tensor, grid: int, indices: Sequence[int], seed: int = 0) -> Tensor:
    """x with its patches in a random arrangement, another one for each image.

    Raises:
        ValueError: when the grid does not divide the image.
    """
    height, width = x.shape[-2:]
    check_grid(grid, height, width)
    rows, columns = height // grid, width // grid
    patches = x.unflatten(3, (grid, columns)).unflatten(2, (grid, rows))  # (b, 3, n, r, n, c)
    patches = patches.transpose(3, 4).flatten(2, 3)
    order = random_order(indices, grid, seed).to(x.device)
    moved = patches.take_along_dim(order[:, None, :, None, None], dim=2)
    return moved.unflatten(2, (grid, grid)).transpose(3, 4).flatten(4, 5).flatten(2, 3)


def lose_pixels(
    x: Tensor,
    instead: Tensor,
    order: Tensor,
    profile: str,
    share: float,
    indices: Sequence[int],
    seed: int = 0,
) -> Tensor:
    """x without some pixels of every patch, as many as the patch's place in the order asks for.

    Args:
        instead, order: as in `drop`.
        profile: one of `PROFILES`.
        share: of all pixels, up to 0.5; the patch that loses most loses twice as much.
        indices: of the images in their source.

    Raises:
        ValueError: for an unknown profile, a share beyond 0.5, or a grid that does not divide the
            image.
    """
    if profile not in PROFILES:
        raise ValueError(f"profile must be one of {', '.join(PROFILES)}, not {profile!r}")
    if not 0 <= share <= 0.5:
        raise ValueError(f"the share of lost pixels must be from 0 to 0.5, not {share}")
    grid = round(order.shape[1] ** 0.5)
    height, width = x.shape[-2:]
    check_grid(grid, height, width)
    rows, columns = height // grid, width // grid
    along = 2 * share * PROFILES[profile]((np.arange(grid * grid) + 0.5) / grid**2)
    counts = np.rint(along * rows * columns).astype(np.int64)
    lost = np.empty((len(x), height, width), bool)
    for row, (index, places) in enumerate(zip(indices, order.cpu().numpy(), strict=True)):
        wanted = np.empty_like(counts)
        wanted[places] = counts
        rng = np.random.default_rng((seed, index, grid))
        ranks = rng.random((grid * grid, rows * columns)).argsort(axis=1).argsort(axis=1)
        gone = (ranks < wanted[:, None]).reshape(grid, grid, rows, columns)
        lost[row] = gone.swapaxes(1, 2).reshape(height, width)
    return torch.where(torch.from_numpy(lost)[:, None].to(x.device), instead, x)


def _per_pixel(cells: Tensor, x: Tensor) -> Tensor:
    """(b, n, n) of patches -> (b, 1, h, w) of the pixels of x."""
    grid = cells.shape[-1]
    height, width = x.shape[-2:]
    check_grid(grid, height, width)
    full = cells.repeat_interleave(height // grid, 1).repeat_interleave(width // grid, 2)
    return full[:, None].to(x.device)
