"""The selective scan as a module, and the way from an image to scan order and back."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels import cross_selective_scan, selective_scan, softplus
from kernels.autograd import is_traced
from kernels.reference import sum_of_directions
from workbench.paths import CLASS_TOKEN, ScanPath, covering_paths


class SelectiveScan(nn.Module):
    """The scan of one layer, all its directions in one call.

    It holds no parameters. Models call `cross`, which leaves every token in its place. When
    somebody listens, with PyTorch's own hooks on this module
    (`register_forward_pre_hook(..., with_kwargs=True)`), the same numbers are computed through
    `forward`: u, delta (after softplus), A, B, C and D of every direction in scan order come in as
    keywords that a hook can read and replace, and a forward hook reaches y.
    `workbench.record` and `workbench.patch` are made of these hooks.

    Directions are the groups of the scan: channels `k * d ... (k + 1) * d - 1` of u, delta and y
    and group k of B and C belong to `directions[k]`, in that direction's scan order.
    """

    def __init__(self, directions: Sequence[str], backend: str = "auto") -> None:
        super().__init__()
        self.directions = tuple(directions)
        self.backend = backend

    @property
    def observed(self) -> bool:
        """Whether somebody listens, so that the tensors have to pass through `forward`."""
        return bool(self._forward_hooks or self._forward_pre_hooks)

    def cross(
        self,
        *,
        u: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None = None,
        delta_bias: Tensor | None = None,
        grid: tuple[int, int],
        class_token: int | None = None,
    ) -> Tensor:
        """Scan tokens along the k directions and add what comes out, in token order.

        Args:
            u: (b, l, d) for all directions, or (b, l, k, d) with one for each.
            delta: (b, l, k, d), the step size before bias and softplus.
            A: (k * d, n), negative.
            B, C: (b, l, k, n).
            D, delta_bias: (k * d) or None.
            grid: (rows, columns) of the tokens, beside a class token.
            class_token: the class token's place among the l tokens, None without one.

        Returns:
            y: (b, l, d).

        Raises:
            ValueError: for a direction that does not visit every cell of the grid.
        """
        order = token_order(self.directions, grid, class_token, u.device)
        if not self.observed:
            return cross_selective_scan(
                u, delta, A, B, C, D,
                paths=order, delta_bias=delta_bias, delta_softplus=True, backend=self.backend,
            )  # fmt: skip

        batch, tokens, k, d = delta.shape
        if delta_bias is not None:
            delta = delta + delta_bias.unflatten(0, (k, d))
        delta = softplus(delta.flatten(2), backend=self.backend).unflatten(2, (k, d))
        rows = (order.T.long() * k + torch.arange(k, device=u.device)).flatten()
        places = rows.argsort()
        paths = covering_paths(self.directions, *grid, class_token=class_token)

        def along(x: Tensor) -> Tensor:
            return _Rearranged.apply(x.flatten(1, 2), rows, places).unflatten(1, (tokens, k))

        u = along(u if u.ndim == 4 else u.unsqueeze(2).expand(-1, -1, k, -1))
        y = self(
            u=u.flatten(2).transpose(1, 2),
            delta=along(delta).flatten(2).transpose(1, 2),
            A=A,
            B=along(B).permute(0, 2, 3, 1),
            C=along(C).permute(0, 2, 3, 1),
            D=D,
            paths=paths,
        )
        y = y.transpose(1, 2).reshape(batch, tokens * k, d)
        return sum_of_directions(_Rearranged.apply(y, places, rows).unflatten(1, (tokens, k)))

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


def token_order(
    directions: Sequence[str],
    grid: tuple[int, int],
    class_token: int | None,
    device: torch.device,
) -> Tensor:
    """(k, l) int32: the token that each direction visits at each step, the class token included.

    Raises:
        ValueError: for a direction that does not visit every cell of the grid.
    """
    names, (height, width) = " ".join(directions), grid
    if torch.jit.is_tracing():  # there sizes are tensors, and a table is a constant
        height, width = int(height), int(width)
        place = None if class_token is None else int(class_token)
        state = torch._C._get_tracing_state()
        torch._C._set_tracing_state(None)
        try:
            return _kept_order(names, height, width, place, device)
        finally:
            torch._C._set_tracing_state(state)
    # What is made inside a trace is a part of it, and the sizes may be symbols.
    make = _traced_order if is_traced() else _kept_order
    return make(names, height, width, class_token, device)


@lru_cache(maxsize=256)
def _kept_order(
    names: str, height: int, width: int, class_token: int | None, device: torch.device
) -> Tensor:
    with torch.inference_mode(False):  # it is kept, and serves passes with gradients too
        return torch.from_numpy(_order(names, height, width, class_token)).to(device)


def _order(names: str, height: int, width: int, class_token: int | None) -> np.ndarray:
    paths = covering_paths(names.split(), height, width, class_token=class_token)
    table = np.stack([path.order for path in paths])
    if class_token is not None:
        table = np.where(table == CLASS_TOKEN, class_token, table + (table >= class_token))
    return table.astype(np.int32)


@torch.library.custom_op(
    "vssm::token_order",
    mutates_args=(),
    schema="(str names, SymInt height, SymInt width, SymInt? class_token, Device device) -> Tensor",
)
def _traced_order(names, height, width, class_token, device):
    return _kept_order(names, height, width, class_token, device).clone()


@_traced_order.register_fake
def _(names, height, width, class_token, device):
    length = height * width + (class_token is not None)
    return torch.empty(len(names.split()), length, dtype=torch.int32, device=device)


class _Rearranged(torch.autograd.Function):
    """x[:, rows] for a permutation of the rows of x (b, rows, d) and its inverse.

    Its gradient reads by the inverse. That of an index would add up at places, which is slower.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, rows: Tensor, inverse: Tensor) -> Tensor:
        return x.index_select(1, rows)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        _, rows, inverse = inputs
        ctx.save_for_backward(rows, inverse)
        ctx.save_for_forward(rows, inverse)

    @staticmethod
    def backward(ctx, dy):
        rows, inverse = ctx.saved_tensors
        return _Rearranged.apply(dy, inverse, rows), None, None

    @staticmethod
    def jvp(ctx, dx, *_):
        rows, _ = ctx.saved_tensors
        return dx.index_select(1, rows)


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
    return sum_of_directions(torch.stack(images, dim=2))
