"""Probes: corruptions that can be repeated, patches that can be counted, symmetries that hold."""

import sys

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from workbench.models import VMamba
from workbench.paths import CROSS
from workbench.perturbations import patches, symmetries
from workbench.perturbations.corruptions import BENCHMARK, EXTRA, NAMES, SEVERITIES, chosen, corrupt
from workbench.perturbations.shifts import WAYS, shift

RNG = np.random.default_rng(0)
PHOTO = np.kron(RNG.integers(0, 256, (8, 8, 3)), np.ones((5, 6, 1))).astype(np.uint8)
GREY = np.full((64, 64, 3), 128, np.uint8)


# corruptions


def test_all_19_corruptions_can_be_repeated_and_leave_the_random_state_alone() -> None:
    pytest.importorskip("corrupt_tta", exc_type=ImportError)
    assert len(BENCHMARK) == 15 and len(EXTRA) == 4 and len(set(NAMES)) == 19
    for name in NAMES:
        for severity in SEVERITIES:
            np.random.seed(1)  # noqa: NPY002
            before = np.random.get_state()[1].copy()  # noqa: NPY002
            first = corrupt(PHOTO, name, severity, seed=3, index=7)
            assert (np.random.get_state()[1] == before).all()  # noqa: NPY002
            np.random.seed(2)  # noqa: NPY002
            again = corrupt(PHOTO, name, severity, seed=3, index=7)
            assert first.dtype == np.uint8 and first.shape == PHOTO.shape
            assert (first == again).all(), name
            assert (first != PHOTO).any() or (name, severity) == ("pixelate", 5), name


def test_draws_belong_to_seed_image_and_severity() -> None:
    pytest.importorskip("corrupt_tta", exc_type=ImportError)
    for name in ("gaussian_noise", "impulse_noise"):
        first = corrupt(GREY, name, 1, seed=0, index=0)
        for other in ({"seed": 1}, {"index": 1}):
            assert (corrupt(GREY, name, 1, **{"seed": 0, "index": 0, **other}) != first).any()


def test_strengths_are_those_of_imagenet_c() -> None:
    pytest.importorskip("corrupt_tta", exc_type=ImportError)
    noise = corrupt(GREY, "gaussian_noise", 1).astype(float) - 128
    assert noise.std() == pytest.approx(0.08 * 255, rel=0.03)
    for severity, share in zip(SEVERITIES, (0.03, 0.06, 0.09, 0.17, 0.27), strict=True):
        found = corrupt(GREY, "impulse_noise", severity)
        assert set(np.unique(found)) == {0, 128, 255}
        assert (found != 128).mean() == pytest.approx(share, rel=0.1)
        assert (found == 255).mean() == pytest.approx(share / 2, rel=0.15)
    mean = PHOTO.mean(axis=(0, 1))
    expected = np.rint((PHOTO - mean) * 0.4 + mean)  # rounded, not cut off
    assert (corrupt(PHOTO, "contrast", 1) == expected).mean() > 0.999


def test_names_of_corruptions() -> None:
    assert chosen("none") == () and chosen("all") == NAMES
    assert chosen(("fog", "snow")) == ("snow", "fog")
    with pytest.raises(ValueError, match=r"rain.*gaussian_noise"):
        chosen(("fog", "rain"))


def test_bad_corruptions_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments, words in (
        ((PHOTO / 255, "fog", 1), "uint8"),
        ((PHOTO[..., 0], "fog", 1), r"\(h, w, 3\)"),
        ((PHOTO, "rain", 1), "rain"),
        ((PHOTO, "fog", 6), "1 to 5"),
    ):
        with pytest.raises(ValueError, match=words):
            corrupt(*arguments)
    monkeypatch.setitem(sys.modules, "corrupt_tta", None)
    with pytest.raises(ImportError, match=r"corrupt-tta.*robust"):
        corrupt(PHOTO, "fog", 1)


# patches


def images(count: int = 2, height: int = 24, width: int = 16) -> Tensor:
    return 0.1 + 0.8 * torch.rand(count, 3, height, width)


