"""The checkpoints that ship with the project."""

import json

import pytest
import timm
import torch
from safetensors import safe_open

from workbench import create_model
from workbench.models.family import SHIPPED as WEIGHTS
from workbench.weights import facts_of

FILES = sorted(WEIGHTS.glob("*.safetensors"))
LEAST = {
    "resnet_nano": 0.80,
    "mambavision_nano": 0.76,
    "vmamba_nano": 0.74,
    "vim_nano": 0.62,
    "vit_nano": 0.60,
    "s4nd_nano": 0.60,
}


def metadata(path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return file.metadata()


def test_every_family_and_baseline_has_one():
    assert {path.stem for path in FILES} == set(LEAST)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_is_small_and_says_how_it_was_made(path):
    assert path.stat().st_size <= 3_000_000
    facts = metadata(path)
    recipe = json.loads(facts["recipe"])
    assert facts["model"] == path.stem
    assert int(facts["seed"]) == recipe["seed"] and int(facts["steps"]) == recipe["steps"] > 2000
    assert len(facts["data_sha256"]) == 64
    for pack in json.loads(facts["accuracy"]).values():
        for correct, count in pack.values():
            assert 0 < correct < count == 3925
        correct, count = pack["64"]
        assert correct / count >= LEAST[path.stem]


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
