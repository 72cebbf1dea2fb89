"""Methods are found by their names; the one of docs/add-a-method.md works as the page says."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from workbench import figures, methods
from workbench.attacks.projected_gradient import NORMS
from workbench.methods.attribution.config import METHODS
from workbench.methods.attribution.faithfulness import BASELINES
from workbench.methods.erf.config import PRESETS
from workbench.methods.method import choices
from workbench.methods.resolution import figure as resolution_figure
from workbench.methods.robustness.config import ATTACKS, PERTURBATIONS
from workbench.methods.scan_maps.config import PUBLISHED
from workbench.methods.scan_maps.published_views import NORMALISATIONS
from workbench.mixing.hidden_attention import AGGREGATES, VIEWS
from workbench.perturbations.corruptions import SEVERITIES
from workbench.perturbations.patches import FILLS

ROOT = Path(__file__).parents[1]


def test_every_method_has_a_configuration_a_title_and_pictures() -> None:
    names = methods.METHODS
    assert {"erf", "scan-maps", "resolution", "sensitivity", "robustness"} <= set(names)
    for name in names:
        assert methods.get(name).name == name
        assert methods.get(name).Config() is not None
        assert len(methods.title(name)) < 40
        pictures = figures.of(name)
        assert all(callable(getattr(pictures, part)) for part in ("sheets", "tables", "report"))


def choices_of(name: str, field: str) -> set:
    found = choices(get_type_hints(methods.get(name).Config)[field])
    return {choice for choice in found if choice is not None}


def test_choices_of_the_configurations_are_those_of_the_mathematics() -> None:
    assert choices_of("erf", "preset") == set(PRESETS)
    assert choices_of("scan-maps", "view") == set(VIEWS) == {"alpha", "contribution", *PUBLISHED}
    assert choices_of("scan-maps", "aggregate") == set(AGGREGATES) - {"channels"}
    assert choices_of("scan-maps", "normalise") == set(NORMALISATIONS)
    assert choices_of("attribution", "method") == set(METHODS)
    assert choices_of("attribution", "baseline") == set(BASELINES)
    assert choices_of("robustness", "attacks") == {*ATTACKS, "none"}
    assert choices_of("robustness", "probes") == {*PERTURBATIONS, "all", "none"}
    assert choices_of("robustness", "severities") == set(SEVERITIES)
    assert choices_of("robustness", "norm") == set(NORMS)
    assert choices_of("robustness", "fill") == set(FILLS)
    assert set(get_args(resolution_figure.Published)) == set(resolution_figure.PUBLISHED)


def test_the_method_of_the_documentation_takes_a_folder_and_a_line(tmp_path: Path) -> None:
    for folder in ("workbench", "samples"):
        shutil.copytree(
            ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__")
        )
    page = (ROOT / "docs" / "add-a-method.md").read_text()
    mathematics, pictures = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    folder = tmp_path / "workbench" / "methods" / "brightness"
    folder.mkdir()
    (folder / "__init__.py").write_text(mathematics)
    (folder / "figure.py").write_text(pictures)
    methods_file = folder.parent / "__init__.py"
    line = '    "brightness": "Brightness: how bright the images are",\n'
    methods_file.write_text(
        methods_file.read_text().replace("METHODS = {\n", "METHODS = {\n" + line)
    )
    command = [sys.executable, "-m", "workbench.cli", "brightness", "--model", "resnet_nano"]
    command += ["--channel", "blue", "--out", "out", "--json"]
    made = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    (row,) = json.loads(made.stdout)
    assert row["config"] == {"channel": "blue"} and row["images_used"] == 20
    assert 0 < row["numbers"]["mean"]["value"] < 1
    out = tmp_path / "out"
    assert (out / row["result"]).is_file() and list(out.glob("brightness-resnet_nano-*.csv"))
    (figure,) = out.glob("brightness-resnet_nano-*.pdf")
    assert figure.read_bytes().startswith(b"%PDF")


def test_results_of_an_unknown_kind_are_not_drawn() -> None:
    with pytest.raises(ValueError, match="strange"):
        figures.of("strange")
