"""Beside other distributions, and away from the repository."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_another_distribution_called_kernels_lives_beside_ours(tmp_path: Path) -> None:
    """Hugging Face's `kernels`, which transformers imports, whichever is imported first."""
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "__init__.py").write_text("def get_kernel(name): return name\n")
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    ours = "from workbench.kernels import softplus; import torch; softplus(torch.zeros(1, 2, 3))"
    theirs = "from kernels import get_kernel; get_kernel('x')"
    for code in (f"{ours}\n{theirs}", f"{theirs}\n{ours}"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr


def test_the_scan_is_found_where_links_are_not_kept(tmp_path: Path) -> None:
    """A checkout on Windows has a small file in the place of the link."""
    skipped = shutil.ignore_patterns("__pycache__", "kernels")
    shutil.copytree(ROOT / "workbench", tmp_path / "workbench", ignore=skipped)
    (tmp_path / "workbench" / "kernels").write_text("../kernels")
    (tmp_path / "kernels").symlink_to(ROOT / "kernels")
    code = "import workbench.kernels as k, workbench; print(k.__file__, workbench.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [
        str(tmp_path / "kernels" / "__init__.py"),
        str(tmp_path / "workbench" / "__init__.py"),
    ]


def test_samples_are_found_by_name_from_any_folder(tmp_path: Path, monkeypatch) -> None:
    from workbench import load, open_images
    from workbench.places import found
    from workbench.weights import find_weights

    monkeypatch.chdir(tmp_path)
    assert len(open_images("samples/images")) == len(open_images("samples"))
    assert find_weights("samples/weights/vim_nano.imagenette64.safetensors").is_file()
    assert load(found("samples/results/erf.npz")).kind == "erf"


def test_what_lies_beside_the_code_is_installed_with_it() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {name: ROOT / name.replace(".", "/") for name in settings["package-data"]}
    folders["workbench.samples"] = ROOT / "samples"  # as setup.py says
    installed = {
        path
        for name, patterns in settings["package-data"].items()
        for pattern in patterns
        for path in folders[name].glob(pattern)
    }
    skipped = ROOT / "workbench" / "kernels"
    beside = {
        path
        for folder in ("workbench", "analyses", "samples")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
        if not path.is_relative_to(skipped)
    }
    assert len(beside) > 50 and not beside - installed
