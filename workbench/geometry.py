"""Where a model's feature maps are, and where their cells lie in the input image.

Works for our families, for every timm model, and, by watching one forward pass, for any module
whose convolutions and pools are PyTorch's.
"""

import math
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from workbench.hooks import hooks, inputs, outputs, stop_after, stop_before
from workbench.layout import forget, layout_of, watched_maps
from workbench.models import backbone_of, backbones_in, bare
from workbench.position import read_position

MOVING = (
    nn.Conv2d,
    nn.ConvTranspose2d,
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
    nn.PixelShuffle,
    nn.Upsample,
)


@dataclass(frozen=True)
class Grid:
    """The cells of one feature map over the input image.

    Cell (i, j) has its projective centre on pixel (offset + i * stride, offset + j * stride), per
    axis (rows, columns); pixel centres are whole numbers.
    """

    cells: tuple[int, int]
    stride: tuple[float, float]
    offset: tuple[float, float]

    def centre(self, cell: tuple[int, int]) -> tuple[float, float]:
        """The pixel (row, column) of a cell's projective centre."""
        row, column = (self.offset[i] + cell[i] * self.stride[i] for i in (0, 1))
        return row, column

    def nearest(self, pixel: tuple[float, float]) -> tuple[int, int]:
        """The cell whose projective centre is nearest to a pixel (row, column)."""
        row, column = (
            min(max(round((pixel[i] - self.offset[i]) / self.stride[i] - 1e-9), 0), n - 1)
            for i, n in enumerate(self.cells)
        )
        return row, column


def stages(model: nn.Module) -> list[str]:
    """Module paths of the stages 1, 2, ... of a model (see `Backbone.stage_entries`)."""
    return [name for _, name in backbone_of(bare(model)).stage_entries()]


def feature_map(
    model: nn.Module,
    x: Tensor,
    stage: int | None = None,
    layer: str | None = None,
    norm: bool = False,
) -> Tensor:
    """Run `model` on x (b, 3, h, w) and return one of its feature maps (b, c, rows, columns).

    Args:
        stage: 1, 2, ... (see `stages`); None for the last. With a layer that returns several maps,
            which of them. The map is the output of the stage's
            blocks, before the downsample that follows.
        layer: the path of any module instead, such as `layers.2.blocks.1`, whose output may have
            any layout (see `workbench.layout`); with its axes where they cannot be told, as in
            `layers.2.blocks.1:bhwc` or `:blc`.
        norm: apply the model's final norm to the last map.

    Raises:
        ValueError: for a stage or layer that the model does not have (naming the nearest), and for
            a layer whose output is not a map.
    """
    model, x = bare(model), x.clone()  # a model may begin by changing its input in place
    if layer is not None:
        return _layer_map(model, x, *layer.partition(":")[::2], stage)
    inner = inner_backbone(model, x)
    if inner is None:
        return _watched_map(model, x, stage)
    backbone, x = inner
    known = backbone_of(backbone).stage_entries()
    number = len(known) if stage is None else stage
    if not 1 <= number <= len(known):
        raise ValueError(
            f"{type(backbone).__name__} has stages 1 to {len(known)}, so there is no stage {number}"
        )
    maps = backbone.forward_intermediates(
        x,
        indices=[known[number - 1][0]],
        norm=norm,
        stop_early=True,
        output_fmt="NCHW",
        intermediates_only=True,
    )
    return maps[0]


def inner_backbone(model: nn.Module, x: Tensor) -> tuple[Any, Tensor] | None:
    """The network with known stages that does the work of a model, and what it is given for x.

    None where there is no such network in it.

    Raises:
        ValueError: where there are several, or one that is not given the whole image.
    """
    known = backbones_in(model)
    if not known:
        return None
    if list(known) == [""]:
        return model, x
    ends = stop_before if len(known) == 1 else stop_after
    with inputs(known) as seen, ends(known.values()):
        model(x)
    if not seen:
        return None
    kind = type(model).__name__
    if len(seen) > 1:
        raise ValueError(f"{kind} runs {', '.join(seen)}: name a layer in one of them")
    ((name, (args, _)),) = seen.items()
    given = args[0] if args else None
    if not isinstance(given, Tensor) or given.shape[-2:] != x.shape[-2:]:
        shape = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__
        raise ValueError(
            f"{kind} gives {name} {shape} for images {tuple(x.shape)}, so its cells lie elsewhere "
            f"in the image: give {name} itself as the model"
        )
    return known[name], given


