"""Robustness: closed forms on linear models, what must not matter, and what results hold."""

import csv
import io
import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from torch import Tensor, nn

from workbench import create_model, robustness
from workbench.figures.files import save_figure
from workbench.images import Batch, Images, Preprocessing
from workbench.methods.method import Partial
from workbench.methods.robustness import RobustnessConfig
from workbench.methods.robustness import figure as pictures
from workbench.methods.robustness.config import ATTACKS
from workbench.methods.robustness.corruption_errors import against, corruption_errors
from workbench.perturbations.corruptions import BENCHMARK, EXTRA
from workbench.results import Robustness, load
from workbench.runner import run

RNG = np.random.default_rng(0)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NOTHING = RobustnessConfig(attacks=(), probes=())


class Linear(nn.Module):
    """Logits linear in the pixels."""

    def __init__(self, classes: int = 2, size: int = 16) -> None:
        super().__init__()
        self.num_classes = classes
        self.head = nn.Linear(3 * size * size, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.flatten(1))


class Colour(nn.Module):
    """Logits of the mean colour: where a pixel lies does not matter."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.num_classes = classes
        self.head = nn.Linear(3, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.mean(dim=(2, 3)))


class Steps(Linear):
    """The linear model on rounded pixels: its gradient is zero almost everywhere."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward((20 * x).round() / 20)


def batch_of(pixels: np.ndarray, labels: Any = None, first: int = 0) -> Batch:
    n = len(pixels)
    names = tuple(f"{first + i}.png" for i in range(n))
    return Batch(torch.empty(n), pixels, names, labels, tuple(range(first, first + n)))


def pixels_of(count: int, size: int = 16) -> np.ndarray:
    """Far enough from black and white for an attack of 40/255."""
    return np.random.default_rng(1).integers(60, 200, (count, size, size, 3)).astype(np.uint8)


def combined(partials: list[dict], config: RobustnessConfig, **changes: Any) -> Robustness:
    count = sum(len(partial["labels"]) for partial in partials)
    meta = {
        "model": "linear",
        "facts": {"model": "linear", "weights_label": "own", "weights": "own"},
        "config": json.loads(json.dumps(asdict(config))),
        "notes": [],
        "hash": "0",
        "preprocessing": {"size": [16, 16], "crop_pct": 1.0, "mean": MEAN, "std": STD},
        "images": {
            "source": "noise",
            "count": count,
            "fingerprint": "f",
            "names": [str(i) for i in range(count)],
        },
    }
    return robustness.combine(Partial.joined(partials), config, {**meta, **changes})


def measured(model: nn.Module, batch: Batch, config: RobustnessConfig) -> Robustness:
    model.eval().requires_grad_(False)
    return combined([robustness.measure(model, batch, config)], config)


def numbers_of(result: Robustness, name: str) -> dict[str, Any]:
    return result.meta["conditions"][result.row(name)]["numbers"]


# attacks


def test_attacks_on_a_linear_model_take_the_closed_form_off_its_margin() -> None:
    model, pixels = Linear(), pixels_of(6)
    config = RobustnessConfig(eps_255=(1, 4), steps=10, probes=())
    result = measured(model, batch_of(pixels, (0, 1) * 3), config)
    per_pixel = (model.head.weight[0] - model.head.weight[1]).view(3, -1)
    slope = float((per_pixel.abs().sum(1) / torch.tensor(STD)).sum())
    clean = result.margins[result.row("clean")]
    for kind in ("fgsm", "pgd"):
        for eps in (1, 4):
            found = result.margins[result.row(f"attack/{kind}/{eps}")]
            assert found == pytest.approx(clean - eps / 255 * slope, abs=1e-3)
    random = result.margins[result.row("attack/random/4")]
    assert (np.abs(random - clean) < 0.3 * 4 / 255 * slope).all()
    # the difference from clean is paired
    right = result.correct
    change = numbers_of(result, "attack/pgd/4")["change"]
    assert change["value"] == pytest.approx(100 * (right[-1].mean() - right[0].mean()))
    assert change["low"] <= change["value"] <= change["high"]


