"""The GPU kernels without a GPU: run by Triton's interpreter, and compiled for three generations.

`tests/interpreted.py` holds the interpreted cases and runs them in a process of its own.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import interpreted
import pytest

pytest.importorskip("triton")

import torch
from triton.backends.compiler import GPUTarget

from workbench import kernels
from workbench.kernels.gpu import compiling, fallback
from workbench.kernels.gpu.plan import ENOUGH, Division
from workbench.kernels.gpu.variants import TALL, WIDE, of_group, variants

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from scan_compile import resources

LIMIT = 1e-6  # eight roundings of float32


@pytest.fixture(scope="module")
def findings():
    """What `interpreted.py` printed; its cases take a minute together, so they run once."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    root = Path(__file__).parents[1]
    environment["PYTHONPATH"] = os.pathsep.join([str(root), environment.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, interpreted.__file__], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("case", interpreted.CASES)
def test_interpreted(case, findings):
    """An error is relative to the largest value that the definition gives in float64."""
    found = findings[case]
    found.pop("seconds", None)
    assert found
    for name, value in found.items():
        assert value is True or (value is not False and value <= LIMIT), f"{name}: {value}"


# Compilation

OLDER_AND_NEWER = (80, 100)


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("name", variants())
def test_every_variant_compiles_without_spilling(name, empty_cache):
    variant = variants()[name]
    compiled = compiling.build(variant, GPUTarget("cuda", 90, 32))
    used = resources(compiled)
    assert used["STACK"] == 0 and used["LOCAL"] == 0
    if variant.warps == 1:  # a program of one warp exchanges values by shuffles alone
        assert compiled.metadata.shared == 0
    # Scans of the wide tile stay within a thread: only the sums over channels of the backward pass
    # exchange values, 7 for dB, 7 for dC and 2 for both.
    if name.startswith(("forward, wide", "ends", "carry")):
        assert compiled.asm["ptx"].count("shfl.") == 0
    if name.startswith("backward, wide"):
        assert compiled.asm["ptx"].count("shfl.") == 16


@pytest.mark.slow
@pytest.mark.parametrize("architecture", OLDER_AND_NEWER)
@pytest.mark.parametrize("name", variants(("fp32",)))
def test_other_generations_compile_too(name, architecture, empty_cache):
    compiled = compiling.build(variants()[name], GPUTarget("cuda", architecture, 32))
    assert resources(compiled)["STACK"] == 0


def test_there_are_few_variants():
    """What `vssm erf` of three tiny models needs at batch 1, and everything."""
    assert len(of_group("tall", "fp32")) + len(of_group("softplus", "fp32")) <= 12
    assert len(variants()) <= 24
    assert len(set(variants().values())) == len(variants())


def test_somebody_is_told_while_kernels_compile(monkeypatch):
    told, seen = [], []
    monkeypatch.setattr(compiling, "PATIENCE", 0.0)

    def build(variant, target):
        time.sleep(0.1)
        seen.append(variant)

    monkeypatch.setattr(compiling, "build", build)
    compiling.on_progress(lambda done, total: told.append((done, total)))
    try:
        compiling.build_all(of_group("tall", "fp32"), None)
    finally:
        compiling.on_progress(None)
    assert len(seen) == 3
    assert told[0][0] < 3 and told[-1] == (3, 3)


def test_the_line_that_tells(capsys):
    compiling._print(1, 3)
    compiling._print(3, 3)
    assert capsys.readouterr().err == (
        "\rCompiling the scan for this GPU, once: 1 of 3"
        "\rCompiling the scan for this GPU, once: 3 of 3\n"
    )


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (RuntimeError("Failed to find C compiler. Please specify via CC"), "Failed to find C"),
        (ValueError("first\nout of resource: shared memory"), "ValueError: out of resource"),
        (AssertionError(), "AssertionError"),
    ],
)
def test_what_keeps_the_kernels_from_running_is_found_once(error, sentence, monkeypatch):
    calls = []

    def build(variant, target):
        calls.append(variant)
        raise error

    monkeypatch.setattr(compiling, "build", build)
    monkeypatch.setattr(compiling, "target_of", lambda device: None)
    monkeypatch.setattr(compiling, "_ready", {})
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    for _ in range(2):
        with pytest.raises(compiling.Unusable, match=sentence):
            compiling.ready("segments", "fp32", torch.device("cuda", 0))
    assert len(calls) <= len(of_group("segments", "fp32"))


