"""S4ND reproduces the published layer, is the convolution it claims to be, and scales with rate."""

import golden
import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from workbench.geometry import feature_map, grid_of, stages
from workbench.models.s4nd_layer import S4ND, initial_state
from workbench.trace import record, scans

RECORDS = sorted(
    path.stem for path in golden.FOLDER.glob("s4nd_*.json") if path.stem != "s4nd_inits"
)
SCALE = 1e-4  # of the output's scale; the published layer computes in float32
NAMES = ("s4nd_nano", "s4nd_convnext_tiny", "s4nd_convnext_micro", "s4nd_vit_base")


def layer_of(entry: dict) -> S4ND:
    arguments = dict(entry["constructor"])
    layer = S4ND(arguments.pop("d_model"), **arguments)
    state = layer.state_dict()
    for name, parameter in entry["parameters"].items():
        assert list(state[name].shape) == parameter["shape"], name
        state[name] = torch.tensor(parameter["values"])
    assert {k for k in state if "l_kernel" not in k} == set(entry["parameters"])
    layer.load_state_dict(state)
    layer.rate = entry["rate"]
    return layer.eval()


@pytest.mark.parametrize("name", RECORDS)
def test_record(name: str) -> None:
    entry = golden.load(name)
    layer, x = layer_of(entry), golden.inputs(entry).requires_grad_()
    assert layer.lengths(x.shape[2:]) == entry["kernel_lengths"]
    for axis, length in enumerate(entry["kernel_lengths"]):
        expected = torch.tensor(entry["kernels_per_axis"][axis])
        found = layer.kernel[axis](length, layer.rate)
        assert (found - expected).abs().max() <= SCALE * expected.abs().max()
    y, output = layer(x), entry["output"]
    assert list(y.shape) == output["shape"]
    part, expected = y, torch.tensor(output["all"] or output["first64"])
    part = y if output["all"] else y.flatten()[:64]
    assert (part - expected).abs().max() <= SCALE * output["std"]
    assert abs(y.mean() - output["mean"]) <= SCALE * output["std"]
    assert abs(y.std(correction=0) - output["std"]) <= SCALE * output["std"]
    (gradient,) = torch.autograd.grad(y.sum(), x)
    summary = entry["input_grad_of_sum"]
    expected = torch.tensor(summary["first"])
    assert (gradient.flatten()[: len(expected)] - expected).abs().max() <= SCALE * summary["std"]
    assert abs(gradient.std(correction=0) - summary["std"]) <= SCALE * summary["std"]


@pytest.mark.parametrize("init", ["legs", "fourier", "diag-lin", "diag-inv", "diag-legs"])
def test_initial_state(init: str) -> None:
    expected = golden.load("s4nd_inits")["inits"][f"{init}_N8"]
    value = {
        k: np.array(expected[f"{k}_real"]) + 1j * np.array(expected[f"{k}_imag"]) for k in "ABP"
    }
    found = dict(zip("ABP", initial_state(init, 8), strict=True))
    order, known = np.argsort(found["A"].imag), np.argsort(value["A"].imag)
    found = {k: v[order] for k, v in found.items()}
    value = {k: v[known] for k, v in value.items()}
    assert found["A"] == pytest.approx(value["A"], abs=2e-6, rel=2e-6)
    # eigenvectors have no phase of their own
    if not init.startswith("diag-legs"):
        assert np.abs(found["P"]) == pytest.approx(np.abs(value["P"]), abs=1e-6)
        product = found["B"].conj() * found["P"]
        assert product == pytest.approx(value["B"].conj() * value["P"], abs=1e-5)
    assert np.abs(found["B"]) == pytest.approx(np.abs(value["B"]), abs=1e-6)


def test_parameters_are_counted_as_published() -> None:
    def count(name: str) -> int:
        with torch.device("meta"):
            return sum(p.numel() for p in timm.create_model(name).parameters())

    assert count("s4nd_convnext_tiny_conv") == 30_007_057
    assert count("s4nd_vit_base") == 91_157_224 - 2_370_816  # without the kernels nobody reads
    assert sum(p.numel() for p in S4ND(96).parameters()) == 25_248
    assert 0.3e6 < count("s4nd_nano") < 1.2e6


