"""Effective receptive fields against closed forms, and what must not change them."""

import math

import golden
import numpy as np
import pytest
import timm
import torch
from scipy.special import erfinv
from torch import Tensor, nn

from workbench import erf
from workbench.geometry import Grid, feature_map, grid_of, resolve_position, stages
from workbench.images import Batch
from workbench.methods.erf import metrics as erf_numbers
from workbench.methods.erf.config import ErfConfig
from workbench.methods.erf.display import display
from workbench.methods.erf.figure import caption
from workbench.methods.erf.measure import gradient, size_of, split_gradients
from workbench.methods.method import Partial
from workbench.models.vim import Vim
from workbench.models.vmamba import SS2D, VMamba
from workbench.paths import CROSS, scan_path
from workbench.scan import SelectiveScan, cross_merge, cross_scan


def uniform_conv(kernel: int, stride: int = 1, channels: int = 1) -> nn.Conv2d:
    conv = nn.Conv2d(channels, channels, kernel, stride, kernel // 2, bias=False)
    nn.init.constant_(conv.weight, 1 / conv.weight[0].numel())
    return conv.double()


def field(model: nn.Module, size: tuple[int, int], **settings) -> tuple[np.ndarray, dict]:
    """|gradient| of one unit of `model` on a positive image, not normalised."""
    channels = settings.pop("channels", 1)
    x = torch.ones(1, channels, *size, dtype=torch.float64)
    g, place = gradient(model.double().eval(), x, ErfConfig(**settings))
    return g.abs().sum(dim=(0, 1)).numpy(), place


def axis_sigma(p: np.ndarray) -> float:
    rows = np.arange(p.shape[0])
    mass = p.sum(1) / p.sum()
    return math.sqrt(mass @ rows**2 - (mass @ rows) ** 2)


def support(p: np.ndarray) -> int:
    return int(np.ptp(np.flatnonzero(p.sum(1) > 0))) + 1


@pytest.mark.parametrize(
    ("kernel", "layers", "sigma"),
    [
        (3, 5, 1.825742),
        (3, 10, 2.581989),
        (3, 20, 3.651484),
        (5, 10, 4.472136),
        (7, 10, 6.324555),
    ],
)
def test_a_stack_of_uniform_convolutions_is_as_wide_as_luo_says(kernel, layers, sigma) -> None:
    model = nn.Sequential(*[uniform_conv(kernel) for _ in range(layers)])
    p, _ = field(model, (129, 129), layer=str(layers - 1))
    assert support(p) == layers * (kernel - 1) + 1
    assert axis_sigma(p) == pytest.approx(sigma, abs=1e-6)


def test_skip_connections_make_the_field_smaller() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = uniform_conv(3)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.conv(x)

    p, _ = field(nn.Sequential(*[Residual() for _ in range(20)]), (65, 65), layer="19")
    assert axis_sigma(p) == pytest.approx(2.581989, abs=1e-6)


def test_strides_widen_the_field_and_move_its_centre() -> None:
    layers = [uniform_conv(k, s) for k, s in zip((7, 3, 3, 3, 3), (2, 2, 1, 2, 2), strict=True)]
    model = nn.Sequential(*layers)
    p, place = field(model, (256, 256), layer="4", position="8,8")
    assert support(p) == 43
    assert axis_sigma(p) == pytest.approx(8.406347, abs=1e-6)
    centroid = (p.sum(1) / p.sum()) @ np.arange(256)
    assert centroid == pytest.approx(8 * 16, abs=1e-9)
    assert place["centre"] == (8 * 16, 8 * 16)


@pytest.mark.parametrize(
    ("name", "extent", "sigma", "size"),
    [("resnet18", 435, 38.52, 544), ("resnet50", 427, 36.17, 544)],
)
def test_a_positive_resnet_has_the_known_support(name, extent, sigma, size) -> None:
    model = timm.create_model(name)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.constant_(module.weight, 1 / module.weight[0].numel())
    for module_name, module in list(model.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            parent = model.get_submodule(module_name.rpartition(".")[0])
            setattr(parent, module_name.rpartition(".")[2], BatchNormAsIdentity())
    model.maxpool = nn.AvgPool2d(3, 2, 1)
    p, place = field(model, (size, size), channels=3, stage=4)
    assert support(p) == extent
    centroid = (p.sum(1) / p.sum()) @ np.arange(size)
    assert centroid == pytest.approx(32 * place["cell"][0], abs=1e-6)
    assert place["centre"] == (32 * place["cell"][0],) * 2
    assert axis_sigma(p) == pytest.approx(sigma, abs=5e-3)


class BatchNormAsIdentity(nn.Identity):
    """Keeps the attributes that timm's blocks read."""

    weight = bias = None


def test_a_patch_embedding_sees_exactly_its_patch() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 16, 16))
    p, place = field(model, (224, 224), layer="0", position="6,6")
    seen = np.flatnonzero(p.sum(1))
    assert list(seen) == list(range(96, 112))
    assert place["centre"] == (103.5, 103.5)
    assert erf_numbers.smallest_set(p, 1.0) == pytest.approx(256 / 224**2)
    assert erf_numbers.centred_square(p, place["centre"], 1.0) <= 256 / 224**2 + 1e-12


