"""Time, memory and accuracy of the CPU scan against mambapy and mamba_ssm's reference algorithm.

    python benchmarks/scan.py --out results/scan.json

All three compute softplus(delta + bias), the scan and D u in float32, in one process, called in
turn; a figure is the least of its repeats, in wall time or, on one thread, in CPU time, which other
work on the machine changes less. "forward" runs without autograd, "forward + backward" takes the
gradients of all seven inputs. `--before` takes the JSON file of another version, run in its folder.

- mambapy (`pip install -e ".[bench]"`) is called as its MambaBlock calls it: exp(delta A) and
  delta B u as (b, l, d, n) tensors, then `pscan`, then C.
- mamba_ssm's package needs CUDA to install; its `selective_scan_ref` is written out below with the
  same operations in the same order. It indexes `deltaA[:, :, t]` inside the loop, so its backward
  pass makes a full-length zero gradient per step and takes time quadratic in length. That is how
  the reference is, and why it is the slow end of this table.

Memory is the rise of the peak resident size over the level just before one forward and backward
pass, in a fresh process per figure that has warmed up on a small shape. It counts outputs,
gradients and temporaries, not the inputs. Linux only: the peak is VmHWM, reset by clear_refs.
"""

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from functools import lru_cache
from pathlib import Path

import numba
import torch
import torch.nn.functional as F
from processor import processor
from torch import Tensor

from workbench.kernels import selective_scan

try:
    from mambapy.pscan import pscan
except ImportError:
    sys.exit('The comparison needs mambapy: pip install "vssm-workbench[bench]", or -e ".[bench]".')

# batch, dim, groups, state, length
SHAPES = {
    "smallest": (1, 16, 1, 1, 16),
    "Vim-T": (1, 384, 1, 16, 197),
    "Vim-T, batch 8": (8, 384, 1, 16, 197),
    "VMamba-T stage 1": (1, 384, 4, 1, 3136),
    "VMamba-T stage 2": (1, 768, 4, 1, 784),
    "VMamba-T stage 3": (1, 1536, 4, 1, 196),
    "VMamba-T stage 4": (1, 3072, 4, 1, 49),
    "MambaVision-T stage 3": (1, 160, 1, 8, 196),
}
LENGTHS = (1024, 4096, 16384)
QUICK_SHAPES = {"quick": (1, 32, 2, 4, 100)}
QUICK_LENGTHS = (64, 256)

# The reference is left out where its backward pass would take minutes.
REFERENCE_LIMIT = 4e9  # b d n l^2

# Calls of ours for each of the others: it is short, and so its least is easily disturbed.
OURS, OURS_SMALLEST = 5, 200


def ours(u, delta, A, B, C, D, bias) -> Tensor:
    return selective_scan(u, delta, A, B, C, D, None, bias, True, backend="cpu")


def mambapy(u, delta, A, B, C, D, bias) -> Tensor:
    repeats = u.shape[1] // B.shape[1]
    u, delta = u.transpose(1, 2), F.softplus((delta + bias[:, None]).transpose(1, 2))
    if B.shape[1] > 1:  # it knows no groups: every channel gets its own B and C
        B, C = (x.repeat_interleave(repeats, 1).permute(0, 3, 1, 2) for x in (B, C))
    else:
        B, C = B.permute(0, 3, 1, 2), C.permute(0, 3, 1, 2)  # [b, l, 1, n]
    deltaA = torch.exp(delta.unsqueeze(-1) * A)
    BX = delta.unsqueeze(-1) * B * u.unsqueeze(-1)
    hs = pscan(deltaA, BX)
    y = (hs @ C.transpose(2, 3)).squeeze(3) if C.shape[2] == 1 else (hs * C).sum(-1)
    return (y + D * u).transpose(1, 2)


