"""Attribution and faithfulness against closed forms."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import workbench
from workbench import attribution
from workbench.images import Batch
from workbench.methods.attribution import faithfulness
from workbench.methods.attribution.config import METHODS, AttributionConfig
from workbench.methods.attribution.measure import explain, grad_cam, targets_of
from workbench.methods.attribution.randomisation import shuffled, similarity
from workbench.methods.scan_maps.published_views import class_maps
from workbench.models import MambaVision, Vim, VMamba


class Linear(nn.Module):
    """Logit k is the sum of weight[k] * x."""

    num_classes = 2

    def __init__(self, size: int = 8) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(2, 3, size, size) + 0.1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bchw,kchw->bk", x, self.weight)


class OnePixel(nn.Module):
    """Class 0 when the pixel (row, column) of the first colour is 1, class 1 when it is 0."""

    def __init__(self, row: int, column: int) -> None:
        super().__init__()
        self.place = row, column
        self.scale = nn.Parameter(torch.tensor(60.0))

    def forward(self, x: Tensor) -> Tensor:
        value = x[:, 0, self.place[0], self.place[1]]
        return torch.stack([self.scale * (value - 0.5), torch.zeros_like(value)], dim=1)


def small(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name == "vmamba":
        model = VMamba(dims=(8, 16), depths=(1, 1), num_classes=4)
    elif name == "vim":
        model = Vim(img_size=64, embed_dim=16, depth=3, d_state=4, num_classes=4)
    else:
        model = MambaVision(dim=8, in_dim=8, depths=(1, 1, 2, 2), num_classes=4)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data += 0.1 * torch.randn_like(parameter)  # initial logits hardly vary
    return model.eval()


def batch(x: Tensor, labels: tuple[int, ...] | None = None) -> Batch:
    pictures = np.zeros((len(x), *x.shape[-2:], 3), np.uint8)
    return Batch(x, pictures, tuple("abcdef"[: len(x)]), labels, tuple(range(len(x))))


def measured(model: nn.Module, x: Tensor, **settings):
    config = AttributionConfig(**settings)
    return attribution.combine(attribution.measure(model, batch(x), config), config, {})


def test_methods_on_a_linear_model() -> None:
    model, x, targets = Linear(), torch.randn(2, 3, 8, 8), torch.tensor([0, 1])
    weight = model.weight.detach()
    expected = {
        "saliency": weight,
        "input-x-gradient": weight * x,
        "integrated-gradients": weight * x,
        "occlusion": (weight * x).sum(dim=1, keepdim=True).expand_as(x),
    }
    for method, values in expected.items():
        found = explain(model, x, targets, AttributionConfig(method=method, patch=1))
        assert torch.allclose(found, values, atol=1e-4), method


def test_integrated_gradients_add_up_to_the_change_of_the_logit() -> None:
    model, x = small("vmamba"), torch.randn(2, 3, 64, 64)
    targets = torch.tensor([0, 3])
    for base in faithfulness.BASELINES:
        config = AttributionConfig(baseline=base, steps=128)
        found = explain(model, x, targets, config).flatten(1).sum(dim=1)
        empty = faithfulness.baseline(model, x, base)
        with torch.no_grad():
            change = (model(x) - model(empty)).gather(1, targets[:, None])[:, 0]
        assert torch.allclose(found, change, rtol=0.02), base


def expected_cam(maps: Tensor, score: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad(score, maps)
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    return (weights * maps).sum(dim=1, keepdim=True).relu().detach()


@pytest.mark.parametrize("stage", [1, 2, None])
@pytest.mark.parametrize("family", ["vmamba", "mambavision"])
def test_grad_cam_of_a_stage_is_its_formula(family: str, stage: int | None) -> None:
    """By hand: cut the network at the stage, and differentiate what comes after it."""
    model, x = small(family), torch.randn(2, 3, 64, 96)
    targets = torch.tensor([1, 2])
    count = len(model.feature_info)
    number = count if stage is None else stage
    y = model.stem(x)
    for i in range(number):
        y = model.stage(i, y if i == 0 else model.after_stage(i - 1, y))
    maps = model.as_map(y).detach().requires_grad_()
    y = maps.permute(0, 2, 3, 1) if family == "vmamba" else maps
    for i in range(number, count):
        y = model.stage(i, model.after_stage(i - 1, y))
    y = model.after_stage(count - 1, y) if family == "mambavision" else y
    logits = model.forward_head(model.final_norm(y))
    assert torch.allclose(logits, model(x), atol=1e-5)
    expected = expected_cam(maps, logits.gather(1, targets[:, None]).sum())
    found = grad_cam(model, x, targets, stage)
    assert found.shape == expected.shape and found.any()
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-5 * float(expected.max()))


def test_grad_cam_of_vim_is_of_the_tokens_that_the_class_token_still_reads() -> None:
    model, x = small("vim"), torch.randn(2, 3, 64, 96)
    targets = torch.tensor([1, 2])
    kept = {}

    def keep(module: nn.Module, args: tuple, output: tuple) -> tuple:
        stream = (output[0] + output[1]).detach().requires_grad_()
        kept["stream"] = stream
        return stream, torch.zeros_like(stream)

    handle = model.get_submodule("layers.1").register_forward_hook(keep)
    logits = model(x)
    handle.remove()
    (gradient,) = torch.autograd.grad(logits.gather(1, targets[:, None]).sum(), kept["stream"])
    maps, slopes = (model.tokens_to_map(t, (4, 6)) for t in (kept["stream"], gradient))
    expected = (slopes.mean(dim=(2, 3), keepdim=True) * maps.detach()).sum(dim=1, keepdim=True)
    expected = expected.relu()
    found = grad_cam(model, x, targets)
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-5 * float(expected.max()))
    assert torch.allclose(grad_cam(model, x, targets, layer="layers.1"), found)
    with pytest.raises(ValueError, match=r"does not depend on the map of layers\.2"):
        grad_cam(model, x, targets, layer="layers.2")


@pytest.mark.parametrize("family", ["vmamba", "vim", "mambavision"])
def test_listening_changes_nothing_and_leaves_nothing(family: str) -> None:
    model, x = small(family), torch.randn(2, 3, 64, 64)
    before = model(x)
    grad_cam(model, x, torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="has no layer 'nowhere'"):
        grad_cam(model, x, torch.tensor([0, 1]), layer="nowhere")
    assert torch.equal(model(x), before)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_vims_maps_are_upsampled_to_the_image() -> None:
    model, x = small("vim"), torch.randn(2, 3, 64, 96)
    targets = torch.tensor([0, 1])
    names = {"raw-attention": "raw", "rollout": "rollout", "mamba-attribution": "attribution"}
    for method, name in names.items():
        found = explain(model, x, targets, AttributionConfig(method=method)).sum(dim=1)
        cells = class_maps(model, x, name, target=targets)
        wide = nn.functional.interpolate(cells[:, None], (64, 96), mode="bilinear")[:, 0]
        assert torch.allclose(found, wide, atol=1e-6)
    assert not torch.allclose(
        class_maps(model, x, "attribution", target=targets),
        class_maps(model, x, "attribution", target=targets + 1),
    )


def test_curves_of_a_model_that_looks_at_one_pixel() -> None:
    model, x = OnePixel(2, 5), torch.zeros(1, 3, 8, 8)
    x[0, :, 2, 5] = 1
    base, target = torch.zeros_like(x), torch.tensor([0])
    right = np.zeros((1, 8, 8))
    right[0, 2, 5] = 1
    gone = faithfulness.curve(model, x, right, target, base, 8)
    back = faithfulness.curve(model, x, right, target, base, 8, insertion=True)
    assert np.allclose(gone, [[1] + [0] * 8], atol=1e-6)
    assert np.allclose(back, [[0] + [1] * 8], atol=1e-6)
    assert faithfulness.area(gone) == pytest.approx(1 / 16, abs=1e-6)
    assert faithfulness.area(back) == pytest.approx(15 / 16, abs=1e-6)
    # The opposite map leaves the pixel until the end.
    assert np.allclose(
        faithfulness.curve(model, x, -right, target, base, 8), [[1] * 8 + [0]], atol=1e-6
    )


def test_a_faithful_map_beats_maps_that_see_no_model() -> None:
    model, x = OnePixel(1, 6), torch.rand(3, 3, 8, 8)
    x[:, 0, 1, 6] = 1
    result = measured(model, x, method="saliency", target="0", fractions=16)
    numbers = result.meta["numbers"]
    others = [f"deletion/{name}" for name in faithfulness.REFERENCES]
    assert all(
        numbers["deletion/saliency"]["value"] < numbers[name]["value"] - 0.1 for name in others
    )
    assert numbers["insertion - random"]["value"] > 0.1
    assert numbers["deletion - random"]["value"] < -0.1
    assert result.deletion.shape == (3, 4, 17)


def test_ranks_start_at_the_largest_value_and_break_ties_at_random() -> None:
    maps = np.array([[[3.0, -1.0], [7.0, 5.0]]])
    assert faithfulness.ranks(maps).tolist() == [[[2, 3], [0, 1]]]
    flat = faithfulness.ranks(np.zeros((1, 16, 16)), seed=1).ravel()
    assert sorted(flat) == list(range(256))
    assert abs(np.corrcoef(flat, np.arange(256))[0, 1]) < 0.3


def test_references_are_what_they_are_called() -> None:
    x = torch.zeros(2, 3, 32, 48)
    x[:, :, :, 24:] = 1
    maps = faithfulness.references(x, seed=0, indices=(4, 7))
    noise, gaussian, edge = maps.swapaxes(0, 1)
    assert np.array_equal(faithfulness.references(x[1:], 0, (7,))[0, 0], noise[1])
    assert not np.array_equal(noise[0], noise[1])
    assert np.allclose(gaussian[0], gaussian[0, ::-1, ::-1])
    assert gaussian[0, 16, 24] == gaussian[0].max()
    one_sigma = gaussian[0, 24, 24] / gaussian[0, 16, 24]  # 8 rows on, a quarter of the height
    expected = np.exp(-0.5 * (8.5**2 - 0.5**2) / 8**2)
    assert one_sigma == pytest.approx(expected)
    assert (edge[0, :, 23:25] > 0).all() and not edge[0, :, :22].any()


def test_baselines() -> None:
    x = torch.randn(2, 3, 16, 16)
    assert not faithfulness.baseline(Linear(), x, "mean").any()
    blurred = faithfulness.baseline(Linear(), x, "blur")
    assert blurred.std() < 0.5 * x.std()
    constant = torch.full_like(x, 0.7)
    assert torch.allclose(faithfulness.baseline(Linear(), constant, "blur"), constant)
    model = workbench.create_model("vmamba_nano", weights="random")
    black = faithfulness.baseline(model, x, "black")
    assert torch.allclose(
        black[0, :, 0, 0], -torch.tensor([0.485 / 0.229, 0.456 / 0.224, 0.406 / 0.225])
    )
    with pytest.raises(ValueError, match="mean, blur, black"):
        faithfulness.baseline(model, x, "white")


def test_the_gradient_of_a_linear_model_is_faithful_and_steady() -> None:
    """Infidelity and max-sensitivity (Yeh et al. 2019) are zero for it, and not for another."""
    model, x = Linear(), torch.randn(2, 3, 8, 8)
    settings = {"target": "1", "perturbations": 5, "faithfulness": False}
    numbers = measured(model, x, method="saliency", **settings).meta["numbers"]
    assert numbers["infidelity"]["value"] == pytest.approx(0, abs=1e-6)
    assert numbers["sensitivity"]["value"] == pytest.approx(0, abs=1e-6)
    numbers = measured(model, x, method="input-x-gradient", **settings).meta["numbers"]
    assert numbers["infidelity"]["value"] > 1e-3 and numbers["sensitivity"]["value"] > 1e-3


def test_targets() -> None:
    model, x = Linear(), torch.randn(3, 3, 8, 8)
    predicted = model(x).argmax(dim=1).tolist()
    chosen = {"predicted": predicted, "1": [1, 1, 1], "label": [1, 0, 1]}
    for target, expected in chosen.items():
        config = AttributionConfig(target=target, faithfulness=False)
        found = targets_of(model, batch(x, (1, 0, 1)), config)
        assert found.tolist() == expected
    with pytest.raises(ValueError, match="no labels"):
        targets_of(model, batch(x), AttributionConfig(target="label"))
    with pytest.raises(ValueError, match="classes 0 to 1, so there is no class 9"):
        targets_of(model, batch(x), AttributionConfig(target="9"))


def test_chunks_change_nothing_and_results_come_back(tmp_path) -> None:
    model = small("vmamba")
    results = []
    for chunk in (1, 3):
        config = AttributionConfig(method="saliency", fractions=4, chunk=chunk, perturbations=2)
        images = workbench.open_images("samples", limit=3)
        results.append(workbench.run(attribution, model, images, config))
    one, other = results
    assert np.allclose(one.maps, other.maps, rtol=1e-3, atol=1e-5)
    # A pixel or two may change places between maps that are equal to rounding.
    assert np.allclose(one.deletion, other.deletion, atol=1e-3)
    for key, entry in one.meta["numbers"].items():
        assert entry["value"] == pytest.approx(other.meta["numbers"][key]["value"], rel=0.05), key
    loaded = workbench.load(one.save(tmp_path / "attribution.npz"))
    assert isinstance(loaded, workbench.results.Attribution)
    assert np.array_equal(loaded.maps, one.maps) and loaded.pictures.shape == (*one.maps.shape, 3)
    without = measured(model, torch.randn(1, 3, 64, 64), faithfulness=False, steps=2)
    assert without.deletion is None and not without.meta["numbers"]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_explained_and_runs_or_says_why_not(method: str) -> None:
    config = AttributionConfig(method=method, steps=2, patch=32)
    x, targets = torch.randn(1, 3, 64, 64), torch.tensor([0])
    found = explain(small("vim"), x, targets, config)
    assert found.shape == x.shape and found.isfinite().all() and found.any()
    quirks = measured(
        small("vim"), x, method=method, steps=2, patch=32, faithfulness=False, as_published=True
    ).meta["quirks"]
    vim_only = "attention" in method or method in ("rollout", "mamba-attribution")
    assert any("leaves out the decay" in quirk for quirk in quirks) == vim_only
    if vim_only:
        with pytest.raises(ValueError, match="MambaVision has no class token"):
            explain(small("mambavision"), x, targets, config)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "lime"}, "method must be one of saliency"),
        ({"baseline": "noise"}, "baseline must be one of mean"),
        ({"target": "cat"}, "target must be predicted, label or a class number"),
        ({"fractions": 0}, "fractions must be at least 1"),
    ],
)
def test_settings_that_do_not_exist(settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        AttributionConfig(**settings)


def test_a_patch_larger_than_the_image() -> None:
    config = AttributionConfig(method="occlusion", patch=9)
    with pytest.raises(ValueError, match="patch 9 is larger than the image of 8 x 8"):
        explain(Linear(), torch.randn(1, 3, 8, 8), torch.tensor([0]), config)


def test_a_map_of_the_weights_changes_with_them_and_one_of_the_image_does_not() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 5)), torch.randn(2, 3, 8, 8)
    targets = torch.tensor([1, 3])

    def weights(network: nn.Module) -> Tensor:
        return network[1].weight[targets].view(-1, 3, 8, 8).sum(dim=1)

    def edges(network: nn.Module) -> Tensor:
        return x.sum(dim=1)

    moved = similarity(model, weights(model), weights, seed=0)
    assert moved.shape == (2, 4)
    assert (moved[:, 0] == pytest.approx(1)) and (np.abs(moved[:, 2:]) < 0.4).all()
    assert similarity(model, edges(model), edges, seed=0) == pytest.approx(np.ones((2, 4)))
    assert np.isnan(similarity(model, 0 * edges(model), edges, seed=0)).all()


def test_shuffling_keeps_the_entries_and_leaves_the_model_alone() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    before = [p.clone() for p in model.parameters()]
    half, whole = (list(shuffled(model, share, 3).parameters()) for share in (0.5, 1.0))
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(before[:2], half[:2], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(half[2:], whole[2:], strict=True))
    assert all(
        torch.equal(a.flatten().sort().values, b.flatten().sort().values) and not torch.equal(a, b)
        for a, b in zip(before, whole, strict=True)
    )
