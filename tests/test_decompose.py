"""Parts of outputs: they sum to what the layer itself gives, and each is the token's own by the
Jacobian of the layer with everything held fixed that depends on the image.
"""

import pytest
import torch
from external_models import load
from test_scan_maps import batch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import workbench
from workbench.hooks import inputs
from workbench.methods.decompose import DecomposeConfig
from workbench.mixing.decomposition import parts_at, through
from workbench.mixing.layers import find_layers, scan_layers
from workbench.mixing.query import resolve_query
from workbench.models import MambaVision, Vim, VMamba
from workbench.results import Decomposition
from workbench.scan import Gate
from workbench.trace import patch

MODELS = {
    "vmamba": (lambda: VMamba(dims=(8, 16), depths=(1, 1), d_state=3, num_classes=5), (24, 32)),
    "vmamba gated": (
        lambda: VMamba(
            dims=(8, 16), depths=(1, 1), d_state=3, num_classes=5, gate=True, out_act=True,
            conv_bias=True,
        ),
        (24, 32),
    ),
    "vim": (lambda: Vim(img_size=48, embed_dim=16, depth=2, d_state=4, layer_scale=0.5), (48, 64)),
    "mambavision": (
        lambda: MambaVision(
            dim=8, in_dim=8, depths=(1, 1, 2, 2), window_size=(8, 8, 3, 2), num_classes=4
        ),
        (72, 104),
    ),
}  # fmt: skip


def made(family: str) -> tuple[nn.Module, Tensor]:
    """In float64, without the zeros of the start of training, and two images."""
    torch.manual_seed(0)
    make, size = MODELS[family]
    model = make().double().eval()
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return model, torch.randn(2, 3, *size, dtype=torch.float64)


class HeldFixed(TorchFunctionMode):
    """Slopes of activations, the deviation in norms and the weights of softmax are constants."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name = getattr(function, "__name__", "")
        with torch._C.DisableTorchFunction():
            if name == "silu":
                return args[0] * args[0].sigmoid().detach()
            if name == "gelu":
                return args[0] * (0.5 + 0.5 * torch.erf(args[0] / 2**0.5)).detach()
            if name == "layer_norm":
                x, _, weight, bias, eps = [*args, *(kwargs or {}).values()]
                deviation = (x.var(dim=-1, correction=0, keepdim=True) + eps).sqrt().detach()
                return (x - x.mean(dim=-1, keepdim=True)) / deviation * weight + bias
            found = function(*args, **(kwargs or {}))
            return found.detach() if name == "softmax" else found


@pytest.mark.parametrize("family", MODELS)
def test_parts_are_the_jacobian_of_the_layer_times_its_tokens(family) -> None:
    model, x = made(family)
    for name in find_layers(model, "*"):
        (layer,) = scan_layers(model, x, [name], whole=True)
        query = resolve_query("1,2", layer, model, x)
        found = parts_at(layer, model, 1, query)
        mixer = model.get_submodule(name.rpartition(".")[0] if layer.is_scan else name)
        with torch.no_grad(), inputs({"mixer": mixer}) as seen:
            model(x)
        h, *rest = seen["mixer"][0]
        direction = layer.directions[0]  # by rows, so its steps are the tokens in their order
        window, step = query.step(direction)
        at = direction.windows + window
        h = h.detach().requires_grad_()
        gates = [m for m in mixer.modules() if isinstance(m, Gate)]
        handles = [
            gate.register_forward_pre_hook(
                lambda _, args, kwargs: (args, {**kwargs, "z": kwargs["z"].detach()}),
                with_kwargs=True,
            )
            for gate in gates
        ]
        held = {tensor: lambda value: value.detach() for tensor in ("delta", "B", "C")}
        if layer.is_scan:
            with HeldFixed(), patch(model, f"{name}/*", **held):
                output = mixer(h, *rest)
        else:
            with HeldFixed():
                output = mixer(h, *rest)
        for handle in handles:
            handle.remove()
        output = output.flatten(1, -2)[at, step]
        parts = torch.stack(
            [
                (torch.autograd.grad(value, h, retain_graph=True)[0] * h).flatten(1, -2)[at].sum(-1)
                for value in output
            ]
        )
        cells = layer.cells[0] * layer.cells[1]
        expected = direction.in_image(parts.detach(), window, cells)
        scale = float(output.detach().norm())
        assert torch.allclose(found.tokens, expected, atol=1e-12 * scale), name
        bias = output.detach() - parts.detach().sum(dim=1)
        assert torch.allclose(found.bias, bias, atol=1e-12 * scale), name
        assert found.error < 1e-12 and float(found.along.sum()) == pytest.approx(1, abs=1e-12)


def measured(model: nn.Module, x: Tensor, **settings) -> Decomposition:
    config, method = DecomposeConfig(**settings), workbench.decompose
    result = method.combine(method.measure(model, batch(x), config), config, {})
    assert isinstance(result, Decomposition)
    return result


@pytest.mark.parametrize(
    ("family", "query"), [*((family, "1,2") for family in MODELS), ("vim", "class")]
)
def test_parts_sum_to_the_output_in_float32(family, query) -> None:
    model, x = made(family)
    result = measured(model.float(), x.float(), query=query)
    for site in result.meta["sites"]:
        name, numbers = site["name"], result.meta["numbers"]
        assert numbers[f"error/{name}"]["value"] < 1e-6
        along = {
            key: numbers[f"{key}/{name}"]["value"]
            for key in ("own", "others", "outside", "biases")
            if f"{key}/{name}" in numbers
        }
        assert sum(along.values()) == pytest.approx(100, abs=1e-3)
        cells = 100 * float(result.map(name, "along").sum())
        assert cells == pytest.approx(along.get("own", 0) + along["others"], abs=1e-3)
        lengths = result.map(name, "norm").sum()
        assert lengths <= numbers[f"lengths/{name}"]["value"] * (1 + 1e-5)


@pytest.mark.parametrize("name", ["vmamba", "vim"])
def test_of_a_foreign_network_the_scan_alone_is_taken_apart(name) -> None:
    torch.manual_seed(0)
    model, x = load(name), torch.randn(1, 3, 64, 64)
    (layer,) = scan_layers(model, x, find_layers(model, "0"), whole=True)
    assert through(layer, model) == "scan"
    parts = parts_at(layer, model, 0, resolve_query("1,2", layer, model, x))
    assert parts.error < 1e-6 and not parts.bias.any()
    site = measured(model, x, layer="0").meta["sites"][0]
    assert site["direction"] == "scan"
