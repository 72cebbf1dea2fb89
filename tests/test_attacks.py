"""Attacks against closed forms, other libraries, and models that hide their gradient."""

import json
import logging
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import workbench
from workbench.attacks import projected_gradient as core
from workbench.attacks.autoattack import autoattack
from workbench.attacks.band import BANDS, band_filter, band_mask, dct_matrix, outside
from workbench.attacks.black_box import random_search
from workbench.attacks.checklist import (
    checklist,
    iterative,
    monotone_in_distance,
    monotone_in_steps,
)
from workbench.attacks.in_pixels import InPixels, losses, margins
from workbench.attacks.patch import PLACES, patch_mask, scan_times
from workbench.attacks.pixels import AttackConfig, Attacked, attack, pixel_ball
from workbench.attacks.projected_gradient import Ball, projected_gradient, random_direction
from workbench.models import MambaVision, VMamba

GREY = (0.5, 0.5, 0.5)


def waves(count: int, seed: int, size: int = 16) -> tuple[Tensor, Tensor]:
    """Four classes of sine waves (rows, columns, both diagonals) in noise, in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.rand(count, *shape, 1, 1, generator=generator)

    labels = torch.randint(4, (count,), generator=generator)
    across, down = torch.tensor([[1.0, 0, 1, 1], [0, 1, 1, -1]])[:, labels].view(2, -1, 1, 1, 1)
    place = torch.arange(size)
    wave = torch.sin(across * place + down * place[:, None] + 2 * torch.pi * draw(1))
    noise = torch.randn(count, 3, size, size, generator=generator)
    x = 0.5 + 0.15 * wave * (0.5 + draw(3)) + 0.1 * noise
    return x.clamp(0, 1), labels


@pytest.fixture(scope="module")
def trained() -> InPixels:
    """A small network that knows the waves; its BatchNorm was left in training mode."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            *(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU()),
            *(nn.Conv2d(32, 32, 3, 2, 1), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4)),
        )
        x, labels = waves(1024, 1)
        optimizer = torch.optim.Adam(net.parameters(), 3e-3)
        for _ in range(6):
            for pixels, wanted in zip(x.split(64), labels.split(64), strict=True):
                optimizer.zero_grad()
                F.cross_entropy(net((pixels - 0.5) / 0.5), wanted).backward()
                optimizer.step()
    return InPixels(net, GREY, GREY)


@pytest.fixture(scope="module")
def test_images() -> tuple[Tensor, Tensor]:
    return waves(64, 2)


def accuracy(model: nn.Module, x: Tensor, labels: Tensor) -> float:
    with torch.no_grad():
        return float((model(x).argmax(dim=1) == labels).double().mean())