def test_a_hidden_gradient_fails_the_checklist_and_the_result_says_so() -> None:
    model = Steps()
    with torch.no_grad():
        model.head.weight.mul_(3)
    config = RobustnessConfig(attacks=("pgd",), eps_255=(8,), steps=4, probes=())
    batch = batch_of(pixels_of(6))
    result = measured(model, batch, config)
    assert result.meta["checklist"]["passed"] is False
    assert "gradients are not zero" in pictures.caption(result)
    assert result.margins.shape == (3, 6)
    fine = measured(Linear(), batch, replace(config, steps=10))
    assert "masking, tried on 6 images" in pictures.caption(fine)


def test_autoattack_runs_at_the_largest_distance_and_leaves_no_more_than_pgd() -> None:
    pytest.importorskip("pyautoattack")
    config = RobustnessConfig(
        attacks=("autoattack", "pgd"), eps_255=(2, 40), steps=5, probes=("none",)
    )
    result = measured(Linear(4), batch_of(pixels_of(3)), config)
    names = [condition["name"] for condition in result.meta["conditions"]]
    assert [name for name in names if "auto" in name] == ["attack/autoattack/40"]
    left = [numbers_of(result, f"attack/{kind}/40")["accuracy"]["value"] for kind in ATTACKS[1:]]
    assert left == [0, 0]


def test_only_the_first_chunk_goes_through_the_checklist() -> None:
    model = Linear().eval().requires_grad_(False)
    config = RobustnessConfig(attacks=("pgd",), eps_255=(2,), steps=2, probes=(), chunk=4)
    first, second = (
        robustness.measure(model, batch_of(pixels_of(4), first=at), config) for at in (0, 4)
    )
    assert len(set(first["checklist"])) == 1 and not len(second["checklist"])
    told = json.loads(first["checklist"][0])
    assert combined([first, second], config).meta["checklist"] == told


# probes


def test_what_moves_pixels_only_does_not_move_a_model_of_the_mean_colour() -> None:
    result = measured(
        Colour(), batch_of(pixels_of(5, 24)), replace(NOTHING, probes=("shuffle", "views"))
    )
    names = [condition["name"] for condition in result.meta["conditions"]]
    assert names == ["clean", *(f"shuffle/patches/{n}" for n in (2, 4, 8))] + [
        f"view/{view}" for view in ("transposition", "rotation", "horizontal-flip", "vertical-flip")
    ]
    assert np.abs(result.margins - result.margins[0]).max() < 1e-4
    for condition in result.meta["conditions"]:
        assert condition["numbers"]["agreement"]["value"] == 100
        assert condition["numbers"]["change"]["value"] == 0
    dropped = measured(Colour(), batch_of(pixels_of(5, 24)), replace(NOTHING, probes=("drop",)))
    assert np.abs(dropped.margins - dropped.margins[0]).max() > 1e-3


def test_everything_taken_away_leaves_the_same_for_all_images() -> None:
    config = replace(NOTHING, probes=("drop",), dropped=(0.5, 1.0), grid=4, fill="black")
    model, labels = Linear(3), (0, 1, 2, 1)
    result = measured(model, batch_of(pixels_of(4), labels), config)
    black = -torch.tensor(MEAN) / torch.tensor(STD)
    logits = model(black.view(1, 3, 1, 1).expand(1, 3, 16, 16))
    for order in ("random", "salient", "radial", "radial-reversed"):
        assert (result.predictions[result.row(f"drop/{order}/1")] == logits.argmax()).all()
    assert len(set(result.margins[result.row("drop/random/1")][[1, 3]])) == 1


def test_probes_that_follow_scans_say_when_there_is_none() -> None:
    result = measured(Colour(), batch_of(pixels_of(3)), RobustnessConfig(attacks=()))
    assert set(result.meta["missing"]) == {"drop-scan", "information", "scan"}
    assert "Left out: information, as Colour has no selective scan" in pictures.caption(result)
    groups = {condition["group"] for condition in result.meta["conditions"]}
    assert groups == {"clean", "drop", "shuffle", "shift", "view"}


