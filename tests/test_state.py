"""Hidden states against the recurrence written out and the Jacobian by autograd."""

import numpy as np
import pytest
import torch
from external_models import load
from test_scan_maps import batch
from torch import Tensor

import workbench
from workbench.kernels import selective_scan
from workbench.methods.state import StateConfig
from workbench.methods.state.measure import QUANTITIES
from workbench.mixing.hidden_attention import hidden_attention
from workbench.mixing.layers import find_layers, scan_layers
from workbench.mixing.states import (
    controllability,
    kept,
    size_of_channels,
    size_of_direction,
    states,
)
from workbench.models import MambaVision, Vim, VMamba
from workbench.results import State


@pytest.fixture
def scan() -> dict[str, Tensor]:
    """Two sequences of 3 channels, 4 states and 9 tokens, in float64."""
    torch.manual_seed(0)
    u, B = torch.randn(2, 3, 9).double(), torch.randn(2, 4, 9).double()
    delta, A = torch.rand(2, 3, 9).double() + 0.1, -torch.rand(3, 4).double() - 0.2
    return {"u": u, "delta": delta, "A": A, "B": B, "C": torch.randn_like(B)}


def recurrence(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, **_) -> Tensor:
    h, found = torch.zeros(len(u), B.shape[1], u.shape[1]).double(), []
    for t in range(u.shape[2]):
        step = delta[:, None, :, t]
        h = torch.exp(step * A.T) * h + step * B[:, :, t, None] * u[:, None, :, t]
        found.append(h)
    return torch.stack(found, dim=-1)


def test_states_are_those_of_the_recurrence_written_out(scan) -> None:
    C = scan.pop("C")
    found = states(**scan)
    assert torch.allclose(found, recurrence(**scan), rtol=1e-12, atol=1e-14)
    y = selective_scan(**scan, C=C)
    assert torch.allclose(torch.einsum("bnl,bndl->bdl", C, found), y, rtol=1e-12, atol=1e-13)


def test_influence_is_the_squared_jacobian_of_the_last_state(scan) -> None:
    """Its sum is the trace of the Gramian by the recurrence W_t = a_t^2 W_(t-1) + b_t^2."""

    def last(u: Tensor) -> Tensor:
        return selective_scan(**{**scan, "u": u}, return_last_state=True)[1][1]

    jacobian = torch.autograd.functional.jacobian(last, scan["u"])  # (d, n, b, d, l)
    expected = jacobian[:, :, 1].square().sum(dim=(0, 1, 2))
    found = controllability(hidden_attention(scan, 1))
    assert torch.allclose(found, expected, rtol=1e-12)
    gramian = torch.zeros(3, 4).double()
    for step, b in zip(scan["delta"][1].T, scan["B"][1].T, strict=True):
        gramian = torch.exp(step[:, None] * scan["A"]).square() * gramian
        gramian += (step[:, None] * b).square()
    assert torch.allclose(found.sum(), gramian.sum(), rtol=1e-12)


def test_what_is_left_of_a_token_is_the_product_of_the_decays_after_it(scan) -> None:
    found = kept(hidden_attention(scan, 0), 3)
    left = torch.ones(3, 4).double()
    for t, step in enumerate(scan["delta"][0].T):
        left = left * torch.exp(step[:, None] * scan["A"]) if t > 3 else left
        expected = 0.0 if t < 3 else float(left.mean())
        assert float(found[t]) == pytest.approx(expected, rel=1e-12)


def test_sizes_are_participation_ratios_of_eigenvalues(scan) -> None:
    h = states(scan["u"], scan["delta"], scan["A"], scan["B"])
    tokens = h.permute(2, 1, 0, 3).flatten(2).numpy()  # (d, n, b l)

    def ratio(x: np.ndarray) -> float:
        values = np.linalg.eigvalsh(np.cov(x))
        return values.sum() ** 2 / np.square(values).sum()

    assert np.allclose(size_of_channels(h), [ratio(x) for x in tokens], rtol=1e-10)
    whole = tokens.reshape(12, 18)
    assert float(size_of_direction(h)) == pytest.approx(ratio(whole), rel=1e-10)
    few = whole[:, :5]  # fewer tokens than states
    few = torch.from_numpy(few.reshape(1, 3, 4, 5)).transpose(1, 2)
    assert float(size_of_direction(few)) == pytest.approx(ratio(whole[:, :5]), rel=1e-10)


def measured(model, x: Tensor, **settings) -> State:
    config = StateConfig(**settings)
    result = workbench.state.combine(workbench.state.measure(model, batch(x), config), config, {})
    assert isinstance(result, State)
    return result


MODELS = {
    "vmamba": (lambda: VMamba(dims=(8, 16), depths=(1, 1), d_state=3, num_classes=5), (24, 32)),
    "vim": (lambda: Vim(img_size=48, embed_dim=16, depth=2, d_state=4, num_classes=5), (48, 64)),
    "mambavision": (
        lambda: MambaVision(
            dim=8, in_dim=8, depths=(1, 1, 2, 2), window_size=(8, 8, 3, 2), num_classes=4
        ),
        (72, 104),
    ),
    "external": (lambda: load("vmamba"), (64, 64)),
}


@pytest.mark.parametrize("family", MODELS)
def test_maps_lie_where_the_recurrence_has_them(family) -> None:
    torch.manual_seed(0)
    make, size = MODELS[family]
    model, x = make().eval(), torch.randn(2, 3, *size)
    result = measured(model, x, query="1,2")
    (layer,) = scan_layers(model, x, find_layers(model, result.meta["sites"][0]["layer"]))
    columns, expected = layer.cells[1], []
    for direction in layer.directions:
        site = f"{layer.name}/{direction.name}"
        tensors = {k: v if k in "AD" else v.double() for k, v in direction.tensors.items()}
        norms = recurrence(**tensors).square().sum(dim=(1, 2)).sqrt()
        for cell in ((0, 0), (1, 2), (layer.cells[0] - 1, columns - 1)):
            place = direction.find(cell[0] * columns + cell[1])
            assert place is not None
            window, step = place
            at = direction.windows + window  # of the second image
            found = result.map(site, "norm", 1)[cell]
            assert found == pytest.approx(float(norms[at, step]), rel=1e-4)
        inside = result.map(site, "influence").sum() / direction.windows
        beside = result.meta["numbers"][f"outside/{site}"]["value"]
        assert inside + beside == pytest.approx(100, rel=1e-4)
        assert result.map(site, "kept")[1, 2] == 1
        step = tensors["delta"].unflatten(0, (2, -1)).mean(dim=(1, 3))  # (images, d)
        rates = step[:, :, None] * tensors["A"].abs()
        lives = np.median(np.log(2) / rates.numpy(), axis=2)
        expected.append(np.median(lives, axis=0))
        middle = result.meta["numbers"][f"half_life/{site}"]["value"]
        assert middle == pytest.approx(np.median(lives, axis=1).mean(), rel=1e-5)
    assert np.allclose(result.half_lives[: len(np.ravel(expected))], np.ravel(expected), rtol=1e-5)
    assert result.maps.shape[:2] == (2, len(QUANTITIES))


def test_only_scans_have_a_state() -> None:
    make, size = MODELS["mambavision"]
    model = make()
    with pytest.raises(ValueError, match="attention, which has no state"):
        measured(model, torch.zeros(1, 3, *size), layer="levels.2.blocks.1")
