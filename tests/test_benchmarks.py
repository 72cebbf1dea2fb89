"""Benchmarks run as scripts, from their own folder."""

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.parametrize("name", ["coverage", "erf", "scan_host"])
def test_their_names_hide_nobody_else_s_package(name: str) -> None:
    """A script's folder comes first on the path."""
    done = subprocess.run(
        [sys.executable, FOLDER / f"{name}.py", "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: ")
    code = f"import sys; sys.path.insert(0, {str(FOLDER)!r}); import workbench.kernels.cpu"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
