"""Methods are found by their names; the one of docs/add-a-method.md works as the page says."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from workbench import figures, methods

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


def test_the_method_of_the_documentation_takes_a_folder_and_a_line(tmp_path: Path) -> None:
    for folder in ("kernels", "workbench", "samples"):
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
    assert row["config"] == {"channel": "blue"} and row["images_used"] == 10
    assert 0 < row["numbers"]["mean"]["value"] < 1
    out = tmp_path / "out"
    assert (out / row["result"]).is_file() and (out / "brightness.csv").is_file()
    assert (out / "brightness.pdf").read_bytes().startswith(b"%PDF")


def test_results_of_an_unknown_kind_are_not_drawn() -> None:
    with pytest.raises(ValueError, match="strange"):
        figures.of("strange")
