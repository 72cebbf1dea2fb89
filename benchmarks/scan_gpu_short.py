"""What `scan_gpu.py --short` measures: whether the GPU scan keeps its promises, in five minutes.

Cold compilation, right values, the same bits at every run, and the times that matter most, each
beside its goal and beside what an H200 showed for the kernels that were unrolled by hand.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

# Microseconds forward and backward: before (H200, torch 2.11, Triton 3.6), and the goal.
CROSS = {  # batch, tokens of a side, dim: SS2D of VMamba-T, 4 directions, one state, float32
    "SS2D stage 1, batch 1": ((1, 56, 96), (490, 1440), (150, 450)),
    "SS2D stage 2, batch 1": ((1, 28, 192), None, (150, 450)),
    "SS2D stage 3, batch 1": ((1, 14, 384), None, (150, 450)),
    "SS2D stage 4, batch 1": ((1, 7, 768), None, (150, 450)),
    "SS2D stage 1, batch 1, 1024 px": ((1, 256, 96), (780, 1470), (310, 620)),
    "SS2D stage 1, batch 128": ((128, 56, 96), (830, 1390), (830, 1390)),
    "SS2D stage 2, batch 128": ((128, 28, 192), (400, 1310), (400, 1310)),
    "SS2D stage 3, batch 128": ((128, 14, 384), (440, 1060), (440, 1060)),
    "SS2D stage 4, batch 128": ((128, 7, 768), (620, 1020), (620, 1020)),
}
SEQUENCES = {  # batch, length, groups, dim of a group, state
    "scan of VMamba-T stage 3, batch 128": ((128, 196, 4, 384, 1), (421, None), (305, None)),
    "scan of VMamba-T stage 4, batch 128": ((128, 49, 4, 768, 1), (366, None), (320, None)),
    "scan of Vim-T, batch 128": ((128, 197, 1, 384, 16), (200, 639), (200, 450)),
    "scan of 16384 steps, 16 states": ((1, 16384, 1, 384, 16), None, None),
}


def cold_compilation() -> dict[str, float]:
    """Seconds of wall time of processes with an empty cache."""
    scan = (
        "import torch, kernels\n"
        "x = torch.rand(1, 96, 64, device='cuda', requires_grad=True)\n"
        "B = torch.rand(1, 1, 64, device='cuda')\n"
        "y = kernels.selective_scan(x, x, -torch.ones(96, 1, device='cuda'), B, B)\n"
        "y.sum().backward(); torch.cuda.synchronize()"
    )
    warm = (
        "import torch\nfrom workbench.kernels.gpu import compiling\n"
        "compiling.warm(torch.device('cuda', 0), ('fp32', 'bf16'))"
    )
    found = {}
    for name, code in (("first scan and gradient", scan), ("every kernel", warm)):
        with tempfile.TemporaryDirectory() as cache:
            root = Path(__file__).parents[1]
            environment = {**os.environ, "TRITON_CACHE_DIR": cache, "PYTHONPATH": str(root)}
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], env=environment, check=True)
            found[name] = time.perf_counter() - start
    return found


def largest_error() -> float:
    """Of y and all gradients against the definition in float64, over both tiles and cut paths."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from interpreted import cross, draw, errors, wide

    from workbench.kernels import reference
    from workbench.kernels.gpu import backend

    worst = 0.0
    for shape in ((1, 300, 4, 40, 1), (2, 130, 2, 24, 16), (80, 100, 4, 40, 3), (1, 9000, 2, 8, 8)):
        args, order = draw(*shape)
        order[-1, -5:] = -1
        args, order = {name: x.cuda() for name, x in args.items()}, order.cuda()
        found = cross(backend, args, order)
        again = cross(backend, args, order)
        if not all(torch.equal(x, again[name]) for name, x in found.items()):
            raise SystemExit(f"two runs of {shape} differ: nothing below would mean anything")
        worst = max(worst, *errors(found, cross(reference, wide(args), order)).values())
    return worst


def both(scan: Callable, args: dict[str, Tensor], microseconds: Callable) -> tuple[float, float]:
    """Of a call as a model makes it, the processor's share included, and of all gradients."""
    with torch.no_grad():
        forward = microseconds(lambda: scan(**args))
    leaves = {name: x.detach().requires_grad_() for name, x in args.items()}
    y = scan(**leaves)
    dy = torch.randn_like(y)
    values = list(leaves.values())
    backward = microseconds(lambda: torch.autograd.grad(y, values, dy, retain_graph=True))
    return forward, backward


def run(
    draw: Callable, as_sequences: Callable, fused: Callable, ours: Callable, paths: Callable,
    make_case: Callable, microseconds: Callable,
) -> str:  # fmt: skip
    """All of it as a Markdown page."""
    lines = ["# The GPU scan, in short", "", f"{torch.cuda.get_device_name()}, "]
    import triton

    lines[-1] += f"torch {torch.__version__}, Triton {triton.__version__}."
    for name, seconds in cold_compilation().items():
        lines.append(f"Cold, {name}: {seconds:.1f} s, the start of Python included.")
    lines += [f"Largest relative error against float64: {largest_error():.1e} (goal 2e-6).", ""]
    lines += [
        "Microseconds forward / backward (all gradients). Before: H200, kernels unrolled by hand.",
        "",
        "| case | dtype | before | goal | now |",
        "|---|---|--:|--:|--:|",
    ]

    def row(name: str, dtype: torch.dtype, before, goal, now) -> None:
        cells = [_pair(x) if dtype == torch.float32 else "" for x in (before, goal)]
        shown = str(dtype).removeprefix("torch.")
        lines.append(f"| {name} | {shown} | {cells[0]} | {cells[1]} | {_pair(now)} |")
        print(lines[-1], file=sys.stderr, flush=True)

    for name, ((batch, side, dim), before, goal) in CROSS.items():
        for dtype in (torch.float32, torch.bfloat16):
            args = draw(make_case(batch, side * side, 4, dim, 1), dtype)
            args["u"] = args["u"][:, :, 0].contiguous()
            now = both(fused(paths(side)), args, microseconds)
            row(name, dtype, before, goal, now)
    for name, (shape, before, goal) in SEQUENCES.items():
        for dtype in (torch.float32, torch.bfloat16):
            args = as_sequences(draw(make_case(*shape), dtype), False)
            row(name, dtype, before, goal, both(ours, args, microseconds))
    return "\n".join(lines) + "\n"


def _pair(times) -> str:
    if times is None:
        return ""
    return " / ".join("" if x is None else f"{x:.0f}" for x in times)
