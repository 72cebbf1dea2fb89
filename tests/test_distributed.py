"""Several processes give the bits of one, and a killed one leaves what it finished."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
SCRIPT = [
    "-m",
    "analyses.erf",
    "--model",
    "[vmamba_nano]",
    "--size",
    "64",
    "--limit",
    "10",
    "--before_after",
    "false",
]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]


def started(*launcher: str, out: Path, size: int) -> subprocess.Popen:
    command = [sys.executable, *launcher, *SCRIPT, "--size", str(size), "--out", str(out)]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=ROOT, env=one_thread, stderr=subprocess.PIPE, text=True)


def finished(*launcher: str, out: Path, size: int = 64) -> str:
    process = started(*launcher, out=out, size=size)
    _, said = process.communicate(timeout=240)
    assert process.returncode == 0, said
    return said


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def test_two_processes_write_the_same_files_as_one(tmp_path: Path) -> None:
    finished(out=tmp_path / "one")
    finished(*TORCHRUN, out=tmp_path / "two")
    one, two = files(tmp_path / "one"), files(tmp_path / "two")
    assert any(name.endswith(".npz") for name in one) and one == two


def test_processes_leave_the_group_before_they_end(tmp_path: Path) -> None:
    # one that does not is now and then aborted at its end (PyTorch issue 190489)
    script = tmp_path / "script.py"
    script.write_text(
        "import atexit\n"
        "from torch.distributed import is_initialized\n"
        "from workbench import distributed\n"
        "atexit.register(lambda: print('stays' if is_initialized() else 'left'))\n"
        "distributed.join()\n"
        "assert distributed.gather_broadcast(distributed.rank, sum) == 1\n"
        "assert is_initialized()\n"
    )
    run = subprocess.run(
        [sys.executable, *TORCHRUN, str(script)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0 and run.stdout.split() == ["left", "left"], run.stderr


def test_a_killed_process_leaves_its_chunks_and_the_next_run_uses_them(tmp_path: Path) -> None:
    process = started(*TORCHRUN, out=tmp_path / "out", size=320)
    deadline = time.monotonic() + 200
    while not list(tmp_path.rglob(".chunks/*/0000*.npz")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    children = subprocess.run(
        ["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True
    )
    os.kill(int(children.stdout.split()[0]), signal.SIGKILL)
    _, said = process.communicate(timeout=120)
    assert process.returncode != 0
    left = [path.stem for path in tmp_path.rglob(".chunks/*/0000*.npz")]
    assert left and not list((tmp_path / "out").glob("*.npz"))
    said = finished(*TORCHRUN, out=tmp_path / "out", size=320)
    stored = sum(min(4, 10 - 4 * int(name)) for name in left)
    assert f"{stored} of 10 images are from an earlier run." in said
    finished(out=tmp_path / "one", size=320)
    assert files(tmp_path / "one") == files(tmp_path / "out")
