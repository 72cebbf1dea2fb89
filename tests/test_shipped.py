"""The checkpoints that ship with the project."""

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors import safe_open

from workbench import create_model, load, preprocessing_for, run
from workbench.app.sidebar import FIRST, checkpoints
from workbench.models.family import SHIPPED as WEIGHTS
from workbench.places import SAMPLES
from workbench.results.class_names import class_name
from workbench.weights import facts_of
from workbench.weights.create import _say_random
from workbench.weights.files import finest_size

FILES = sorted(WEIGHTS.glob("*.safetensors"))
LEAST = {
    "resnet_nano": {64: 0.80, 128: 0.89},
    "mambavision_nano": {64: 0.76, 128: 0.84},
    "vmamba_nano": {64: 0.74, 128: 0.85},
    "vim_nano": {64: 0.62, 128: 0.79},
    "vit_nano": {64: 0.60, 128: 0.75},
    "s4nd_nano": {64: 0.60, 128: 0.74},
}
"""Top-1 at the size trained at, on the photographs stored at 128 px."""


def metadata(path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return file.metadata()


def test_every_family_and_baseline_has_one():
    assert {path.stem.partition(".")[0] for path in FILES} == set(LEAST)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_its_size_is_that_of_the_model(path):
    model, _, tag = path.stem.partition(".")
    size = int(tag.removeprefix("imagenette"))
    for made in (create_model(path.stem, pretrained=True), create_model(model, path)):
        assert preprocessing_for(made).size == (size, size)
        assert made.provenance.class_names[5] == class_name("imagenet-1k", 566) == "French horn"
        assert getattr(made, "img_size", size) in (size, (size, size))


def test_the_plain_name_means_weights_of_one_size_for_all():
    for model in LEAST:
        own = create_model(model, pretrained=True).provenance.file
        assert own == f"{model}.imagenette128.safetensors" == checkpoints(model)[0]


def test_a_name_without_pretrained_is_random_and_says_so_once(caplog):
    _say_random.cache_clear()
    for _ in range(2):
        assert facts_of(create_model("vit_nano"))["training"] != "after training"
    create_model("vit_nano", "random")
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert told == ["vit_nano has random weights; with pretrained=True it has its trained ones."]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_is_small_and_says_how_it_was_made(path):
    assert path.stat().st_size <= 3_000_000
    facts = metadata(path)
    recipe = json.loads(facts["recipe"])
    assert facts["model"] == path.stem.partition(".")[0]
    assert int(facts["seed"]) == recipe["seed"] and int(facts["steps"]) == recipe["steps"] > 500
    assert len(facts["data_sha256"]) == 64
    packs = json.loads(facts["accuracy"])
    for pack in packs.values():
        for correct, count in pack.values():
            assert 0 < correct < count == 3925
    size = recipe["size"]
    right, count = packs["imagenette_val_128.npz"][str(size)]
    assert right / count >= LEAST[facts["model"]][size]
    if size == 128:  # fit to be looked at in the detail of 224 px
        finest, _ = packs["imagenette_val_224.npz"]["224"]
        allowed = 0.07 if facts["model"] == "mambavision_nano" else 0.04
        assert right - finest <= allowed * count


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_pretrained_reads_it(path):
    name = path.stem
    x = torch.randn(2, 3, 64, 64)
    official, random = create_model(name, "official"), create_model(name, "random")
    assert facts_of(official)["training"] == "after training"
    with torch.no_grad():
        logits = timm.create_model(name, pretrained=True).eval()(x)
        assert torch.equal(logits, official(x))
        assert not torch.allclose(logits, random(x), atol=0.1)


def test_the_table_of_the_documentation_is_what_the_files_say():
    text = (Path(__file__).parents[1] / "docs" / "checkpoints.md").read_text()
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    assert {row[0].strip("`") for row in rows} == {path.stem for path in FILES}
    for name, _, _, *shares in rows:
        told = json.loads(metadata(WEIGHTS / f"{name.strip('`')}.safetensors")["accuracy"])
        large, small = told["imagenette_val_224.npz"], told["imagenette_val_128.npz"]
        found = [large["64"], large["128"], large["224"], small["64"], small["128"]]
        assert shares == [f"{100 * correct / count:.2f}" for correct, count in found], name


def test_the_stored_first_page_is_what_would_be_measured():
    stored = [load(path) for path in sorted((SAMPLES / "results" / "first").glob("*.npz"))]
    assert [result.meta["model"] for result in stored] == list(FIRST)
    for result in stored:
        size = finest_size(WEIGHTS / result.meta["facts"]["weights_label"])
        new = run("erf", result.meta["model"], "samples", limit=1, size=size)
        assert new.meta["facts"]["weights_sha256"] == result.meta["facts"]["weights_sha256"]
        assert new.meta["images"]["names"] == result.meta["images"]["names"]
        np.testing.assert_allclose(result.map, new.map, rtol=1e-3, atol=1e-7)