def gone(before: Tensor, after: Tensor, grid: int) -> Tensor:
    """(b, n, n): the share of pixels of each patch that changed."""
    changed = (before != after).any(dim=1)[:, None].float()
    size = (before.shape[-2] // grid, before.shape[-1] // grid)
    return torch.nn.functional.avg_pool2d(changed, size)[:, 0]


def test_dropping_takes_whole_patches_in_the_given_order() -> None:
    x = images()
    black = patches.filling(x, "black", (0, 0, 0))
    for path in ("row", "column", "row-reversed", "column-reversed", "radial", "hilbert"):
        order = patches.path_order(path, 4, 2)
        for share, count in ((0.25, 4), (0.5, 8), (0.03, 0), (1.0, 16)):
            found = gone(x, patches.drop(x, black, order, share), 4).flatten(1)
            assert set(found.unique().tolist()) <= {0.0, 1.0}
            for of, places in zip(found, order, strict=True):
                assert (of[places[:count]] == 1).all() and of.sum() == count
    top = patches.drop(x, black, patches.path_order("row", 4, 2), 0.25)
    assert (top[:, :, :6] == 0).all() and (top[:, :, 6:] == x[:, :, 6:]).all()


def test_the_end_of_a_scan_is_the_beginning_of_its_reverse() -> None:
    x = images()
    ones = torch.ones_like(x)
    there, back = (patches.path_order(path, 8, 2) for path in ("column", "column-reversed"))
    first = patches.drop(x, ones, there, 0.375)
    last = patches.drop(x, ones, back, 0.625)
    assert ((first == 1) != (last == 1)).all()


def test_rings_go_outwards() -> None:
    order = patches.path_order("radial", 8, 1)[0].numpy()
    distance = np.hypot(*(np.divmod(order, 8) - np.array([[3.5]])))
    assert (np.diff(distance) >= -1e-12).all()
    back = patches.path_order("radial-reversed", 8, 1)[0].numpy()
    assert (back == order[::-1]).all()


def test_random_orders_belong_to_the_image_not_to_its_batch() -> None:
    both = patches.random_order((4, 9), 8)
    assert (both[1] == patches.random_order((9,), 8)[0]).all()
    assert (both[0] != both[1]).any() and (both != patches.random_order((4, 9), 8, seed=1)).any()
    assert (both.sort(dim=1).values == torch.arange(64)).all()


def test_salience_is_the_gradient_mass_of_a_linear_model() -> None:
    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.randn(3, 3, 24, 16)

        def forward(self, x: Tensor) -> Tensor:
            return torch.einsum("bchw,kchw->bk", x, self.weight)

    model, labels = Linear(), torch.tensor([2, 0])
    found = patches.salient_order(model, images(), labels, 4)
    mass = model.weight.abs().sum(1).unflatten(1, (4, 6)).unflatten(3, (4, 4)).sum((2, 4))
    assert (found == mass[labels].flatten(1).argsort(dim=1, descending=True)).all()


def test_shuffling_moves_patches_and_keeps_them() -> None:
    x = images(3)
    assert torch.equal(patches.shuffle(x, 1, (0, 1, 2)), x)
    mixed = patches.shuffle(x, 4, (0, 1, 2))
    assert not torch.equal(mixed, x)

    def cut(x: Tensor) -> Tensor:
        return x.unflatten(3, (4, 4)).unflatten(2, (4, 6)).transpose(3, 4).flatten(2, 3)

    for before, after in zip(cut(x).transpose(1, 2), cut(mixed).transpose(1, 2), strict=True):
        same = (before[:, None] == after).flatten(2).all(dim=2)
        assert (same.sum(0) == 1).all() and (same.sum(1) == 1).all()
    alone = patches.shuffle(x[1:2], 4, (1,))
    assert torch.equal(alone[0], mixed[1])
    moved = patches.shuffle(x[:1].expand(2, -1, -1, -1), 4, (5, 6))
    assert not torch.equal(moved[0], moved[1])


@pytest.mark.parametrize("profile", list(patches.PROFILES))
def test_lost_pixels_are_counted_along_the_scan(profile: str) -> None:
    x, order = images(2, 64, 64), patches.path_order("column-reversed", 4, 2)
    black = torch.zeros_like(x)
    for share in (0.125, 0.5):
        found = gone(x, patches.lose_pixels(x, black, order, profile, share, (0, 1)), 4)
        assert found.mean() == pytest.approx(share, abs=1e-3)
        t = (np.arange(16) + 0.5) / 16
        along = found.flatten(1).gather(1, order)
        expected = 2 * share * torch.from_numpy(patches.PROFILES[profile](t)).float()
        assert (along - expected).abs().max() <= 0.5 / 256 + 1e-6


def test_more_pixels_lost_are_those_lost_before_and_others() -> None:
    x, order = images(2, 32, 32), patches.path_order("row", 4, 2)
    less, more = (
        patches.lose_pixels(x, torch.zeros_like(x), order, "rise", share, (0, 1)) == 0
        for share in (0.2, 0.4)
    )
    assert (more | ~less).all() and more.sum() > less.sum()
    assert not torch.equal(less[0], less[1])


def test_fillings() -> None:
    x = images()
    assert (patches.filling(x, "black", (0.1, 0.2, 0.3)) == 0).all()
    assert patches.filling(x, "mean", (0.1, 0.2, 0.3))[1, :, 3, 5].tolist() == pytest.approx(
        [0.1, 0.2, 0.3]
    )
    flat = torch.full((1, 3, 16, 16), 0.4)
    assert torch.allclose(patches.filling(flat, "blur", (0, 0, 0)), flat, atol=1e-6)
    assert patches.filling(x, "blur", (0, 0, 0)).std() < 0.5 * x.std()


def test_what_does_not_fit_is_one_sentence() -> None:
    x, order = images(), patches.path_order("row", 5, 2)
    with pytest.raises(ValueError, match="24 x 16 pixels cannot be cut into 5 x 5"):
        patches.drop(x, x, order, 0.5)
    with pytest.raises(ValueError, match="grid that divides both sides"):
        patches.shuffle(x, 7, (0, 1))
    with pytest.raises(ValueError, match=r"0 to 0\.5"):
        patches.lose_pixels(x, x, patches.path_order("row", 4, 2), "rise", 0.6, (0, 1))
    with pytest.raises(ValueError, match="fill must be"):
        patches.filling(x, "white", (0, 0, 0))


# symmetries


def trained(**arguments) -> VMamba:
    """A VMamba whose directions have learned different weights, so that permuting them matters."""
    model = VMamba(dims=(8, 16, 32), depths=(1, 1, 1), num_classes=4, **arguments).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@torch.no_grad()
def test_turning_image_and_weights_turns_the_features_of_vmamba_nano() -> None:
    model = timm.create_model("vmamba_nano").eval()
    for parameter in model.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    assert symmetries.deviation(model, torch.randn(2, 3, 64, 64), "transposition") < 1e-4
    assert symmetries.deviation(model, torch.randn(1, 3, 64, 96), "transposition") < 1e-4
    # convolutions of stride 2 sample the turned image at other places, except on odd sides
    assert symmetries.deviation(model, torch.randn(2, 3, 65, 65), "rotation") < 1e-4
    assert symmetries.deviation(model, torch.randn(2, 3, 64, 64), "rotation") > 0.01


@pytest.mark.parametrize("downsample", ["v1", "v2"])
@pytest.mark.parametrize("view", ["transposition", "rotation"])
def test_models_of_patches_are_symmetric_at_every_size_that_fits(
    downsample: str, view: str
) -> None:
    more = {"d_state": 4, "ssm_ratio": 2.0, "gate": True} if downsample == "v1" else {}
    model = trained(stem="v1", downsample=downsample, **more)
    assert symmetries.deviation(model, torch.randn(2, 3, 32, 48), view) < 1e-4


@torch.no_grad()
def test_both_the_weights_and_the_image_must_be_turned() -> None:
    model, x = trained(stem="v1", downsample="v2"), torch.randn(1, 3, 32, 32)
    plain = model.forward_features(x)
    for view in ("transposition", "rotation"):
        other = symmetries.turned(model, view)
        assert (other.forward_features(x) - plain).abs().max() > 0.01
        logits = other(symmetries.VIEWS[view](x))
        assert torch.allclose(logits, model(x), atol=1e-4)
        back = symmetries.turned(other, view).state_dict()
        assert all(torch.equal(back[key], value) for key, value in model.state_dict().items())
    for flip in ("horizontal-flip", "vertical-flip"):
        flipped = symmetries.VIEWS[flip](model.as_map(plain))
        for view in ("transposition", "rotation"):
            other = symmetries.turned(model, view)
            found = other.as_map(other.forward_features(symmetries.VIEWS[flip](x)))
            assert (found - flipped).abs().max() > 0.01


def test_views_undo_themselves() -> None:
    x = images(2, 16, 16)
    assert len(symmetries.VIEWS) == 4
    for turn in symmetries.VIEWS.values():
        assert torch.equal(turn(turn(x)), x) and not torch.equal(turn(x), x)


def test_models_without_the_cross_scan_are_refused() -> None:
    assert CROSS == ("row", "column", "row-reversed", "column-reversed")
    for model in (timm.create_model("vim_nano"), trained(scan_paths="continuous")):
        with pytest.raises(ValueError, match="does not scan along row, column"):
            symmetries.turned(model, "rotation")
    with pytest.raises(ValueError, match="no symmetry of the cross-scan"):
        symmetries.turned(trained(), "horizontal-flip")


# shifts


def test_a_shift_moves_every_image_its_own_way_and_reflects_the_edge() -> None:
    x = torch.rand(12, 3, 8, 10, generator=torch.Generator().manual_seed(0))
    moved = shift(x, 2, range(12))
    ways = []
    for before, after in zip(x, moved, strict=True):
        inner = after[:, 2:-2, 2:-2]
        (found,) = [
            (y, z)
            for y, z in WAYS
            if torch.equal(inner, before[:, 2 - 2 * y : 6 - 2 * y, 2 - 2 * z : 8 - 2 * z])
        ]
        rows = [abs(i - 2 * found[0]) for i in range(8)]
        columns = [abs(j - 2 * found[1]) for j in range(10)]
        rows = [min(i, 14 - i) for i in rows]
        columns = [min(j, 18 - j) for j in columns]
        assert torch.equal(after, before[:, rows][:, :, columns])
        ways.append(found)
    assert len(set(ways)) > 3
    assert torch.equal(shift(x[4:5], 2, (4,)), moved[4:5])
    assert torch.equal(shift(x, 0, range(12)), x)
    with pytest.raises(ValueError, match="8 x 10 pixels cannot be moved by 8"):
        shift(x, 8, range(12))
