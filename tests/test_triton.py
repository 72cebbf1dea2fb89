"""The GPU kernels without a GPU: run by Triton's interpreter, and compiled for three generations.

`tests/interpreted.py` holds the interpreted cases and runs them in a process of its own.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import interpreted
import pytest

pytest.importorskip("triton")

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

import kernels
from kernels.gpu import passes
from kernels.gpu import scan as gpu_scan
from kernels.gpu import scan_kernels as scans

FLOAT32 = 2e-6
HALF = 1e-2


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
    limit = HALF if "float16" in case else FLOAT32
    assert found
    for name, value in found.items():
        assert value is True or (value is not False and value <= limit), f"{name}: {value}"


# Compilation

HALVES = ("u", "delta", "y", "dy", "du", "ddelta", "source", "B", "C", "dB", "dC", "x", "dx")
INTEGERS = {"order": "*i32", "tokens": "*i32", "counts": "*i32", "pairs": "*i64"}

# Scans with softplus, bias and skip, of 1 or 16 states, whole blocks of channels.
BASE = {"SOFTPLUS": True, "HAS_BIAS": True, "EVEN": True, "WIDE": False, "CHUNK": 16, "BLOCK": 32}
ONE, MANY = {**BASE, "STATE": 1}, {**BASE, "STATE": 16}
ALONG = {"CHUNK": 16, "STATE": 16, "STATES": 16, "STEPS": gpu_scan.STEPS}
TILE = {"ROWS": 8, "COLUMNS": 128}

ALL = (80, 90, 100)
VARIANTS = {  # name: kernel, constants, dtype of the large tensors, warps, architectures
    "forward": (scans.forward, {**MANY, "HAS_D": True, "SAVE": True}, "fp32", 1, ALL),
    "forward, 1 state": (scans.forward, {**ONE, "HAS_D": True, "SAVE": True}, "fp32", 1, (90,)),
    "forward, bfloat16, nothing saved": (
        scans.forward, {**ONE, "HAS_D": True, "SAVE": False}, "bf16", 1, (90,),
    ),
    "backward": (scans.backward, {**MANY, "HAS_D": True, "HAS_LAST": False}, "fp32", 1, ALL),
    "backward, 1 state, bfloat16": (
        scans.backward, {**ONE, "HAS_D": True, "HAS_LAST": True}, "bf16", 1, (90,),
    ),
    "segment ends": (scans.segment_ends, {**MANY, "BACKWARD": False}, "fp32", 1, ALL),
    "segment ends, backward": (scans.segment_ends, {**ONE, "BACKWARD": True}, "fp32", 1, (90,)),
    "carry": (
        scans.carry,
        {"STATE": 16, "HAS_START": False, "BACKWARD": False, "AHEAD": 8, "BLOCK": 32},
        "fp32", 1, ALL,
    ),
    "carry, backward": (
        scans.carry,
        {"STATE": 16, "HAS_START": True, "BACKWARD": True, "AHEAD": 8, "BLOCK": 32},
        "fp32", 1, (90,),
    ),
    "read path": (
        passes.read_path, {**ALONG, "ORDERED": True}, "fp32", 4, ALL,
    ),
    "read path in order": (
        passes.read_path, {**ALONG, "ORDERED": False}, "bf16", 4, (90,),
    ),
    "scatter sums": (passes.scatter_sums, {**ALONG, "ORDERED": True}, "fp32", 4, ALL),
    "clear unvisited": (passes.clear_unvisited, {"BLOCK": 128}, "fp32", 4, ALL),
    "merge": (passes.merge, TILE, "fp32", 4, ALL),
    "softplus": (passes.softplus_forward, {**TILE, "BIAS": "rows"}, "fp32", 4, ALL),
    "softplus, backward": (
        passes.softplus_backward, {**TILE, "BIAS": "columns"}, "fp32", 4, ALL,
    ),
}  # fmt: skip


def compile_variant(kernel, constants, dtype, warps, architecture):
    """Compile as `kernels.gpu.scan.launch` would for pointers at multiples of 16."""
    signature, attributes = {}, {}
    sizes = {*scans.INTEGERS}
    for i, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
        elif name in sizes:
            signature[name] = "i32"
        else:
            pointer = "*" + (dtype if name in HALVES else "fp32")
            # read_path fills the pairs as float32 numbers.
            signature[name] = (
                "*fp32" if name == "pairs" and warps > 1 else INTEGERS.get(name, pointer)
            )
            attributes[(i,)] = [["tt.divisibility", 16]]
    registers = None
    if kernel is scans.backward:
        registers = gpu_scan.backward_registers(divmod(architecture, 10), constants)
    elif warps == 1 and kernel is not scans.carry:
        registers = gpu_scan.REGISTERS
    return triton.compile(
        ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes),
        target=GPUTarget("cuda", architecture, 32),
        options={
            "num_warps": warps,
            "num_stages": 1,
            "enable_fp_fusion": False,
            "maxnreg": registers,
        },
    )


def resources(compiled, folder: Path) -> dict[str, int]:
    """Registers, stack and local memory per thread of a compiled kernel, from its machine code."""
    cubin = folder / "kernel.cubin"
    cubin.write_bytes(compiled.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    command = [str(tool), "--dump-resource-usage", str(cubin)]
    line = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[
        -1
    ]
    fields = dict(field.split(":") for field in line.split() if field.count(":") == 1)
    return {name: int(fields[name]) for name in ("REG", "STACK", "LOCAL")}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "architecture"),
    [(name, x) for name, (*_, architectures) in VARIANTS.items() for x in architectures],
)
def test_compiles_without_spilling(variant, architecture, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel, constants, dtype, warps, _ = VARIANTS[variant]
    compiled = compile_variant(kernel, constants, dtype, warps, architecture)
    used = resources(compiled, tmp_path)
    shared = compiled.metadata.shared
    print(
        f"sm_{architecture} {variant}: {used['REG']} registers, {used['STACK']} bytes spilled, "
        f"{shared} bytes shared"
    )
    assert used["STACK"] == 0 and used["LOCAL"] == 0
    if warps == 1:  # the scan itself exchanges values between threads by shuffles alone
        assert shared == 0


def test_the_cut_into_segments_follows_from_the_shape():
    def plan(batch, length, directions, dim, state=1):
        meta = {"device": "meta"}
        delta = torch.empty(batch, length, directions, dim, **meta)
        return gpu_scan.Plan.of(delta, torch.empty(directions * dim, state, **meta), None)

    many = plan(128, 3136, 4, 96)
    assert (many.blocks, many.chunks, many.segments) == (3, 196, 1)
    one = plan(1, 16384, 1, 384, 16)
    assert one.segments * one.blocks > gpu_scan.ENOUGH
    assert one.segments == -(-one.chunks // one.segment_chunks)
    assert plan(1, 196, 4, 384).segments == 1  # too short


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
