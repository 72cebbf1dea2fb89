"""Hidden attention against closed forms, brute force in float64, golden records and the scan."""

import math
from dataclasses import replace

import golden
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workbench.kernels import selective_scan
from workbench.mixing.hidden_attention import HiddenAttention, hidden_attention
from workbench.mixing.layers import Direction, find_layers, scan_layers
from workbench.paths import scan_path
from workbench.scan import to_scan_order
from workbench.trace import record

SMALL = (
    "vmamba_p1_v0",
    "vmamba_p4_v05_noz_nonsquare",
    "vim_mini_rect_48x80",
    "mambavision_small_pad_72x104",
)


def attention(dim=3, length=12, state=2, dtype=torch.float64, **changes) -> HiddenAttention:
    """Random coefficients."""
    tensors = {
        "delta": torch.rand(dim, length, dtype=dtype),
        "A": -torch.rand(dim, state, dtype=dtype) - 0.1,
        "B": torch.randn(state, length, dtype=dtype),
        "C": torch.randn(state, length, dtype=dtype),
    }
    return HiddenAttention(**{**tensors, **changes})


def brute_force(a: HiddenAttention) -> Tensor:
    """(d, l, l) in float64: the product of the decays, one factor at a time, never a sum."""
    delta, A, B, C = (x.double() for x in (a.delta, a.A, a.B, a.C))
    found = torch.zeros(a.dim, a.length, a.length, dtype=torch.float64)
    for t in range(a.length):
        decay = torch.ones_like(A)
        for s in range(t, -1, -1):
            found[:, t, s] = (decay * C[:, t] * B[:, s]).sum(dim=1) * delta[:, s]
            decay = decay * (delta[:, s, None] * A).exp()
    return found


def family(name: str) -> dict:
    """A golden record, to build a small model from."""
    if name.startswith("vmamba"):
        records = golden.load("vmamba_small")["records"]
        return next(record for record in records if record["name"] == name)
    return golden.load(name)


def test_constant_coefficients_give_a_geometric_decay() -> None:
    a, step, length = 0.7, 0.3, 20
    ones = torch.ones(1, length, dtype=torch.float64)
    found = HiddenAttention(step * ones, torch.tensor([[-a]]).double(), ones, ones).matrix("mean")
    distance = torch.arange(length)[:, None] - torch.arange(length)
    expected = step * math.exp(-a * step) ** distance.double()
    assert torch.allclose(found, expected.tril(), atol=1e-15)


@pytest.mark.parametrize(("dim", "length", "state"), [(3, 12, 2), (2, 65, 1), (5, 1, 4)])
def test_matrix_rows_columns_and_diagonal_are_the_products_of_decays(dim, length, state) -> None:
    a = attention(dim, length, state)
    expected = brute_force(a)
    assert torch.allclose(a.matrix("channels"), expected, atol=1e-12)
    for t in range(length):
        assert torch.allclose(a.row(t, "channels"), expected[:, t], atol=1e-12)
        assert torch.allclose(a.column(t, "channels"), expected[:, :, t], atol=1e-12)
    diagonal = expected.diagonal(dim1=1, dim2=2)
    assert torch.allclose(a.diagonal("channels"), diagonal, atol=1e-12)


def test_aggregates_over_channels() -> None:
    a = attention(7, 30)
    every = brute_force(a)
    expected = {
        "abs": every.abs().mean(0),
        "mean": every.mean(0),
        "norm": every.square().sum(0).sqrt(),
        4: every[4],
    }
    for aggregate, matrix in expected.items():
        assert torch.allclose(a.matrix(aggregate), matrix, atol=1e-12)
        assert torch.allclose(a.row(20, aggregate), matrix[20], atol=1e-12)
        assert torch.allclose(a.column(5, aggregate), matrix[:, 5], atol=1e-12)
        assert torch.allclose(a.diagonal(aggregate), matrix.diagonal(), atol=1e-12)
    part = slice(2, 5)
    assert torch.allclose(a.row(20, "mean", part), every[part, 20].mean(0), atol=1e-12)


def test_no_length_or_step_underflows() -> None:
    """Steps from 1e-6 to 1e4 side by side: exact in float32 where a quotient of products is 0 / 0.

    A term is as exact as float32 allows: its exponent, up to 100 here, is rounded once or twice.
    """
    length = 400
    delta = 10 ** torch.empty(2, length).uniform_(-6, 4)
    delta[:, 100:300] = 1e-5  # a stretch that remembers, after steps that forget everything
    a = attention(2, length, 3, torch.float32, delta=delta)
    products = (delta.double().cumsum(1)[:, None] * a.A.double()[:, :, None]).exp()
    assert products[..., -1].max() == 0
    expected = brute_force(a)
    scale = (a.C.abs().T @ a.B.abs()).double() * delta.double()[:, None]  # (d, t, s), per term
    for found in (
        a.matrix("channels"),
        torch.stack([a.row(t, "channels") for t in range(length)], dim=1),
        torch.stack([a.column(t, "channels") for t in range(length)], dim=2),
    ):
        assert found.isfinite().all()
        assert ((found - expected).abs() <= 1e-6 * scale).all()
    assert (expected[:, 299, 100:299].abs() > 1e-9).any()


