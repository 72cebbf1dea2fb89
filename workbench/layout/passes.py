"""What moves with the image: passes of blank images of several sizes through a model."""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workbench.hooks import hooks, stop_after, stopping
from workbench.layout.axes import Layout, Refused, Shape, tensors
from workbench.layout.tokens import distance, grid_of_tokens, places_of
from workbench.models import backbone_of
from workbench.scan import SelectiveScan

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
            reason = "its shape alone does not tell rows, columns and channels apart"
            return Refused(reason, maybe=True, axes=True)
        several = len(options) > 1
        return Refused("its tokens are in no order over the image that is known", True, several)

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
        found = grid_of_tokens(where, real)
        n = int(real.sum())
        return found if found and self._follows(name, leaf, axis, shape, found[0], n) else None

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

        return places_of(self.like, first)

    def elsewhere(self, layouts: Mapping[str, Layout]) -> set[str]:
        """The modules whose tokens answer to other places of the image than their own.

        Where every token answers to the whole image alike nothing can be said.
        """
        layouts = {name: layout for name, layout in layouts.items() if layout.cells is not None}
        modules = {self.watched[name]: name for name in layouts}
        if not layouts:
            return set()

        def take(image: Tensor) -> Tensor:
            """The tokens of one module after those of another."""
            found: dict[str, Tensor] = {}

            def keep(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
                layout = layouts[modules[module]]
                x = tensors(self.taken(module, args, output))[layout.leaf]
                found[modules[module]] = x.movedim(layout.places[0], 0).flatten(1).float()

            with torch.no_grad(), hooks(modules, after=keep), stop_after(modules):
                self.model(image)
            wide = max(x.shape[1] for x in found.values())
            return torch.cat([F.pad(found[n], (0, wide - found[n].shape[1])) for n in layouts])

        measured = places_of(self.like, take)
        if measured is None:
            return set()
        parts = measured[0].split([at.shape[at.places[0]] for at in layouts.values()], dim=1)
        wrong = set()
        for (name, layout), part in zip(layouts.items(), parts, strict=True):
            where = part[:, layout.cells]
            own = torch.arange(where.shape[1]).view(layout.grid)
            if where.std(dim=1).mean() > 0.05 and distance(where, own) > 0.2:
                wrong.add(name)
        return wrong


def visible(model: nn.Module) -> dict[str, nn.Module]:
    """The modules that can be looked at without changing the way a scan runs."""
    return {n: m for n, m in model.named_modules() if not isinstance(m, SelectiveScan)}