def test_global_averaging_is_exactly_uniform() -> None:
    class Average(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean(dim=(2, 3), keepdim=True).expand_as(x)

    p, _ = field(nn.Sequential(Average()), (32, 48), layer="0")
    assert np.ptp(p) <= 1e-18
    found = erf_numbers.numbers(p, ((32 - 1) / 2, (48 - 1) / 2))
    assert found["participation"] == pytest.approx(100)
    assert found["entropy"] == pytest.approx(100)
    assert found["A50"] == pytest.approx(50, abs=0.1)
    assert found["r50"] == pytest.approx(50, abs=1e-9)
    assert found["crossness"] == pytest.approx(1)


def test_a_single_pixel_has_the_smallest_numbers_there_are() -> None:
    p = np.zeros((64, 64))
    p[20, 30] = 3.0
    found = erf_numbers.numbers(p, (20, 30))
    one = 100 / 64**2
    for name in ("r20", "r50", "r99", "A20", "A99", "participation", "entropy"):
        assert found[name] == pytest.approx(one)
    assert found["radius"] == 0
    assert erf_numbers.legacy_square(np.pad(np.ones((1, 1)), 32)[:64, :64], 0.5) == 9 / 64**2


@pytest.mark.parametrize("side", [14, 32, 64, 128])
def test_the_legacy_square_never_holds_99_percent_of_a_small_uniform_map(side) -> None:
    assert math.isnan(erf_numbers.legacy_square(np.ones((side, side)), 0.99))
    assert erf_numbers.legacy_square(np.ones((224, 224)), 0.99) == pytest.approx(223**2 / 224**2)
    exact = erf_numbers.centred_square(np.ones((side, side)), ((side - 1) / 2,) * 2, 0.99)
    assert exact == pytest.approx(0.99)


def test_the_square_of_a_gaussian_follows_the_error_function() -> None:
    y, x = np.mgrid[0:1024, 0:1024]
    p = np.exp(-((y - 511.5) ** 2 + (x - 511.5) ** 2) / (2 * 60**2))
    for share, published in ((0.2, 0.48), (0.3, 0.78), (0.5, 1.52), (0.99, 10.81)):
        exact = (2 * 60 * math.sqrt(2) * erfinv(math.sqrt(share))) ** 2 / 1024**2
        assert 100 * exact == pytest.approx(published, abs=0.005)
        found = erf_numbers.centred_square(p, (511.5, 511.5), share)
        assert found == pytest.approx(exact, rel=2e-3)
    assert erf_numbers.crossness(p, (511.5, 511.5)) == pytest.approx(1, abs=2e-3)
    assert erf_numbers.anisotropy(p) == pytest.approx(1, abs=1e-9)
    assert erf_numbers.effective_radius(p, (511.5, 511.5)) == pytest.approx(
        60 * math.sqrt(2), rel=1e-6
    )


def test_a_wrong_centre_makes_the_square_too_large() -> None:
    y, x = np.mgrid[0:1024, 0:1024]
    p = np.exp(-((y - 527.5) ** 2 + (x - 527.5) ** 2) / (2 * 20**2))
    true = [erf_numbers.centred_square(p, (527.5, 527.5), t) for t in erf_numbers.THRESHOLDS]
    wrong = [erf_numbers.centred_square(p, (512, 512), t) for t in erf_numbers.THRESHOLDS]
    assert np.allclose(100 * np.array(true), (0.06, 0.09, 0.18, 1.22), atol=0.03)
    assert np.allclose(100 * np.array(wrong), (0.10, 0.16, 0.29, 1.74), atol=0.03)


class ConstantScan(nn.Module):
    """A scan over the image with constant step and A = -a, B = C = 1, for closed forms."""

    def __init__(self, a: float, step: float, skip: float, directions: tuple[str, ...]) -> None:
        super().__init__()
        self.a, self.step, self.skip = a, step, skip
        self.scan = SelectiveScan(directions)

    def forward(self, x: Tensor) -> Tensor:
        paths = [scan_path(name, *x.shape[-2:]) for name in self.scan.directions]
        u = cross_scan(x, paths).flatten(1, 2)
        ones = torch.ones(len(x), len(paths), 1, u.shape[-1], dtype=x.dtype)
        y = self.scan(
            u=u,
            delta=torch.full_like(u, self.step),
            A=torch.full((len(paths), 1), -self.a, dtype=x.dtype),
            B=ones,
            C=ones,
            D=torch.full((len(paths),), self.skip, dtype=x.dtype),
            paths=paths,
        )
        return cross_merge(y.unflatten(1, (len(paths), 1)), paths)


def test_one_scan_forgets_geometrically_and_never_looks_ahead() -> None:
    a, step, skip = 0.7, 0.3, 0.5
    model = ConstantScan(a, step, skip, ("row",))
    p, _ = field(nn.Sequential(model), (1, 40), layer="0", position="0,25")
    rho = math.exp(-a * step)
    expected = np.zeros(40)
    expected[:26] = step * rho ** np.arange(25, -1, -1.0)
    expected[25] += skip
    assert np.abs(p[0] - expected).max() <= 1e-15
    half_life = math.log(2) / (a * step)
    assert rho**half_life == pytest.approx(0.5)


def test_the_cross_scan_of_a_constant_layer_is_a_cross() -> None:
    height, width = 7, 9
    a, step, skip = 0.5, 0.4, 0.25
    model = ConstantScan(a, step, skip, CROSS)
    p, _ = field(nn.Sequential(model), (height, width), layer="0", position="3,4")
    di, dj = np.mgrid[0:height, 0:width] - np.array([3, 4])[:, None, None]
    rho = math.exp(-a * step)
    expected = step * (rho ** np.abs(di * width + dj) + rho ** np.abs(dj * height + di))
    expected[3, 4] = 4 * step + 4 * skip
    assert np.abs(p - expected).max() <= 1e-15


def random_ss2d_model(dim: int = 8) -> VMamba:
    torch.manual_seed(0)
    return VMamba(dims=dim, depths=(1, 1, 1, 1), num_classes=4).eval()


def batch_of(x: Tensor) -> Batch:
    n, _, h, w = x.shape
    return Batch(
        tensor=x,
        pictures=np.zeros((n, h, w, 3), np.uint8),
        names=[str(i) for i in range(n)],
        labels=None,
        indices=list(range(n)),
    )


def result_of(model: nn.Module, x: Tensor, **settings):
    config = ErfConfig(resamples=0, **settings)
    return erf.combine(erf.measure(model, batch_of(x), config), config, {})


def test_a_constant_factor_on_the_loss_changes_nothing() -> None:
    class Scaled(nn.Module):
        def __init__(self, model: nn.Module, factor: float) -> None:
            super().__init__()
            self.model, self.factor = model, factor

        def forward(self, x: Tensor) -> Tensor:
            return self.factor * feature_map(self.model, x)

    model, x = random_ss2d_model(), torch.randn(2, 3, 64, 64)
    wrapped = [Scaled(model, factor) for factor in (1.0, 1000.0)]
    results = [
        result_of(nn.Sequential(m), x, layer="0", average=average)
        for m in wrapped
        for average in ("normalised", "raw")
    ]
    for one, other in zip(results[:2], results[2:], strict=True):
        assert np.abs(one.map - other.map).max() <= 1e-6 * one.map.max()
        assert one.numbers["r50"]["value"] == pytest.approx(other.numbers["r50"]["value"], rel=1e-5)


def test_moving_the_image_by_one_stride_moves_the_map() -> None:
    model = nn.Sequential(*[uniform_conv(3, s) for s in (2, 2, 1)])
    x = torch.zeros(1, 1, 96, 96, dtype=torch.float64)
    x[..., 20:60, 24:70] = torch.rand(40, 46, dtype=torch.float64)
    here = gradient(model, x, ErfConfig(layer="2", position="10,11"))[0]
    there = gradient(model, x.roll((4, 4), (2, 3)), ErfConfig(layer="2", position="11,12"))[0]
    assert torch.equal(here.roll((4, 4), (2, 3)), there)


def test_a_transposed_image_with_exchanged_directions_gives_the_transposed_map() -> None:
    torch.manual_seed(1)
    layer = SS2D(8, ssm_ratio=1.0).eval()
    twin = SS2D(8, ssm_ratio=1.0).eval()
    twin.load_state_dict(layer.state_dict())
    swap = [1, 0, 3, 2]  # row <-> column, row-reversed <-> column-reversed
    for name in ("x_proj_weight", "dt_projs_weight", "dt_projs_bias"):
        getattr(twin, name).data = getattr(layer, name).data[swap]
    for name in ("A_logs", "Ds"):
        value = getattr(layer, name).data
        getattr(twin, name).data = value.unflatten(0, (4, -1))[swap].flatten(0, 1)
    twin.conv2d.weight.data = layer.conv2d.weight.data.transpose(2, 3)
    x = torch.randn(1, 6, 9, 8)
    turned = twin(x.transpose(1, 2)).transpose(1, 2)
    assert (layer(x) - turned).abs().max() <= 1e-5


def test_the_gauge_of_b_and_c_does_not_matter() -> None:
    model, x = random_ss2d_model(), torch.randn(1, 3, 64, 64)
    before = result_of(model, x).map
    for module in model.modules():
        if isinstance(module, SS2D):
            rank, n = module.rank, module.d_state
            module.x_proj_weight.data[:, rank : rank + n] *= 8.0
            module.x_proj_weight.data[:, rank + n :] /= 8.0
    assert np.abs(result_of(model, x).map - before).max() <= 1e-5 * before.max()


def test_vim_with_both_directions_reaches_every_patch_and_one_direction_only_the_past() -> None:
    torch.manual_seed(0)
    model = Vim(img_size=64, patch_size=8, depth=1, embed_dim=16, d_state=4, num_classes=3).eval()
    x = torch.randn(1, 3, 64, 64)
    config = ErfConfig(position="3,4", split="direction")
    whole = gradient(model, x, config)[0]
    by_patch = whole.abs().sum((0, 1)).unflatten(0, (8, 8)).unflatten(2, (8, 8)).sum((1, 3))
    assert (by_patch > 0).all()
    (forward, g), _ = list(split_gradients(model, x, config))
    assert forward == "row"
    past = g.abs().sum((0, 1)).unflatten(0, (8, 8)).unflatten(2, (8, 8)).sum((1, 3)).flatten()
    assert (past[: 3 * 8 + 5] > 0).all()
    assert not past[3 * 8 + 5 :].any()


@pytest.mark.parametrize("split", ["direction", "route"])
@pytest.mark.parametrize("family", ["vmamba", "vmamba_v0", "vim"])
def test_routes_of_one_layer_and_the_rest_sum_to_the_whole_gradient(split, family) -> None:
    torch.manual_seed(0)
    if family == "vim":
        model = Vim(img_size=64, patch_size=8, depth=3, embed_dim=16, d_state=4)
        layer = "layers.1.mixer.scan"
    else:
        gate = family == "vmamba_v0"
        model = VMamba(dims=8, depths=(1, 1, 2, 1), gate=gate, d_state=4)
        layer = "layers.2.blocks.0.op.scan"
    golden.fill_model(model)
    x = torch.randn(1, 3, 64, 64)
    config = ErfConfig(split=split, split_layer=layer)
    whole = gradient(model, x, config)[0]
    parts = dict(split_gradients(model, x, config))
    assert (sum(parts.values()) - whole).abs().max() <= 2e-5 * whole.abs().max()
    informative = [name for name, g in parts.items() if g.abs().max() > 1e-6 * whole.abs().max()]
    assert len(informative) == len(parts)
    assert ("gate" in parts) == (split == "route" and family != "vmamba")  # v2 has no gate


def test_a_split_needs_a_scan() -> None:
    with pytest.raises(ValueError, match="no selective scan"):
        list(
            split_gradients(
                timm.create_model("test_resnet"),
                torch.randn(1, 3, 64, 64),
                ErfConfig(split="route"),
            )
        )


@pytest.mark.parametrize("preset", ["vmamba2025"])
def test_the_published_protocol_is_reproduced_to_the_digit(preset) -> None:
    """Maps and rectangles as VMamba's own analysis script gives them."""
    record = golden.load("vmamba_analysis")["erf_records"][0]
    model = golden.fill_model(VMamba(**golden.vmamba_arguments(record["args"])))
    images = [
        torch.from_numpy(golden.image(i["name"], tuple(i["shape"]))) for i in record["images"]
    ]
    config = ErfConfig(preset=preset, resamples=0)
    partials = [erf.measure(model, batch_of(x), config) for x in images]
    from test_golden import assert_summary

    for partial, summary in zip(partials, record["per_image_map"], strict=True):
        assert_summary(torch.from_numpy(partial["maps"][0]), summary, "per image map")
    result = erf.combine(Partial.joined(partials), config, {})
    assert_summary(torch.from_numpy(result.maps).double().mean(0), record["mean_map"], "mean map")
    power = display(result.maps.astype(np.float64).mean(0), "x ** 0.2")
    assert_summary(torch.from_numpy(power), record["power_0.2_over_max"], "power map")
    for t, (_, area) in record["rectangle_side_and_area_ratio_of_power_map"].items():
        found = result.meta["legacy"][f"r{float(t) * 100:.0f}"]
        assert found is None if area is None else found == pytest.approx(100 * area, rel=1e-4)


def test_stage_4_is_the_last_block_of_every_family() -> None:
    assert stages(Vim(img_size=32, depth=8, embed_dim=16))[-1] == "layers.7"
    assert stages(random_ss2d_model()) == [f"layers.{i}.blocks" for i in range(4)]
    assert len(stages(timm.create_model("resnet18"))) == 4


@pytest.mark.parametrize(
    ("name", "offset"),
    [
        ("resnet18", 0.0),
        ("convnext_atto", 15.5),
        ("swin_tiny_patch4_window7_224", 15.5),
        ("deit_tiny_patch16_224", 7.5),
    ],
)
def test_the_projective_centre_of_known_networks(name, offset) -> None:
    model = timm.create_model(name).eval()
    features = feature_map(model, torch.zeros(1, 3, 224, 224))
    grid = grid_of(model, features, (224, 224))
    assert grid.offset == (offset, offset)
    assert grid.cells == tuple(features.shape[-2:])


def test_our_own_geometry_agrees_with_the_watched_one() -> None:
    for model in (
        random_ss2d_model(),
        VMamba(dims=8, depths=(1, 1, 1, 1), stem="v1", downsample="v2"),
        Vim(img_size=64, patch_size=8, stride=4, depth=4, embed_dim=16),
    ):
        x = torch.zeros(1, 3, 64, 64)
        for stage in range(1, 5):
            features = feature_map(model.eval(), x, stage)
            known = grid_of(model, features, (64, 64))
            info, model.feature_info = model.feature_info, None
            watched = grid_of(model, features, (64, 64))
            model.feature_info = info
            assert known == watched


def test_a_named_layer_may_have_any_layout() -> None:
    model = random_ss2d_model()
    x = torch.randn(1, 3, 64, 96)
    block = feature_map(model, x, layer="layers.0.blocks.0")  # channels-last inside
    assert block.shape == (1, 8, 16, 24)
    assert torch.equal(block, feature_map(model, x, stage=1))
    vim = Vim(img_size=(32, 48), patch_size=8, depth=2, embed_dim=16).eval()  # two stages
    x = torch.randn(1, 3, 32, 48)
    tokens = feature_map(vim, x, layer="layers.1")
    assert torch.allclose(tokens, feature_map(vim, x, stage=2))


def test_positions_outside_the_map_are_refused() -> None:
    grid = Grid((7, 7), (32.0, 32.0), (0.0, 0.0))
    assert resolve_position("centre", grid, (224, 224)) == (3, 3)
    assert resolve_position("0.99,0.0", grid, (224, 224)) == (6, 0)
    for wrong in ("7,0", "-1,2", "1.5,0.5", "here", "1"):
        with pytest.raises(ValueError, match="position"):
            resolve_position(wrong, grid, (224, 224))
    with pytest.raises(ValueError, match=r"layers\.0\.blocks"):
        feature_map(random_ss2d_model(), torch.zeros(1, 3, 32, 32), layer="layers.0.block")
    with pytest.raises(ValueError, match="stages 1 to 4"):
        feature_map(random_ss2d_model(), torch.zeros(1, 3, 32, 32), stage=5)


def gaussians(n: int, rng: np.random.Generator) -> np.ndarray:
    """Maps of a population of narrow and wide Gaussians, each with speckles of its own."""
    y, x = np.mgrid[0:32, 0:32] - 15.5
    sigmas = rng.uniform(2, 6, n)[:, None, None]
    p = np.exp(-(y**2 + x**2) / (2 * sigmas**2)) * rng.exponential(1, (n, 32, 32)) ** 1.5
    return p / p.sum((1, 2), keepdims=True)


def test_estimates_of_few_images_hold_the_number_of_the_population() -> None:
    rng, centre = np.random.default_rng(0), (15.5, 15.5)
    truth = erf_numbers.numbers(gaussians(4000, rng).mean(0), centre)
    names = ("r20", "A20", "A50", "A99", "radius", "participation", "entropy")
    within, low, found = dict.fromkeys(names, 0), [], []
    for _ in range(60):
        maps = gaussians(10, rng)
        plain = erf_numbers.numbers(maps.mean(0), centre)
        numbers = erf_numbers.estimates(maps, np.ones(10), centre, plain, 200, 0.95)
        for name in names:
            within[name] += numbers[name].low <= truth[name] <= numbers[name].high
        low.append(plain["A50"])
        found.append(numbers["A50"].value)
        assert numbers["anisotropy"].low is None
    assert min(within.values()) >= 50  # 95 % are 57; fewer than 51 come once in a thousand
    assert np.mean(low) < 0.9 * truth["A50"]  # what is corrected
    assert np.mean(found) == pytest.approx(truth["A50"], rel=0.03)


def test_intervals_shrink_with_images_and_need_ten_of_them() -> None:
    rng, widths = np.random.default_rng(0), []
    for n, most in ((16, 200), (128, 200), (128, 30)):
        maps = gaussians(n, rng)
        values = erf_numbers.numbers(maps.mean(0), (15.5, 15.5))
        number = erf_numbers.estimates(maps, np.ones(n), (15.5, 15.5), values, most, 0.95)["A50"]
        assert 0 <= number.low < number.value < number.high <= 100
        widths.append(number.high - number.low)
    assert max(widths[1:]) < widths[0] / 2
    few = erf_numbers.estimates(maps[:9], np.ones(9), (15.5, 15.5), values, 200, 0.95)
    assert {name: number.value for name, number in few.items()} == values
    assert all(number.low is None for number in few.values())


def test_a_residual_branch_that_starts_at_zero_is_named() -> None:
    images = torch.randn(1, 3, 64, 64)
    shut, free = (
        timm.create_model("resnet18", zero_init_last=zero).eval() for zero in (True, False)
    )
    assert result_of(shut, images).meta["closed_branches"] == 8  # one for each block
    assert result_of(free, images).meta["closed_branches"] == 0
    drawn = result_of(shut, images)
    drawn.meta.update(model="resnet18", facts={}, images={"source": "noise"})
    assert "8 branches are closed" in caption([drawn])


def test_the_negative_part_can_be_dropped_after_the_colours_and_openerf_asks_for_it() -> None:
    g = torch.tensor([[[[1.0, 1.0]], [[-3.0, 1.0]], [[1.0, -1.0]]]])
    assert size_of(g, "relu").tolist() == [[[2, 2]]] and size_of(g, "sum-relu").tolist() == [
        [[0, 1]]
    ]
    x = torch.randn(1, 3, 64, 64)
    # the network of the published rule: patches are embedded, so the unit is above and left
    for name, cell in (("vit_tiny_patch16_224", [1, 1]), ("resnet18", [1, 1])):
        model = timm.create_model(name, **({"img_size": 64} if "vit" in name else {})).eval()
        if "vit" in name:  # with equal weights the sum over a layer norm's channels is constant
            nn.init.uniform_(model.norm.weight)
        result = result_of(model, x, preset="openerf")
        assert result.meta["cell"] == cell and result.meta["protocol"]["measure"] == "sum-relu"
        score = model.forward_features(leaf := x.clone().requires_grad_())
        unit = score[0, 1 + 4 + 1] if "vit" in name else score[0, :, 1, 1]
        (expected,) = torch.autograd.grad(unit.sum(), leaf)
        expected = expected[0].sum(dim=0).clamp(min=0)
        assert np.allclose(result.maps[0], expected, atol=1e-6 * float(expected.max()))
