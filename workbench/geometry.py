"""Where a model's feature maps are, and where their cells lie in the input image.

Works for our families, for every timm model, and, by watching one forward pass, for any module
whose convolutions and pools are PyTorch's.
"""

import math
import weakref
from dataclasses import dataclass
from difflib import get_close_matches

import torch
from torch import Tensor, nn

from workbench.hooks import hooks, outputs, stop_after
from workbench.models import backbone_of
from workbench.position import read_position

MOVING = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)


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
    return [name for _, name in backbone_of(model).stage_entries()]


def feature_map(
    model: nn.Module,
    x: Tensor,
    stage: int | None = None,
    layer: str | None = None,
    norm: bool = False,
) -> Tensor:
    """Run `model` on x (b, 3, h, w) and return one of its feature maps (b, c, rows, columns).

    Args:
        stage: 1, 2, ... (see `stages`); None for the last. The map is the output of the stage's
            blocks, before the downsample that follows.
        layer: the path of any module instead, such as `layers.2.blocks.1`. Its output may be
            channels-first, channels-last or a token sequence.
        norm: apply the model's final norm to the last map.

    Raises:
        ValueError: for a stage or layer that the model does not have (naming the nearest), and for
            a layer whose output is not a map.
    """
    if layer is not None:
        return _layer_map(model, x, layer)
    known = backbone_of(model).stage_entries()
    if not known:
        return _watched_map(model, x, stage)
    number = len(known) if stage is None else stage
    if not 1 <= number <= len(known):
        raise ValueError(
            f"{type(model).__name__} has stages 1 to {len(known)}, so there is no stage {number}"
        )
    maps = model.forward_intermediates(
        x,
        indices=[known[number - 1][0]],
        norm=norm,
        stop_early=True,
        output_fmt="NCHW",
        intermediates_only=True,
    )
    return maps[0]


def _layer_map(model: nn.Module, x: Tensor, layer: str) -> Tensor:
    modules = dict(model.named_modules())
    if layer not in modules:
        near = get_close_matches(layer, modules, n=3, cutoff=0.3)
        hint = f"; near are {', '.join(near)}" if near else ""
        raise ValueError(f"{type(model).__name__} has no layer {layer!r}{hint}")
    with outputs({layer: modules[layer]}) as found, stop_after([modules[layer]]):
        model(x)
    if layer not in found:
        raise ValueError(
            f"layer {layer!r} takes no part in the forward pass of {type(model).__name__}"
        )
    return as_map(model, found[layer], x, layer)


def as_map(model: nn.Module, output, x: Tensor, layer: str) -> Tensor:
    """Bring a layer's output to (b, c, rows, columns), whatever its layout.

    Raises:
        ValueError: when it is no map of the image, with its shape.
    """
    backbone = backbone_of(model)
    output = backbone.block_output(layer, output)
    height, width = x.shape[-2:]
    if isinstance(output, Tensor) and len(output) == len(x):
        if output.ndim == 4:
            for candidate in (output, output.permute(0, 3, 1, 2)):
                rows, columns = candidate.shape[-2:]
                even = abs(rows * width - columns * height) <= max(height, width)
                if even and rows <= height and columns <= width:
                    return candidate
        if output.ndim == 3:
            tokens = backbone.token_map(output, (height, width))
            if tokens is not None:
                return tokens
    shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    raise ValueError(
        f"the output of layer {layer!r} ({shape}) is not a map of the {height} x {width} image; "
        "choose a stage or another layer"
    )


def _watched_map(model: nn.Module, x: Tensor, stage: int | None) -> Tensor:
    """The last 4-D output of each spatial size, for modules without timm's interface."""
    last: dict[tuple[int, int], Tensor] = {}

    def keep(module: nn.Module, args: tuple, kwargs: dict, output) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and min(output.shape[-2:]) > 1:
            last[tuple(output.shape[-2:])] = output

    with hooks((m for m in model.modules() if not list(m.children())), after=keep):
        model(x)
    maps = list(last.values())[-4:]
    if not maps:
        raise ValueError(
            f"no module of {type(model).__name__} gave a 4-D map, so name one with layer="
        )
    number = len(maps) if stage is None else stage
    if not 1 <= number <= len(maps):
        raise ValueError(
            f"{type(model).__name__} has {len(maps)} sizes of maps, so there is no stage {number}"
        )
    return maps[number - 1]


_PLACES: weakref.WeakKeyDictionary[nn.Module, dict] = weakref.WeakKeyDictionary()


def grid_of(model: nn.Module, features: Tensor, size: tuple[int, int], channels: int = 3) -> Grid:
    """The grid of a map (b, c, rows, columns) of an image of `size` pixels and `channels` colours.

    Our families know their geometry. Elsewhere it follows from the strides, kernels and paddings
    of the convolutions and pools seen in one forward pass; a reduction without any of them is
    taken for patch merging, whose centre lies in the middle of its patch.
    """
    cells = (features.shape[-2], features.shape[-1])
    info = getattr(model, "feature_info", None)
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
    finer = min((n for n in known if n > cells), default=size[1 + axis])
    stride, offset = known.get(finer, (1.0, 0.0))
    merged = round(finer / cells)
    return stride * merged, offset + stride * (merged - 1) / 2


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
            kernel, step, padding, dilation = (_pair(module, name)[axis] for name in _GEOMETRY)
            span = (kernel - 1) * dilation
            if padding is None:  # "same" padding, half of it before the first pixel
                padding = max((after - 1) * step + span + 1 - before, 0) // 2
            stride, offset = places[before]
            places[after] = (stride * step, offset + stride * (span / 2 - padding))

    parameter = next(model.parameters(), torch.zeros(()))
    blank = torch.zeros(1, *size, device=parameter.device, dtype=parameter.dtype)
    moving = (m for m in model.modules() if isinstance(m, MOVING))
    with torch.no_grad(), hooks(moving, after=follow):
        model(blank)
    return places


_GEOMETRY = ("kernel_size", "stride", "padding", "dilation")


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
