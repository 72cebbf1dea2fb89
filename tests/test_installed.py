"""Beside other distributions, and away from the repository."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_another_distribution_called_kernels_is_named(tmp_path: Path) -> None:
    """Hugging Face's `kernels` is common beside transformers."""
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "__init__.py").write_text("def get_kernel(name): ...\n")
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    code = "import sys; from workbench.cli import main; sys.exit(main(['models']))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert "another distribution's package" in done.stderr and "Traceback" not in done.stderr
    assert done.returncode == 2


def test_samples_are_found_by_name_from_any_folder(tmp_path: Path, monkeypatch) -> None:
    from workbench import load, open_images
    from workbench.places import found
    from workbench.weights import find_weights

    monkeypatch.chdir(tmp_path)
    assert len(open_images("samples/images")) == len(open_images("samples"))
    assert find_weights("samples/weights/vim_nano.safetensors").is_file()
    assert load(found("samples/results/erf.npz")).kind == "erf"
