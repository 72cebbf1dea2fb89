"""The layers of a model that mix tokens by scans (or by attention in windows), after one forward
pass: their tensors, where each step lies in the image, and the matrices they are.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workbench.hooks import inputs, outputs, stop_after
from workbench.mixing.hidden_attention import Convolution, HiddenAttention, hidden_attention
from workbench.mixing.window_attention import WindowAttention
from workbench.models import ScanMixer, backbone_of
from workbench.paths import ScanPath, scan_path
from workbench.scan import SelectiveScan, to_image_order, to_scan_order
from workbench.trace import mixing_layers, record

OUTSIDE = -1
"""The place of a step that reads no cell of the image: a class token, or padding of a window."""


@dataclass(eq=False)
class Convolved:
    """What a depthwise convolution and SiLU made of x, as slope * (convolution of x + bias).

    Attributes:
        x: (b, d, l) in scan order.
        weight, before: as of `Convolution`.
        bias: (d), or None.
        slope: (b, d, l) in scan order.
    """

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    before: int
    slope: Tensor

    def of(self, at: int, path: ScanPath) -> Convolution:
        """The linear map of one image or window."""
        over_image = path if self.weight.ndim == 4 else None
        return Convolution(self.weight, self.slope[at], self.before, over_image)


@dataclass(eq=False)
class Direction:
    """One direction of a layer.

    Attributes:
        name: the direction's name; "attention" for an attention block.
        path: the path through one window, or through the whole image.
        places: (windows, l) the cell `row * columns + column` of the image read at each step, or
            `OUTSIDE`.
        tensors: of all images and windows, as `workbench.record` gives them, windows of an image
            next to each other; `q`, `k`, `v` (b, heads, l, c) for an attention block.
        gate: (b, d, l) in scan order, or None.
        before: the convolution before the scan, or None.
        beside: that of what the mixer joins to the output of the scan, or None.
        z: (b, c, l) in scan order, what the input projection gave beside x, or None.
        output: (b, dim, l) in scan order (of the window, for attention), what the whole mixer
            gave, or None.
    """

    name: str
    path: ScanPath
    places: np.ndarray
    tensors: Mapping[str, Tensor]
    gate: Tensor | None = None
    before: Convolved | None = None
    beside: Convolved | None = None
    z: Tensor | None = None
    output: Tensor | None = None

    @property
    def windows(self) -> int:
        return len(self.places)

    @property
    def is_scan(self) -> bool:
        return "delta" in self.tensors

    def find(self, cell: int) -> tuple[int, int] | None:
        """(window, step) at which a cell is read first; None when it never is."""
        windows, steps = np.nonzero(self.places == cell)
        return (int(windows[0]), int(steps[0])) if len(windows) else None

    def in_image(self, values: Tensor, window: int, cells: int) -> Tensor:
        """(c, l) of one window -> (c, cells + 1): in image order, then the sum of what lies
        outside.
        """
        if self.windows == 1 and self.path.covers and len(self.path) == cells:
            image = to_image_order(values[None], self.path)[0].flatten(1)
            return F.pad(image, (0, 1))
        places = torch.from_numpy(self.places[window].astype(np.int64))
        places = torch.where(places < 0, cells, places)
        return values.new_zeros(len(values), cells + 1).index_add_(1, places, values)

    def matrix_of(
        self, image: int, window: int = 0, view: str = "alpha", with_D: bool = False
    ) -> HiddenAttention | WindowAttention:
        """What this direction does to one window of one image, as a matrix."""
        at = image * self.windows + window
        if not self.is_scan:
            q, k, v = (self.tensors[name][at] for name in ("q", "k", "v"))
            return WindowAttention(q, k, v, view)
        convolution = None if self.before is None else self.before.of(at, self.path)
        gate = None if self.gate is None else self.gate[at]
        return hidden_attention(self.tensors, at, view, with_D, gate=gate, convolution=convolution)


@dataclass(eq=False)
class ScanLayer:
    """One layer: `name` is the module path of the scan or attention, `cells` its grid."""

    name: str
    cells: tuple[int, int]
    directions: list[Direction] = field(default_factory=list)

    @property
    def is_scan(self) -> bool:
        return self.directions[0].is_scan


def layer_names(model: nn.Module) -> list[str]:
    """Module paths of the layers, in the order of the network."""
    return list(mixing_layers(model))


def find_layers(model: nn.Module, pattern: str) -> list[str]:
    """The layers that a pattern names.

    Args:
        pattern: a number, counted from 0 (negative from the end); a module path or the beginning
            of one, such as `layers.2.blocks.1`; or a pattern with `*` and `?`.

    Raises:
        ValueError: when there is none; the message lists the nearest names.
    """
    known = layer_names(model)
    kind = type(model).__name__
    if not known:
        raise ValueError(f"{kind} has no selective scan, and those are what is asked about")
    try:
        number = int(pattern)
    except ValueError:
        found = [
            name for name in known if fnmatchcase(name, pattern) or name.startswith(f"{pattern}.")
        ]
        if not found:
            near = get_close_matches(pattern, known, n=3, cutoff=0.3) or known[:3]
            raise ValueError(
                f"{kind} has no scan layer {pattern!r}; near are {', '.join(near)}"
            ) from None
        return found
    if not -len(known) <= number < len(known):
        raise ValueError(
            f"{kind} has {len(known)} layers, 0 to {len(known) - 1}, so there is no layer {number}"
        )
    return [known[number]]


def scan_layers(
    model: nn.Module,
    x: Tensor,
    names: Sequence[str],
    gate: bool = False,
    convolution: bool = False,
    whole: bool = False,
) -> list[ScanLayer]:
    """Run `model` on x (b, 3, h, w), as far as needed, and return what the layers `names` did.

    Scans that take no known path over the image are left out; a external model may have some.

    Args:
        names: as `find_layers` gives them.
        gate: keep the factor that multiplies the output of a scan.
        convolution: keep the convolution before a scan.
        whole: keep all of the mixer around a scan that is known, and what it and attention give.

    Raises:
        ValueError: for a gate where none multiplies the output of the scan directly, a convolution
            where none is known, or when all are left out.
    """
    scans = [name for name in names if isinstance(model.get_submodule(name), SelectiveScan)]
    others = [name for name in names if name not in scans]
    for name in scans:
        parent = _parent(model, name)
        if gate and not (isinstance(parent, ScanMixer) and parent.gated):
            raise ValueError(
                f"no gate multiplies the output of {name} directly, so its maps have no gate"
            )
        if convolution and not isinstance(parent, ScanMixer):
            raise ValueError(
                f"the convolution before {name} is not known, so its maps begin after it; leave "
                "with_convolution out"
            )
    called = {name: model.get_submodule(name) for name in scans}
    watched = {name: model.get_submodule(f"{name}.qkv") for name in others}
    if whole:
        around = {name: _parent(model, name) for name in scans}
        around = {name: mixer for name, mixer in around.items() if isinstance(mixer, ScanMixer)}
        around |= {name: model.get_submodule(name) for name in others}
    else:
        around = {}
    needed = (*called.values(), *watched.values(), *around.values())
    if gate or convolution or whole:
        watched |= {
            name: mixer.in_proj
            for name in scans
            if isinstance(mixer := _parent(model, name), ScanMixer)
        }
    listening = record(model, sites=[f"{name}/*" for name in scans]) if scans else nullcontext({})
    # the last block ends the pass when all other hooks are done
    with (
        torch.no_grad(), inputs(called) as given, outputs(watched) as seen, listening as sites,
        outputs(around) as given_back, stop_after(needed),
    ):  # fmt: skip
        model(x)
    seen = {name: _on_cpu(output) for name, output in seen.items()}
    wholes = {name: _on_cpu(output).movedim(-1, 1) for name, output in given_back.items()}
    layers, size = [], (x.shape[-2], x.shape[-1])
    for name in names:
        layer = ScanLayer(name, (0, 0))
        if name in others:
            attention: Any = model.get_submodule(name)
            window = backbone_of(model).window(name)
            assert window is not None
            path = scan_path("row", window, window)
            layer.cells, places = cells_and_places(model, name, path, size)
            tensors = dict(zip("qkv", attention.split(seen[name]), strict=True))
            output = wholes.get(name)
            layer.directions = [Direction("attention", path, places, tensors, output=output)]
        else:
            for path in given[name][1]["paths"] if name in given else ():
                layer.cells, places = cells_and_places(model, name, path, size)
                recorded = sites[f"{name}/{path.name}"]
                tensors = {key: _on_cpu(value) for key, value in recorded.items()}
                direction = Direction(path.name, path, places, tensors)
                mixer = _parent(model, name)
                if isinstance(mixer, ScanMixer) and name in seen:
                    _add_parts(direction, mixer, seen[name], gate, convolution, wholes.get(name))
                layer.directions.append(direction)
        if layer.directions:
            layers.append(layer)
    if not layers:
        raise ValueError(
            f"no path over the image is known of {names[0]}, so there are no scan maps of it; the "
            "log says why, and paths() of an adapter can tell it"
        )
    return layers


def _on_cpu(x: Tensor) -> Tensor:
    """A copy in float32 at least, which numpy knows and in which matrices are added up."""
    return x.detach().to("cpu", torch.promote_types(x.dtype, torch.float32))


def _parent(model: nn.Module, name: str) -> nn.Module:
    return model.get_submodule(name.rpartition(".")[0])


def cells_and_places(
    model: nn.Module, name: str, path: ScanPath, size: tuple[int, int]
) -> tuple[tuple[int, int], np.ndarray]:
    """The grid of a layer in images of `size` pixels, and (windows, l) the cell that `path` reads
    at each step of each window, or `OUTSIDE`.
    """
    backbone: Any = backbone_of(model)
    window = backbone.window(name)
    if window is None:
        return (path.height, path.width), path.order[None]
    reduction = next(
        entry["reduction"] for entry in backbone.feature_info if name.startswith(entry["module"])
    )
    rows, columns = (-(-n // reduction) for n in size)
    cells = np.arange(rows * columns).reshape(rows, columns)
    cells = np.pad(cells, ((0, -rows % window), (0, -columns % window)), constant_values=OUTSIDE)
    height, width = (n // window for n in cells.shape)
    windows = cells.reshape(height, window, width, window).swapaxes(1, 2)
    return (rows, columns), windows.reshape(-1, window * window)[:, path.order]


def _add_parts(
    direction: Direction,
    mixer: ScanMixer,
    projected: Tensor,
    gate: bool,
    convolution: bool,
    output: Tensor | None,
) -> None:
    """Give a direction what stands around its scan, from what the input projection gave."""
    projected = projected.movedim(-1, 1)  # (b, channels, l), or (b, channels, h, w)
    dim = direction.tensors["delta"].shape[1]
    x, z = projected[:, :dim], projected[:, dim:]
    if gate:
        direction.gate = _along(F.silu(z), direction)
    if convolution or output is not None:
        conv = mixer.convolution_before(direction.name)
        direction.before = _convolved(x, conv, mixer, direction)
    if output is not None:
        direction.z, direction.output = _along(z, direction), _along(output, direction)
        if (beside := mixer.convolution_beside()) is not None:
            direction.beside = _convolved(z, beside, mixer, direction)


def _along(values: Tensor, direction: Direction) -> Tensor:
    """(b, c, h, w), or (b, c, l) in the order of tokens -> (b, c, l) in scan order."""
    if values.ndim == 4:
        return to_scan_order(values, direction.path)
    return values.flip(-1) if direction.name.endswith("-reversed") else values


def _convolved(x: Tensor, conv: Any, mixer: ScanMixer, direction: Direction) -> Convolved:
    """The convolution of x (b, d, l) or (b, d, h, w) before one direction."""
    dim, bias = x.shape[1], getattr(conv, "bias", None)
    bias = None if bias is None else _on_cpu(bias)
    if isinstance(conv, nn.Identity):
        weight, before, c = torch.ones(dim, 1, 1, 1), 0, x
    else:
        before = conv.kernel_size[0] - 1 if mixer.causal else conv.kernel_size[0] // 2
        x = _along(x, direction) if mixer.causal else x
        weight = _on_cpu(conv.weight)
        convolve = F.conv1d if weight.ndim == 3 else F.conv2d
        c = convolve(x, weight, bias, padding=before, groups=dim)[..., : x.shape[-1]]
    if c.ndim == 4:
        x, c = _along(x, direction), _along(c, direction)
    return Convolved(x, weight, bias, before, c.sigmoid())
