"""A family is one file: no other names one, a new one needs no other change, numbers are the same
everywhere."""

import argparse
import ast
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import urllib.error
from pathlib import Path

import pytest
import timm
import torch

import workbench
from workbench import ErfConfig, ScanMapsConfig
from workbench.attention import Attention
from workbench.geometry import feature_map, stages
from workbench.methods.attribution.measure import grad_cam
from workbench.mixing.layers import find_layers
from workbench.models import REGISTERED
from workbench.scan import SelectiveScan
from workbench.trace import mixing_layers, scans
from workbench.weights import create_model, load_into, variant_of

ROOT = Path(__file__).parents[1]
SOURCES = [
    path
    for folder in ("kernels", "workbench", "analyses")
    for path in (ROOT / folder).rglob("*.py")
    if "models" not in path.parts
]
NANO = [name for name in REGISTERED if name.endswith("_nano")]

# Names


def is_family(word: str) -> bool:
    """Whether a word or a part of an identifier (`load_vim`, `VimBlock`) is a family's name."""
    names = "vim|vmamba|mambavision|s4nd"
    parts = "Vim|VMamba|MambaVision|S4ND"
    return bool(
        re.search(rf"(?<![a-z])({names})(?![a-z])", word, re.IGNORECASE)
        or re.search(rf"({parts})(?![a-z])", word)
    )


def words(path: Path) -> set[str]:
    """Identifiers, and strings that are one word: a string with spaces is a sentence for people."""
    tree = ast.parse(path.read_text())
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found |= {node.value} if not re.search(r"\s", node.value.strip()) else set()
        for field in ("id", "attr", "arg", "name", "asname", "module"):
            value = getattr(node, field, None)
            found |= {value} if isinstance(value, str) else set()
    return found


ALLOWED = {
    "workbench/app/story.py": "which of the results that ship it tells of",
    "workbench/app/sidebar.py": "which three networks a first visit compares",
    "workbench/methods/erf/config.py": "two published protocols, as users ask for them",
    "workbench/methods/resolution/figure.py": "the rows of a published table",
}


def test_no_file_outside_the_models_names_a_family() -> None:
    naming = {
        str(path.relative_to(ROOT)): sorted(filter(is_family, words(path))) for path in SOURCES
    }
    naming = {path: found for path, found in naming.items() if found}
    assert set(naming) == set(ALLOWED), naming
    assert naming["workbench/methods/erf/config.py"] == ["vmamba2024", "vmamba2025"]


def test_what_counts_as_a_name() -> None:
    for word in ("Vim", "vim_maps", "_VIM", "VimBlock", "ConvNeXtS4ND", "workbench.models.vmamba"):
        assert is_family(word)
    for word in ("vivim", "vmambair", "VmambaIR", "swim_up", "mamba"):
        assert not is_family(word)


# Numbers


@pytest.mark.parametrize("name", NANO)
def test_a_layer_has_one_number(name: str) -> None:
    model = timm.create_model(name)
    layers = [
        path
        for path, module in model.named_modules()
        if isinstance(module, SelectiveScan | Attention)
    ]
    assert list(mixing_layers(model)) == layers
    for site in scans(model):
        assert layers[site.layer] == site.module and find_layers(model, str(site.layer)) == [
            site.module
        ]
    if name == "mambavision_nano":  # where attention stands between scans
        assert [site.layer for site in scans(model)] == [0, 1, 4, 5, 8, 9][: len(scans(model))]


@pytest.mark.parametrize("name", NANO)
def test_a_stage_has_one_number(name: str) -> None:
    """The stage of a scan is the first whose map changes with the scan's block."""
    model = timm.create_model(name).eval()
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    count = len(stages(model))
    plain = [feature_map(model, x, stage) for stage in range(1, count + 1)]
    for site in scans(model):
        with workbench.patch(model, site.name, y=lambda y: y + 1):
            moved = [feature_map(model, x, stage) for stage in range(1, count + 1)]
        same = [torch.equal(a, b) for a, b in zip(plain, moved, strict=True)]
        assert same.index(False) + 1 == site.stage
    for stage in range(1, count + 1):
        maps = grad_cam(model, x, torch.tensor([0]), stage) if stage < count else plain[-1]
        assert maps.shape[-2:] == plain[stage - 1].shape[-2:]


# Published files


def published(path: Path, state: dict) -> None:
    """Write weights as the published code does: under a key, beside the arguments of training."""
    torch.save({"model": state, "args": argparse.Namespace(lr=1.0)}, path)


@pytest.fixture
def hub(monkeypatch, tmp_path: Path):
    """timm's hub client finds files in the folder, and fails as without a network elsewhere."""

    def fetch(repository: str, filename: str, **_) -> str:
        if not (tmp_path / filename).is_file():
            raise FileNotFoundError("cannot be found on the hub, nor in the cache")
        return str(tmp_path / filename)

    def refuse(url: str, *_, **__) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("timm.models._hub.hf_hub_download", fetch)
    monkeypatch.setattr("timm.models._hub.download_url_to_file", refuse)
    monkeypatch.setattr("timm.models._hub.get_cache_dir", lambda child_dir="": str(tmp_path))
    return tmp_path