@pytest.mark.parametrize("mode", ["dplr", "diag"])
def test_the_convolution_is_the_double_sum_of_its_definition(mode: str) -> None:
    layer = S4ND(2, 4, mode=mode).double()
    u = torch.randn(1, 2, 3, 4, dtype=torch.float64)
    two_sided = []
    for axis, n in enumerate((3, 4)):
        forward, backward = layer.kernel[axis](n).chunk(2)
        # index o + n - 1 holds lag o
        lags = torch.cat([backward.flip(-1)[..., 1:], forward], dim=-1)
        two_sided.append(lags[0])
    expected = layer.D[0][:, None, None] * u
    for i in range(3):
        for j in range(4):
            rows = two_sided[0][:, [i - a + 2 for a in range(3)]]
            columns = two_sided[1][:, [j - b + 3 for b in range(4)]]
            expected[0, :, i, j] += torch.einsum("ha,hb,hab->h", rows, columns, u[0])
    assert (layer(u) - expected).abs().max() <= 1e-9


def test_the_receptive_field_of_a_layer_is_its_kernel() -> None:
    layer = S4ND(1, 8, mode="diag").double()
    u = torch.zeros(1, 1, 5, 5, dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(layer(u)[0, 0, 2, 2], u)
    outer = 1.0
    for axis, shape in enumerate(((-1, 1), (1, -1))):
        forward, backward = (k[0, 0] for k in layer.kernel[axis](5).chunk(2))
        # seen from the output: pixels before it through the forward kernel, after it the backward
        outer = outer * torch.cat([forward[:3].flip(0), backward[:2]]).reshape(shape)
    outer[2, 2] += layer.D[0, 0]
    assert (found[0, 0] - outer).abs().max() <= 1e-9


def test_a_longer_map_changes_nothing_beyond_the_kernel() -> None:
    layer = S4ND(3, 8, l_max=4, mode="diag")
    u = torch.zeros(1, 3, 20, 20)
    u[..., 10, 10] = 1
    y = layer(u)
    assert y[..., 6, 10].abs().max() > 1e-6  # lag -4, the backward kernel's last
    assert y[..., 5, 10].abs().max() < 1e-5 and y[..., 10, 15].abs().max() < 1e-5


def test_at_half_the_rate_a_picture_sampled_twice_as_fine_gives_the_same() -> None:
    """Exact for a piecewise constant input and zoh, away from the half-cell shift, as dt -> 0."""
    layer = S4ND(2, 8, axes=1, mode="diag", bidirectional=False, dt_min=0.01, dt_max=0.02)
    layer.double()
    with torch.no_grad():
        layer.D.zero_()
    t = torch.arange(64, dtype=torch.float64)
    coarse = torch.sin(0.1 * t).expand(1, 2, -1)
    fine = torch.sin(0.05 * (torch.arange(128, dtype=torch.float64) - 0.5)).expand(1, 2, -1)
    expected = layer(coarse)
    layer.rate = 0.5
    found = layer(fine)[..., 1::2]
    assert (found - expected).abs().max() <= 2e-2 * expected.abs().max()
    layer.rate = 1.0  # the same input without the change of rate is another signal
    assert (layer(fine)[..., 1::2] - expected).abs().max() > 0.1 * expected.abs().max()


def test_the_band_limit_does_not_depend_on_the_rate() -> None:
    layer = S4ND(4, 8, mode="diag", bandlimit=0.5, l_max=8)
    with torch.no_grad():
        layer.kernel[0].inv_dt.fill_(0.0)  # dt 1: pi n / 2 pi < 0.25 leaves n = 0 only
        whole = layer.kernel[0](8, rate=0.5)
        layer.kernel[0].C[:, :, 1:] = 0
    assert torch.equal(layer.kernel[0](8, rate=0.5), whole)
    layer.kernel[0].bandlimit = None
    assert torch.equal(layer.kernel[0](8, rate=0.5), whole)


def test_a_published_checkpoint_holds_another_C_and_is_read() -> None:
    entry = golden.load("s4nd_dplr_bi_6x8")
    layer = layer_of(entry)
    expected = layer(golden.inputs(entry))
    state = {k: v.clone() for k, v in layer.state_dict().items()}
    for axis, length in enumerate(entry["kernel_lengths"]):
        prefix = f"kernel.{axis}."
        tensors = {k: state[prefix + k].double() for k in ("inv_dt", "A_real", "A_imag", "C", "P")}
        state[f"{prefix}C"] = truncated(tensors, length).float()
        state[f"{prefix}l_kernel"] = torch.tensor(length)
    assert (state["kernel.0.C"] - layer.state_dict()["kernel.0.C"]).abs().max() > 1e-2
    fresh = S4ND(4, 8, entry["constructor"]["l_max"])
    fresh.load_state_dict(state)
    found = fresh(golden.inputs(entry))
    assert (found - expected).abs().max() <= SCALE * expected.std()
    assert fresh.kernel[0].l_kernel == 0
    again = S4ND(4, 8, entry["constructor"]["l_max"])
    again.load_state_dict(fresh.state_dict())
    assert torch.equal(again(golden.inputs(entry)), found)


def truncated(tensors: dict[str, Tensor], length: int) -> Tensor:
    """C (1 - Ad^length), channel by channel, as the published code writes it into C."""
    C = torch.view_as_complex(tensors["C"].contiguous())
    P = torch.view_as_complex(tensors["P"].contiguous())[0, 0]
    A = torch.complex(-tensors["A_real"][0].exp(), -tensors["A_imag"][0])
    A, P = torch.cat([A, A.conj()]), torch.cat([P, P.conj()])
    rows = []
    for h, dt in enumerate(tensors["inv_dt"].exp()[:, 0]):
        eye = torch.eye(len(A), dtype=A.dtype)
        M = dt / 2 * (torch.diag(A) - torch.outer(P, P.conj()))
        power = torch.linalg.matrix_power(torch.linalg.solve(eye - M, eye + M), length)
        whole = torch.cat([C[:, h], C[:, h].conj()], dim=-1)
        rows.append((whole @ (eye - power))[:, : C.shape[2]])
    return torch.view_as_real(torch.stack(rows, dim=1).contiguous())


def test_float64_gradients_of_a_layer() -> None:
    for mode in ("dplr", "diag"):
        layer = S4ND(2, 4, 3, mode=mode, linear=False).double()
        u = torch.randn(1, 2, 3, 4, dtype=torch.float64, requires_grad=True)
        parameters = dict(layer.named_parameters())

        def run(u: Tensor, *values: Tensor, layer=layer, names=tuple(parameters)) -> Tensor:
            given = dict(zip(names, values, strict=True))
            return torch.func.functional_call(layer, given, (u,))

        assert torch.autograd.gradcheck(run, (u, *parameters.values()), atol=1e-6)


def test_trank_is_a_mean_of_outer_products_and_channels_lie_side_by_side() -> None:
    layer = S4ND(3, 4, mode="diag", trank=2, channels=2, bidirectional=False).double()
    u = torch.randn(1, 3, 5, 6, dtype=torch.float64)
    y = layer(u)
    assert y.shape == (1, 6, 5, 6)
    rows, columns = (layer.kernel[a](n).unflatten(0, (2, 2)) for a, n in ((0, 5), (1, 6)))
    kernel = torch.einsum("rchi,rchj->chij", rows, columns) / 2
    expected = (kernel.flip(-1, -2) * u).sum((-1, -2)) + layer.D * u[..., -1, -1]
    assert (y[0, :, -1, -1] - expected.flatten()).abs().max() <= 1e-9


@pytest.mark.parametrize("name", NAMES)
def test_a_model_knows_its_preprocessing_stages_and_what_does_not_decay(name: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    data = timm.data.resolve_model_data_config(model)
    assert data["mean"] == (0.485, 0.456, 0.406) and data["interpolation"] == "bicubic"
    assert len(stages(model)) == (3 if name == "s4nd_nano" else 4)
    no_decay = model.no_weight_decay()
    assert no_decay <= {key for key, _ in model.named_parameters()}
    assert any(key.endswith("A_imag") for key in no_decay)
    assert not any("head" in key or "mlp" in key for key in no_decay)


@pytest.mark.parametrize("size", [(64, 64), (56, 96), (33, 47)])
def test_any_input_size_runs_and_has_maps(size: tuple[int, int]) -> None:
    model, x = timm.create_model("s4nd_nano").eval(), torch.randn(2, 3, *size)
    assert model(x).shape == (2, 10)
    for stage in range(1, 4):
        features = feature_map(model, x, stage)
        grid = grid_of(model, features, size)
        assert features.ndim == 4 and grid.cells == tuple(features.shape[-2:])
        last = grid.centre((grid.cells[0] - 1, grid.cells[1] - 1))
        assert all(0 <= grid.centre((0, 0))[i] <= last[i] < size[i] for i in (0, 1))
        if size == (64, 64):  # pools put a cell in the middle of its patch
            assert grid.centre((0, 0)) == ((grid.stride[0] - 1) / 2,) * 2
    with pytest.raises(ValueError, match="at least 16 x 16"):
        model(torch.randn(1, 3, 15, 64))


def test_images_of_a_batch_do_not_see_each_other_and_there_is_nothing_to_record() -> None:
    model, x = timm.create_model("s4nd_nano").eval(), torch.randn(3, 3, 64, 64)
    alone = torch.cat([model(image[None]) for image in x])
    assert (model(x) - alone).abs().max() <= 1e-5
    assert scans(model) == []
    with pytest.raises(ValueError, match="no selective scan"), record(model):
        pass


def test_small_variants_of_both_networks_run_and_serve_as_feature_backbones() -> None:
    vit = timm.create_model("s4nd_vit_base", embed_dim=24, depth=4, d_state=4, num_classes=5)
    assert vit.eval()(torch.randn(2, 3, 48, 64)).shape == (2, 5)
    small = {"dims": (8, 16, 24), "depths": (1, 1, 1), "d_state": 4, "train_size": 64}
    for downsample in ("s4nd", "conv"):
        model = timm.create_model("s4nd_convnext_tiny", **small, downsample=downsample)
        assert model(torch.randn(1, 3, 64, 48)).shape == (1, 1000)
        assert model.stages[0][0].s4nd.l_max == [16, 16]
    model = timm.create_model("s4nd_nano", features_only=True).eval()
    shapes = [tuple(f.shape[1:]) for f in model(torch.randn(1, 3, 64, 64))]
    assert shapes == [(48, 16, 16), (96, 8, 8), (192, 4, 4)]


def test_what_cannot_be_built_is_one_sentence() -> None:
    for arguments, words in (
        ({"mode": "s4"}, "mode"),
        ({"disc": "zoh"}, "disc"),
        ({"init": "random"}, "init"),
        ({"d_state": 7}, "even"),
        ({"l_max": (4, 4, 4)}, "l_max"),
        ({"out_channels": 4, "linear": False}, "linear"),
    ):
        with pytest.raises(ValueError, match=words):
            S4ND(4, **arguments)
    with pytest.raises(ValueError, match="2 axes"):
        S4ND(4, 4)(torch.randn(1, 4, 10))
    with pytest.raises(ValueError, match="downsample"):
        timm.create_model("s4nd_nano", downsample="pool")


def test_half_precision_input_is_computed_in_float32() -> None:
    layer, u = S4ND(2, 4), torch.randn(1, 2, 6, 6)
    y = layer(u.to(torch.bfloat16))
    assert y.dtype == torch.bfloat16
    assert (y.float() - layer(u)).abs().max() <= 0.05 * layer(u).abs().max()


def test_a_training_step_reaches_every_parameter() -> None:
    # channels-last, as `vssm train` has it
    model = timm.create_model("s4nd_nano").train().to(memory_format=torch.channels_last)
    loss = nn.functional.cross_entropy(model(torch.randn(4, 3, 64, 64)), torch.arange(4))
    loss.backward()
    for name, parameter in model.named_parameters():
        if name != "patch_embed.s4nd.D":  # the stem mixes channels, without its D
            assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
            assert parameter.grad.any(), name