def _layer_map(model: nn.Module, x: Tensor, layer: str, axes: str, number: int | None) -> Tensor:
    modules = dict(model.named_modules())
    if layer not in modules:
        near = get_close_matches(layer, modules, n=3, cutoff=0.3)
        hint = f"; near are {', '.join(near)}" if near else ""
        raise ValueError(f"{type(model).__name__} has no layer {layer!r}{hint}")
    if axes and sorted(axes) not in (sorted("bchw"), sorted("bcl")):
        raise ValueError(f"the axes of a layer are b, c and h, w or l, as in bhwc, not {axes!r}")

    def found() -> Tensor | None:
        layout = layout_of(model, layer, x, axes or None, number=number)
        with outputs({layer: modules[layer]}) as seen, stop_after([modules[layer]]):
            model(x)
        output = backbone_of(model).block_output(layer, seen[layer])
        return layout.map_of(output) if layout.fits(output) else None

    return _again(model, found)


def _watched_map(model: nn.Module, x: Tensor, stage: int | None) -> Tensor:
    """A map of a model whose stages nobody declared."""

    def found() -> Tensor | None:
        maps = watched_maps(model, x)
        number = len(maps) if stage is None else stage
        if not 1 <= number <= len(maps):
            raise ValueError(
                f"{type(model).__name__} has {len(maps)} sizes of maps, so there is no stage "
                f"{number}"
            )
        name, layout = maps[number - 1]
        with outputs({name: model.get_submodule(name)}) as seen:
            model(x)
        return layout.map_of(seen[name]) if layout.fits(seen[name]) else None

    return _again(model, found)


def _again(model: nn.Module, found: Callable[[], Tensor | None]) -> Tensor:
    """What is found, with the model looked at once more where it changed since it was."""
    features = found()
    if features is None:
        forget(model)
        features = found()
    if features is None:
        raise ValueError(
            f"{type(model).__name__} gives other shapes for every image; choose another layer"
        )
    return features


_PLACES: weakref.WeakKeyDictionary[nn.Module, dict] = weakref.WeakKeyDictionary()


def grid_of(model: nn.Module, features: Tensor, size: tuple[int, int], channels: int = 3) -> Grid:
    """The grid of a map (b, c, rows, columns) of an image of `size` pixels and `channels` colours.

    Our families know their geometry. Elsewhere it follows from the strides, kernels and paddings
    of the convolutions and pools seen in one forward pass; cells that come from none of them share
    the image evenly, as after patch merging, resizing or pixel shuffling.
    """
    model = bare(model)
    cells = (features.shape[-2], features.shape[-1])
    known = list(backbones_in(model).values())
    info = getattr(known[0] if len(known) == 1 else model, "feature_info", None)
    if isinstance(info, list) and info and "offset" in info[0]:

        def misfit(entry: dict) -> float:
            ratios = (n / c / entry["reduction"] for c, n in zip(cells, size, strict=True))
            return max(abs(math.log2(ratio)) for ratio in ratios)

        entry = min(info, key=misfit)
        if max(cells) == 1 or misfit(entry) < 0.5:
            stride = float(entry["reduction"])
            return Grid(cells, (stride, stride), (entry["offset"], entry["offset"]))
    axes = [_axis(model, cells[axis], (channels, *size), axis) for axis in (0, 1)]
    return Grid(cells, (axes[0][0], axes[1][0]), (axes[0][1], axes[1][1]))


