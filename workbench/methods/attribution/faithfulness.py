"""Is a map of the pixels that matter right? Deletion and insertion (Petsiuk et al., RISE, arXiv
1806.07421): take pixels away, or bring them back, in the order of the map, and watch the target's
probability. Three maps that know nothing of the model are always scored beside it.
"""

from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn

BASELINES = ("mean", "blur", "black")
"""What stands for a pixel that is gone: the mean colour of the training images (zero after
normalisation), the image blurred by an eighth of its side, or black."""

REFERENCES = ("random", "gaussian", "edge")
"""Maps that look at no model: noise, a Gaussian in the middle (sigma a quarter of each side), and
the Sobel magnitude of the image. A map that is not better than these explains nothing."""


def baseline(model: nn.Module, x: Tensor, name: str) -> Tensor:
    """(n, c, h, w): x (normalised) with nothing in it.

    Raises:
        ValueError: for an unknown baseline.
    """
    if name == "mean":
        return torch.zeros_like(x)
    if name == "blur":
        sigma = min(x.shape[-2:]) / 8
        blurred = ndimage.gaussian_filter(x.detach().float().cpu().numpy(), (0, 0, sigma, sigma))
        return torch.from_numpy(blurred).to(x)
    if name == "black":
        cfg = getattr(model, "pretrained_cfg", None) or {}
        mean, std = (
            torch.tensor(cfg.get(key, 0.5)).to(x).view(-1, 1, 1) for key in ("mean", "std")
        )
        return (-mean / std).expand_as(x)
    raise ValueError(f"a baseline is one of {', '.join(BASELINES)}, not {name!r}")


def references(x: Tensor, seed: int, indices: Sequence[int]) -> np.ndarray:
    """(n, 3, h, w) float64: the maps of `REFERENCES` for images x (n, c, h, w).

    Args:
        indices: places of the images in their source, so that the noise of an image does not
            depend on how images are batched.
    """
    height, width = x.shape[-2:]
    rows, columns = ((np.arange(n) + 0.5) / n - 0.5 for n in (height, width))
    gaussian = np.exp(-8 * (rows[:, None] ** 2 + columns[None, :] ** 2))
    maps = []
    for image, index in zip(x.detach().double().cpu().numpy(), indices, strict=True):
        noise = np.random.default_rng([seed, index]).random((height, width))
        grey = image.mean(axis=0)
        edge = np.hypot(ndimage.sobel(grey, axis=0), ndimage.sobel(grey, axis=1))
        maps.append(np.stack([noise, gaussian, edge]))
    return np.stack(maps)


def ranks(maps: np.ndarray, seed: int = 0) -> np.ndarray:
    """(n, h, w) -> (n, h, w) int64: 0 for the largest value of a map; ties in random order."""
    flat = maps.reshape(len(maps), -1)
    shuffled = np.random.default_rng(seed).permutation(flat.shape[1])
    found = np.empty(flat.shape, np.int64)
    for values, places in zip(flat, found, strict=True):
        order = shuffled[np.argsort(-values[shuffled], kind="stable")]
        places[order] = np.arange(len(order))
    return found.reshape(maps.shape)


def curve(
    model: nn.Module,
    x: Tensor,
    maps: np.ndarray,
    targets: Tensor,
    base: Tensor,
    fractions: int = 20,
    insertion: bool = False,
    seed: int = 0,
    at_once: int = 32,
) -> np.ndarray:
    """The target's probability while the pixels of a map go, largest first, or with `insertion`
    while they come to the baseline.

    Args:
        x, base: (n, c, h, w). maps: (n, h, w). targets: (n).
        fractions: steps; step k has k / fractions of the pixels changed.
        at_once: images in a forward pass.

    Returns:
        (n, fractions + 1) float32.
    """
    order = torch.from_numpy(ranks(maps, seed)).to(x.device)[:, None]
    pixels = order[0].numel()
    start, end = (base, x) if insertion else (x, base)
    found = []
    with torch.no_grad():
        for k in range(fractions + 1):
            changed = torch.where(order < round(pixels * k / fractions), end, start)
            logits = torch.cat([model(part) for part in changed.split(at_once)])
            found.append(logits.softmax(dim=1).gather(1, targets[:, None])[:, 0].float())
    return torch.stack(found, dim=1).cpu().numpy()


def area(curves: np.ndarray) -> np.ndarray:
    """Area under curves (..., points) over a unit of pixels, by trapezoids: (...)."""
    found = np.trapezoid(curves.astype(np.float64), dx=1 / (curves.shape[-1] - 1), axis=-1)
    return np.asarray(found)


def compare(
    model: nn.Module,
    x: Tensor,
    maps: Tensor,
    targets: Tensor,
    base: Tensor,
    fractions: int = 20,
    seed: int = 0,
    indices: Sequence[int] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Deletion and insertion curves of maps (n, h, w) and of the `REFERENCES`.

    A good map has a low area under deletion and a high one under insertion.

    Returns:
        two arrays (n, 4, fractions + 1), the map first.
    """
    others = references(x, seed, range(len(x)) if indices is None else indices)
    every = np.concatenate([maps.detach().double().cpu().numpy()[:, None], others], axis=1)
    deletion, insertion = (
        np.stack(
            [
                curve(model, x, every[:, k], targets, base, fractions, way, seed)
                for k in range(every.shape[1])
            ],
            axis=1,
        )
        for way in (False, True)
    )
    return deletion, insertion
