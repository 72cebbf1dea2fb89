"""The same words on the command line, in scripts, in YAML files and in the library."""

import dataclasses
from pathlib import Path

import pytest
import yaml

from workbench import ErfConfig, ResolutionConfig, Study, methods, paper
from workbench.cli import parse
from workbench.cli.options import read_fields


def from_words(*words: str, method: str = "erf") -> tuple[Study, object]:
    """The study and the configuration that a command line stands for."""
    name, args = parse([method, *words])
    assert name is not None
    return read_fields(args, Study), read_fields(args, methods.get(name).Config)


def from_yaml(folder: Path, **entry: object) -> paper.Figure:
    file = folder / "paper.yaml"
    file.write_text(yaml.safe_dump({"figures": {"one": entry}}))
    return paper.read(file).figures["one"]


@pytest.mark.parametrize(
    "words",
    [
        ["--model", "vim_nano", "vmamba_nano"],
        ["--model", "[vim_nano,vmamba_nano]"],
        ["--model", "[vim_nano, vmamba_nano]"],
        ["--model=[vim_nano,vmamba_nano]"],
        ["--model", '["vim_nano","vmamba_nano"]'],
    ],
)
def test_models_are_listed_in_every_usual_way(words) -> None:
    study, _ = from_words(*words)
    assert study.model == ("vim_nano", "vmamba_nano")


def test_one_model_and_file_names_with_commas() -> None:
    study, _ = from_words("--model", "vim_nano", "--images", "a, b.jpg", "c.jpg")
    assert study.model == ("vim_nano",) and study.images == ("a, b.jpg", "c.jpg")


@pytest.mark.parametrize(
    "words", [["--sizes", "32", "64"], ["--sizes", "32,64"], ["--sizes=[32,64]"]]
)
def test_numbers_are_listed_in_every_usual_way(words) -> None:
    _, config = from_words("--model", "vim_nano", *words, method="resolution")
    assert config.sizes == (32, 64)


@pytest.mark.parametrize("spelt", ["scan-maps", "scan_maps"])
def test_methods_are_spelt_with_either_dash(spelt, tmp_path: Path) -> None:
    assert parse([spelt, "--model", "vim_nano"])[0] == "scan-maps"
    assert from_yaml(tmp_path, method=spelt, model="vim_nano").method == "scan-maps"
    assert methods.get(spelt).name == "scan-maps"


@pytest.mark.parametrize(
    "entry",
    [
        {"models": ["vim_nano"], "config": {"stage": 2}},
        {"model": "vim_nano", "stage": 2},
        {"model": ["vim_nano"], "stage": 2},
        {"model": "[vim_nano]", "config": {"stage": 2}},
    ],
)
def test_yaml_takes_the_words_of_the_command_line(entry, tmp_path: Path) -> None:
    figure = from_yaml(tmp_path, method="erf", **entry)
    study, config = from_words("--model", "vim_nano", "--stage", "2")
    assert figure.model == study.model and figure.config == {"stage": 2}
    assert config == ErfConfig(stage=2)


def test_options_of_drawing_and_comparing_are_found_in_yaml_too(tmp_path: Path) -> None:
    entry = {"method": "resolution", "model": "vim_nano", "sizes": [32, 64], "published": "DeiT-S"}
    figure = from_yaml(tmp_path, **entry)
    assert figure.config == {"sizes": (32, 64)} and figure.draw == {"published": ("DeiT-S",)}
    entry = {"method": "robustness", "model": ["a", "b"], "baseline": "b", "data": "pack.npz"}
    figure = from_yaml(tmp_path, **entry)
    assert figure.compare == {"baseline": "b"} and figure.data == "pack.npz"


@pytest.mark.parametrize("name", methods.METHODS)
def test_a_shared_option_is_written_once_and_everywhere(name) -> None:
    shared = {field.name for field in dataclasses.fields(Study)}
    own = {field.name for field in dataclasses.fields(methods.get(name).Config)}
    _, args = parse([name, "--model", "vim_nano"])
    assert shared | own <= set(vars(args))
    assert shared & own <= {"seed"}
    assert shared <= {field.name for field in dataclasses.fields(paper.Figure)}


def test_one_protocol_may_be_given_without_a_list() -> None:
    assert ResolutionConfig(object_size="constant") == ResolutionConfig(object_size=("constant",))


def test_a_configuration_takes_the_seed_of_the_study() -> None:
    study, config = from_words("--model", "vim_nano", "--seed", "7")
    assert study.seed == config.seed == 7
