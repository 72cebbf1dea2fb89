"""Runs that are killed at random moments: the same command ends as if nothing had been.

Only when asked for: `pytest -m crash`; VSSM_CRASHES is the number of moments for each command.
"""

import json
import os
import random
import shutil
import signal
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

# before the process is copied
import workbench.paper
import workbench.runner
import workbench.train  # noqa: F401
from workbench.cli import main
from workbench.images import SAMPLES

MOMENTS = int(os.environ.get("VSSM_CRASHES", "15"))
FEW = ["--images", "samples", "--limit", "3", "--resamples", "10"]
TIMES = ("seconds", "latency", "cpu_seconds", "waiting_seconds")
"""What is measured of the machine, and differs between any two runs."""

pytestmark = pytest.mark.crash


@pytest.fixture(autouse=True)
def asked_for(request: pytest.FixtureRequest) -> None:
    if "crash" not in (request.config.option.markexpr or ""):
        pytest.skip("takes minutes; pytest -m crash")


def begin(arguments: list[str], log: Path) -> int:
    """Start `vssm` in a copy of this process, which has imported everything already."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        with log.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            code = main(arguments)
    except BaseException:
        log.write_text(traceback.format_exc())
    finally:
        os._exit(code)


def finish(arguments: list[str], log: Path) -> float:
    """Seconds that a whole run takes."""
    start = time.monotonic()
    _, status = os.waitpid(begin(arguments, log), 0)
    assert os.waitstatus_to_exitcode(status) == 0, log.read_text()[-2000:]
    return time.monotonic() - start


def erf(folder: Path) -> list[str]:
    return ["erf", "--model", "vmamba_nano", *FEW, "--chunk", "1", "--out", str(folder)]


def resolution(folder: Path) -> list[str]:
    sizes = ["--sizes", "32", "64"]
    return ["resolution", "--model", "vim_nano", *FEW, *sizes, "--out", str(folder)]


def figures(folder: Path) -> list[str]:
    file = folder.parent / "paper.yaml"
    file.write_text(
        "defaults: {images: samples, limit: 2}\n"
        "figures:\n"
        "  paths: {method: paths, pattern: 'hilbert*'}\n"
        "  fields: {method: erf, models: [vmamba_nano, vim_nano], chunk: 1, resamples: 9}\n"
    )
    return ["figures", str(file), "--out", str(folder)]


def train(folder: Path) -> list[str]:
    data = folder.parent / "data"
    if not data.exists():
        for i, image in enumerate(sorted(SAMPLES.glob("*.jpg"))):
            (data / f"class{i % 2}").mkdir(parents=True, exist_ok=True)
            shutil.copy(image, data / f"class{i % 2}")
    few = ["--size", "32", "--load-size", "36", "--epochs", "6", "--batch-size", "4"]
    few += ["--snapshots", "0", "2"]
    return ["train", "--model", "vmamba_nano", "--data", str(data), *few, "--out", str(folder)]


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {k: without_times(v) for k, v in value.items() if not _timed(k)}
        kept.pop("checksums", None), kept.pop("checksum", None)
        return kept
    return [without_times(v) for v in value] if isinstance(value, list) else value


def _timed(name: str) -> bool:
    return name in (
        *TIMES,
        "throughput",
        "exponents",
        "cpu",
        "waiting",
        "peak_bytes",
        "files",
    ) or name.startswith("cost")


def content(file: Path) -> Any:
    """What has to be the same after any history: the bytes, but where times are in them."""
    if file.name == "curve.csv":
        return [line.rpartition(",")[0] for line in file.read_text().splitlines()]
    if file.name == "manifest.json":
        return without_times(json.loads(file.read_text()))
    if file.name == "checkpoint.pt":
        return None  # holds the seconds as well; what it leads to is compared
    return file.read_bytes()


def timed_content(file: Path) -> Any:
    """The same for `resolution`, whose results, figures and tables hold times."""
    if file.suffix != ".npz":
        return None
    with np.load(file) as archive:
        meta = without_times(json.loads(str(archive["meta"])))
        arrays = {k: archive[k].tobytes() for k in archive.files if k not in (*TIMES, "meta")}
    return meta, arrays


COMMANDS: dict[str, tuple[Callable[[Path], list[str]], Callable[[Path], Any]]] = {
    "erf": (erf, content),
    "resolution": (resolution, timed_content),
    "figures": (figures, content),
    "train": (train, content),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_killed_run_ends_as_an_undisturbed_one(command: str, tmp_path: Path) -> None:
    arguments, read = COMMANDS[command]
    log, whole = tmp_path / "log.txt", tmp_path / "whole"
    finish(arguments(whole), log)  # the first compiles, and does not count
    shutil.rmtree(whole)
    seconds = finish(arguments(whole), log)

    def files(folder: Path) -> dict[str, Any]:
        found = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        return {str(path.relative_to(folder)): read(path) for path in found}

    expected, draw = files(whole), random.Random(command)
    killed = 0
    for number in range(MOMENTS):
        folder = tmp_path / "again"
        child = begin(arguments(folder), log)
        time.sleep(draw.uniform(0, seconds))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        killed += os.waitstatus_to_exitcode(status) == -signal.SIGKILL
        finish(arguments(folder), log)
        found = files(folder)
        assert found.keys() == expected.keys(), f"moment {number}"
        assert not [name for name in expected if found[name] != expected[name]], f"moment {number}"
        assert not list(folder.rglob(".*"))
        shutil.rmtree(folder)
    print(f"{command}: killed {killed} times in {seconds:.1f} s")
    assert killed >= MOMENTS // 2