def test_vmamba_nano_is_probed_along_its_own_directions() -> None:
    model = create_model("vmamba_nano")
    config = RobustnessConfig(
        attacks=(), probes=("drop-scan", "information"), dropped=(0.5,), lost=(0.25,)
    )
    result = measured(model, batch_of(pixels_of(2, 64)), config)
    names = [condition["name"] for condition in result.meta["conditions"]]
    directions = ["row", "column", "row-reversed", "column-reversed"]
    assert names[1:5] == [f"drop/{direction}/0.5" for direction in directions]
    assert names[5:] == [
        f"information/{series}/0.25"
        for series in (
            "even", *(f"rise {d}" for d in directions),
            "middle row", "middle column", "ends row", "ends column",
        )
    ]  # fmt: skip
    assert len(np.unique(result.margins[1:, 0])) == len(names) - 1


def test_how_images_are_put_into_batches_does_not_matter() -> None:
    pytest.importorskip("corrupt_tta", exc_type=ImportError)
    model, pixels = Linear(3).eval().requires_grad_(False), pixels_of(4)
    config = RobustnessConfig(
        attacks=("pgd",), eps_255=(4,), steps=3, corruptions=("fog", "impulse_noise"),
        severities=(2,), probes=("drop", "shuffle"), grid=4,
    )  # fmt: skip
    whole = measured(model, batch_of(pixels), config)
    parts = [
        robustness.measure(model, batch_of(pixels[i : i + 1], first=i), config) for i in range(4)
    ]
    single = combined(parts, config)
    assert (single.predictions == whole.predictions).all()
    assert single.margins == pytest.approx(whole.margins, abs=1e-4)


# labels


def test_images_of_unknown_classes_do_not_count() -> None:
    model, pixels = Linear(3), pixels_of(5)
    config = replace(NOTHING, probes=("views",))
    result = measured(model, batch_of(pixels, (0, -1, 2, -1, 1)), config)
    known = [0, 2, 4]
    expected = measured(model, batch_of(pixels[known], (0, 2, 1)), config)
    assert result.meta["images_used"] == 3
    assert (result.correct[:, [1, 3]] == -1).all() and np.isnan(result.margins[:, [1, 3]]).all()
    assert (result.correct[:, known] == expected.correct).all()
    assert result.meta["conditions"] == expected.meta["conditions"]
    with pytest.raises(ValueError, match="no image is of a class that the model knows"):
        measured(model, batch_of(pixels, (-1,) * 5), config)


def test_without_labels_the_clean_predictions_count_as_right() -> None:
    result = measured(Linear(3), batch_of(pixels_of(4)), replace(NOTHING, probes=("views",)))
    assert result.meta["labels"] == "predicted" and (result.correct[0] == 1).all()
    assert (result.labels == result.predictions[0]).all()
    assert any("counts as right" in note for note in result.meta["notes"])


# corruption errors


def test_corruption_errors_by_hand() -> None:
    errors = np.array([[0.2, 0.4], [0.5, 0.5]])
    base = np.array([[0.4, 0.8], [0.4, 0.6]])
    ce, relative = corruption_errors(errors, np.array(0.1), base, np.array(0.3))
    assert ce == pytest.approx([50, 100])
    assert relative == pytest.approx([100 * 0.4 / 0.6, 100 * 0.8 / 0.4])
    ce, relative = corruption_errors(errors, np.array(0.1), 0 * base, np.array(0.0))
    assert np.isnan(ce).all() and np.isnan(relative).all()


def corrupted(right: dict[str, np.ndarray], clean: np.ndarray, **changes: Any) -> Robustness:
    """A result with the given right answers, (severities, images), of each corruption."""
    labels = np.zeros(len(clean), int)
    rows = {"clean": clean}
    for name, of in right.items():
        rows |= {f"corruption/{name}/{s + 1}": row for s, row in enumerate(of)}
    hits = np.stack(list(rows.values()), axis=1)
    arrays = {"labels": labels, "predictions": 1 - hits, "checklist": np.empty(0, str)}
    arrays["margins"] = (2.0 * hits - 1).astype(np.float32)
    facts = {"labels": "given", "directions": [], "missing": {}, "notes": []}
    return combined([Partial(arrays, {"conditions": list(rows), **facts})], NOTHING, **changes)


