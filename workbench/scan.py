"""The selective scan as a module, and the way from an image to scan order and back."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels import selective_scan
from workbench.paths import ScanPath


class SelectiveScan(nn.Module):
    """The scan of one layer, all its directions in one call.

    It holds no parameters. Because it is called with keywords, PyTorch's own hooks
    (`register_forward_pre_hook(..., with_kwargs=True)`) reach and replace u, delta, A, B, C and D
    of every layer, and a forward hook reaches y; `workbench.record` and `workbench.patch` are made
    of these. Directions are the groups of the scan: channels `k * d ... (k + 1) * d - 1` of u,
    delta and y and group k of B and C belong to `directions[k]`, in that direction's scan order.
    """

    def __init__(self, directions: Sequence[str], backend: str = "auto") -> None:
        super().__init__()
        self.directions = tuple(directions)
        self.backend = backend

    def forward(
        self,
        *,
        u: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None = None,
        paths: Sequence[ScanPath] = (),
    ) -> Tensor:
        """h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t and y_t = C_t h_t + D u_t.

        Args:
            u: (b, k * d, l), the sequences.
            delta: (b, k * d, l), the step size, after softplus.
            A: (k * d, n), negative.
            B, C: (b, k, n, l).
            D: (k * d) or None.
            paths: the k paths the sequences follow; not used here, but there for hooks to read.

        Returns:
            y: (b, k * d, l).
        """
        y = selective_scan(u, delta, A, B, C, D, backend=self.backend)
        assert isinstance(y, Tensor)  # a pair only when the last state is asked for
        return y

    def extra_repr(self) -> str:
        return ", ".join(self.directions)


class Gate(nn.Module):
    """y * SiLU(z), as a module so that hooks reach both factors."""

    def forward(self, *, y: Tensor, z: Tensor) -> Tensor:
        return y * F.silu(z)


def to_scan_order(x: Tensor, path: ScanPath) -> Tensor:
    """(b, c, h, w) in image order -> (b, c, l) along `path`."""
    if path.is_transposed is None:
        return x.flatten(2)[..., torch.from_numpy(path.order.copy()).to(x.device)]
    x = (x.transpose(2, 3) if path.is_transposed else x).flatten(2)
    return x.flip(-1) if path.is_reversed else x


def to_image_order(y: Tensor, path: ScanPath) -> Tensor:
    """(b, c, l) along `path` -> (b, c, h, w); a path must visit every cell once."""
    if path.is_transposed is None:
        y = y[..., torch.from_numpy(path.inverse.copy()).to(y.device)]
        return y.unflatten(2, (path.height, path.width))
    if path.is_reversed:
        y = y.flip(-1)
    if path.is_transposed:
        return y.unflatten(2, (path.width, path.height)).transpose(2, 3)
    return y.unflatten(2, (path.height, path.width))


def cross_scan(x: Tensor, paths: Sequence[ScanPath]) -> Tensor:
    """(b, c, h, w) -> (b, k, c, l): the image along each of k paths."""
    return torch.stack([to_scan_order(x, path) for path in paths], dim=1)


def cross_merge(y: Tensor, paths: Sequence[ScanPath]) -> Tensor:
    """(b, k, c, l) -> (b, c, h, w): each sequence back in its place, summed over the k paths."""
    # `unbind` and not indexing: the gradient of an index is a zero tensor of the size of y.
    images = [to_image_order(part, path) for part, path in zip(y.unbind(1), paths, strict=True)]
    # Sums within one orientation first: adding a transposed tensor is the slow addition.
    sums: dict[bool | None, Tensor] = {}
    for image, path in zip(images, paths, strict=True):
        known = sums.get(path.is_transposed)
        sums[path.is_transposed] = image if known is None else known + image
    merged, *others = sums.values()
    for other in others:
        merged = merged + other
    return merged
