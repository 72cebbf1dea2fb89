"""Training learns, and a resumed run gives the numbers of an unbroken one."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from PIL import Image
from safetensors.torch import load_file

from workbench.cli import main
from workbench.images import Preprocessing, open_images, preprocessing_for
from workbench.trace import scans
from workbench.train import (
    TrainConfig,
    Trainer,
    _in_order,
    accuracy,
    crops,
    cutmix,
    learning_rate,
    optimizer_of,
    read_data,
)
from workbench.weights import create_model

QUICK = {"size": 32, "load_size": 40, "batch_size": 16, "lr": 2e-3, "snapshots": (0, 1)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two classes that differ in the orientation of their stripes."""
    root = tmp_path_factory.mktemp("stripes")
    rng = np.random.default_rng(0)
    for name in ("across", "down"):
        (root / name).mkdir()
        for i in range(32):
            wave = 127 + 100 * np.sin(np.arange(48) * rng.uniform(0.5, 1.2) + rng.uniform(0, 6))
            stripes = np.tile(wave, (48, 1)) if name == "down" else np.tile(wave, (48, 1)).T
            noisy = stripes + rng.normal(0, 12, (48, 48))
            picture = np.repeat(np.clip(noisy, 0, 255).astype(np.uint8)[..., None], 3, axis=2)
            Image.fromarray(picture).save(root / name / f"{i:02}.png")
    return root


def trainer(folder: Path, out: Path, epochs: float = 6) -> Trainer:
    config = TrainConfig(epochs=epochs, **QUICK)
    data = read_data(open_images(folder), config.load_size)
    model = create_model("vmamba_nano", "random", num_classes=2)
    return Trainer(model, data, config, out)


def test_the_loss_falls_and_the_labels_are_learned(folder, tmp_path) -> None:
    run = trainer(folder, tmp_path, epochs=8)
    run.run()
    losses = np.array([row[2] for row in run.curve])
    assert run.step == 32 and len(losses) >= 2
    first = trainer(folder, tmp_path / "again", epochs=8)
    assert losses[-1] < 0.75 * np.log(2) < first.train_step()
    assert (tmp_path / "snapshots" / "epoch-0.safetensors").is_file()
    assert (tmp_path / "curve.csv").read_text().startswith("step,epoch,loss,lr,seconds\n")


def test_a_resumed_run_gives_the_numbers_of_an_unbroken_one(folder, tmp_path) -> None:
    whole = trainer(folder, tmp_path / "whole", epochs=2)
    whole.run()
    trainer(folder, tmp_path / "broken", epochs=2).run(stop_at=3)
    resumed = trainer(folder, tmp_path / "broken", epochs=2)
    assert resumed.step == 3
    resumed.run()
    one = load_file(tmp_path / "whole" / "weights.safetensors")
    two = load_file(tmp_path / "broken" / "weights.safetensors")
    assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def test_cutmix_replaces_the_share_that_it_reports() -> None:
    images = torch.arange(8.0)[:, None, None, None].expand(8, 3, 20, 30)
    kept_shares = []
    for seed in range(200):
        mixed, partner, kept = cutmix(images, 1.0, torch.Generator().manual_seed(seed))
        assert mixed.shape == images.shape and partner.sort().values.equal(torch.arange(8))
        foreign = partner != torch.arange(8)
        changed = (mixed != images).float().mean(dim=(1, 2, 3))
        torch.testing.assert_close(changed[foreign], torch.full_like(changed[foreign], 1 - kept))
        assert torch.isin(mixed[foreign], images).all()
        kept_shares.append(kept)
    # a uniform area, cut at the edges: E(1 - kept) = E_a[(E_c of one clipped side at sqrt(a))^2]
    # = 1/2 - 2/10 + 1/48, for a side of s keeps s - s^2 / 4 on average
    assert np.mean(kept_shares) == pytest.approx(1 - (1 / 2 - 1 / 5 + 1 / 48), abs=0.05)
    plain = [cutmix(images, 0.3, torch.Generator().manual_seed(seed))[2] for seed in range(300)]
    assert np.mean([kept == 1 for kept in plain]) == pytest.approx(0.7, abs=0.09)