def test_a_long_sequence_takes_rows_and_columns_only() -> None:
    length = 65536
    a = attention(4, length, 1, torch.float32)
    with pytest.raises(ValueError, match=r"65,536 x 65,536 entries takes 17\.2 GB.*row or column"):
        a.matrix()
    query = 40000
    row, column = a.row(query, "channels"), a.column(query, "channels")
    near = slice(query - 50, query + 51)
    part = replace(a, delta=a.delta[:, near], B=a.B[:, near], C=a.C[:, near])
    expected = brute_force(part)
    assert torch.allclose(row[:, near].double(), expected[:, 50], atol=1e-7)
    assert torch.allclose(column[:, near].double(), expected[:, :, 50], atol=1e-7)
    assert not row[:, query + 1 :].any() and not column[:, :query].any()


def test_a_token_with_no_step_changes_nothing_for_the_others() -> None:
    a = attention(2, 20)
    wider = replace(
        a,
        delta=torch.cat([a.delta[:, :9], torch.zeros(2, 1), a.delta[:, 9:]], dim=1),
        B=torch.cat([a.B[:, :9], torch.ones(2, 1), a.B[:, 9:]], dim=1),
        C=torch.cat([a.C[:, :9], torch.ones(2, 1), a.C[:, 9:]], dim=1),
    )
    keep = [i for i in range(21) if i != 9]
    matrix = wider.matrix("channels")
    assert torch.allclose(matrix[:, keep][:, :, keep], a.matrix("channels"), atol=1e-14)
    assert not matrix[:, :, 9].any()


def test_the_scale_of_b_may_move_to_c() -> None:
    a = attention()
    scaled = replace(a, B=a.B * 3, C=a.C / 3)
    assert torch.allclose(scaled.matrix("channels"), a.matrix("channels"), atol=1e-14)


@pytest.mark.parametrize("name", SMALL)
def test_alpha_u_and_d_u_are_the_output_of_every_scan_of_a_model(name: str) -> None:
    file = family(name)
    model, x = golden.build(file), golden.inputs(file)
    with record(model) as sites:
        model(x)
    assert len({name.rpartition("/")[2] for name in sites}) in (1, 2, 4)
    for site, tensors in sites.items():
        for image in {0, len(tensors["y"]) - 1}:
            matrix = hidden_attention(tensors, image, with_D=True).matrix("channels")
            y = tensors["y"][image].double()
            found = (matrix.double() @ tensors["u"][image].double()[:, :, None])[:, :, 0]
            assert (found - y).abs().max() <= 1e-6 * y.abs().max(), site


def test_contributions_add_up_to_the_output() -> None:
    tensors = {
        "u": torch.randn(1, 4, 50),
        "delta": torch.rand(1, 4, 50),
        "A": -torch.rand(4, 3),
        "B": torch.randn(1, 3, 50),
        "C": torch.randn(1, 3, 50),
        "D": torch.randn(4),
    }
    y = selective_scan(**tensors)[0]
    a = hidden_attention(tensors, view="contribution", with_D=True)
    assert torch.allclose(a.row(33, "channels").sum(dim=1), y[:, 33], atol=1e-5)
    columns = torch.stack([a.column(s, "channels") for s in range(50)])
    assert torch.allclose(columns.sum(dim=0), y, atol=1e-5)
    skip = replace(a, D=None).diagonal("channels")
    expected = skip + tensors["D"][:, None] * tensors["u"][0]
    assert torch.allclose(a.diagonal("channels"), expected, atol=1e-6)