class Linear(nn.Module):
    """Logits (w x, 0) of images of 4 x 4 pixels."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(48))
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        own = self.scale * (x.flatten(1) - 0.5) @ self.weight
        return torch.stack([own, torch.zeros_like(own)], dim=1)


# The core, against closed forms


def rise(weight: Tensor, factor: float = 1.0):
    return lambda deltas: factor * (deltas[0] * weight).flatten(1).sum(dim=1)


def test_one_step_solves_a_linear_objective_in_linf() -> None:
    weight, radius = torch.randn(3, 5, 7), torch.tensor([0.0, 0.1, 2.0])
    found = projected_gradient(rise(weight), [Ball((3, 5, 7), radius)], steps=1, start="zero")
    assert torch.allclose(found.values, radius * weight.abs().sum(dim=(1, 2)), rtol=1e-5)
    assert torch.equal(found.deltas[0][0], torch.zeros(5, 7))
    assert found.history.shape == (1, 2, 3) and torch.equal(found.history[0, 0], torch.zeros(3))


def test_the_gradient_solves_a_linear_objective_in_l2_and_signs_would_not() -> None:
    weight, radius = torch.randn(3, 35), torch.tensor([0.1, 0.5, 2.0])
    ball = Ball((3, 35), radius, scale=35**-0.5, norm="l2")
    found = projected_gradient(rise(weight), [ball], start="zero")
    assert torch.allclose(found.values, radius * weight.norm(dim=1), rtol=1e-5)
    assert torch.allclose(F.cosine_similarity(found.deltas[0], weight), torch.ones(3))
    by_signs = radius * weight.abs().sum(dim=1) / 35**0.5
    assert (found.values > 1.05 * by_signs).all()


@pytest.mark.parametrize("norm", core.NORMS)
@pytest.mark.parametrize("factor", [1e-5, 1e-30])
def test_steps_do_not_depend_on_the_size_of_the_gradient(norm: str, factor: float) -> None:
    weight = torch.randn(2, 30)
    plain, tiny = (
        projected_gradient(rise(weight, f), [Ball((2, 30), 0.3, norm=norm)], steps=4).deltas[0]
        for f in (1.0, factor)
    )
    assert torch.allclose(plain, tiny, atol=1e-5)


@pytest.mark.parametrize("norm", core.NORMS)
@pytest.mark.parametrize("start", ["random", "zero"])
@pytest.mark.parametrize("signs", [True, False])
def test_every_perturbation_keeps_to_ball_bounds_and_mask(
    norm: str, start: str, signs: bool
) -> None:
    shape = (3, 4, 6)
    scale, mask = torch.rand(3, 4, 1) * torch.tensor([0.0, 1.0, 1.0])[:, None, None], torch.ones(6)
    mask[2] = 0
    radius, low = torch.tensor([0.5, 0.0, 0.5]), -0.2 * torch.rand(shape)
    ball = Ball(shape, radius, scale, norm, low, 0.1, within=mask.mul)
    seen = []

    def objective(deltas: tuple[Tensor, ...]) -> Tensor:
        seen.append(deltas[0].detach())
        return (torch.sin(7 * deltas[0]) + deltas[0]).flatten(1).sum(dim=1)

    projected_gradient(objective, [ball], steps=4, start=start, restarts=2, signs=signs)
    seen += random_direction([ball], seed=3)
    for delta in seen:
        if norm == "linf":
            assert (delta.abs() <= radius.view(-1, 1, 1) * scale).all()
        else:
            lengths = scale.expand(shape).flatten(1).norm(dim=1)
            assert (delta.flatten(1).norm(dim=1) <= radius * lengths * (1 + 1e-6)).all()
        assert (delta >= low).all() and (delta <= 0.1).all()
        assert (delta[..., 2] == 0).all() and (delta[:2] == 0).all()
    assert any(delta.any() for delta in seen)


def test_perturbations_of_several_tensors_are_found_together() -> None:
    left, right = torch.randn(2, 3), torch.randn(2, 4, 5)
    found = projected_gradient(
        lambda deltas: (deltas[0] * left).sum(dim=1) - (deltas[1] * right).sum(dim=(1, 2)),
        [Ball((2, 3), 1.0), Ball((2, 4, 5), 0.5, scale=right.abs())],
        start="zero",
        steps=1,
    )
    assert torch.equal(found.deltas[0], left.sign())
    assert torch.allclose(found.deltas[1], -0.5 * right)


def test_the_best_of_all_steps_and_restarts_is_kept_for_each_image() -> None:
    slope = torch.tensor([3.0, 20.0, 60.0])[:, None]

    def objective(deltas: tuple[Tensor, ...]) -> Tensor:
        return torch.cos(slope * deltas[0]).sum(dim=1)

    ball = Ball((3, 4), 1.0)
    found = projected_gradient(objective, [ball], steps=6, step_size=0.9, restarts=4, seed=1)
    assert found.history.shape == (4, 7, 3)
    assert torch.equal(found.values, found.history.amax(dim=(0, 1)))
    assert torch.allclose(objective(found.deltas), found.values)
    assert len(set(found.history.flatten(0, 1).argmax(dim=0).tolist())) > 1
    fewer = projected_gradient(objective, [ball], steps=6, step_size=0.9, restarts=2, seed=1)
    assert torch.equal(fewer.history, found.history[:2])


def test_random_starts_follow_the_seed_and_not_the_batch() -> None:
    def start(seed: int | list[int], shape: tuple[int, ...], norm: str) -> Tensor:
        ball = Ball(shape, 1.0, norm=norm)
        return projected_gradient(
            lambda deltas: 0 * deltas[0].sum(dim=1), [ball], seed=seed
        ).deltas[0]

    for norm in core.NORMS:
        both = start([7, 8], (2, 50), norm)
        assert torch.equal(both[1:], start([8], (1, 50), norm))
        assert torch.equal(start(3, (2, 50), norm), start(3, (2, 50), norm))
        assert not torch.equal(start(3, (2, 50), norm), start(4, (2, 50), norm))
        assert not torch.equal(*start(3, (2, 50), norm))


def test_random_starts_fill_the_ball() -> None:
    zero = lambda deltas: 0 * deltas[0].sum(dim=1)  # noqa: E731
    flat = projected_gradient(zero, [Ball((400, 20), 2.0)], steps=1).deltas[0]
    assert flat.abs().max() <= 2 and abs(float(flat.mean())) < 0.05
    assert float(flat.std()) == pytest.approx(2 * 3**-0.5, rel=0.03)
    ball = Ball((400, 3), 2.0, scale=3**-0.5, norm="l2")
    lengths = projected_gradient(zero, [ball], steps=1).deltas[0].norm(dim=1)
    assert float((lengths / 2).pow(3).mean()) == pytest.approx(0.5, abs=0.05)  # uniform in volume


def test_objectives_that_are_not_numbers_are_reported_and_never_chosen() -> None:
    def objective(deltas: tuple[Tensor, ...]) -> Tensor:
        total = deltas[0].sum(dim=1)
        return torch.stack([total[0] / 0, torch.log(1 - 10 * total[1]) - 1])

    found = projected_gradient(objective, [Ball((2, 3), 1.0)], start="zero", steps=2, step_size=-1)
    assert not found.history.isnan().any()
    assert found.history[0, :, 1].isinf().any()
    assert found.values[0] == -torch.inf and not found.deltas[0][0].any()
    assert found.values[1] == -1 and not found.deltas[0][1].any()
    assert found.zero_gradients.tolist() == [1, 0]


def test_a_gradient_that_is_cut_is_reported() -> None:
    cut = projected_gradient(lambda deltas: deltas[0].detach().sum(dim=1), [Ball((2, 3), 1.0)])
    assert cut.zero_gradients.tolist() == [1, 1]
    half = projected_gradient(lambda deltas: deltas[0][:, :2].sum(dim=1), [Ball((2, 4), 1.0)])
    assert half.zero_gradients.tolist() == [0.5, 0.5]


def test_random_directions_use_the_whole_budget() -> None:
    signs = random_direction([Ball((2, 100), torch.tensor([0.5, 0.0]), scale=2.0)])[0]
    assert torch.equal(signs.abs(), torch.tensor([1.0, 0.0])[:, None].expand(2, 100))
    assert abs(float(signs[0].mean())) < 0.4
    ball = Ball((2, 100), torch.tensor([0.5, 0.0]), scale=0.1, norm="l2")
    lengths = random_direction([ball])[0].norm(dim=1)
    assert torch.allclose(lengths, torch.tensor([0.5, 0.0]))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"radius": -0.1}, "negative"),
        ({"radius": float("nan")}, "not a number"),
        ({"norm": "l1"}, "norm"),
        ({"low": 0.1}, "low"),
        ({"high": torch.tensor([-0.1, 0.1])}, "high"),
    ],
)
def test_impossible_balls_are_refused(given: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Ball(**{"shape": (2, 2), "radius": 1.0, **given})


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"steps": 0}, "steps"),
        ({"restarts": 0}, "restarts"),
        ({"start": "middle"}, "start"),
        ({"seed": [1, 2, 3]}, "3 seeds"),
        ({"objective": lambda deltas: deltas[0].sum()}, "one value for each"),
        ({"balls": []}, "at least one"),
        ({"balls": [Ball((2, 2), 1.0), Ball((3, 2), 1.0)]}, "same number"),
    ],
)
def test_impossible_ascents_are_refused(given: dict, words: str) -> None:
    usual = {"objective": lambda deltas: deltas[0].sum(dim=1), "balls": [Ball((2, 2), 1.0)]}
    with pytest.raises(ValueError, match=words):
        projected_gradient(**{**usual, **given})


# Models and settings


def test_margins_are_negative_where_the_model_errs() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.5], [1.0, 3.0, 2.5]])
    assert margins(logits, torch.tensor([1, 0])).tolist() == [0.5, -2.0]
    assert losses(logits, torch.tensor([1, 0]), "margin").tolist() == [-0.5, 2.0]


def test_normalisation_is_inside_the_model() -> None:
    model = workbench.create_model("resnet_nano", "random")
    preprocessing = workbench.preprocessing_for(model)
    picture = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    pixels = torch.from_numpy(picture).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        assert torch.allclose(
            InPixels(model)(pixels), model(preprocessing.tensor(picture)), atol=1e-5
        )


def test_an_attacked_model_is_in_evaluation_mode_and_in_float32() -> None:
    net = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Dropout(), nn.Linear(12, 3))
    model = InPixels(net.half(), GREY, GREY).train()
    assert not any(module.training for module in model.modules())
    assert [note.partition(" of ")[0] for note in model.notes] == [
        "a float32 copy",
        "the model came in training mode and was put in evaluation mode",
    ]
    with torch.autocast("cpu", torch.bfloat16):
        assert model(torch.rand(2, 3, 2, 2)).dtype == torch.float32
    assert net[3].weight.dtype == torch.float16
    assert "ImageNet default" in InPixels(net).notes[0]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"eps_pixels": 4}, r"if units of 1/255 were meant, write eps_255=4$"),
        ({"eps_255": 300}, "black to white"),
        ({"eps_255": -1}, "0 or more"),
        ({"eps_pixels": float("nan")}, "0 or more"),
        ({"eps_255": 4, "eps_pixels": 0.1}, "two spellings"),
        ({"kind": "cw"}, "kind"),
        ({"norm": "l1"}, "norm"),
        ({"loss": "dlr"}, "loss"),
        ({"steps": 0}, "steps"),
        ({"restarts": 0}, "restarts"),
        ({"step_size": 0}, "step_size"),
        ({"seed": -1}, "seed"),
        ({"targets": -1}, "targets"),
        ({"patch": "top"}, "patch"),
        ({"patch_side": 0}, "patch_side"),
        ({"band": "all"}, "band"),
        ({"band_cuts": (0.5, 0.2)}, "band_cuts"),
    ],
)
def test_impossible_attacks_are_refused_in_a_sentence(given: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        AttackConfig(**given)


def test_distances_have_two_units_and_a_default_for_each_kind() -> None:
    assert AttackConfig(eps_255=4).eps == AttackConfig(eps_pixels=4 / 255).eps == AttackConfig().eps
    assert AttackConfig(norm="l2").eps == 128 / 255 and AttackConfig("patch").eps == 1
    assert AttackConfig(norm="l2", eps_pixels=3).eps == 3


@pytest.mark.parametrize(
    ("x", "labels", "words"),
    [
        (torch.full((1, 3, 4, 4), 1.2), [0], "not normalised"),
        (torch.full((1, 3, 4, 4), torch.nan), [0], "not normalised"),
        (torch.rand(1, 3, 4, 4), [2], "classes 0 to 1"),
        (torch.rand(1, 3, 4, 4), [-1], "classes 0 to 1"),
        (torch.rand(1, 3, 4, 4), [0, 1], "one class"),
    ],
)
def test_images_and_labels_that_do_not_fit_are_refused(x: Tensor, labels: list, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        attack(InPixels(Linear(), GREY, GREY), x, labels)


# Images


@pytest.mark.parametrize("scale", [1.0, 1e-5])
def test_attacks_on_a_linear_model_reach_the_closed_form(scale: float) -> None:
    model = InPixels(Linear(scale), (0.0,) * 3, (1.0,) * 3)
    weight = scale * model.model.weight.detach()
    x, labels = 0.3 + 0.4 * torch.rand(3, 3, 4, 4), torch.zeros(3, dtype=torch.long)
    for norm, size in (("linf", weight.abs().sum()), ("l2", weight.norm())):
        for kind in ("fgsm", "pgd"):
            found = attack(model, x, labels, AttackConfig(kind, eps_pixels=0.1, norm=norm))
            lost = (found.clean - found.value) / scale
            assert torch.allclose(lost, 0.1 * size / scale, rtol=1e-3), (kind, norm)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("eps", [0.0, 1e-9, 0.01, 4 / 255, 0.5])
def test_no_image_leaves_ball_or_pixels_by_a_single_bit(norm: str, eps: float) -> None:
    model = InPixels(Linear(), GREY, GREY)
    x = torch.rand(8, 3, 4, 4).round(decimals=1)
    x[0, 0], x[0, 1] = 0, 1
    for kind in ("fgsm", "pgd"):
        found = attack(model, x, [0] * 8, AttackConfig(kind, eps_pixels=eps, norm=norm, steps=3))
        change = (found.x.double() - x.double()).flatten(1)
        assert change.norm(p=torch.inf if norm == "linf" else 2, dim=1).max() <= eps
        assert found.x.min() >= 0 and found.x.max() <= 1 and found.x.dtype == torch.float32
        if eps == 0:
            assert torch.equal(found.x, x)


def test_the_single_step_is_that_of_captum(trained: InPixels, test_images) -> None:
    from captum.robust import FGSM

    x, labels = test_images
    peer = FGSM(trained, lambda z, y: losses(z, y, "cross-entropy"), 0.0, 1.0)
    peer.zero_thresh = 0.0
    for eps in (4, 16):
        found = attack(trained, x, labels, AttackConfig("fgsm", eps, loss="cross-entropy"))
        wanted = peer.perturb(x.clone(), eps / 255, labels)
        assert torch.allclose(found.x, wanted, atol=2e-7, rtol=0)


@pytest.mark.parametrize(("norm", "eps"), [("linf", 18 / 255), ("l2", 1.4)])
def test_pgd_is_stronger_than_that_of_torchattack(
    trained: InPixels, test_images, norm: str, eps: float
) -> None:
    peers = pytest.importorskip("torchattack")
    x, labels = test_images
    peer = {"linf": peers.PGD, "l2": peers.PGDL2}[norm]
    theirs = peer(trained, None, x.device, eps=eps, alpha=2.5 * eps / 20, steps=20)(x, labels)
    config = AttackConfig(eps_pixels=eps, norm=norm, loss="cross-entropy")
    usual = attack(trained, x, labels, replace(config, step_size=2.5 / 20))
    ours, same, other = (
        accuracy(trained, images.detach(), labels)
        for images in (attack(trained, x, labels, config).x, usual.x, theirs)
    )
    assert 0 < ours <= min(same, other) < 0.9
    assert abs(same - other) <= 0.07  # they differ in their random starts alone


@pytest.mark.parametrize("eps", [12, 20])
def test_pgd_is_as_strong_as_autoattack_within_two_points(
    trained: InPixels, test_images, eps: int
) -> None:
    pytest.importorskip("pyautoattack")
    x, labels = test_images
    found = attack(trained, x, labels, AttackConfig(eps_255=eps))
    theirs, _ = autoattack(trained, x, labels, eps / 255, attacks=["apgd-ce", "apgd-t"])
    assert 0 < accuracy(trained, found.x, labels) <= accuracy(trained, theirs, labels) + 0.02


def test_autoattack_is_quiet_seeded_and_stays_in_the_ball(
    trained: InPixels, test_images, capsys, caplog
) -> None:
    pytest.importorskip("pyautoattack")
    x, labels = (values[:4] for values in test_images)
    trace, state = sys.gettrace(), torch.get_rng_state()
    config = AttackConfig("autoattack", eps_255=32)
    found, again = (attack(trained, x, labels, config) for _ in range(2))
    assert found.success.all() and torch.equal(found.x, again.x)
    assert (found.x.double() - x.double()).abs().max() <= config.eps
    assert torch.equal(torch.get_rng_state(), state) and sys.gettrace() is trace
    assert not any(capsys.readouterr()) and not caplog.records
    assert logging.getLogger("auto-attack").handlers == []
    none, _ = autoattack(trained, x, labels, 1e-4, attacks=["apgd-ce"])
    assert torch.equal(none, x)


def test_autoattack_takes_images_in_any_memory_order(trained: InPixels, test_images) -> None:
    pytest.importorskip("pyautoattack")
    x, labels = (values[:3] for values in test_images)
    # as pictures come: channels last in memory
    x = x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    for part in (slice(0, 1), slice(0, 3)):
        found, _ = autoattack(trained, x[part], labels[part], 1e-3, attacks=["apgd-ce", "apgd-t"])
        assert (found - x[part]).abs().max() <= 1e-3 + 1e-6


@pytest.mark.parametrize("classes", [2, 3])
def test_autoattack_takes_few_classes(classes: int) -> None:
    pytest.importorskip("pyautoattack")
    model = InPixels(nn.Sequential(nn.Flatten(), nn.Linear(48, classes)), GREY, GREY)
    x = torch.rand(4, 3, 4, 4)
    labels = model(x).argmax(dim=1)
    found, _ = autoattack(model, x, labels, 0.3, queries=10)
    assert accuracy(model, found, labels) == 0


def test_autoattack_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pyautoattack", None)
    with pytest.raises(ImportError, match=r'pip install -e "\.\[robust\]"'):
        autoattack(InPixels(Linear()), torch.rand(1, 3, 4, 4), torch.tensor([0]), 0.1)


def test_an_attack_follows_its_seed_and_an_image_its_index(trained: InPixels, test_images) -> None:
    x, labels = (values[:4] for values in test_images)

    def found(part: slice, seed: int = 0, indices=None) -> Attacked:
        config = AttackConfig(eps_255=16, steps=3, seed=seed)
        return attack(trained, x[part], labels[part], config, indices)

    whole = found(slice(0, 4))
    assert torch.equal(whole.x, found(slice(0, 4)).x)
    assert not torch.equal(whole.x, found(slice(0, 4), seed=1).x)
    second = found(slice(2, 4), indices=[2, 3])
    assert torch.allclose(second.x, whole.x[2:], atol=1e-6)


def test_restarts_only_make_it_worse(trained: InPixels, test_images) -> None:
    x, labels = test_images
    config = AttackConfig(eps_255=16, steps=4, targets=0)
    one, three = (attack(trained, x, labels, replace(config, restarts=k)) for k in (1, 3))
    assert (three.value <= one.value + 1e-5).all() and (three.value < one.value - 1e-3).any()
    assert torch.allclose(-three.value, three.history.amax(dim=(0, 1)), atol=1e-4)


class DeadEnd(nn.Module):
    """Class 1 is near and never reached, class 2 lies the other way."""

    def forward(self, x: Tensor) -> Tensor:
        way = x.flatten(1).mean(dim=1)
        near = -1 + 0.9 * (20 * way).clamp(max=1)
        return torch.stack((0 * way, near, -3 - 40 * way), dim=1)


@pytest.mark.parametrize("kind", ["pgd", "patch", "band"])
def test_an_image_that_withstands_is_driven_to_other_classes(kind: str) -> None:
    model = InPixels(DeadEnd(), (0.5,) * 3, (1.0,) * 3)
    x, labels = torch.full((3, 3, 8, 8), 0.5), torch.tensor([0, 0, 1])
    config = AttackConfig(kind, eps_255=32, patch_side=8, seed=1)
    alone = attack(model, x, labels, replace(config, targets=0))
    found = attack(model, x, labels, config)
    assert alone.success.tolist() == [False, False, True]
    assert found.success.all()
    assert (found.x.double() - x.double()).abs().max() <= config.eps
    assert torch.equal(found.x[2], alone.x[2]) and torch.equal(found.history, alone.history)
    one = attack(model, x, labels, replace(config, targets=1))  # only the dead end
    assert torch.equal(one.x, alone.x)
    second = attack(model, x[1:2], labels[1:2], config, indices=[1])
    assert torch.allclose(second.x, found.x[1:2], atol=1e-6)


def test_random_search_finds_the_vertex_of_a_linear_model() -> None:
    model = InPixels(Linear(), (0.0,) * 3, (1.0,) * 3)
    x, labels = 0.3 + 0.4 * torch.rand(2, 3, 4, 4), torch.zeros(2, dtype=torch.long)
    with torch.no_grad():
        clean = margins(model(x), labels)
    best = 0.1 * model.model.weight.abs().sum().detach()
    delta, found = random_search(model, x, labels, pixel_ball(x, 0.1), 600)
    with torch.no_grad():
        assert torch.allclose(margins(model(x + delta), labels), found)
    assert (clean - found <= best + 1e-4).all() and (clean - found >= 0.8 * best).all()


@pytest.mark.parametrize("name", ["resnet_nano", "vmamba_nano"])
def test_pgd_takes_undefended_models_to_zero(name: str) -> None:
    model = workbench.create_model(name, "official")
    preprocessing, images = workbench.preprocessing_for(model), workbench.open_images("samples")
    pictures = [preprocessing.picture(images.load(i)) for i in range(len(images))]
    x = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) / 255
    attacked = InPixels(model)
    with torch.no_grad():
        labels = attacked(x).argmax(dim=1)
    found = attack(attacked, x, labels)
    assert accuracy(attacked, x, labels) == 1 and (found.clean > 0).all()
    # a parachute on an even sky is the one that needs more than 4/255
    assert accuracy(attacked, found.x, labels) <= 1 / 20
    assert attack(attacked, x, labels, AttackConfig(eps_255=8)).success.all()


# Patches


def squares(mask: Tensor, side: int) -> list[tuple[int, int]]:
    """Corners, in units of the side, of the squares of the first image."""
    cells = F.avg_pool2d(mask[:1], side)[0, 0]
    assert set(cells.unique().tolist()) <= {0, 1}
    return [(int(row), int(column)) for row, column in cells.nonzero()]


def test_patches_lie_on_the_way_of_a_scan() -> None:
    model = InPixels(VMamba(dims=(8, 16), depths=(1, 1), num_classes=4))
    x, labels = torch.rand(2, 3, 32, 32), torch.tensor([0, 1])

    def at(place: str, scan: str = "*", count: int = 1) -> list[tuple[int, int]]:
        mask = patch_mask(model, x, labels, place, 8, count, scan)
        assert mask.shape == (2, 1, 32, 32) and mask.sum() == 2 * count * 64
        return squares(mask, 8)

    assert at("first") == [(0, 0)] and at("last") == [(3, 3)]
    assert at("first", "*/row", 2) == [(0, 0), (0, 1)]
    assert at("first", "*/column", 2) == [(0, 0), (1, 0)]
    assert at("first", "*/row-reversed", 2) == at("last", "*/row", 2)
    assert at("middle", "*/row", 2) == [(1, 3), (2, 0)]
    with pytest.raises(ValueError, match="no scan site matches"):
        at("first", "*/spiral")
    with pytest.raises(ValueError, match="room for 16 patches"):
        at("first", count=17)
    with pytest.raises(ValueError, match="has no selective scan"):
        patch_mask(InPixels(Linear()), x, labels, "first", 8)


def test_the_time_of_a_pixel_is_that_of_its_cell() -> None:
    model = InPixels(VMamba(dims=(8, 16), depths=(1, 1), num_classes=4))
    rows = scan_times(model, (32, 40), "layers.0*/row")
    assert np.array_equal(rows[::4, ::4], np.arange(80).reshape(8, 10))
    columns = scan_times(model, (32, 40), "layers.0*/column")
    assert np.array_equal(columns[::4, ::4].T, np.arange(80).reshape(10, 8))
    windows = MambaVision(dim=8, in_dim=8, depths=(1, 1, 2, 2), window_size=(8, 8, 2, 2))
    times = scan_times(InPixels(windows), (64, 96), "levels.2*")
    cells = np.tile([[0, 1], [2, 3]], (2, 3))
    assert np.array_equal(times, cells.repeat(16, axis=0).repeat(16, axis=1))


def test_other_patches_lie_in_the_centre_at_random_or_at_the_gradient() -> None:
    model = InPixels(Linear(), GREY, GREY)
    model.model.weight = nn.Parameter(0.1 * torch.ones(3, 4, 4))
    model.model.weight.data[:, 2:, :2] *= -5
    model.model.weight = nn.Parameter(model.model.weight.data.flatten())
    x, labels = torch.rand(40, 3, 4, 4), torch.zeros(40, dtype=torch.long)
    assert squares(patch_mask(model, x, labels, "gradient", 2), 2) == [(1, 0)]
    centre = patch_mask(model, x, labels, "centre", 2)
    assert torch.equal(centre[0, 0], F.pad(torch.ones(2, 2), (1, 1, 1, 1)))
    random = patch_mask(model, x, labels, "random", 2, seeds=range(40))
    assert torch.equal(random, patch_mask(model, x, labels, "random", 2, seeds=range(40)))
    assert {tuple(squares(mask[None], 2)) for mask in random} == {
        ((0, 0),),
        ((0, 1),),
        ((1, 0),),
        ((1, 1),),
    }


@pytest.mark.parametrize("place", ["centre", "random", "gradient"])
def test_a_patch_changes_its_pixels_alone(trained: InPixels, test_images, place: str) -> None:
    x, labels = (values[:8] for values in test_images)
    config = AttackConfig("patch", patch=place, patch_side=5, patches=2, steps=10)
    found = attack(trained, x, labels, config)
    assert found.mask is not None and (found.mask.sum(dim=(1, 2, 3)) == 50).all()
    assert torch.equal(found.x * (1 - found.mask), x * (1 - found.mask))
    assert (found.value < found.clean).all() and (found.x - x).abs().max() > 0.3
    assert place in PLACES


# Bands


@pytest.mark.parametrize("size", [(16, 16), (12, 20), (7, 9)])
def test_bands_partition_the_spectrum(size: tuple[int, int]) -> None:
    x = torch.rand(2, 3, *size, dtype=torch.float64)
    masks = torch.stack([band_mask(size, band, (0.15, 0.5)) for band in BANDS])
    assert (masks.sum(dim=0) == 1).all() and masks.flatten(1).any(dim=1).all()
    parts = [band_filter(x, band)(x) for band in BANDS]
    assert torch.allclose(sum(parts), x, atol=1e-12)
    for band, part in zip(BANDS, parts, strict=True):
        assert torch.allclose(band_filter(x, band)(part), part, atol=1e-12)
        assert outside(part, band_filter(x, band)).max() < 1e-20
        others = [other for other in parts if other is not part]
        assert all(abs(float((part * other).sum())) < 1e-10 for other in others)


def test_the_cosine_transform_is_that_of_scipy() -> None:
    from scipy import fft

    x = torch.rand(2, 3, 8, 10, dtype=torch.float64)
    ours = dct_matrix(8, x) @ x @ dct_matrix(10, x).T
    assert np.allclose(ours, fft.dctn(x.numpy(), axes=(2, 3), norm="ortho"))


@pytest.mark.parametrize("band", BANDS)
def test_an_attack_in_a_band_beats_one_that_is_filtered_afterwards(
    trained: InPixels, test_images, band: str
) -> None:
    x, labels = test_images
    config = AttackConfig("band", eps_255=16, band=band)
    found = attack(trained, x, labels, config)
    assert found.outside is not None and found.outside.max() < 0.02
    assert (found.x.double() - x.double()).abs().max() <= 16 / 255
    whole = attack(trained, x, labels, replace(config, kind="pgd"))
    filtered = band_filter(x, band)(whole.x - x).clamp(-config.eps, config.eps)
    with torch.no_grad():
        afterwards = margins(trained((x + filtered).clamp(0, 1)), labels)
    assert found.value.mean() < afterwards.mean()


# The checklist


class Masked(nn.Module):
    """The same answers, or nearly, with a gradient that does not lead to others."""

    def __init__(self, inner: nn.Module, how: str) -> None:
        super().__init__()
        self.inner, self.how = inner, how

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "quantised input":
            x = (8 * x).round() / 8
        elif self.how == "no way back":
            x = x.detach()
        elif self.how == "wrong way back":
            x = x + 0.008 * torch.sin(1000 * x)
        elif self.how == "noise":
            x = x + 0.3 * torch.randn_like(x)
        logits = self.inner(x)
        if self.how == "saturated":
            return 1e4 * logits
        return logits.half() if self.how == "half precision" else logits


def test_an_ordinary_model_passes_the_checklist(trained: InPixels, test_images) -> None:
    verdict = checklist(trained, *test_images, AttackConfig(eps_255=16), queries=50)
    assert verdict.passed, verdict.failed
    stored = json.loads(json.dumps(verdict.as_dict(), allow_nan=False))
    assert stored["passed"] and stored["attack"]["steps"] == 20
    assert [check["name"] for check in stored["checks"]] == [c.name for c in verdict.checks]
    assert len({check.name for check in verdict.checks}) == 13
    assert all(check.evidence and check.numbers for check in verdict.checks)


@pytest.mark.parametrize(
    ("how", "found"),
    [
        ("quantised input", {"gradients are not zero", "a large distance leaves nothing"}),
        ("no way back", {"gradients are not zero", "the gradient beats a black box"}),
        ("wrong way back", {"the gradient beats noise", "the gradient beats a black box"}),
        ("saturated", {"gradients are not zero", "the gradient beats noise"}),
        ("noise", {"evaluation mode"}),
        ("half precision", {"single precision"}),
    ],
)
def test_a_model_that_hides_its_gradient_fails_it(
    trained: InPixels, test_images, how: str, found: set[str]
) -> None:
    masked = InPixels(Masked(trained.model, how), GREY, GREY)
    config = AttackConfig(eps_255=16, loss="cross-entropy" if how == "saturated" else "margin")
    x, labels = (values[:24] for values in test_images)
    verdict = checklist(masked, x, labels, config, queries=50)
    assert not verdict.passed and found <= set(verdict.failed), verdict.failed
    json.dumps(verdict.as_dict(), allow_nan=False)


def test_steps_that_are_too_short_fail_it(trained: InPixels, test_images) -> None:
    x, labels = (values[:24] for values in test_images)
    config = AttackConfig(eps_255=16, step_size=0.02)
    assert "the loss has levelled off" in checklist(trained, x, labels, config, queries=5).failed


@pytest.mark.parametrize("check", [iterative, monotone_in_distance, monotone_in_steps])
def test_an_attack_that_should_be_stronger_and_is_not_fails_it(check) -> None:
    strong, weak = (
        SimpleNamespace(success=torch.tensor([broken] * 9), value=torch.tensor([margin] * 9))
        for broken, margin in ((True, -1.0), (False, 1.0))
    )

    def trial(main: SimpleNamespace, stronger: SimpleNamespace, weaker: SimpleNamespace):
        def attacked(eps: float = 0, steps: int = 0, kind: str = "pgd") -> SimpleNamespace:
            return stronger if eps > AttackConfig().eps or steps > 20 else weaker

        return SimpleNamespace(config=AttackConfig(), main=main, attacked=attacked)

    assert check(trial(strong, strong, weak)).passed and check(trial(weak, weak, weak)).passed
    assert not check(trial(weak, weak, strong)).passed


def test_the_checklist_needs_images_that_are_right(trained: InPixels, test_images) -> None:
    x, labels = test_images
    with pytest.raises(ValueError, match="none of these images"):
        checklist(trained, x[:4], (labels[:4] + 1) % 4)
    with pytest.raises(ValueError, match="above 0"):
        checklist(trained, x, labels, AttackConfig(eps_255=0))
