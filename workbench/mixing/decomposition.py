"""What every token adds to the output of a mixing layer, exactly (LaTIM, arXiv 2502.15612).

With everything that depends on the image held fixed (delta, B and C of the scan, gates, slopes of
activations as SiLU(x) / x, the variance in a norm, the weights of attention), a layer is linear in
its tokens: its output at one of them is a sum of vectors, one for each, and one of the biases.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from workbench.mixing.hidden_attention import HiddenAttention, hidden_attention
from workbench.mixing.layers import Convolved, Direction, ScanLayer
from workbench.mixing.query import Query
from workbench.models import Readout, ScanMixer

THROUGH = {
    "block": "convolution, scan, gate and projections",
    "attention": "softmax weights and projections",
    "scan": "the scan alone, from u to the sum of the directions",
}


@dataclass(frozen=True, eq=False)
class Parts:
    """The output of a layer at one token as a sum, in float64.

    Attributes:
        tokens: (dim, cells + 1), what each cell adds; last, what comes from no cell.
        bias: (dim,), what comes from no token.
        output: (dim,), what the layer itself gave.
    """

    tokens: Tensor
    bias: Tensor
    output: Tensor

    @property
    def norms(self) -> Tensor:
        """(cells + 2,) length of each part over that of the output; last the biases."""
        return self._all.norm(dim=0) / self.output.norm()

    @property
    def along(self) -> Tensor:
        """(cells + 2,) each part's projection on the output over its length; they sum to 1."""
        return self.output @ self._all / self.output.square().sum()

    @property
    def error(self) -> float:
        """How far the sum is from the output, over the length of the output."""
        return float((self._all.sum(dim=1) - self.output).norm() / self.output.norm())

    @property
    def _all(self) -> Tensor:
        return torch.cat([self.tokens, self.bias[:, None]], dim=1)


def through(layer: ScanLayer, model: nn.Module) -> str:
    """Which of `THROUGH` is known of a layer of `scan_layers(..., whole=True)`."""
    if not layer.is_scan:
        return "attention"
    direction = layer.directions[0]
    if direction.output is None or direction.z is None:
        return "scan"
    y, z = direction.tensors["y"][0, :, 0], direction.z[0, :, 0]
    return "scan" if _readout(model, layer, y, z) is None else "block"


@torch.no_grad()
def parts_at(layer: ScanLayer, model: nn.Module, image: int, query: Query) -> Parts:
    """The output of a layer of `scan_layers(..., whole=True)` at the query, token by token.

    A direction that does not come by the query adds nothing.

    Raises:
        ValueError: when none comes by it.
    """
    if not layer.is_scan:
        return _of_attention(layer, model, image, query)
    cells = layer.cells[0] * layer.cells[1]
    whole = through(layer, model) == "block"
    asked = [(d, *query.step(d)) for d in layer.directions if query.cell_in(d) == query.cell]
    if not asked:
        raise ValueError(
            f"no direction of {layer.name} comes by the cell {query.cell}; choose another query"
        )
    tokens, bias, y = 0, 0, torch.zeros(())
    for direction, window, step in asked:
        at = image * direction.windows + window
        row = _matrix(direction, at).row(step, "channels")
        if whole:
            assert direction.before is not None
            parts, constant = _through(direction.before, row, at, direction)
        else:
            parts, constant = row * direction.tensors["u"][at], row.new_zeros(len(row))
        tokens = tokens + direction.in_image(parts, window, cells)
        bias, y = bias + constant, y + direction.tensors["y"][at, :, step].double()
    assert isinstance(tokens, Tensor) and isinstance(bias, Tensor)
    if not whole:
        return Parts(tokens, bias, y)
    direction, window, step = asked[0]
    at = image * direction.windows + window
    assert direction.z is not None and direction.output is not None
    readout = _readout(model, layer, y, direction.z[at, :, step].double())
    assert readout is not None

    def read(values: Tensor) -> Tensor:
        values = values - values.mean(dim=0) if readout.centred else values
        return values * _double(readout.scale).view(-1, *[1] * (values.ndim - 1))

    tokens, bias = read(tokens), read(bias)
    if direction.beside is not None:
        row = torch.zeros_like(direction.beside.x[at], dtype=torch.float64)
        row[:, step] = 1
        parts, constant = _through(direction.beside, row, at, direction)
        tokens = torch.cat([tokens, direction.in_image(parts, window, cells)])
        bias = torch.cat([bias, constant])
    weight = _double(readout.weight)
    bias = weight @ bias if readout.bias is None else weight @ bias + _double(readout.bias)
    return Parts(weight @ tokens, bias, direction.output[at, :, step].double())


def _through(
    convolved: Convolved, row: Tensor, at: int, direction: Direction
) -> tuple[Tensor, Tensor]:
    """What row (d, l), the influence of what was convolved, makes of x: (d, l), and of the bias."""
    own = convolved.of(at, direction.path)
    constant = row.new_zeros(len(row))
    if convolved.bias is not None:
        constant = (row * own.slope).sum(dim=1) * convolved.bias
    return own.to_input(row[None], slice(None))[0] * convolved.x[at], constant


def _of_attention(layer: ScanLayer, model: nn.Module, image: int, query: Query) -> Parts:
    (direction,) = layer.directions
    attention: Any = model.get_submodule(layer.name)
    window, step = query.step(direction)
    at = image * direction.windows + window
    q, k, v = (direction.tensors[name][at].double() for name in "qkv")
    weights = (q[:, [step]] @ k.mT / q.shape[2] ** 0.5).softmax(dim=-1)  # (heads, 1, l)
    constant = torch.zeros_like(v[:, 0])
    if attention.qkv.bias is not None:
        constant = attention.split(_double(attention.qkv.bias)[None, None])[2, 0, :, 0]
    parts = (weights.mT * (v - constant[:, None])).transpose(1, 2).flatten(0, 1)
    weight, bias = _double(attention.proj.weight), weights.sum(dim=2) * constant
    bias = weight @ bias.flatten()
    if attention.proj.bias is not None:
        bias = bias + _double(attention.proj.bias)
    tokens = weight @ direction.in_image(parts, window, layer.cells[0] * layer.cells[1])
    assert direction.output is not None
    return Parts(tokens, bias, direction.output[at, :, step].double())


def _matrix(direction: Direction, at: int) -> HiddenAttention:
    """The scan of one image or window, with D, in float64."""
    own = {
        name: (tensor if name in "AD" else tensor[at : at + 1]).double()
        for name, tensor in direction.tensors.items()
        if name in ("delta", "A", "B", "C", "D")
    }
    return hidden_attention(own, with_D=True)


def _readout(model: nn.Module, layer: ScanLayer, y: Tensor, z: Tensor) -> Readout | None:
    mixer = model.get_submodule(layer.name.rpartition(".")[0])
    if not isinstance(mixer, ScanMixer):
        return None
    device = next(mixer.parameters()).device
    return mixer.readout(y.to(device), z.to(device))


def _double(x: Tensor) -> Tensor:
    return x.detach().to("cpu", torch.float64)
