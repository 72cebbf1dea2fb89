"""How what a module returns lies over the image: which of its axes is what.

The number of axes says nothing. Two blank images at once, one of another height and one of another
width go through the model: the axis that follows the number of images is the batch, those that
follow height and width are rows and columns, one that follows both holds tokens, the others are
channels. Where a model takes images of one size only, the kind of the module decides, and else
what the shape allows. Where tokens lie is found by changing bands of the image.
"""

import weakref
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from workbench.hooks import hooks, stop_after, stopping
from workbench.models import backbone_of
from workbench.scan import SelectiveScan

Shape = tuple[int, ...]

_FIRST = (
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._BatchNorm,
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
    nn.GroupNorm,
    nn.PixelShuffle,
    nn.PixelUnshuffle,
    nn.Upsample,
)
_LAST = (nn.Linear, nn.LayerNorm, nn.RMSNorm, nn.Embedding)
_BANDS = 4


@dataclass(frozen=True)
class Refused:
    """Why an output is no map, or none that is known; `open` where naming its axes would help."""

    reason: str
    open: bool = False


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
    """

    leaf: int
    shape: Shape
    batch: int
    places: tuple[int, ...]
    grid: tuple[int, int]
    cells: Tensor | None = None

    def map_of(self, output: Any) -> Tensor:
        """(b, c, rows, columns) of what the module returned."""
        x = self._ordered(tensors(output)[self.leaf])
        x = x.flatten(1, -1 - len(self.places)) if x.ndim > 1 + len(self.places) else x[:, None]
        return x if self.cells is None else x[..., self.cells.to(x.device)].unflatten(-1, self.grid)

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
        return x.movedim(*self._moves)


def _is_map(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.ndim > 2


def tensors(output: Any) -> list[Tensor]:
    """The tensors in lists, tuples and dicts that have more axes than scores."""
    return [leaf for leaf in tree_flatten(output)[0] if _is_map(leaf)]


Take = Callable[[nn.Module, tuple, dict, Any], Any]


class Passes:
    """Passes of images of one size through a model, each made when it is needed first.

    Args:
        x: (b, c, h, w), of which only size, device and dtype matter.
        watched: the modules to look at.
        of_input: look at what enters them, not at what they return.
    """

    def __init__(
        self, model: nn.Module, x: Tensor, watched: Mapping[str, nn.Module], of_input: bool = False
    ) -> None:
        self.model, self.like, self.of_input = model, x.detach(), of_input
        self.watched = watched
        self.lists: set[str] = set()  # modules that return lists
        self.shapes = self._shapes(1, 1, 1)
        self._others: dict[tuple[float, float, int], dict[str, list[Shape]] | None] = {}
        self._places: dict[tuple[int, int, int], tuple[Tensor, Tensor] | None] = {}

    @property
    def size(self) -> tuple[int, int]:
        return self.like.shape[-2], self.like.shape[-1]

    def taken(self, module: nn.Module, args: tuple, output: Any) -> Any:
        """What is looked at of a call."""
        if self.of_input:
            return args[0] if args else None
        name = next((n for n, m in self.watched.items() if m is module), "")
        return backbone_of(self.model).block_output(name, output)

    def other(self, height: float, width: float, batch: int) -> dict[str, list[Shape]]:
        """Shapes in a pass with the sides of the image multiplied; empty where it fails."""
        key = (height, width, batch)
        if key not in self._others:
            try:
                self._others[key] = self._shapes(*key)
            except Exception:  # whatever a model says of a size that it does not take
                self._others[key] = None
        return self._others[key] or {}

    def _shapes(self, height: float, width: float, batch: int) -> dict[str, list[Shape]]:
        """Shapes of the tensors of each module's last call, in the order of those calls."""
        found: dict[str, list[Shape]] = {}
        names = {module: name for name, module in self.watched.items()}

        def keep(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
            found.pop(names[module], None)
            taken = self.taken(module, args, output)
            found[names[module]] = [tuple(value.shape) for value in tensors(taken)]
            if isinstance(taken, list | tuple):
                self.lists.add(names[module])

        sides = (max(1, int(n * f)) for n, f in zip(self.size, (height, width), strict=True))
        image = self.like.new_zeros(batch, self.like.shape[1], *sides)
        alone = stop_after(names) if len(names) == 1 and not self.of_input else nullcontext()
        with torch.no_grad(), hooks(names, after=keep), alone:
            self.model(image)
        return found

    def layout(self, name: str, leaf: int, axes: str | None = None) -> Layout | Refused:
        """The layout of a tensor in what is looked at of a module.

        Args:
            axes: its axes as the user names them, such as bhwc, or None.
        """
        shape = self.shapes[name][leaf]
        if axes is not None:
            if len(axes) != len(shape):
                return Refused(f"it has {len(shape)} axes, and {axes} names {len(axes)}")
            places = tuple(axes.index(axis) for axis in ("hw" if "h" in axes else "l"))
            return self._placed(name, leaf, shape, axes.index("b"), [places])

        def moved(*key: float) -> set[int] | None:
            other = self.other(*key).get(name, [])  # pyright: ignore[reportArgumentType]
            if leaf >= len(other) or len(other[leaf]) != len(shape):
                return None
            return {axis for axis, n in enumerate(other[leaf]) if n != shape[axis]}

        images = moved(1, 1, 2)
        if images is None:
            images = {0} if shape[0] == 1 else set()
        if len(images) != 1:
            return Refused("it does not follow the number of images")
        (batch,) = images
        if shape[batch] != 1:
            return Refused(f"its batch axis holds {shape[batch]} parts of one image")
        rows = moved(0.5, 1, 1) or moved(2, 1, 1)
        columns = moved(1, 0.5, 1) or moved(1, 2, 1)
        if not rows or not columns:
            return self._placed(name, leaf, shape, batch, self._by_kind(name, shape, batch))
        if len(rows) > 1 or len(columns) > 1 or batch in rows | columns:
            return Refused("several of its axes follow the size of the image")
        places = (*rows, *columns) if rows != columns else tuple(rows)
        return self._placed(name, leaf, shape, batch, [places])

    def _by_kind(self, name: str, shape: Shape, batch: int) -> list[tuple[int, ...]]:
        """What the places can be, by what the module is, and else by the shape."""
        others = [axis for axis in range(len(shape)) if axis != batch]
        module = None if self.of_input else self.watched[name]
        if isinstance(module, _FIRST):
            channels = [1]
        elif isinstance(module, _LAST):
            channels = [len(shape) - 1]
        else:
            channels = [others[0], others[-1]]
        found = [tuple(axis for axis in others if axis != channel) for channel in channels]
        if len(shape) == 4 and len(found) > 1:
            height, width = self.size
            found = [(i, j) for i, j in found if shape[i] * width == shape[j] * height]
        return found if len(shape) in (3, 4) else []

    def _placed(
        self, name: str, leaf: int, shape: Shape, batch: int, options: list[tuple[int, ...]]
    ) -> Layout | Refused:
        """The one layout among options for the axes of places."""
        found = []
        for places in options:
            if len(places) == 2:
                grid = shape[places[0]], shape[places[1]]
                found.append(Layout(leaf, shape, batch, places, grid))
            elif tokens := self._grid_of_tokens(name, leaf, shape, batch, places[0]):
                found.append(Layout(leaf, shape, batch, places, *tokens))
        if len(found) == 1:
            return found[0]
        if found or len(shape) == 4:
            return Refused("its shape alone does not tell rows, columns and channels apart", True)
        return Refused("its tokens are in no order over the image that is known", True)

    def _grid_of_tokens(
        self, name: str, leaf: int, shape: Shape, batch: int, axis: int
    ) -> tuple[tuple[int, int], Tensor] | None:
        """(rows, columns) and the token of each cell, where the tokens enter the model."""
        key = (batch, axis, shape[axis])
        if key not in self._places:
            self._places[key] = self._first_places(len(shape), *key)
        places = self._places[key]
        if places is None:
            return None
        where, real = places
        n = int(real.sum())
        errors = []
        for rows in (r for r in range(1, n + 1) if n % r == 0):
            columns = n // rows
            cells = torch.arange(n).view(rows, columns)
            for order in (cells, torch.arange(n).view(columns, rows).T):
                errors.append((_error(where[:, real], order), (rows, columns), order))
        error, grid, order = min(errors, key=lambda found: found[0], default=(1.0, (0, 0), real))
        if error > 0.1 or min(grid) < 2 or not self._follows(name, leaf, axis, shape, grid, n):
            return None
        return grid, torch.nonzero(real).flatten()[order.flatten()]

    def _follows(
        self, name: str, leaf: int, axis: int, shape: Shape, grid: tuple[int, int], n: int
    ) -> bool:
        """Whether the number of tokens at other sizes fits the grid."""
        for key, side in (((0.5, 1, 1), grid[1]), ((1, 0.5, 1), grid[0])):
            other = self.other(*key).get(name, [])
            if leaf < len(other) and len(other[leaf]) == len(shape):
                extra = shape[axis] - n
                if (other[leaf][axis] - extra) % side:
                    return False
        return True

    def _first_places(
        self, ndim: int, batch: int, axis: int, length: int
    ) -> tuple[Tensor, Tensor] | None:
        """Where tokens lie when a module meets them first, before they are mixed.

        Returns:
            (2, tokens) heights and widths in [0, 1], and (tokens,) which depend on the image.
        """
        found: list[Tensor] = []

        def look(value: Any) -> bool:
            for x in tensors(value):
                if x.ndim == ndim and x.shape[axis] == length and x.shape[batch] == 1:
                    found.append(x)
                    return True
            return False

        def first(image: Tensor) -> Tensor | None:
            found.clear()
            with torch.no_grad(), stopping() as stop:

                def before(module: nn.Module, args: tuple, kwargs: dict) -> None:
                    if look([args, kwargs]):
                        stop()

                def after(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
                    if look(output):
                        stop()

                with hooks(visible(self.model).values(), before, after):
                    self.model(image)
            return found[0].movedim(axis, 0).flatten(1).float() if found else None

        return self._measured(first)

    def _measured(self, take: Callable[[Tensor], Tensor | None]) -> tuple[Tensor, Tensor] | None:
        """Where the tokens (tokens, values) that `take` gives of an image answer to its bands."""
        noise = torch.Generator().manual_seed(0)
        first, other = (
            torch.randn(1, *self.like.shape[1:], generator=noise).to(self.like) for _ in range(2)
        )
        start, everywhere = take(first.clone()), take(other.clone())
        if start is None or everywhere is None:
            return None
        where = []
        for side in (-2, -1):
            n = first.shape[side]
            index = torch.arange(n, device=first.device) * _BANDS // n
            index = index.unsqueeze(1) if side == -2 else index
            changes = [take(torch.where(index == band, other, first)) for band in range(_BANDS)]
            shares = torch.stack(
                [
                    (changed - start).norm(dim=1).square()
                    for changed in changes
                    if changed is not None
                ]
            )
            middles = (torch.arange(_BANDS, device=shares.device) + 0.5) / _BANDS
            where.append((middles @ shares) / shares.sum(0).clamp(min=1e-30))
        change = (everywhere - start).norm(dim=1)
        return torch.stack(where).cpu(), (change > 1e-6 * change.max()).cpu()

    def answers_elsewhere(self, name: str, layout: Layout) -> bool:
        """Whether the tokens of a module answer to other places of the image than their own.

        Where every token answers to the whole image alike nothing can be said.
        """
        if layout.cells is None:
            return False
        (axis,), module = layout.places, self.watched[name]

        def take(image: Tensor) -> Tensor:
            found: list[Tensor] = []

            def keep(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
                found[:] = [tensors(self.taken(module, args, output))[layout.leaf]]

            with torch.no_grad(), hooks([module], after=keep), stop_after([module]):
                self.model(image)
            return found[0].movedim(axis, 0).flatten(1).float()

        measured = self._measured(take)
        if measured is None:
            return False
        where = measured[0][:, layout.cells]
        own = torch.arange(where.shape[1]).view(layout.grid)
        return bool(where.std(dim=1).mean() > 0.05) and _error(where, own) > 0.2


def _error(where: Tensor, order: Tensor) -> float:
    """How far tokens are from their cells on average: `where` (2, n), `order` (rows, columns)."""
    rows, columns = order.shape
    y = (torch.arange(rows) + 0.5) / rows
    x = (torch.arange(columns) + 0.5) / columns
    found = where[:, order.flatten()].view(2, rows, columns)
    return float(((found[0] - y[:, None]).abs() + (found[1] - x).abs()).mean() / 2)


def visible(model: nn.Module) -> dict[str, nn.Module]:
    """The modules that can be looked at without changing the way a scan runs."""
    return {n: m for n, m in model.named_modules() if not isinstance(m, SelectiveScan)}


_KNOWN: weakref.WeakKeyDictionary[nn.Module, dict] = weakref.WeakKeyDictionary()


def _passes(model: nn.Module, x: Tensor, names: Iterable[str] | None, of_input: bool) -> Passes:
    """Kept for a model and size."""
    names = None if names is None else tuple(names)
    key = (names, of_input, tuple(x.shape[1:]), x.dtype, x.device)
    kept = _KNOWN.setdefault(model, {})
    if key not in kept:
        modules = visible(model) if names is None else {n: model.get_submodule(n) for n in names}
        kept[key] = Passes(model, x, modules, of_input)
    return kept[key]


def forget(model: nn.Module) -> None:
    """Look again: the model gives other shapes than it did."""
    _KNOWN.pop(model, None)


def layout_of(
    model: nn.Module,
    layer: str,
    x: Tensor,
    axes: str | None = None,
    of_input: bool = False,
    number: int | None = None,
) -> Layout:
    """The layout of a layer's output (or of what enters it) for images in the shape of x.

    Args:
        axes: of its output as the user names them, such as bhwc or blc.
        number: of the map, from 1, where it returns several.

    Raises:
        ValueError: when it is no map of the image, or which axis is what remains open.
    """
    passes = _passes(model, x, [layer], of_input)
    if layer not in passes.shapes:
        raise ValueError(
            f"layer {layer!r} takes no part in the forward pass of {type(model).__name__}"
        )
    found = [passes.layout(layer, leaf, axes) for leaf in range(len(passes.shapes[layer]))]
    maps = [layout for layout in found if isinstance(layout, Layout) and min(layout.grid) > 0]
    shapes = ", ".join(str(shape) for shape in passes.shapes[layer]) or "no tensor of 3 axes"
    what = f"the output of layer {layer!r} ({shapes})"
    if len(maps) > 1:
        if number is None or not 1 <= number <= len(maps):
            raise ValueError(
                f"{what} holds {len(maps)} maps: say which with --stage, from 1 to {len(maps)}"
            )
        maps = [maps[number - 1]]
    if not maps:
        refused = next((r for r in found if isinstance(r, Refused) and r.open), None)
        refused = refused or next((r for r in found if isinstance(r, Refused)), None)
        reason = f": {refused.reason}" if refused else ""
        option = (
            f"name its axes, such as --layer {layer}:bhwc or {layer}:blc, or choose another layer"
            if refused and refused.open and axes is None
            else "choose a stage or another layer"
        )
        size = f"{x.shape[-2]} x {x.shape[-1]}"
        raise ValueError(f"{what} is not a map of the {size} image that is known{reason}; {option}")
    if axes is None and passes.answers_elsewhere(layer, maps[0]):
        raise ValueError(
            f"the tokens of {what} are in another order than the image; choose another layer"
        )
    return maps[0]


def watched_maps(model: nn.Module, x: Tensor) -> list[tuple[str, Layout]]:
    """The maps of a model of which nothing is known, in the order of the pass, at most four.

    They are those in the list that the model returns, else the last map of each grid.

    Raises:
        ValueError: where what comes last cannot be told apart.
    """
    passes = _passes(model, x, None, False)
    if "" in passes.lists:
        own = [passes.layout("", leaf) for leaf in range(len(passes.shapes[""]))]
        maps = [("", layout) for layout in own if isinstance(layout, Layout)]
        if len(maps) == len(own) > 1:
            return maps[-4:]
    last: dict[tuple[int, int], tuple[str, Layout] | str] = {}
    unknown: str | None = None
    for name, shapes in passes.shapes.items():
        seen: set[tuple[int, int]] = set()
        for leaf in range(len(shapes)):
            layout = passes.layout(name, leaf)
            if isinstance(layout, Refused):
                unknown = name or unknown or "" if layout.open else unknown
            elif min(layout.grid) > 1:
                unknown = None
                last.pop(layout.grid, None)
                twice = layout.grid in seen
                seen.add(layout.grid)
                last[layout.grid] = name if twice else (name, layout)
    kind = type(model).__name__
    if unknown is not None:
        raise ValueError(
            f"how the output of {unknown or kind} {passes.shapes[unknown]} lies over the image "
            f"cannot be told, so the last map of {kind} is not known; name a layer with --layer, "
            f"with its axes if need be, such as --layer {unknown or 'NAME'}:bhwc or :blc"
        )
    found = list(last.values())[-4:]
    for maps in found:
        if isinstance(maps, str):
            raise ValueError(
                f"{maps or kind} returns several maps of one size; name one layer with --layer"
            )
    if not found:
        raise ValueError(f"no module of {kind} gave a map of the image; name one with --layer")
    return [maps for maps in found if not isinstance(maps, str)]
