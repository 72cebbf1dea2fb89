"""How what a module returns lies over the image: which of its axes is what.

The number of axes says nothing. Two blank images at once, one of another height and one of another
width go through the model: the axis that follows the number of images is the batch, those that
follow height and width are rows and columns, one that follows both holds tokens, the others are
channels. Where a model takes images of one size only, the kind of the module decides, and else
what the shape allows. Where tokens lie is found by changing bands of the image.
"""

import weakref
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from workbench.layout.axes import Layout, Refused
from workbench.layout.blocks import blocks
from workbench.layout.passes import Passes, visible

__all__ = ["Layout", "blocks", "forget", "layout_of", "layouts_of", "watched_maps"]

_KNOWN: weakref.WeakKeyDictionary[nn.Module, dict] = weakref.WeakKeyDictionary()
"""What was found of a model, which lives as long as the model."""


def _kept(model: nn.Module, x: Tensor, asked: tuple, find: Callable[[], Any]) -> Any:
    found = _KNOWN.setdefault(model, {})
    key = (*asked, tuple(x.shape[1:]), x.dtype, x.device)
    if key not in found:
        found[key] = find()
    return found[key]


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
    asked = (layer, axes, of_input, number)
    return _kept(model, x, asked, lambda: _layout_of(model, layer, x, axes, of_input, number))


def _layout_of(
    model: nn.Module, layer: str, x: Tensor, axes: str | None, of_input: bool, number: int | None
) -> Layout:
    passes = Passes(model, x, {layer: model.get_submodule(layer)}, of_input)
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
        refused = next((r for r in found if isinstance(r, Refused) and r.maybe), None)
        refused = refused or next((r for r in found if isinstance(r, Refused)), None)
        reason = f": {refused.reason}" if refused else ""
        option = (
            f"name its axes, such as --layer {layer}:bhwc or {layer}:blc, or choose another layer"
            if refused and refused.axes and axes is None
            else "choose a stage or another layer"
        )
        size = f"{x.shape[-2]} x {x.shape[-1]}"
        raise ValueError(f"{what} is not a map of the {size} image that is known{reason}; {option}")
    if axes is None and passes.elsewhere({layer: maps[0]}):
        raise ValueError(
            f"the tokens of {what} are in another order than the image; choose another layer"
        )
    return maps[0]


def layouts_of(model: nn.Module, layers: Sequence[str], x: Tensor) -> dict[str, list[Layout]]:
    """The layouts of the maps that each of several layers returns, found in the same passes.

    Layers that return no map of the image that is known are left out.
    """
    return _kept(model, x, (*layers, "all"), lambda: _layouts_of(model, layers, x))


def _layouts_of(model: nn.Module, layers: Sequence[str], x: Tensor) -> dict[str, list[Layout]]:
    passes = Passes(model, x, {layer: model.get_submodule(layer) for layer in layers})
    found = {}
    for layer, shapes in passes.shapes.items():
        every = [passes.layout(layer, leaf) for leaf in range(len(shapes))]
        maps = [layout for layout in every if isinstance(layout, Layout) and min(layout.grid) > 0]
        if maps:
            found[layer] = maps
    wrong = passes.elsewhere({layer: maps[0] for layer, maps in found.items()})
    return {layer: maps for layer, maps in found.items() if layer not in wrong}


def watched_maps(model: nn.Module, x: Tensor) -> list[tuple[str, Layout]]:
    """The maps of a model of which nothing is known, in the order of the pass, at most four.

    They are those in the list that the model returns, else the last map of each grid.

    Raises:
        ValueError: where what comes last cannot be told apart.
    """
    return _kept(model, x, (), lambda: _watched_maps(model, x))


def _watched_maps(model: nn.Module, x: Tensor) -> list[tuple[str, Layout]]:
    passes = Passes(model, x, visible(model))
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
                unknown = name or unknown or "" if layout.maybe else unknown
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
