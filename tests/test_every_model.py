"""What holds for every registered model of the three families, at small sizes."""

import pytest
import timm
import torch

from workbench.geometry import feature_map, grid_of, stages
from workbench.models import REGISTERED, networks
from workbench.scan import SelectiveScan
from workbench.trace import patch, record, scans

SELECTIVE = [network for network in networks() if network.selective]
NAMES = [name for name, variant in REGISTERED.items() if variant.network in SELECTIVE]
SMALL = [name for name in NAMES if name.endswith("_nano")]


def small_model(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name).eval()


def test_every_released_variant_is_registered() -> None:
    assert len([n for n in NAMES if n.startswith("vmamba_")]) == 9 + 1
    assert len([n for n in NAMES if n.startswith("vim_")]) == 5 + 1
    assert len([n for n in NAMES if n.startswith("mambavision_")]) == 11 + 1


@pytest.mark.parametrize("name", NAMES)
def test_a_model_knows_its_preprocessing_and_its_stages(name: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    data = timm.data.resolve_model_data_config(model)
    assert data["mean"] == (0.485, 0.456, 0.406) and data["interpolation"] == "bicubic"
    assert len(stages(model)) == (3 if name in ("vmamba_nano", "mambavision_nano") else 4)
    assert any(isinstance(module, SelectiveScan) for module in model.modules())
    no_decay = model.no_weight_decay()
    assert any("A_" in key for key in no_decay) and any("bias" in key for key in no_decay)
    assert no_decay <= {key for key, _ in model.named_parameters()}


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("size", [(64, 64), (56, 96), (33, 47)])
def test_any_input_size_runs_and_has_maps(name: str, size: tuple[int, int]) -> None:
    model, x = small_model(name), torch.randn(2, 3, *size)
    assert model(x).shape == (2, 10)
    for stage in range(1, len(stages(model)) + 1):
        features = feature_map(model, x, stage)
        grid = grid_of(model, features, size)
        assert features.ndim == 4 and grid.cells == tuple(features.shape[-2:])
        assert all(
            grid.centre((0, 0))[i] >= 0
            and grid.centre((grid.cells[0] - 1, grid.cells[1] - 1))[i] <= size[i] + grid.stride[i]
            for i in (0, 1)
        )


@pytest.mark.parametrize("name", SMALL)
def test_images_of_a_batch_do_not_see_each_other(name: str) -> None:
    model, x = small_model(name), torch.randn(3, 3, 64, 64)
    alone = torch.cat([model(image[None]) for image in x])
    assert (model(x) - alone).abs().max() <= 1e-5


@pytest.mark.parametrize("name", SMALL)
def test_recording_changes_nothing_and_leaves_nothing(name: str) -> None:
    model, x = small_model(name), torch.randn(1, 3, 64, 64)
    plain = model(x)
    with record(model, "delta", "B", "C", "u", "y") as seen:
        assert torch.equal(model(x), plain)
    assert list(seen) == [site.name for site in scans(model)]
    for tensors in seen.values():
        assert tensors["u"].shape == tensors["delta"].shape == tensors["y"].shape
        assert (tensors["delta"] > 0).all()
        assert tensors["B"].shape == tensors["C"].shape
    with pytest.raises(RuntimeError), record(model):
        raise RuntimeError
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())
    assert torch.equal(model(x), plain)


@pytest.mark.parametrize("name", SMALL)
def test_a_patched_delta_moves_the_logits_and_carries_gradient(name: str) -> None:
    model, x = small_model(name), torch.randn(1, 3, 64, 64)
    plain = model(x)
    factor = torch.tensor(1.5, requires_grad=True)
    site = scans(model)[0].name
    with patch(model, site, delta=lambda delta: delta * factor):
        moved = model(x)
    assert not torch.equal(moved, plain)
    moved.sum().backward()
    assert factor.grad is not None and factor.grad != 0
    with patch(model, delta=lambda delta: delta):
        assert torch.equal(model(x), plain)


def test_a_site_or_tensor_that_is_not_there_is_named() -> None:
    model = small_model("vmamba_nano")
    wrong = "layers.0.block.0.op.scan/row"
    with pytest.raises(ValueError, match=r"layers\.0\.blocks\.0"), record(model, sites=wrong):
        pass
    with pytest.raises(ValueError, match="delta"), patch(model, dt=lambda t: t):
        pass
    with pytest.raises(ValueError, match="shape"), patch(model, y=lambda y: y[..., 1:]):
        model(torch.randn(1, 3, 64, 64))


def test_sites_that_are_too_small_are_refused_in_one_sentence() -> None:
    with pytest.raises(ValueError, match="at least 8 x 8"):
        small_model("vim_nano")(torch.randn(1, 3, 7, 64))
    with pytest.raises(ValueError, match="at least 4 x 4"):
        small_model("vmamba_nano")(torch.randn(1, 3, 3, 64))


def test_timm_can_use_a_family_as_a_feature_backbone() -> None:
    model = timm.create_model("vmamba_nano", features_only=True).eval()
    shapes = [tuple(f.shape[1:]) for f in model(torch.randn(1, 3, 64, 64))]
    assert shapes == [(48, 16, 16), (96, 8, 8), (192, 4, 4)]