def _axis(
    model: nn.Module, cells: int, size: tuple[int, int, int], axis: int
) -> tuple[float, float]:
    """(stride, offset) along one axis of the map with `cells` cells."""
    places = _PLACES.setdefault(model, {})
    if (size, axis) not in places:
        places[size, axis] = _watch_strides(model, size, axis)
    known = places[size, axis]
    if cells in known:
        return known[cells]
    finer = min((n for n in known if n > cells), default=max(known))
    return _shared(*known[finer], finer, cells)


def _shared(stride: float, offset: float, before: int, after: int) -> tuple[float, float]:
    """(stride, offset) of `after` cells that share evenly what `before` cells had."""
    ratio = before / after
    if after in (before // round(ratio or 1), -(-before // round(ratio or 1))) if ratio >= 1 else 0:
        ratio = round(ratio)  # an odd last row or column is left out, or has a cell of its own
    return stride * ratio, offset + stride * (ratio - 1) / 2


def _watch_strides(
    model: nn.Module, size: tuple[int, int, int], axis: int
) -> dict[int, tuple[float, float]]:
    """cells -> (stride, offset) for every map size met in one forward pass on a blank image."""
    places = {size[1 + axis]: (1.0, 0.0)}

    def follow(module: nn.Module, args: tuple, kwargs: dict, output) -> None:
        if not isinstance(output, Tensor) or output.ndim != 4:
            return
        before, after = args[0].shape[2 + axis], output.shape[2 + axis]
        if before in places and after not in places:
            places[after] = _moved(module, axis, *places[before], before, after)

    parameter = next(model.parameters(), torch.zeros(()))
    blank = torch.zeros(1, *size, device=parameter.device, dtype=parameter.dtype)
    moving = (m for m in model.modules() if isinstance(m, MOVING))
    with torch.no_grad(), hooks(moving, after=follow):
        model(blank)
    return places


_GEOMETRY = ("kernel_size", "stride", "padding", "dilation")


def _moved(
    module: nn.Module, axis: int, stride: float, offset: float, before: int, after: int
) -> tuple[float, float]:
    """(stride, offset) of the `after` cells that a module makes of `before` cells."""
    if isinstance(module, nn.Upsample) and module.align_corners and after > 1:
        return stride * (before - 1) / (after - 1), offset
    if not hasattr(module, "kernel_size"):
        return _shared(stride, offset, before, after)
    kernel, step, padding, dilation = (_pair(module, name)[axis] for name in _GEOMETRY)
    span = (kernel - 1) * dilation
    if padding is None:  # "same" padding, half of it before the first pixel
        padding = max((after - 1) * step + span + 1 - before, 0) // 2
    if isinstance(module, nn.ConvTranspose2d):
        return stride / step, offset + stride * (padding - span / 2) / step
    return stride * step, offset + stride * (span / 2 - padding)


def _pair(module: nn.Module, name: str) -> tuple:
    value = getattr(module, name, 1 if name == "dilation" else None)
    if name == "padding" and (isinstance(value, str) or "Same" in type(module).__name__):
        return (None, None)
    return value if isinstance(value, tuple) else (value, value)


def resolve_position(position: str, grid: Grid, size: tuple[int, int]) -> tuple[int, int]:
    """Turn "centre", "row,column" in cells or in fractions of the image into a cell.

    Two whole numbers are a cell; with a decimal point they are fractions of height and width. The
    centre is the cell whose projective centre is nearest to the middle of the image.

    Raises:
        ValueError: when it cannot be read or lies outside the map.
    """
    place = read_position(position)
    if place is None:
        return grid.nearest(((size[0] - 1) / 2, (size[1] - 1) / 2))
    if isinstance(place[0], float):
        return grid.nearest((place[0] * size[0] - 0.5, place[1] * size[1] - 0.5))
    cell = int(place[0]), int(place[1])
    if not all(0 <= c < n for c, n in zip(cell, grid.cells, strict=True)):
        raise ValueError(
            f"position {position} lies outside the map of {grid.cells[0]} x {grid.cells[1]} cells "
            f"(rows 0 to {grid.cells[0] - 1}, columns 0 to {grid.cells[1] - 1})"
        )
    return cell