def test_training_learns_in_bfloat16_with_cutmix_and_keeps_float32_weights(
    folder, tmp_path
) -> None:
    config = TrainConfig(epochs=8, bfloat16=True, cutmix=0.5, **QUICK)
    data = read_data(open_images(folder), config.load_size)
    run = Trainer(create_model("vmamba_nano", "random", num_classes=2), data, config, tmp_path)
    run.run()
    assert min(row[2] for row in run.curve) < 0.8 * np.log(2)
    weights = load_file(tmp_path / "weights.safetensors")
    assert {value.dtype for value in weights.values() if value.is_floating_point()} == {
        torch.float32
    }


def test_a_model_trained_along_other_paths_is_loaded_with_them(folder, tmp_path) -> None:
    own = ["--model", "vmamba_nano", "--data", str(folder), "--epochs", "1", "--batch_size", "32"]
    small = [*own, "--size", "32", "--load_size", "40", "--out", str(tmp_path)]
    assert main(["train", *small, "--scan_paths", "random"]) == 0
    made = create_model("vmamba_nano", tmp_path / "weights.safetensors")
    directions = {site.direction for site in scans(made)}
    assert directions == {"random-0", "random-0-reversed", "random-1", "random-1-reversed"}
    assert preprocessing_for(made).size == (32, 32)
    assert made.provenance.class_names == ["across", "down"]
    assert main(["train", *small, "--scan_paths", "cross"]) == 2  # another run lies there
    assert main(["train", *own, "--out", str(tmp_path / "a"), "--scan_paths", "nothing"]) == 2
    vim = ["--model", "vim_nano", *own[2:], "--out", str(tmp_path / "b")]
    assert main(["train", *vim, "--scan_paths", "spiral"]) == 2


def test_accuracy_counts_in_the_numbers_of_the_model(tmp_path) -> None:
    """A folder of two classes of ImageNet, and a network that calls everything a church (497)."""
    for wnid, count in (("n01440764", 4), ("n03028079", 3)):
        (tmp_path / wnid).mkdir()
        for i in range(count):
            Image.new("RGB", (40, 40), (9 * i, 90, 60)).save(tmp_path / wnid / f"{i}.png")

    class Church(torch.nn.Module):
        num_classes = 1000

        def __init__(self) -> None:
            super().__init__()
            self.logits = torch.nn.Parameter(torch.eye(1000)[497])

        def forward(self, x):
            return self.logits.expand(len(x), -1)

    images = open_images(tmp_path)
    prepared = Preprocessing(size=(32, 32))
    assert accuracy(Church(), images, prepared, batch_size=2) == (3, 7)
    Church.num_classes = 7
    with pytest.raises(ValueError, match="no labels of the classes that the model tells apart"):
        accuracy(Church(), images, prepared)


def test_another_configuration_does_not_resume(folder, tmp_path) -> None:
    trainer(folder, tmp_path, epochs=2).run(stop_at=1)
    with pytest.raises(ValueError, match="another configuration"):
        trainer(folder, tmp_path, epochs=3)