@pytest.mark.parametrize("name", SMALL)
def test_with_the_convolution_it_maps_what_is_before_the_convolution(name: str) -> None:
    """y = M x + b for the whole way from the convolution's input to the scan's output, the gate of
    Vim included, where b is what the convolution's bias contributes.
    """
    file = family(name)
    model, x = golden.build(file), golden.inputs(file)
    layer_name = find_layers(model, "0" if name.startswith("mambavision") else "-1")[0]
    mixer = model.get_submodule(layer_name.rpartition(".")[0])
    is_vim = hasattr(mixer, "conv1d_b")
    projected = {}
    handle = mixer.in_proj.register_forward_hook(
        lambda _, __, y: projected.update(x=y.detach().movedim(-1, 1))
    )
    (layer,) = scan_layers(model, x, [layer_name], gate=is_vim, convolution=True)
    handle.remove()
    for direction in layer.directions:
        a = direction.matrix_of(0, 0, with_D=True)
        assert isinstance(a, HiddenAttention) and direction.before is not None
        before, bias = convolution_input(mixer, direction, projected["x"][:1], a.dim)
        matrix = a.matrix("channels").double()
        u_to_y = replace(a, convolution=None).matrix("channels").double()
        through_bias = direction.before.slope[0].double() * bias[:, None]
        found = torch.einsum("dts,ds->dt", matrix, before.double())
        found += torch.einsum("dts,ds->dt", u_to_y, through_bias)
        expected = direction.tensors["y"][0].double()
        if is_vim:
            z = F.silu(projected["x"][0, a.dim :].double())
            expected = expected * (z.flip(-1) if "reversed" in direction.name else z)
        assert (found - expected).abs().max() <= 1e-6 * expected.abs().max()
        for token in (0, a.length // 2, a.length - 1):
            row, column = a.row(token, "channels"), a.column(token, "channels")
            assert torch.allclose(row.double(), matrix[:, token], atol=1e-6)
            assert torch.allclose(column.double(), matrix[:, :, token], atol=1e-6)


def convolution_input(
    mixer: nn.Module, direction: Direction, projected: Tensor, dim: int
) -> tuple[Tensor, Tensor]:
    """What the convolution of a direction reads, (d, l) in scan order, and its bias (d)."""
    x = projected[:, :dim]
    if x.ndim == 4:
        conv, x = mixer.conv2d, to_scan_order(x, direction.path)
    elif hasattr(mixer, "conv1d_x"):
        conv = mixer.conv1d_x
    else:
        backward = "reversed" in direction.name
        conv, x = (mixer.conv1d_b, x.flip(-1)) if backward else (mixer.conv1d, x)
    bias = torch.zeros(dim) if conv.bias is None else conv.bias
    return x[0], bias.detach().double()


def test_vims_golden_matrices() -> None:
    file = golden.load("vim_hidden_attention_mini")
    file["constructor"] = {
        **golden.load("vim_mini_p16_64")["constructor"],
        **file["constructor"],
    }
    model, x = golden.build(file), golden.inputs(file)
    with record(model) as sites:
        logits = model(x)
    assert (logits - torch.tensor(file["logits"])).abs().max() <= 2e-5
    for key, direction in (("forward", "row"), ("backward", "row-reversed")):
        expected = file[key]
        a = hidden_attention(sites[f"layers.{file['layer']}.mixer.scan/{direction}"])
        every = a.matrix("channels")
        every = every.flip(1, 2) if key == "backward" else every
        summary = expected["all_channels"]
        assert list(every.shape) == summary["shape"]
        assert abs(every.mean() - summary["mean"]) <= 1e-6
        assert abs(every.std(correction=0) - summary["std"]) <= 1e-6
        assert abs(every.min() - summary["min"]) <= 1e-5
        assert abs(every.max() - summary["max"]) <= 1e-5
        assert abs(every.abs().sum() - summary["abs_sum"]) <= 1e-5 * summary["abs_sum"]
        mean = torch.tensor(expected["channel_mean"])
        assert (every.mean(0) - mean).abs().max() <= 1e-6
        for channel, matrix in expected["channels"].items():
            assert (every[int(channel)] - torch.tensor(matrix)).abs().max() <= 1e-6


def test_what_does_not_fit_is_said() -> None:
    a = attention()
    with pytest.raises(ValueError, match="token 12 lies outside the sequence of 12 tokens"):
        a.row(12)
    with pytest.raises(ValueError, match="token -1 lies outside"):
        a.column(-1)
    with pytest.raises(ValueError, match="aggregated by abs, mean, norm, channels or a channel"):
        a.row(0, "sum")
    with pytest.raises(ValueError, match="no channel 3"):
        a.row(0, 3)
    with pytest.raises(ValueError, match="a view is one of"):
        attention(view="attention")
    with pytest.raises(ValueError, match="'QK' has no D"):
        attention(view="QK", D=torch.ones(3))
    with pytest.raises(ValueError, match="needs u"):
        attention(view="contribution")


def test_a_class_token_is_one_of_the_tokens() -> None:
    path = scan_path("row-reversed", 2, 3, class_token=3)
    assert list(path.order) == [5, 4, 3, -1, 2, 1, 0]
