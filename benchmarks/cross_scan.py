"""The fused scan along paths against permuted copies, scan and merge, both by the numba kernels.

    python benchmarks/cross_scan.py --out benchmarks/results/cross_scan

Both compute what lies between the convolution and the norm of VMamba's SS2D from the same
parameters: projections, softplus, four scans, sum. The unfused chain works on (b, c, h, w), copies
the image along its four paths, scans (b, 4 c, l) and adds the copies back; the fused one leaves
every tensor in image order, channels last. Forward and backward to the image and all parameters, in
one process, called in turn; figures are medians of this process's CPU time on one thread, so that a
busy machine changes them little.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from pathlib import Path

# First, because it decides how torch's threads wait.
from workbench.process import prepare  # isort: skip

prepare()
import torch
import torch.nn.functional as F
from torch import Tensor

from workbench.kernels import cross_selective_scan, selective_scan, softplus
from workbench.paths import CROSS, scan_path
from workbench.scan import cross_merge, cross_scan, to_scan_order

# batch, side, channels, state, rank
SHAPES = {
    "VMamba-T stage 1": (1, 56, 96, 1, 6),
    "VMamba-T stage 2": (1, 28, 192, 1, 12),
    "VMamba-T stage 3": (1, 14, 384, 1, 24),
    "VMamba-T stage 4": (1, 7, 768, 1, 48),
    "VMamba-T stage 1, batch 8": (8, 56, 96, 1, 6),
    "VMamba-T v0 stage 1": (1, 56, 192, 16, 6),
}


def parameters(channels: int, state: int, rank: int) -> dict[str, Tensor]:
    torch.manual_seed(0)
    p = {
        "x_proj": torch.randn(4, rank + 2 * state, channels) / channels**0.5,
        "dt_proj": torch.randn(4, channels, rank) / rank**0.5,
        "bias": torch.randn(4 * channels) - 4,
        "A": -torch.arange(1.0, state + 1).repeat(4 * channels, 1),
        "D": torch.ones(4 * channels),
    }
    return {name: x.requires_grad_() for name, x in p.items()}


def unfused(x: Tensor, p: dict[str, Tensor], state: int, rank: int) -> Tensor:
    """(b, c, h, w) -> (b, c, h, w)."""
    paths = [scan_path(name, *x.shape[-2:]) for name in CROSS]
    weight = p["x_proj"].flatten(0, 1)
    projected = F.linear(x.permute(0, 2, 3, 1), weight).permute(0, 3, 1, 2).unflatten(1, (4, -1))
    parts = zip(projected.unbind(1), paths, strict=True)
    projected = torch.stack([to_scan_order(part, path) for part, path in parts], dim=1)
    dt, B, C = projected.split([rank, state, state], dim=2)
    delta = softplus((p["dt_proj"] @ dt).flatten(1, 2), p["bias"])
    y = selective_scan(cross_scan(x, paths).flatten(1, 2), delta, p["A"], B, C, p["D"])
    assert isinstance(y, Tensor)
    return cross_merge(y.unflatten(1, (4, -1)), paths)


def fused(x: Tensor, p: dict[str, Tensor], state: int, rank: int) -> Tensor:
    """(b, h, w, c) -> (b, h, w, c)."""
    height, width = x.shape[1:3]
    paths = torch.stack([torch.from_numpy(scan_path(n, height, width).order + 0) for n in CROSS])
    tokens = x.flatten(1, 2)
    projected = F.linear(tokens, p["x_proj"].flatten(0, 1)).unflatten(2, (4, -1))
    dt, B, C = projected.split([rank, state, state], dim=3)
    delta = dt.flatten(0, 1).transpose(0, 1) @ p["dt_proj"].transpose(1, 2)
    delta = delta.unflatten(1, dt.shape[:2]).permute(1, 2, 0, 3)
    y = cross_selective_scan(
        tokens, delta, p["A"], B, C, p["D"], paths=paths, delta_bias=p["bias"], delta_softplus=True
    )
    return y.unflatten(1, (height, width))


def seconds(chain: Callable, x: Tensor, p: dict, state: int, rank: int) -> tuple[float, float]:
    """CPU seconds of the forward pass, and of forward and backward."""
    start = time.process_time()
    y = chain(x, p, state, rank)
    middle = time.process_time()
    torch.autograd.grad(y, [x, *p.values()], torch.ones_like(y))
    return middle - start, time.process_time() - start


def measure(shape: tuple[int, ...], repeats: int) -> dict:
    batch, side, channels, state, rank = shape
    p = parameters(channels, state, rank)
    image = torch.randn(batch, side, side, channels)
    first = image.permute(0, 3, 1, 2).contiguous().requires_grad_()
    last = image.clone().requires_grad_()
    with torch.no_grad():
        one = unfused(first, p, state, rank).permute(0, 2, 3, 1)
        two = fused(last, p, state, rank)
    times: dict[str, list] = {"unfused": [], "fused": []}
    for repeat in range(repeats + 2):
        for chain, x in ((unfused, first), (fused, last)):
            taken = seconds(chain, x, p, state, rank)
            if repeat >= 2:
                times[chain.__name__].append(taken)
    found = {
        name: [1e3 * statistics.median(column) for column in zip(*taken, strict=True)]
        for name, taken in times.items()
    }
    return {
        "shape": shape,
        **found,
        "difference": ((one - two).abs().max() / one.abs().max()).item(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="write OUT.json and OUT.md")
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    torch.set_num_threads(1)
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text().splitlines()
        cpu = next((x.split(":")[1].strip() for x in lines if "model name" in x), cpu)
    machine = {
        "date": date.today().isoformat(),
        "cpu": cpu,
        "torch": version("torch"),
        "numba": version("numba"),
        "load": "shared machine; CPU time of one thread",
    }
    about = ", ".join(f"{key} {value}" for key, value in machine.items())
    text = ["# The fused cross scan", "", f"Measured by `benchmarks/cross_scan.py`: {about}.", ""]
    text += [
        "| case (batch, side, channels, state, rank) | unfused fwd, fwd+bwd ms | "
        "fused fwd, fwd+bwd ms | times faster, fwd | fwd+bwd | difference |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    cases = {}
    for name, shape in SHAPES.items():
        r = cases[name] = measure(shape, args.repeats)
        (a, b), (c, d) = r["unfused"], r["fused"]
        text.append(
            f"| {name} {shape} | {a:.2f}, {b:.2f} | {c:.2f}, {d:.2f} | {a / c:.2f} | {b / d:.2f} "
            f"| {r['difference']:.0e} |"
        )
        print(text[-1], flush=True)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        results = json.dumps({"machine": machine, "cases": cases}, indent=1)
        args.out.with_suffix(".json").write_text(results + "\n")
        args.out.with_suffix(".md").write_text("\n".join(text) + "\n")


if __name__ == "__main__":
    main()