def test_the_learning_rate_rises_then_falls_to_one_percent() -> None:
    config = TrainConfig(lr=1.0, warmup=0.1)
    rates = [learning_rate(step, 100, config) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == pytest.approx(1.0)
    assert int(np.argmax(rates)) in (9, 10) and rates[-1] == pytest.approx(0.01, abs=2e-3)
    assert all(a >= b for a, b in pairwise(rates[10:]))


@pytest.mark.parametrize("name", ["vmamba_nano", "vim_nano", "mambavision_nano", "vit_nano"])
def test_state_space_parameters_norms_and_biases_are_not_decayed(name) -> None:
    model = create_model(name)
    groups = optimizer_of(model, TrainConfig()).param_groups
    plain = {id(p) for p in groups[1]["params"]}
    assert groups[0]["weight_decay"] > 0 and groups[1]["weight_decay"] == 0
    for key, parameter in model.named_parameters():
        exempt = parameter.ndim < 2 or "A_" in key or key.endswith(("pos_embed", "cls_token"))
        exempt = exempt or key.endswith(("dt_projs_bias", "dt_proj.bias", "Ds"))
        assert (id(parameter) in plain) == exempt, key


def test_crops_stay_in_the_image_and_depend_on_the_generator_alone() -> None:
    pixels = torch.randint(0, 256, (8, 40, 40, 3), dtype=torch.uint8)
    one, two = (crops(pixels, 32, 0.35, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one, two) and one.shape == (8, 3, 32, 32)
    assert one.min() >= 0 and one.max() <= 1
    whole = crops(pixels.repeat(64, 1, 1, 1), 40, 1.0, torch.Generator().manual_seed(0))
    image = pixels.permute(0, 3, 1, 2).float() / 255
    flips = [(whole[i] - image[i % 8].flip(-1)).abs().max() < 1e-4 for i in range(len(whole))]
    same = [(whole[i] - image[i % 8]).abs().max() < 1e-4 for i in range(len(whole))]
    assert all(a or b for a, b in zip(flips, same, strict=True))
    assert 0.35 < np.mean(flips) < 0.65


def test_train_and_evaluate_from_the_command_line(folder, tmp_path, capsys) -> None:
    out = tmp_path / "run"
    command = ["train", "--model", "vmamba_nano", "--data", str(folder), "--out", str(out)]
    command += ["--size", "32", "--load_size", "40", "--batch_size", "16", "--epochs", "6"]
    assert main(command) == 0
    weights = str(out / "weights.safetensors")
    evaluate = ["evaluate", "--model", "vmamba_nano", "--data", str(folder), "--json"]
    assert main([*evaluate, "--size", "32", "48", "--weights", weights]) == 0
    import json

    rows = json.loads(capsys.readouterr().out)
    assert [row["size"] for row in rows] == [[32, 32], [48, 48]]
    assert all(
        row["images"] == 64 and row["top1"] == round(100 * row["correct"] / 64, 2) for row in rows
    )
    assert rows[0]["top1"] > 80
    (tmp_path / "plain").mkdir()
    Image.new("RGB", (40, 40)).save(tmp_path / "plain" / "one.png")
    assert main([*evaluate[:3], "--data", str(tmp_path / "plain")]) == 2
    assert "no labels" in capsys.readouterr().err


def test_a_folder_knows_its_model_and_a_damaged_checkpoint_is_named(folder, tmp_path) -> None:
    begun = trainer(folder, tmp_path, epochs=2)
    begun.run(stop_at=1)
    other = create_model("resnet_nano", "random", num_classes=2)
    with pytest.raises(ValueError, match="belongs to another model"):
        Trainer(other, begun.data, begun.config, tmp_path)
    begun.checkpoint.write_bytes(begun.checkpoint.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"is damaged .*; remove it to begin anew"):
        trainer(folder, tmp_path, epochs=2)


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"epochs": -1}, {"warmup": 2}, {"size": 0}])
def test_a_value_outside_its_range_is_a_sentence(wrong) -> None:
    with pytest.raises(ValueError, match=rf"{next(iter(wrong))} is .*; give"):
        TrainConfig(**wrong)


def test_the_bytes_of_the_weights_do_not_depend_on_the_process(tmp_path) -> None:
    """safetensors writes its metadata in an order that each process draws."""
    told = {name: name * 3 for name in ("recipe", "steps", "data", "start", "more", "last")}
    first = _in_order(safetensors.torch.save({"a": torch.arange(3.0)}, told))
    (tmp_path / "a.safetensors").write_bytes(first)
    with safetensors.safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert file.metadata() == told and file.get_tensor("a").tolist() == [0, 1, 2]
    places = [first.index(f'"{name}"'.encode()) for name in sorted(told)]
    assert places == sorted(places)
