"""The machine code of the CPU kernels, kept on disk, is always that of the files as they are."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from workbench import kernels

pytest.importorskip("numba")

from workbench.kernels.cpu import compiling

# Compiles one kernel of one file, which calls a function of another.
PROGRAM = """
import numpy as np
from workbench.kernels.cpu.softplus import softplus

x, y = np.zeros(16, np.float32), np.empty(16, np.float32)
softplus(0, 1, np.array([x.ctypes.data, 0, y.ctypes.data, 1, 16]))  # no bias, one row of 16
loaded = sum(softplus.stats.cache_hits.values())
print(y[0], loaded)
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the kernels in a folder of its own."""
    source = Path(kernels.__file__).parent
    copy = tmp_path / "workbench" / "kernels"
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__", "gpu"))
    (copy.parent / "__init__.py").touch()
    return copy


def softplus_of_zero(package: Path) -> tuple[float, bool]:
    """What the copied kernel says, and whether its machine code came from the disk."""
    place = package.parents[1]
    environment = {**os.environ, "PYTHONPATH": str(place)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    value, loaded = done.stdout.split()
    return float(value), loaded == "1"


def test_a_change_of_any_kernel_file_makes_new_machine_code(package, monkeypatch):
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    assert softplus_of_zero(package) == (pytest.approx(0.693147, rel=1e-6), False)
    assert softplus_of_zero(package) == (pytest.approx(0.693147, rel=1e-6), True)
    caches = package / "cpu" / "__pycache__"
    (first,) = caches.glob("numba-*")

    lanes = package / "cpu" / "lanes.py"
    stamp = lanes.stat()
    text = lanes.read_text()
    changed = text.replace("e = _decaying_exp(builder,", "e = _exp2(builder,").replace(
        "_at_least(builder, x, 0.0), log", "_at_least(builder, x, 1.0), log"
    )
    assert changed != text
    lanes.write_text(changed)
    os.utime(lanes, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # as some tools leave it
    assert softplus_of_zero(package) == (pytest.approx(1.693147, rel=1e-6), False)
    (second,) = caches.glob("numba-*")
    assert second != first


def test_machine_code_goes_where_it_can_be_written(tmp_path):
    blocked = tmp_path / "file"
    blocked.touch()  # no folder can be made below it
    old = tmp_path / "user" / "numba-of-yesterday"
    old.mkdir(parents=True)
    folder = compiling._cache_folder([blocked / "__pycache__", tmp_path / "user"])
    assert folder.parent == tmp_path / "user" and folder.is_dir()
    assert not old.exists()
    assert compiling._cache_folder([blocked]) is None


def test_the_cache_of_the_user_is_taken_where_one_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(compiling.config, "CACHE_DIR", str(tmp_path))
    (place,) = compiling._cache_places()
    assert place.parent == tmp_path