def test_timm_names_the_published_file_that_it_cannot_fetch(hub: Path) -> None:
    with pytest.raises(ConnectionError, match=r"vim_t_midclstok_76p1acc.pth could not be fetched"):
        timm.create_model("vim_tiny", pretrained=True)
    with pytest.raises(ConnectionError, match=r"vssm1_tiny\w*\.pth could not .* release #v2cls of"):
        timm.create_model("vmamba_tiny_s1l8", pretrained=True)
    with pytest.raises(RuntimeError, match="No pretrained weights exist"):
        timm.create_model("s4nd_convnext_tiny", pretrained=True)


@pytest.mark.parametrize(
    ("name", "small", "then", "now"),
    [
        ("vim_tiny", {"embed_dim": 32, "depth": 2}, "layers.", "layers."),
        ("vmamba_tiny_v0", {"dims": 8, "depths": (1, 1)}, ".self_attention.", ".op."),
        (
            "mambavision_tiny",
            {"dim": 8, "in_dim": 8, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1)},
            "levels.",
            "levels.",
        ),
    ],
)
def test_timm_loads_a_published_file_through_the_filter(hub, name, small, then, now) -> None:
    config = timm.get_pretrained_cfg(name)
    file = config.hf_hub_filename or config.url.rpartition("/")[2]
    expected = timm.create_model(name, **small).state_dict()
    published(hub / file, {f"module.{key}".replace(now, then): expected[key] for key in expected})
    loaded = timm.create_model(name, pretrained=True, **small).state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in expected.items())
    other = timm.create_model(name, pretrained=True, num_classes=7, **small)
    assert other.get_classifier().weight.shape[0] == 7


# One more family


def toy_file() -> str:
    (code,) = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs" / "add-a-model.md").read_text(), re.DOTALL
    )
    return code


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """The family of the documentation, in a file outside the project that was imported."""
    file = tmp_path_factory.mktemp("outside") / "toy.py"
    file.write_text(toy_file())
    spec = importlib.util.spec_from_file_location("toy", file)
    assert spec is not None and spec.loader is not None
    module = sys.modules["toy"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["toy"]
    for name in module.VARIANTS:
        del REGISTERED[name]


def old(state: dict) -> dict:
    return {f"module.{key}".replace(".in_proj.", ".proj_in."): state[key] for key in state}


def test_the_family_of_the_documentation_reads_its_files(toy, hub: Path) -> None:
    model = timm.create_model("toy_tiny")
    published(hub / "toy_tiny.pth", old(model.state_dict()))
    with pytest.raises(ConnectionError, match=r"toy_small\.pth could not be fetched from the hub"):
        timm.create_model("toy_small", pretrained=True)
    for found in (
        timm.create_model("toy_tiny", pretrained=True),
        create_model("toy_tiny", hub / "toy_tiny.pth"),
        create_model(weights=hub / "toy_tiny.pth"),
    ):
        for key, value in model.state_dict().items():
            assert torch.equal(found.state_dict()[key], value)
    assert found.provenance.licence == "Published Toy weights: CC0."
    assert variant_of(old(timm.create_model("toy_small").state_dict())) == ["toy_small"]
    broken = old(model.state_dict())
    broken.pop("module.blocks.0.proj_in.bias")
    with pytest.raises(ValueError, match=r"1 missing \(blocks\.0\.in_proj\.bias\)"):
        load_into(model, broken)


def test_the_family_of_the_documentation_is_measured(toy) -> None:
    model = create_model("toy_tiny", img_size=None)
    field = workbench.run(
        workbench.erf, model, "samples", ErfConfig(stage=1, split="direction", resamples=0)
    )
    assert field.meta["cells"] == [56, 56] and field.meta["splits"] == ["row", "column"]
    config = ScanMapsConfig(layer="1", query="3,3", with_convolution=True, resamples=0)
    found = workbench.run(workbench.scan_maps, model, "samples", config)
    assert found.map("blocks.1.scan/column", "row").shape == (28, 28)
    assert {(site.layer, site.stage) for site in scans(model)} == {(0, 1), (1, 2)}


def test_the_family_of_the_documentation_takes_one_file(tmp_path: Path) -> None:
    shutil.copytree(
        ROOT / "workbench",
        tmp_path / "workbench",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    (tmp_path / "samples").symlink_to(ROOT / "samples")
    (tmp_path / "workbench" / "models" / "toy.py").write_text(toy_file())

    def vssm(*words: str) -> list[dict]:
        command = [sys.executable, "-m", "workbench.cli", *words, "--json"]
        made = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert made.returncode == 0, made.stderr
        return json.loads(made.stdout)

    listed = {row["model"]: row for row in vssm("models")}
    assert listed["toy_tiny"]["weights_licence"] == "cc0-1.0" and set(NANO) < set(listed)
    options = ("--model", "toy_tiny", "--size", "64", "--limit", "2", "--out", "out")
    (row,) = vssm("scan-maps", "--layer", "blocks.0", "--query", "2,2", *options)
    assert (tmp_path / "out" / row["result"]).is_file()
