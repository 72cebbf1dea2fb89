"""Quantisation: a naive loop, bounds, a closed form, and what must not matter."""

import numpy as np
import pytest
import torch
from external_models import load as load_external
from PIL import Image
from scipy import special, stats
from torch import Tensor, nn

import workbench
from workbench import create_model, record
from workbench.cli import main
from workbench.methods.quantize.config import TENSORS
from workbench.methods.quantize.uniform import largest, quantised
from workbench.results import QuantizationRanges, load
from workbench.scan import SelectiveScan

SHARED = {"tensor": (0, 1, 2), "channel": (0, 2), "token": (1,)}


class Sum(nn.Module):
    """One scan that adds up: with A = 0 and delta = B = C = 1, y_t is the sum of u up to t."""

    def __init__(self) -> None:
        super().__init__()
        self.scan = SelectiveScan(("row",))
        self.head = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        u = x[..., ::8, ::8].flatten(2)
        one = torch.ones_like(u[:, None, :1])
        y = self.scan(u=u, delta=torch.ones_like(u), A=u.new_zeros(3, 1), B=one, C=one)
        return self.head(y.mean(dim=2))


def pictures(count: int, size: int = 32) -> list[np.ndarray]:
    """(h, w, 3) uint8, the later ones with the larger contrast."""
    noise = np.random.default_rng(1).uniform(-1, 1, (count, size, size, 3))
    return [(128 + 100 * (i + 1) / count * x).astype(np.uint8) for i, x in enumerate(noise)]


def seen_by(model: nn.Module, picture: np.ndarray) -> Tensor:
    """(1, 3, h, w), what the model gets of a picture."""
    prepared = workbench.preprocessing_for(model, picture.shape[0])
    return prepared.tensor([prepared.picture(Image.fromarray(picture))])


def quantised_run(model: nn.Module, images: list[np.ndarray], **config):
    return workbench.run("quantize", model, images, size=images[0].shape[0], **config)


@pytest.mark.parametrize("granularity", SHARED)
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_a_value_becomes_the_nearest_of_a_listed_grid(granularity: str, bits: int) -> None:
    x = torch.randn(2, 3, 5, dtype=torch.float64)
    found = quantised(x, bits, largest(x, granularity)).numpy()
    values = x.numpy()
    for place in np.ndindex(values.shape):
        others = tuple(slice(None) if a in SHARED[granularity] else i for a, i in enumerate(place))
        reach = np.abs(values[others]).max()
        grid = np.linspace(-reach, reach, 2**bits - 1)
        nearest = grid[np.abs(grid - values[place]).argmin()]
        assert found[place] == pytest.approx(nearest, abs=1e-12)
        assert abs(found[place] - values[place]) <= reach / (2 ** (bits - 1) - 1) / 2 + 1e-12


def test_what_lies_beyond_the_range_becomes_its_end_and_no_range_gives_zero() -> None:
    x = torch.tensor([-5.0, -0.4, 0.0, 0.6, 7.0])
    assert quantised(x, 2, torch.tensor(1.0)).tolist() == [-1, 0, 0, 1, 1]
    assert quantised(x, 8, torch.tensor(0.0)).tolist() == [0] * 5
    half = torch.randn(999).bfloat16()
    wide = quantised(half.double(), 8, half.double().abs().max())
    assert torch.equal(quantised(half, 8, half.abs().max()), wide.bfloat16())


@pytest.mark.parametrize("labels", [None, (3, 0)])
def test_a_sum_of_rounded_pixels_gives_the_logits(labels: tuple[int, ...] | None) -> None:
    model, images = Sum(), pictures(2)
    given = images if labels is None else list(zip(images, labels, strict=True))
    config = {"tensors": ("u",), "bits": (3,), "granularities": ("channel",)}
    found = workbench.run("quantize", model, given, size=32, ranges=("dynamic",), **config)
    head = {name: value.detach().double().numpy() for name, value in model.head.named_parameters()}
    for i, picture in enumerate(images):
        u = seen_by(model, picture)[0, :, ::8, ::8].flatten(1).double().numpy()
        step = np.abs(u).max(axis=1, keepdims=True) / 3
        both = [np.cumsum(z, axis=1).mean(axis=1) for z in (u, np.rint(u / step) * step)]
        plain, rounded = (head["weight"] @ z + head["bias"] for z in both)
        p, q = special.softmax(plain), special.softmax(rounded)
        assert found.divergences[0, i] == pytest.approx(special.rel_entr(p, q).sum(), rel=1e-3)
        own = plain.argmax() if labels is None else labels[i]
        for row, logits in enumerate((plain, rounded)):
            margin = logits[own] - np.delete(logits, own).max()
            assert found.margins[row, i] == pytest.approx(margin, rel=1e-4, abs=1e-5)
            assert found.predictions[row, i] == logits.argmax()
    (condition,) = found.meta["conditions"]
    change = (found.margins[1] - found.margins[0]).mean()
    assert condition["numbers"]["margin change"]["value"] == pytest.approx(change, rel=1e-4)
    if labels is not None:
        right = 100 * (found.predictions[1] == labels).mean()
        assert condition["numbers"]["accuracy"]["value"] == right
    assert ("accuracy" in condition["numbers"]) == (labels is not None)


