"""The axes of a tensor over the image, and its tensors in the output of a module."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Refused:
    """Why an output is no map, or none that is known.

    Attributes:
        maybe: whether it may be one.
        axes: whether it would help to name its axes.
    """

    reason: str
    maybe: bool = False
    axes: bool = False


@dataclass(frozen=True, eq=False)
class Layout:
    """The axes of one tensor in the output of a module.

    Attributes:
        leaf: its place among the tensors of the output.
        shape: of one image.
        batch: axis of the images.
        places: axes of (rows, columns), or of (tokens,).
        grid: (rows, columns).
        cells: (rows * columns,) the token of each cell, row by row; None without tokens.
        windows: of one image, next to each other on the batch axis; their tokens are counted on.
    """

    leaf: int
    shape: Shape
    batch: int
    places: tuple[int, ...]
    grid: tuple[int, int]
    cells: Tensor | None = None
    windows: int = 1

    def map_of(self, output: Any) -> Tensor:
        """(b, c, rows, columns) of what the module returned."""
        x = self._ordered(tensors(output)[self.leaf])
        x = x.flatten(1, -1 - len(self.places)) if x.ndim > 1 + len(self.places) else x[:, None]
        return x if self.cells is None else x[..., self.cells.to(x.device)].unflatten(-1, self.grid)

    def others_of(self, output: Any) -> Tensor:
        """(b, c, k) the tokens that are of no cell, such as class tokens, in their order."""
        x = self._ordered(tensors(output)[self.leaf])
        if self.cells is None or self.windows > 1:  # where tokens of no cell are padding
            return x.new_empty(len(x), 0, 0)
        rest = torch.ones(x.shape[-1], dtype=torch.bool)
        rest[self.cells] = False
        return x.flatten(1, -2)[..., rest.to(x.device)]

    def plus(self, output: Any, change: Tensor) -> Any:
        """What the module returned with a change (b, c, rows, columns) added to the map."""
        leaves, spec = tree_flatten(output)
        at = [i for i, leaf in enumerate(leaves) if _is_map(leaf)][self.leaf]
        ordered = self._ordered(leaves[at])
        if self.cells is not None:
            wide = change.new_zeros(*change.shape[:2], ordered.shape[-1])
            change = wide.index_copy(2, self.cells.to(change.device), change.flatten(2))
        change = change.reshape(ordered.shape)
        leaves[at] = leaves[at] + change.movedim(*reversed(self._moves))
        return tree_unflatten(leaves, spec)

    def fits(self, output: Any) -> bool:
        """Whether an output has this layout."""
        found = tensors(output)
        shape = found[self.leaf].shape if self.leaf < len(found) else ()
        return len(shape) == len(self.shape) and all(
            n == own or axis == self.batch
            for axis, (n, own) in enumerate(zip(shape, self.shape, strict=True))
        )

    @property
    def _moves(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return (self.batch, *self.places), (0, *range(-len(self.places), 0))

    def _ordered(self, x: Tensor) -> Tensor:
        """(b, channels ..., places)."""
        x = x.movedim(*self._moves)
        if self.windows == 1:
            return x
        return x.unflatten(0, (-1, self.windows)).movedim(1, -2).flatten(-2)


def _is_map(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.ndim > 2


def tensors(output: Any) -> list[Tensor]:
    """The tensors in lists, tuples and dicts that have more axes than scores."""
    return [leaf for leaf in tree_flatten(output)[0] if _is_map(leaf)]