def answers(share: float, rows: int = 5, count: int = 60) -> np.ndarray:
    return (RNG.random((rows, count)) < share).astype(int)


def test_a_baseline_is_100_percent_of_itself_and_the_four_extra_do_not_count() -> None:
    right = {name: answers(0.5) for name in (*BENCHMARK, *EXTRA)}
    clean = answers(0.9)[0]
    base = corrupted(right, clean)
    own = against(base, base).meta["baseline"]
    assert own["mCE"]["corruptions"] == 15
    for name in ("mCE", "relative mCE"):
        assert [own[name][k] for k in ("value", "low", "high")] == pytest.approx([100] * 3)
    worse = {name: of if name in BENCHMARK else 0 * of for name, of in right.items()}
    found = against(corrupted(worse, clean), base).meta["baseline"]
    assert found["mCE"]["value"] == pytest.approx(100)
    assert found["CE"]["spatter"]["value"] > 150
    mean = base.meta["numbers"]["mean corruption error"]
    errors = 1 - np.stack([right[name] for name in BENCHMARK])
    assert mean["value"] == pytest.approx(100 * errors.mean())


def test_a_model_with_half_the_errors_has_an_mce_of_50() -> None:
    base = {name: np.tile([0, 0, 1, 1], (5, 15)) for name in BENCHMARK}
    own = {name: np.tile([0, 1, 1, 1], (5, 15)) for name in BENCHMARK[:7]}
    clean = np.ones(60, int)
    found = against(corrupted(own, clean), corrupted(base, clean)).meta["baseline"]
    assert found["mCE"]["value"] == pytest.approx(50) and found["mCE"]["corruptions"] == 7
    assert found["relative mCE"]["value"] == pytest.approx(50)
    assert found["mCE"]["low"] < 50 < found["mCE"]["high"]
    # 15 errors of which 30 are the baseline's: (a / mean a - b / mean b)^2 is 4 on 30 of 60 images
    half = np.sqrt(4 * 30 / 60 / 60) * stats.t.ppf(0.975, 59)
    assert found["mCE"]["low"] == pytest.approx(50 * np.exp(-half), rel=0.02)
    assert found["mCE"]["high"] == pytest.approx(50 * np.exp(half), rel=0.02)


def test_a_baseline_on_other_images_is_refused() -> None:
    right, clean = {"fog": answers(0.5)}, answers(0.9)[0]
    base = corrupted(right, clean)
    other = {
        "source": "other",
        "count": 40,
        "fingerprint": "g",
        "names": base.meta["images"]["names"],
    }
    with pytest.raises(ValueError, match="with other images than linear"):
        against(base, corrupted(right, clean, images=other))
    with pytest.raises(ValueError, match="no corruption in common"):
        against(base, corrupted({"snow": right["fog"]}, clean))


# the whole


@pytest.fixture(scope="module")
def pack() -> Images:
    contents = []
    for picture in pixels_of(6):
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "png")
        contents.append(file.getvalue())
    return Images("noise", [f"{i}.png" for i in range(6)], contents, [0, 1, 2] * 2, ["a", "b", "c"])


@pytest.fixture(scope="module")
def result(pack: Images, tmp_path_factory: pytest.TempPathFactory) -> Robustness:
    pytest.importorskip("corrupt_tta", exc_type=ImportError)
    config = RobustnessConfig(
        eps_255=(1, 4), steps=3, corruptions=("fog", "contrast", "saturate"), chunk=4,
        dropped=(0.5,), grid=4,
    )  # fmt: skip
    out = tmp_path_factory.mktemp("out")
    torch.manual_seed(0)
    found = run(robustness, Linear(3), pack, config, preprocessing=Preprocessing((16, 16)), out=out)
    assert isinstance(found, Robustness)
    (file,) = out.glob("*.npz")
    stored = load(file)
    assert stored.meta == found.meta and isinstance(stored, Robustness)
    assert all((stored.arrays()[k] == v).all() for k, v in found.arrays().items())
    return found