@pytest.mark.parametrize("granularity", SHARED)
def test_static_ranges_are_dynamic_ones_on_the_calibration_image(granularity: str) -> None:
    model, images = Sum(), pictures(2)
    config = {"tensors": ("u",), "bits": (4,), "granularities": (granularity,), "calibration": 1}
    dynamic, static = quantised_run(model, images, **config).divergences
    assert dynamic[0] == static[0] > 0
    assert dynamic[1] != static[1]  # larger than what the first image has


def test_static_ranges_are_the_largest_values_of_the_first_images_that_can_be_read(tmp_path):
    model = create_model("mambavision_nano")
    (tmp_path / "0.png").write_bytes(b"not a picture")
    images = pictures(3)
    for i, picture in enumerate(images, start=1):
        Image.fromarray(picture).save(tmp_path / f"{i}.png")
    options = {"size": 32, "tensors": ("B",), "bits": (4,), "out": tmp_path / "out", "chunk": 1}
    found = workbench.run("quantize", model, tmp_path, calibration=2, **options)
    assert found.meta["calibration"] == ["1.png", "2.png"] and found.meta["images_used"] == 3
    (file,) = (tmp_path / "out" / "ranges").glob("*.npz")
    ranges = load(file)
    assert isinstance(ranges, QuantizationRanges)
    seen = []
    for picture in images[:2]:
        with torch.no_grad(), record(model.eval(), *TENSORS) as tensors:
            model(seen_by(model, picture))
        seen.append(tensors)
    for site, name in ((site, name) for site in seen[0] for name in TENSORS):
        both = np.abs([tensors[site][name].numpy() for tensors in seen])
        for granularity, axes in SHARED.items():
            reach = both.max(axis=(0, *(1 + a for a in axes)), keepdims=True)[0]
            assert np.allclose(ranges.of(site, name, granularity), reach, rtol=1e-6)


@pytest.mark.parametrize("name", ["vmamba_nano", "vim_nano", "mambavision_nano", "external"])
def test_many_bits_change_nothing_and_few_do(name: str) -> None:
    model = load_external("vim") if name == "external" else create_model(name)
    images = pictures(1, 64 if name == "external" else 32)
    config = {"tensors": ("together",), "granularities": ("token",), "bits": (2, 32)}
    found = quantised_run(model.double(), images, **config)
    few = [row["bits"] == 2 for row in found.meta["conditions"]]
    change = np.abs(found.margins[1:] - found.margins[0])
    assert change[~np.array(few)].max() < 1e-6 < change[few].min()
    assert found.divergences[~np.array(few)].max() < 1e-10 < found.divergences[few].min()


def test_images_do_not_see_each_other_and_tails_are_those_of_the_tensors() -> None:
    model, images = create_model("vmamba_nano", "auto").eval().double(), pictures(3)
    config = {"tensors": ("delta",), "bits": (4,)}
    found, alone = (quantised_run(model, images, chunk=c, **config) for c in (3, 1))
    assert found.divergences.max() > 1e-3
    np.testing.assert_allclose(found.divergences, alone.divergences, rtol=1e-4, atol=1e-10)
    with torch.no_grad(), record(model) as seen:
        model(seen_by(model, images[2]).double())
    assert found.meta["sites"] == list(seen)
    site, tensor = 5, found.meta["tensors"].index("C")
    values = seen[found.meta["sites"][site]]["C"].numpy().ravel()
    expected = np.abs(values).max(), np.quantile(np.abs(values), 0.999)
    kurtosis = stats.kurtosis(values.astype(float), fisher=False)
    assert found.tails[2, site, tensor] == pytest.approx((*expected, kurtosis), rel=1e-4)


def test_the_command_counts_right_answers_and_draws(tmp_path, capsys) -> None:
    few = ["--size", "32", "--limit", "2", "--bits", "8,3", "--granularities", "token"]
    out = tmp_path / "out"
    assert main(["quantize", "--model", "vim_nano", *few, "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "delta/token/static/3" in text and "kurtosis of y" in text
    (file,) = out.glob("*.npz")
    assert len(load(file).meta["conditions"]) == 6 * 2 * 2
    assert list(out.glob("quantize-vim_nano-*.png"))
    table = load(file).to_pandas()
    (row,) = table.query(
        "tensor == 'delta' and range == 'static' and bits == 3 and number == 'KL'"
    ).value
    told = load(file).meta["conditions"]
    (known,) = (c["numbers"]["KL"] for c in told if c["name"] == "delta/token/static/3")
    assert row == pytest.approx(known["value"], rel=1e-5)
    assert main(["show", str(file)]) == 0 and text.strip() in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--bits", "1"], "bits must be between 2 and 32, not 1"),
        (["--tensors", "D"], "tensors must be one of together, u"),
        (["--calibration", "0"], "calibration must be at least 1"),
        (["--model", "resnet_nano"], "has no selective scan"),
    ],
)
def test_a_wrong_question_is_one_sentence(more, words, tmp_path, capsys) -> None:
    command = ["quantize", "--model", "vim_nano", "--limit", "1", "--size", "32"]
    assert main([*command, "--out", str(tmp_path / "out"), *more]) == 2
    error = capsys.readouterr().err
    assert words in error and "Traceback" not in error
    assert not list(tmp_path.rglob("*.npz"))
