"""Resolution curves: closed forms of their numbers, what must not change them, and the sweep."""

import csv
import io
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn

from workbench import resolution
from workbench.cli import main
from workbench.images import Batch, Preprocessing, open_images
from workbench.methods.resolution import figure as pictures
from workbench.methods.resolution.adapt import adapted, preprocessing_at, settled
from workbench.methods.resolution.config import PointConfig, ResolutionConfig
from workbench.methods.resolution.cost import count
from workbench.methods.resolution.curve import compare, curve
from workbench.methods.resolution.measure import measure
from workbench.methods.resolution.metrics import cka, divergence, exponent, in_top, margin, refit
from workbench.methods.resolution.sweep import Step, curve_of
from workbench.models import S4ND
from workbench.results import Resolution, ResolutionPoint, load
from workbench.runner import joined, parts
from workbench.statistics import wilson
from workbench.weights import create_model

STORED = Path(__file__).parents[1] / "samples" / "results" / "resolution"

RNG = np.random.default_rng(0)


# numbers


def unbiased_hsic(k: np.ndarray, m: np.ndarray) -> float:
    """Song et al., JMLR 2012, equation 5, times n (n - 3), from kernel matrices."""
    n = len(k)
    k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
    one = np.ones(n)
    both = (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
    return np.trace(k @ m) + both - 2 / (n - 2) * one @ k @ m @ one


def test_cka_is_1_for_rotated_shifted_scaled_features_and_0_for_unrelated_ones() -> None:
    x = RNG.normal(size=(30, 12)).astype(np.float32)
    rotation, _ = np.linalg.qr(RNG.normal(size=(12, 12)))
    assert cka(x, x) == pytest.approx(1, abs=1e-12)
    assert cka(x, x @ rotation) == pytest.approx(1, abs=1e-6)
    assert cka(x, 5 * x + 3) == pytest.approx(1, abs=1e-6)
    assert cka(x, np.pad(x, ((0, 0), (0, 4)))) == pytest.approx(1, abs=1e-12)
    # few images and many features: the biased estimate is near 1 here
    unrelated = [cka(RNG.normal(size=(20, 300)), RNG.normal(size=(20, 300))) for _ in range(20)]
    assert abs(np.mean(unrelated)) < 0.05
    assert math.isnan(cka(x[:3], x[:3])) and math.isnan(cka(x, np.ones_like(x)))


def test_cka_is_the_one_of_the_kernel_matrices() -> None:
    x, y = RNG.normal(size=(17, 5)) + 4, RNG.normal(size=(17, 9))
    y[:, :5] += x
    k, m = x @ x.T, y @ y.T
    expected = unbiased_hsic(k, m) / math.sqrt(unbiased_hsic(k, k) * unbiased_hsic(m, m))
    assert cka(x, y) == pytest.approx(expected, abs=1e-10)


def test_exponent_of_synthetic_times() -> None:
    pixels = np.array([224, 320, 448, 640, 1024]) ** 2
    found = exponent(pixels, 3e-6 * pixels**1.37)
    assert found.value == pytest.approx(1.37, abs=1e-9) and found.high - found.low < 1e-6
    mixed = exponent(pixels, 1e-9 * pixels + 1e-14 * pixels**2.0)
    assert mixed.value == pytest.approx(1.49, abs=0.2)
    assert exponent(pixels[:2], pixels[:2]).as_dict() == {"value": 1, "low": None, "high": None}
    assert exponent(pixels[:1], pixels[:1]).as_dict()["value"] is None
    assert exponent(pixels, np.where(pixels > 5e5, np.nan, pixels)).value == pytest.approx(1)


def test_divergence_and_margin() -> None:
    p = np.array([[2.0, 0.0], [0.0, 0.0]])
    assert divergence(p, p + 7) == pytest.approx([0, 0], abs=1e-12)
    q = np.array([[0.0, 0.0], [0.0, 2.0]])
    own = 1 / (1 + math.exp(-2))
    entropy = -(own * math.log(own) + (1 - own) * math.log(1 - own))
    assert divergence(p, q)[0] == pytest.approx(math.log(2) - entropy)
    assert (divergence(RNG.normal(size=(50, 9)), RNG.normal(size=(50, 9))) > 0).all()
    assert margin(p, p) == pytest.approx([2 * own - 1, 0])
    assert margin(p, -p) == pytest.approx([1 - 2 * own, 0])


def test_top_k() -> None:
    logits = np.array([[3.0, 2, 1], [1, 2, 3], [5, 5, 0]])
    labels = np.array([1, 0, 1])
    assert in_top(logits, labels, 1).tolist() == [False, False, True]
    assert in_top(logits, labels, 2).tolist() == [True, False, True]


def test_a_refitted_head_finds_what_is_linear_and_never_sees_the_image_it_is_asked_about() -> None:
    labels = np.arange(60) % 3
    features = 3 * np.eye(3)[labels] + RNG.normal(0, 0.3, (60, 3))
    assert (refit(features, labels, 5) == labels).all()
    assert (refit(features * 1e4 - 7, labels, 5) == labels).all()
    # a feature of its own for every image can be learned by heart, and says nothing of the others
    assert (refit(np.eye(60), labels, 5) == labels).mean() < 0.55
    labels[::4] = -1
    found = refit(features, labels, 5)
    assert (found[::4] == -1).all() and (found == labels).all()
    with pytest.raises(ValueError, match="folds"):
        refit(features, np.where(np.arange(60) < 57, -1, labels), 5)


# cost


def test_operations_and_memory_of_two_convolutions() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1))
    flops, peak = count(model, torch.zeros(1, 3, 16, 16))
    assert flops == 2 * 256 * (27 * 8 + 72 * 4)
    assert peak == 2 * 256 * 8 * 4  # the first convolution's output and its ReLU
    assert count(model, torch.zeros(1, 3, 16, 16)) == (flops, peak)