def test_a_scan_that_cannot_run_says_so_once_and_is_right():
    """Outside the interpreter, tensors on the CPU stand for a GPU on which nothing compiles."""
    from workbench.kernels import reference
    from workbench.kernels.gpu import backend

    fallback._warn_once.cache_clear()
    args, order = interpreted.draw(1, 6, 2, 3, 2)
    with pytest.warns(RuntimeWarning, match="the reference scan takes its place") as caught:
        found = interpreted.cross(backend, args, order)
        interpreted.cross(backend, args, order)
    assert len(caught) == 1
    expected = interpreted.cross(reference, args, order)
    assert max(interpreted.errors(found, expected).values()) <= LIMIT


def division(batch, length, directions, dim, state=1):
    return Division.of(torch.Size((batch, length, directions, dim)), state, length)


def test_the_division_of_the_work_follows_from_the_shape():
    many = division(128, 3136, 4, 96)
    assert (many.shape, many.blocks, many.tiles, many.segments) == (WIDE, 3, 392, 1)
    for shape in ((3136, 4, 96), (784, 4, 192), (196, 4, 384), (49, 4, 768), (197, 1, 384, 16)):
        one = division(1, *shape)
        assert (one.shape, one.segments) == (TALL, 1)
    long = division(1, 16384, 1, 384, 16)
    assert long.shape is WIDE and long.segments * long.blocks > ENOUGH
    assert long.segments == -(-long.tiles // long.segment_tiles)


def test_float64_is_refused(monkeypatch):
    monkeypatch.setattr(kernels, "_triton", object())
    with pytest.raises(ValueError, match='float64; backend="reference" takes it'):
        kernels._backend_of("triton", torch.device("cuda"), torch.float64)


def test_a_dry_run_of_the_benchmark_prints_floors_and_measures_nothing():
    script = Path(__file__).parents[1] / "benchmarks" / "scan_gpu.py"
    command = [sys.executable, str(script), "--dry-run", "--only", "stage 1, batch"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    row = next(x for x in printed.splitlines() if "float32 | scan" in x)
    # (12 bytes * 128 * 3136 * 384 elements + 8 bytes * 128 * 3136 * 4 tokens) / 4.3 TB/s = 433 us
    assert row.count("| 433 | not measured |") == 1


def test_a_derivative_that_the_kernels_do_not_have_is_refused_or_taken_by_the_definition(
    monkeypatch,
):
    from workbench.kernels import reference
    from workbench.kernels.gpu import backend

    monkeypatch.setattr(kernels, "_triton", backend)
    gpu, beyond = torch.device("cuda"), "forward-mode differentiation"
    assert kernels._backend_of("auto", gpu, torch.float32) is backend
    assert kernels._backend_of("auto", gpu, torch.float32, beyond) is reference
    with pytest.raises(ValueError, match=beyond):
        kernels._backend_of("triton", gpu, torch.float32, beyond)
    args, order = interpreted.draw(1, 3, 1, 2, 1)
    with torch.autograd.forward_ad.dual_level():
        u = torch.autograd.forward_ad.make_dual(args.pop("u"), torch.ones(1, 3, 2))
        with pytest.raises(NotImplementedError, match="forward-mode"):
            backend.cross_selective_scan(
                u, **args, delta_softplus=True, order=order, merge=True
            )  # fmt: skip
