"""Words of earlier versions go on working, and results are written in those of today."""

import json
from pathlib import Path

import numpy as np
import pytest

from workbench import figures, methods, paper
from workbench.cli import parse
from workbench.cli.options import read_fields
from workbench.former import CHOICES, OPTIONS
from workbench.methods.erf import ErfConfig
from workbench.methods.sensitivity import SensitivityConfig
from workbench.results import load, save_arrays

RESULTS = Path(__file__).parents[1] / "samples" / "results"


def config_of(*command: str):
    name, args = parse(command)
    return read_fields(args, methods.get(name).Config)


def test_configurations_are_in_the_words_of_today() -> None:
    assert SensitivityConfig(views=("cut", "transplant")).views == ("cut", "patching")
    assert ErfConfig(split="path") == ErfConfig(split="route")
    with pytest.raises(ValueError, match="must be one of none, direction, route, not 'paths'"):
        ErfConfig(split="paths")


def test_the_command_line_understands_both() -> None:
    old = ["sensitivity", "--views", "cut,transplant", "--transplant-eps-255", "2"]
    new = ["sensitivity", "--views", "cut,patching", "--patching-eps-255", "2"]
    wanted = SensitivityConfig(views=("cut", "patching"), patching_eps_255=2)
    assert config_of(*old) == config_of(*new) == wanted
    assert config_of("erf", "--split", "path") == config_of("erf", "--split", "route")


def test_yaml_understands_both(tmp_path: Path) -> None:
    found = []
    for views, eps in (("transplant", "transplant_eps_255"), ("patching", "patching_eps_255")):
        file = tmp_path / "paper.yaml"
        entry = {"method": "sensitivity", "model": "vmamba_nano"}
        entry["config"] = {"views": [views], eps: 2}
        file.write_text(json.dumps({"figures": {"one": entry}}))
        found.append(paper.read(file).figures)
    assert found[0] == found[1]


@pytest.mark.parametrize("file", sorted(RESULTS.glob("sensitivity/*.npz")), ids=lambda f: f.stem)
def test_stored_results_are_read_in_the_words_of_today(file: Path, tmp_path: Path) -> None:
    result = load(file)
    arrays, stored = dict(result.arrays()), json.dumps({**result.meta, "kind": "sensitivity"})
    margins = arrays["transplant"] = arrays.pop("patching")
    for old, new in (("transplant", "patching"), ("transplant_eps_255", "patching_eps_255")):
        assert f'"{new}"' in stored
        stored = stored.replace(f'"{new}"', f'"{old}"')
    result = load(save_arrays(tmp_path / "old.npz", arrays, json.loads(stored)))
    assert np.array_equal(result.patching, margins)
    words = json.dumps(result.meta)
    assert not [word for word in ("transplant", *OPTIONS) if f'"{word}"' in words]
    drawn = figures.of("sensitivity")
    assert "patching B: recovered" in drawn.report(result)
    assert "_nano,patching," in drawn.tables([result])["sensitivity.csv"]


def test_a_stored_split_by_path_is_one_by_route(tmp_path: Path) -> None:
    result = load(RESULTS / "erf.npz")
    meta = {**result.meta, "kind": "erf", "model": "path"}
    for part in ("config", "protocol"):
        meta[part] = {**meta[part], "split": "path"}
    old = load(save_arrays(tmp_path / "old.npz", result.arrays(), meta))
    assert old.meta["config"]["split"] == old.meta["protocol"]["split"] == CHOICES["path"]
    assert old.meta["model"] == "path"