def test_an_fft_and_the_scan_are_counted() -> None:
    class Transform(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.fft.irfft2(torch.fft.rfft2(x))

    assert count(Transform(), torch.zeros(1, 1, 8, 8))[0] == 2 * 64 * 2.5 * 6
    vmamba, vit = (timm.create_model(n).eval() for n in ("vmamba_nano", "vit_nano"))
    ratios = [
        count(m, torch.zeros(1, 3, 128, 128))[0] / count(m, torch.zeros(1, 3, 64, 64))[0]
        for m in (vmamba, vit)
    ]
    assert ratios[0] == pytest.approx(4, rel=1e-3) and ratios[1] > 4.5


def test_padded_windows_are_counted_as_they_run() -> None:
    model = timm.create_model("mambavision_nano.imagenette64").eval()
    fixed, scaled = (
        adapted(model, 72, PointConfig(windows=windows)) for windows in ("fixed", "scaled")
    )
    assert [level.window for level in scaled.levels] == [None, 9, 4]

    class Blocks(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.level = model.levels[1]

        def forward(self, x: Tensor) -> Tensor:
            return self.level.forward_blocks(x)

    small, padded = torch.zeros(1, 64, 9, 9), torch.zeros(1, 64, 16, 16)
    # windows of 8 pad 9 x 9 cells to 16 x 16; one window of 9 fits
    assert count(Blocks(fixed), small)[0] == count(Blocks(fixed), padded)[0]
    assert count(Blocks(scaled), small)[0] < 0.5 * count(Blocks(fixed), small)[0]


# one point


def batch_of(x: Tensor, labels: tuple[int, ...] | None = None) -> Batch:
    n = len(x)
    return Batch(x, np.empty((n, 1, 1, 3)), tuple(map(str, range(n))), labels, tuple(range(n)))


def test_every_model_is_itself_at_its_native_size() -> None:
    for name in ("vmamba_nano", "vim_nano", "mambavision_nano", "vit_nano", "s4nd_nano"):
        model = timm.create_model(f"{name}.imagenette64").eval()
        x = torch.randn(1, 3, 64, 64)
        expected = model(x)
        for options in ({}, {"positions": "official", "windows": "scaled", "kernels": "fixed"}):
            other = adapted(model, 64, PointConfig(**options))
            assert torch.equal(other(x), expected), name
        adapted(model, 128, PointConfig())
        assert torch.equal(model(x), expected), name  # what is adapted is a copy


def test_settings_act_away_from_the_native_size() -> None:
    x = torch.randn(1, 3, 96, 96)
    for name, options in (
        ("vim_nano", {"positions": "official"}),
        ("mambavision_nano", {"windows": "scaled"}),
        ("s4nd_nano", {"kernels": "fixed"}),
    ):
        model = timm.create_model(f"{name}.imagenette64").eval()
        plain, other = (adapted(model, 96, PointConfig(**o))(x) for o in ({}, options))
        assert (plain - other).abs().max() > 1e-6, name
    model = timm.create_model("s4nd_nano.imagenette64")
    grown = adapted(model, 96, PointConfig())
    stays = adapted(model, 96, PointConfig(object_size="constant"))
    assert {m.rate for m in grown.modules() if isinstance(m, S4ND)} == {64 / 96}
    assert {m.rate for m in stays.modules() if isinstance(m, S4ND)} == {1.0}


def test_backbones_of_timm_that_are_built_for_one_size_take_others() -> None:
    small = {"embed_dim": 16, "depths": (1, 1), "num_heads": (2, 2)}
    swin = timm.create_model("swin_tiny_patch4_window7_224", **small, num_classes=10).eval()
    vit = timm.create_model("deit_tiny_patch16_224", depth=1, num_classes=10).eval()
    for model in (swin, vit):
        with torch.no_grad():
            for size in (224, 320, 160):
                x = torch.zeros(1, 3, size, size)
                assert adapted(model, size, PointConfig())(x).shape == (1, 10)
    windows = adapted(swin, 448, PointConfig()).layers[0].blocks[0].window_size
    assert tuple(windows) == (14, 14)  # scaled with the size, as in VMamba's table


def test_objects_grow_or_stay() -> None:
    model = timm.create_model("vmamba_nano")
    values = RNG.integers(0, 256, (96, 130, 3), np.uint8)
    image = Image.fromarray(values)
    stays = PointConfig(object_size="constant", native=64)
    grows = PointConfig(native=64)
    native = preprocessing_at(model, 64, grows).picture(image)
    assert (preprocessing_at(model, 64, stays).picture(image) == native).all()
    small = preprocessing_at(model, 32, stays).picture(image)
    assert (small == native[16:48, 16:48]).all()
    large = preprocessing_at(model, 128, stays).picture(image)
    assert (large[32:96, 32:96] == native).all()
    grey = np.array([round(255 * v) for v in (0.485, 0.456, 0.406)])
    assert (large[:32] == grey).all() and (large[96:] == grey).all()
    assert not (large[40, 22:31] == grey).all()  # the wide picture is seen beyond the square
    grown = preprocessing_at(model, 128, grows)
    assert grown.as_dict() == Preprocessing((128, 128), 1.0).as_dict()
    assert "object_size" in preprocessing_at(model, 128, stays).as_dict()
    assert "scaled as for 64" in preprocessing_at(model, 128, stays).describe()


def test_predictions_features_and_probes_of_a_batch() -> None:
    model, x = timm.create_model("vmamba_nano").eval(), torch.randn(5, 3, 32, 32)
    partial = measure(model, batch_of(x, (3, 9, -1, 0, 3)), PointConfig(probes=2))
    with torch.no_grad():
        assert partial["logits"] == pytest.approx(model(x).numpy(), abs=1e-5)
        pooled = model.forward_head(model.forward_features(x), pre_logits=True)
    assert partial["features"] == pytest.approx(pooled.numpy(), abs=1e-5)
    assert partial["labels"].tolist() == [3, 9, -1, 0, 3]
    assert np.isfinite(partial["cost"]).all(axis=1).tolist() == [True, True, False, False, False]
    assert partial["cost"][0, 0] == count(model, x[:1])[0]
    assert partial["lengths"][0].tolist() == [64, 64, 16, 16, 4, 4]
    assert (partial["seconds"] > 0).all()
    chosen = measure(model, batch_of(x, (3, 9, -1, 0, 3)), PointConfig(classes=(0, 3)))
    assert chosen["logits"] == pytest.approx(partial["logits"][:, [0, 3]], abs=1e-5)
    assert chosen["labels"].tolist() == [1, -1, -1, 0, 1]


def test_the_memory_horizon_of_constant_steps_is_ln2_over_delta_a() -> None:
    model = timm.create_model("vmamba_nano").eval()
    with torch.no_grad():
        for layer in model.layers:
            for block in layer.blocks:
                block.op.dt_projs_weight.zero_()
                block.op.dt_projs_bias.fill_(math.log(math.expm1(0.05)))  # delta 0.05
                block.op.A_logs.fill_(math.log(2.0))
    partial = measure(model, batch_of(torch.randn(1, 3, 64, 64)), PointConfig())
    assert partial["horizons"][0] == pytest.approx(np.full((6, 3), math.log(2) / 0.1), rel=1e-4)


def test_a_model_without_a_head_predicts_nothing() -> None:
    model = timm.create_model("resnet_nano", num_classes=0).eval()
    with pytest.raises(ValueError, match="no classifier"):
        measure(model, batch_of(torch.zeros(1, 3, 32, 32)), PointConfig())
    for options, words in (
        ({"object_size": "shrinks"}, "object_size must be one of grows, constant"),
        ({"folds": 1}, "folds"),
        ({"chunk": 0}, "chunk"),
    ):
        with pytest.raises(ValueError, match=words):
            ResolutionConfig(**options)


# the sweep


class Colour(nn.Module):
    """Logits from the mean colour alone, so that size changes nothing."""

    def __init__(self, num_classes: int = 4) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.body = nn.Conv2d(3, 6, 4, 4)
        self.head = nn.Linear(6, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        if min(x.shape[-2:]) < 8:
            raise ValueError("needs 8 pixels")
        return self.head(self.body(x).mean(dim=(2, 3)))


QUICK = ResolutionConfig(native=32, probes=1, chunk=4, folds=2)


def sweep(
    model: nn.Module,
    images: object,
    sizes: list[int],
    config: ResolutionConfig,
    erf_images: int = 0,
    **options: Any,
) -> Iterator[Step]:
    config = replace(config, sizes=tuple(sizes), erf_images=erf_images)
    return parts(resolution, model, open_images(images), config, **options)


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """Four classes of three images of one colour each."""
    root = tmp_path / "colours"
    for k, colour in enumerate([(200, 20, 20), (20, 200, 20), (20, 20, 200), (200, 200, 20)]):
        (root / f"{k}").mkdir(parents=True)
        for i in range(3):
            value = np.clip(np.array(colour) + 8 * i, 0, 255).astype(np.uint8)
            Image.fromarray(np.tile(value, (40, 44, 1))).save(root / f"{k}" / f"{i}.png")
    return root


def test_a_model_that_sees_colour_only_is_the_same_at_all_sizes(classes: Path) -> None:
    steps = list(
        sweep(Colour(), open_images(classes), [16, 64], QUICK, labelled=True, erf_images=1)
    )
    assert [step.size for step in steps] == [32, 16, 64]  # what others are compared with is first
    result = curve_of(steps)
    assert result.sizes.tolist() == [16, 32, 64]
    for name, value in (("agreement", 100), ("drop", 0), ("cka", 1), ("kl", 0)):
        found, _, _ = result.number(name)
        defined = name != "drop" or result.number("top1")[0][1] > 0
        assert not defined or found == pytest.approx([value] * 3, abs=1e-5), name
    assert result.correct is not None and result.agrees is not None
    assert (result.correct == result.correct[0]).all() and (result.agrees == 1).all()
    assert result.number("refit")[0] == pytest.approx([100] * 3)  # colours are told apart linearly
    assert result.meta["points"][0]["layers"] == [] and "A50" in result.points[0]["numbers"]
    assert result.meta["exponents"]["flops"]["value"] == pytest.approx(1, abs=0.05)
    assert curve_of(steps[:1]).sizes.tolist() == [32]  # a first point is a curve already


def test_a_stopped_sweep_goes_on_where_it_was(
    classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[tuple[int, int]] = []
    original = resolution.measure

    def counted(model: nn.Module, batch: Batch, config: PointConfig) -> dict:
        if len(measured) == 4:
            raise KeyboardInterrupt
        measured.append((batch.tensor.shape[-1], batch.indices[0]))
        return original(model, batch, config)

    monkeypatch.setattr(type(resolution), "measure", staticmethod(counted))
    options = {"labelled": True, "erf_images": 0, "out": tmp_path / "out", "facts": {"model": "m"}}
    model = Colour()
    arrived = []
    with pytest.raises(KeyboardInterrupt):
        for step in sweep(model, open_images(classes), [16, 64], QUICK, **options):
            arrived.append(step.size)
    assert arrived == [32] and measured == [(32, 0), (32, 4), (32, 8), (16, 0)]
    measured.clear()
    monkeypatch.setattr(
        type(resolution), "measure", staticmethod(lambda *a: (measured.append(()), original(*a))[1])
    )
    steps = list(sweep(model, open_images(classes), [16, 64], QUICK, **options))
    assert len(measured) == 2 + 3  # the rest of 16 px, and 64 px
    again = list(sweep(model, open_images(classes), [16, 64], QUICK, **options))
    assert len(measured) == 5
    for s in (steps, again):
        joined(resolution, s, QUICK, tmp_path / "out")
    (file,) = (tmp_path / "out").glob("resolution-*.npz")
    assert isinstance(load(file), Resolution)
    assert curve_of(steps).meta == curve_of(again).meta


def test_settings_are_told_apart_in_the_store(tmp_path: Path) -> None:
    model = create_model("vim_nano", "random")
    images, found = open_images("samples", 1), {}
    for positions in ("class-aware", "official"):
        config = ResolutionConfig(positions=positions, probes=0)
        facts = {"model": "vim_nano", "weights_sha256": "the same"}
        *_, step = sweep(model, images, [96], config, erf_images=1, out=tmp_path, facts=facts)
        assert step.point is not None and step.field is not None
        found[positions] = step
    first, second = found.values()
    assert (first.field.map != second.field.map).any()
    assert (first.point.logits != second.point.logits).any()


def test_a_size_that_does_not_fit_in_memory_costs_no_other(
    classes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = resolution.measure

    def limited(model: nn.Module, batch: Batch, config: PointConfig) -> dict:
        if batch.tensor.shape[-1] >= 96:
            raise MemoryError
        return original(model, batch, config)

    monkeypatch.setattr(type(resolution), "measure", staticmethod(limited))
    steps = list(sweep(Colour(), open_images(classes), [16, 96, 128], QUICK, erf_images=0))
    result = curve_of(steps)
    assert result.sizes.tolist() == [16, 32]
    assert "96 x 96" in result.meta["missing"]["96"]
    assert result.meta["missing"]["128"] == "not tried, as 96 px did not fit in memory"
    text = pictures.caption([result])
    assert "96 px missing" in text and "128 px missing" in text
    rows = list(csv.DictReader(io.StringIO(pictures.csv_table([result]))))
    assert [row["size"] for row in rows] == ["16", "32", "96", "128"]
    assert rows[2]["missing"] and not rows[2]["agreement"]
    pictures.draw([result])
    with pytest.raises(ValueError, match="no size could be measured"):
        curve_of([step for step in steps if step.reason])


class Thousand(nn.Module):
    """1000 logits; among the classes 0 and 217 it chooses by red against green."""

    num_classes = 1000

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 1000)
        with torch.no_grad():
            self.head.weight.zero_()
            self.head.bias.zero_()
            self.head.weight[0, 0] = self.head.weight[217, 1] = 1
            self.head.bias[999] = 100  # what it says when it may choose freely

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.mean(dim=(2, 3)))


def test_a_thousand_classes_are_restricted_to_those_of_the_data(tmp_path: Path) -> None:
    root = tmp_path / "wnids"
    for wnid, colour in (("n01440764", (200, 0, 0)), ("n02102040", (0, 200, 0))):
        (root / wnid).mkdir(parents=True)
        for i in range(2):
            value = np.array(colour, np.uint8) + np.uint8(i)
            Image.fromarray(np.tile(value, (32, 32, 1))).save(root / wnid / f"{i}.png")
    images = open_images(root)
    assert settled(QUICK.point, Thousand(), images, True).classes == (0, 217)
    options = {"labelled": True, "erf_images": 0}
    chosen = curve_of(list(sweep(Thousand(), images, [64], QUICK, **options)))
    assert chosen.number("top1")[0].tolist() == [100, 100] and chosen.meta["classes"] == [0, 217]
    # points from the store and new ones make one curve
    stored = {**options, "out": tmp_path / "out"}
    list(sweep(Thousand(), images, [64], QUICK, **stored))
    mixed = curve_of(list(sweep(Thousand(), images, [48, 64], QUICK, **stored)))
    assert mixed.sizes.tolist() == [32, 48, 64] and mixed.meta["classes"] == [0, 217]
    free = ResolutionConfig(native=32, restrict=False, folds=2, probes=0)
    result = curve_of(list(sweep(Thousand(), images, [64], free, **options)))
    assert result.number("top1")[0].tolist() == [0, 0] and result.meta["classes"] is None
    assert "the 2 classes of the data" in pictures.caption([chosen])
    # without labels there is nothing to restrict to
    assert settled(QUICK.point, Thousand(), images, False).classes is None


def point(size: int, logits: np.ndarray, labels: np.ndarray | None, **meta) -> ResolutionPoint:
    """A point as `combine` makes it, from made-up predictions."""
    n = len(logits)
    meta = {
        "model": "made-up",
        "facts": {},
        "config": {"native": 64, "object_size": "grows"},
        "dtype": "float32",
        "device": "cpu",
        "notes": [],
        "skipped": {},
        "provenance": {},
        "images": {"source": "made up", "fingerprint": "f", "names": list(range(n))},
        "preprocessing": {"size": [size, size]},
        "size": size,
        "classes": None,
        "flops": size**2 * 1000,
        "peak_bytes": size**2,
        "hash": f"{size:08}",
        **meta,
    }
    return ResolutionPoint(
        meta=meta,
        logits=logits.astype(np.float32),
        features=logits.astype(np.float32),
        labels=labels,
        seconds=np.full(n, size**2 * 1e-6),
        latency=np.full(3, size**4 * 1e-9),
        cpu_seconds=np.full(3, size**2 * 1e-6),
        horizons=np.array([[1.0, 8.0, 64.0]]),
        lengths=np.array([size // 4]),
    )


def test_a_curve_from_known_predictions() -> None:
    labels = np.arange(20) % 10
    right, wrong = 9 * np.eye(10)[labels], 9 * np.eye(10)[(labels + 1) % 10]
    mixed = np.where((np.arange(20) < 5)[:, None], wrong, right)
    result = curve([point(128, mixed, labels), point(64, right, labels), point(256, wrong, labels)])
    assert result.sizes.tolist() == [64, 128, 256]
    assert result.number("top1")[0].tolist() == [100, 75, 0]
    assert result.number("drop")[0].tolist() == [0, -25, -100]
    assert result.number("agreement")[0].tolist() == [100, 75, 0]
    low, high = wilson(15, 20)
    assert result.number("top1")[1][1] == pytest.approx(100 * low)
    assert result.number("top1")[2][1] == pytest.approx(100 * high)
    assert result.number("horizon")[0] == pytest.approx([50, 25, 12.5])  # 8 of 16, 32, 64 steps
    exponents = result.meta["exponents"]
    assert exponents["latency"]["value"] == pytest.approx(2)
    assert [exponents[key]["value"] for key in ("cpu", "flops")] == pytest.approx([1, 1])
    assert result.number("latency")[0][0] == pytest.approx(64**4 * 1e-6)
    assert result.number("throughput")[0][0] == pytest.approx(1e6 / 64**2)
    labels[:10] = -1  # unlabelled images count for agreement, not for accuracy
    part = curve([point(64, right, labels), point(128, mixed, labels)])
    assert part.number("top1")[0].tolist() == [100, 100]
    assert part.number("agreement")[0].tolist() == [100, 75]
    assert part.correct is not None and (part.correct[:, :10] == -1).all()


def test_models_are_compared_on_the_images_they_share() -> None:
    labels = np.arange(20) % 10
    right, wrong = 9 * np.eye(10)[labels], 9 * np.eye(10)[(labels + 1) % 10]
    mixed = np.where((np.arange(20) < 5)[:, None], wrong, right)
    first = curve([point(64, right, labels), point(128, right, labels)])
    second = curve([point(64, right, labels), point(96, right, labels), point(128, mixed, labels)])
    same, other = compare([first, second])
    assert same.number("difference")[0].tolist() == [0, 0]
    value, low, high = other.number("difference")
    np.testing.assert_array_equal(value, [0, np.nan, -25])
    assert low[2] < -25 < high[2] < 0
    rows = list(csv.DictReader(io.StringIO(pictures.csv_table([same, other]))))
    assert [row["difference"] for row in rows] == ["0", "0", "0", "", "-25"]
    strange = {"source": "made up", "fingerprint": "g", "names": list(range(20))}
    with pytest.raises(ValueError, match="same images"):
        compare([first, curve([point(64, right, labels, images=strange)])])
    with pytest.raises(ValueError, match="different images"):
        curve([point(64, right, labels), point(96, right, labels, images=strange)])
    with pytest.raises(ValueError, match="two points"):
        curve([point(64, right, labels), point(64, right, labels)])


def test_figures_keep_protocols_apart_and_tables_hold_the_numbers() -> None:
    labels = np.arange(20) % 10
    right = 9 * np.eye(10)[labels]
    grows = curve([point(s, right, labels) for s in (32, 64, 128)])
    config = {"native": 64, "object_size": "constant"}
    stays = curve([point(64, right, labels, config=config)])
    with pytest.raises(ValueError, match="drawn apart"):
        pictures.draw([grows, stays])
    with pytest.raises(ValueError, match="not in the published table"):
        pictures.draw([grows], published=["GPT"])
    with pytest.raises(ValueError, match="no curve"):
        pictures.draw([])
    figure = pictures.draw([grows], published=["DeiT-S"])
    accuracy = figure.axes[0]
    drawn = {line.get_label(): line.get_xydata() for line in accuracy.lines}
    assert drawn["made-up"].tolist() == [[32, 100], [64, 100], [128, 100]]
    assert drawn["DeiT-S, published"][-1].tolist() == [768, 60.98]
    assert any(set(line.get_xdata()) == {64} for line in accuracy.lines)  # the trained size
    bare = [point(s, right, None) for s in (32, 64)]
    assert pictures.panels([curve(bare)])[:2] == ("agreement", "kl")
    table = pictures.latex_table([grows])
    low, high = (100 * end for end in wilson(20, 20))
    assert f"100.0 {{\\tiny [{low:.1f}, {high:.1f}]}}" in table and table.count(r"\\") == 2
    with pytest.raises(ValueError, match="A50"):
        pictures.latex_table([grows], "A50")


@pytest.mark.parametrize("name", pictures.PUBLISHED)
def test_the_published_table_has_a_value_for_each_size(name: str) -> None:
    values = pictures.PUBLISHED[name]
    assert len(values) == len(pictures.SIZES)
    assert all(60 < v < 83 for v in values) and values[-1] < values[0]


# bad input and the command


def test_what_cannot_be_measured_is_said_before_measuring(
    classes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        type(resolution), "measure", staticmethod(lambda *a: pytest.fail("measured"))
    )
    images = open_images(classes)
    options = {"labelled": True, "erf_images": 0}
    for model, sizes, more, words in (
        (Colour(), [4, 32], {}, "cannot take images of 4 x 4 pixels .needs 8 pixels"),
        (Colour(), [0], {}, "size 0"),
        (Colour(10), [32], {}, "10 classes apart, but colours has 4 classes"),
        (timm.create_model("vim_nano", num_classes=4), [6], {}, "at least 8 x 8"),
    ):
        with pytest.raises(ValueError, match=words):
            sweep(model, images, sizes, QUICK, **{**options, **more})
    with pytest.raises(ValueError, match="classes"):
        bad = ResolutionConfig(native=32, classes=(0, 7))
        sweep(Colour(), images, [32], bad, **options)


def test_an_empty_class_is_named(classes: Path) -> None:
    (classes / "9 empty").mkdir()
    for images in (open_images(classes), open_images(classes, 5)):
        with pytest.raises(ValueError, match="no image of 9 empty"):
            sweep(Colour(), images, [32], QUICK)


def test_fewer_images_than_classes_are_enough(classes: Path) -> None:
    steps = list(sweep(Colour(), open_images(classes, 2), [16], QUICK, labelled=True))
    assert [step.size for step in steps] == [32, 16]


def test_labels_are_left_out_where_they_are_not_asked_for(classes: Path) -> None:
    images = open_images(classes)
    result = curve_of(list(sweep(Colour(10), images, [32], QUICK, erf_images=0)))
    assert result.correct is None and "top1" not in result.points[0]["numbers"]
    assert images.labels is not None  # the caller's images keep theirs


def test_the_command_without_labels(tmp_path: Path, capsys) -> None:
    command = ["resolution", "--model", "vmamba_nano", "vim_nano", "--images", "samples"]
    command += ["--limit", "4", "--sizes", "32", "64", "--erf-images", "1", "--probes", "1"]
    command += ["--size", "64"]
    assert main([*command, "--out", str(tmp_path), "--object-size", "grows", "constant"]) == 0
    shown = capsys.readouterr().out
    assert "vim_nano" in shown and "agrees" in shown and "32 px" in shown
    for stem in ("resolution-vmamba_nano-vim_nano", "resolution-constant-vmamba_nano-vim_nano"):
        for suffix in ("pdf", "png", "svg", "txt", "csv", "tex"):
            (file,) = tmp_path.glob(f"{stem}-*.{suffix}")
            assert file.stat().st_size > 0
    (table,) = tmp_path.glob("resolution-vmamba*.csv")
    rows = list(csv.DictReader(table.open()))
    assert [(r["model"], r["size"]) for r in rows] == [
        (m, s) for m in ("vmamba_nano", "vim_nano") for s in ("32", "64")
    ]
    assert all(0 <= float(r["agreement_low"]) <= float(r["agreement"]) for r in rows)
    stored = sorted(tmp_path.glob("resolution-*.npz"))
    assert len(stored) == 4
    assert main(["show", str(stored[0]), "--out", str(tmp_path / "shown")]) == 0
    assert "grows as pixels" in capsys.readouterr().out


def test_the_command_with_labels_prints_json_and_resumes(
    classes: Path, tmp_path: Path, capsys
) -> None:
    from safetensors.torch import save_file

    file = tmp_path / "four.safetensors"
    save_file(create_model("resnet_nano", num_classes=4).state_dict(), file)
    command = ["resolution", "--model", "resnet_nano", "--weights", str(file)]
    command += ["--data", str(classes), "--sizes", "32", "64", "--erf_images", "0"]
    command += ["--out", str(tmp_path / "out"), "--folds", "3", "--json"]
    assert main(command) == 0
    first = json.loads(capsys.readouterr().out)
    assert first[0]["points"][0]["numbers"]["top1"]["unit"] == "% right"
    assert set(first[0]["points"][0]["numbers"]) >= {"drop", "refit", "cka", "flops", "memory"}
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out) == first  # times too, so nothing was measured again


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--sizes", "2"], ["VMamba", "2 x 2"]),
        (["--sizes", "64", "--data", "samples"], ["10 classes apart", "no labels"]),
        (["--sizes", "64", "--object_size", "shrinks"], ["object_size", "constant"]),
        (["--sizes", "64", "--published", "Swin"], ["Swin", "Swin-T"]),
        (["--sizes", "64", "--confidence", "1.5"], ["confidence"]),
    ],
)
def test_bad_input_is_one_sentence(arguments, words, tmp_path, capsys) -> None:
    command = ["resolution", "--model", "vmamba_nano", "--out", str(tmp_path / "out")]
    assert main([*command, "--erf_images", "0", *arguments]) == 2
    shown = capsys.readouterr().err
    sentences = [line for line in shown.splitlines() if line.startswith("vssm: ")]
    assert len(sentences) == 1 and "Traceback" not in shown
    assert all(word in sentences[0] for word in words)
    assert not list(tmp_path.rglob("*.npz"))


def test_points_that_do_not_fit_together_are_refused() -> None:
    good = point(64, np.eye(4), None)
    with pytest.raises(ValueError, match="3"):
        ResolutionPoint(meta=good.meta, **{**good.arrays(), "seconds": np.ones(3)})
    with pytest.raises(ValueError, match="layers"):
        ResolutionPoint(meta=good.meta, **{**good.arrays(), "lengths": np.ones(2)})
    with pytest.raises(ValueError, match="sizes"):
        Resolution(meta={"points": [{"size": 64}]}, sizes=np.array([32]))


def test_an_empty_panel_says_why() -> None:
    whole = load(STORED / "resnet_nano-resolution.npz")

    def said(result) -> set[str]:
        return {text.get_text() for ax in pictures.draw(result).axes for text in ax.texts}

    assert "no selective scan" in said(whole)
    config = {**whole.meta["config"], "probes": 0}
    unprobed = replace(whole, meta={**whole.meta, "config": config})
    assert "no selective scan" not in said(unprobed) and "not measured" in said(unprobed)


def test_a_legend_of_long_names_stays_in_the_figure() -> None:
    whole = load(STORED / "vim_nano-resolution.npz")
    names = [f"a run with quite a long name, seed {i}" for i in range(6)]
    facts = [{**whole.meta["facts"], "weights_label": name} for name in names]
    figure = pictures.draw([replace(whole, meta={**whole.meta, "facts": f}) for f in facts])
    figure.canvas.draw()
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.width


def test_the_share_of_waiting_is_of_the_time_that_threads_wanted() -> None:
    labels = np.arange(10)
    settings = {"positions": "resize", "windows": "native", "kernels": "fixed"}
    config = {"native": 64, "object_size": "grows", **settings}
    quiet, busy, old = (
        point(size, 9 * np.eye(10), labels, config=config) for size in (64, 96, 128)
    )
    ran = quiet.cpu_seconds.sum()
    quiet = replace(quiet, waiting_seconds=np.array([0, 0, ran / 99]))
    busy = replace(busy, waiting_seconds=busy.cpu_seconds / 3)
    result = curve([quiet, busy, old])
    np.testing.assert_allclose(result.number("waiting")[0], [1, 25, np.nan])
    assert pictures.disturbed(result) == [96]
    assert "timed beside other work, so too slow: 96 px." in pictures.caption([result])
    some = replace(busy, waiting_seconds=busy.waiting_seconds * [1, np.nan, 1])
    np.testing.assert_allclose(curve([some]).number("waiting")[0], 25)  # of the images that say
    quiet = replace(quiet, waiting_seconds=np.full(3, np.nan))  # a system that does not say
    assert np.isnan(curve([quiet]).number("waiting")[0]).all()


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="the system does not say")
def test_a_pass_beside_other_work_has_waited() -> None:
    # everything on one processor, beside a process that never rests: half of the time is its
    script = """
import os, subprocess, sys
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
import torch
from workbench.methods.resolution.cost import timed
model = torch.nn.Sequential(*[torch.nn.Linear(512, 512) for _ in range(20)])
with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
    times = [timed(model, torch.ones(2000, 512))[1] for _ in range(5)]
    other.kill()
print(sum(t.waiting for t in times) / sum(t.waiting + t.cpu for t in times))
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert 0.25 < float(run.stdout) < 1, run.stderr