def mamba_ssm(u, delta, A, B, C, D, bias) -> Tensor:
    """The algorithm of mamba_ssm's selective_scan_ref, indexing included."""
    delta = F.softplus(delta + bias[:, None])
    B, C = (x.repeat_interleave(u.shape[1] // x.shape[1], 1) for x in (B, C))  # [b, d, n, l]
    deltaA = torch.exp(torch.einsum("bdl,dn->bdln", delta, A))
    deltaB_u = torch.einsum("bdl,bdnl,bdl->bdln", delta, B, u)
    x = A.new_zeros(len(u), *A.shape)
    ys = []
    for t in range(u.shape[2]):
        x = deltaA[:, :, t] * x + deltaB_u[:, :, t]
        ys.append(torch.einsum("bdn,bdn->bd", x, C[:, :, :, t]))
    return torch.stack(ys, dim=2) + u * D[:, None]


SCANS = {"ours": ours, "mambapy": mambapy, "mamba_ssm": mamba_ssm}


def draw(batch: int, dim: int, groups: int, state: int, length: int) -> list[Tensor]:
    """Inputs with the statistics of a freshly initialised Mamba block; all require grad.

    u and delta are (b, d, l) views of (b, l, d) memory: what the linear layers of a model write,
    and what mambapy works on.
    """
    torch.manual_seed(0)
    inputs = [
        torch.randn(batch, length, dim).transpose(1, 2),
        torch.randn(batch, length, dim).transpose(1, 2),
        -torch.arange(1.0, state + 1).repeat(dim, 1),
        torch.randn(batch, groups, state, length),
        torch.randn(batch, groups, state, length),
        torch.ones(dim),
        0.5 * torch.randn(dim) - 4,
    ]
    return [x.requires_grad_() for x in inputs]


def forward(scan: Callable, inputs: list[Tensor]) -> Tensor:
    with torch.no_grad():
        return scan(*inputs)


def forward_backward(scan: Callable, inputs: list[Tensor]) -> tuple[Tensor, ...]:
    y = scan(*inputs)
    dy = output_gradient(y.shape, y.stride(1) == 1, y.dtype)
    return y.detach(), *torch.autograd.grad(y, inputs, dy)


@lru_cache(maxsize=4)
def output_gradient(shape: torch.Size, channels_last: bool, dtype: torch.dtype) -> Tensor:
    """The gradient of y, made once: it is an input of the backward pass, not part of it."""
    batch, dim, length = shape
    if channels_last:
        return torch.ones(batch, length, dim, dtype=dtype).transpose(1, 2)
    return torch.ones(shape, dtype=dtype)


def milliseconds(call: Callable, *args) -> float:
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    call(*args)
    return 1e3 * (clock() - start)


def scans_for(shape: tuple[int, ...]) -> dict[str, Callable]:
    batch, dim, _, state, length = shape
    slow = batch * dim * state * length**2 > REFERENCE_LIMIT
    return {name: scan for name, scan in SCANS.items() if not (slow and name == "mamba_ssm")}


def time_shape(shape: tuple[int, ...], repeats: int) -> dict[str, dict[str, float]]:
    """Least milliseconds by scan and pass. The slow reference runs at most twice."""
    inputs, times = draw(*shape), {}
    ours = OURS_SMALLEST if math.prod(shape) < 1000 else OURS
    for repeat in range(repeats + 1):  # the first round warms up
        for name, scan in scans_for(shape).items():
            if name == "mamba_ssm" and repeat > 2:
                continue
            for call in (forward, forward_backward):
                for _ in range(ours if name == "ours" else 1):
                    taken = milliseconds(call, scan, inputs)
                    if repeat:
                        times.setdefault(name, {}).setdefault(call.__name__, []).append(taken)
    return {
        name: {call: min(taken) for call, taken in calls.items()} for name, calls in times.items()
    }


def errors(shape: tuple[int, ...]) -> dict[str, float]:
    """Largest relative error of y and all gradients against the definition in float64."""
    inputs = draw(*shape)
    wide = [x.detach().double().requires_grad_() for x in inputs]

    def definition(u, delta, A, B, C, D, bias):
        return selective_scan(u, delta, A, B, C, D, None, bias, True, backend="reference")

    exact = forward_backward(definition, wide)
    return {
        name: max(
            ((x - y).abs().max() / y.abs().max()).item()
            for x, y in zip(forward_backward(scan, inputs), exact, strict=True)
        )
        for name, scan in scans_for(shape).items()
    }


def status(field: str) -> int:
    """A memory field of this process in bytes: VmRSS (resident now) or VmHWM (its peak)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(x.split()[1]) for x in lines if x.startswith(field + ":"))


def peak_memory(name: str, shape: tuple[int, ...]) -> float:
    """MB by which one forward and backward pass raises the peak; call in a fresh process."""
    forward_backward(SCANS[name], draw(1, 16, 1, shape[3], 70))
    inputs = draw(*shape)
    for channels_last in (True, False):
        output_gradient(inputs[0].shape, channels_last, inputs[0].dtype)
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    forward_backward(SCANS[name], inputs)
    return (status("VmHWM") - before) / 1e6


def peak_memory_in_subprocess(name: str, shape: tuple[int, ...], threads: int) -> float:
    command = [sys.executable, __file__, "--threads", str(threads), "--memory-of", name]
    command += [str(size) for size in shape]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure_shape(shape: tuple[int, ...], repeats: int, threads: int) -> dict:
    times = time_shape(shape, repeats)
    wrong = errors(shape)
    return {
        "shape": shape,
        "scans": {
            name: {
                **times[name],
                "memory": peak_memory_in_subprocess(name, shape, threads),
                "error": wrong[name],
            }
            for name in times
        },
    }


def machine(threads: int) -> dict[str, str]:
    kind = numba.core.config.CPU_NAME or numba_cpu()
    return {
        "date": date.today().isoformat(),
        "cpu": f"{processor()} ({kind}), {os.cpu_count()} cores",
        "threads": str(threads),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numba": numba.__version__,
    }


def numba_cpu() -> str:
    """The processor that LLVM compiles for."""
    from llvmlite import binding

    return binding.get_host_cpu_name()


def table(results: dict, before: dict | None) -> str:
    """The results as a Markdown page."""
    about = ", ".join(f"{key} {value}" for key, value in results["machine"].items())
    lines = ["# The CPU scan", "", f"Measured by `benchmarks/scan.py`: {about}."]
    if before:
        about = ", ".join(f"{key} {value}" for key, value in before["machine"].items())
        lines.append(f"Before, measured by the same file: {about}.")
    lines += [
        "",
        "| case (batch, dim, groups, state, length) | scan | forward ms | before "
        "| forward + backward ms | before | times ours | peak memory MB | before | error |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for case, entry in results["cases"].items():
        base = entry["scans"]["ours"]["forward_backward"]
        for name, x in entry["scans"].items():
            old = before["cases"].get(case) if before and name == "ours" else None
            old = {key: f"{y:.3g}" for key, y in old["scans"]["ours"].items()} if old else {}
            lines.append(
                f"| {case} {tuple(entry['shape'])} | {name} "
                f"| {x['forward']:.3g} | {old.get('forward', '')} "
                f"| {x['forward_backward']:.3g} | {old.get('forward_backward', '')} "
                f"| {x['forward_backward'] / base:.1f} "
                f"| {x['memory']:.1f} | {old.get('memory', '')} | {x['error']:.1e} |"
            )
    clock = "CPU" if results["machine"]["threads"] == "1" else "wall"
    lines += [
        "",
        f"Times are the least of their repeats, in {clock} time; memory is the rise of the peak in "
        "one forward and backward pass; the error is the largest of y and seven gradients against "
        "float64, relative to the largest value.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="write this JSON file and a .md table beside it")
    parser.add_argument("--quick", action="store_true", help="tiny shapes, to see that it runs")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--before", type=Path, help="the JSON file of another version")
    parser.add_argument("--scans", nargs="+", choices=list(SCANS), help="ours is always there")
    parser.add_argument("--only", nargs="+", help="cases by name")
    parser.add_argument("--memory-of", nargs=6, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for name in set(SCANS) - {"ours", *(args.scans or SCANS)}:
        del SCANS[name]
    if args.memory_of:
        name, *shape = args.memory_of
        print(peak_memory(name, tuple(int(size) for size in shape)))
        return

    cases = dict(QUICK_SHAPES if args.quick else SHAPES)
    for length in QUICK_LENGTHS if args.quick else LENGTHS:
        cases[f"length {length}"] = (1, 192, 1, 16, length)
    if args.only:
        cases = {case: cases[case] for case in args.only}
    results = {"machine": machine(args.threads), "cases": {}}
    for case, shape in cases.items():
        print(f"measuring {case} {shape}", file=sys.stderr, flush=True)
        repeats = min(args.repeats, 3) if args.quick else args.repeats
        results["cases"][case] = measure_shape(shape, repeats, args.threads)
    before = json.loads(args.before.read_text()) if args.before else None
    page = table(results, before)
    print(page)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(results, indent=1) + "\n")
        args.out.with_suffix(".md").write_text(page)


if __name__ == "__main__":
    main()