def test_the_runner_measures_and_the_result_is_found_again(result: Robustness) -> None:
    assert result.meta["images_used"] == 6 and result.meta["labels"] == "given"
    assert result.predictions.shape == (len(result.meta["conditions"]), 6)
    assert any("chosen for pictures of 224 px" in note for note in result.meta["notes"])
    for condition in result.meta["conditions"]:
        accuracy = condition["numbers"]["accuracy"]
        row = result.correct[result.row(condition["name"])]
        assert accuracy["value"] == pytest.approx(100 * row.mean())
        assert 0 <= accuracy["low"] <= accuracy["value"] <= accuracy["high"] <= 100
    with pytest.raises(ValueError, match="no condition attack/pgd/3"):
        result.row("attack/pgd/3")
    with pytest.raises(ValueError, match="both must be"):
        replace(result, margins=result.margins[1:])


def test_figures_captions_and_tables(result: Robustness, tmp_path: Path) -> None:
    compared = against(result, result)
    for shown in (result, compared):
        (file,) = save_figure(pictures.draw(shown), tmp_path / "robustness", formats=("png",))
        assert file.stat().st_size > 10_000
    text = pictures.caption(compared)
    mean = "; mCE 100.0 % over 2 corruptions"  # six images give it no interval
    for words in ("Wilson", "PGD 3 steps", "corrupt-tta", mean, "4 x 4"):
        assert words in text, words
    rows = list(csv.DictReader(io.StringIO(pictures.csv_table([compared]))))
    assert len(rows) == 4 * len(result.meta["conditions"]) + 3 + 2 * 3
    attack = next(row for row in rows if (row["series"], row["level"]) == ("pgd", "4"))
    assert attack["number"] == "accuracy" and attack["unit"] == "%"
    assert float(attack["value"]) == pytest.approx(
        numbers_of(result, "attack/pgd/4")["accuracy"]["value"], rel=1e-5
    )
    table = pictures.latex_table([result, compared])
    assert r"\toprule" in table and "PGD, 4/255" in table and "mCE" in table
    assert table.count("&") == 2 * (table.count(r"\\"))


def test_each_part_can_be_drawn_alone() -> None:
    for config in (
        replace(NOTHING, attacks=("fgsm",), eps_255=(2,)),
        replace(NOTHING, probes=("views",)),
        replace(NOTHING, probes=("shuffle",)),
        NOTHING,
    ):
        found = measured(Linear(3), batch_of(pixels_of(3)), config)
        assert pictures.draw(found).axes or config is NOTHING
        assert math.isfinite(numbers_of(found, "clean")["margin"]["value"])
        assert pictures.caption(found).startswith("linear, own on 3 images")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"attacks": ("pdg",)}, "attacks must be one of fgsm, pgd, autoattack, none, not 'pdg'"),
        ({"probes": ("drops",)}, "probes must be one of drop"),
        ({"corruptions": ("rain",)}, "no corruption 'rain'"),
        ({"severities": (6,)}, "severities"),
        ({"eps_255": (4 / 255,)}, "write eps_255=4"),
        ({"eps_255": (300,)}, "255"),
        ({"eps_255": ()}, "at least one distance"),
        ({"norm": "l1"}, "norm"),
        ({"lost": (0.75,)}, "lost must be shares above 0, up to 0.5"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"confidence": 1.5}, "confidence"),
        ({"fill": "white"}, "fill"),
    ],
)
def test_bad_settings_are_one_sentence(changes: dict, words: str) -> None:
    with pytest.raises(ValueError) as error:
        replace(NOTHING, **changes)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_grids_that_do_not_fit_are_one_sentence() -> None:
    for probes, more in (("drop", {"grid": 5}), ("shuffle", {"grids": (4, 7)})):
        with pytest.raises(ValueError, match="16 x 16 pixels cannot be cut into"):
            measured(Linear(), batch_of(pixels_of(2)), replace(NOTHING, probes=(probes,), **more))
