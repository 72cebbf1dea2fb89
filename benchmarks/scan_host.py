"""What a call of the GPU scan costs the processor, without a GPU: all launches do nothing.

    python benchmarks/scan_host.py --out benchmarks/results/scan_host.json
    python benchmarks/scan_host.py --against PATH     # and of another checkout, in turns

A fused cross scan of four directions, as a model calls it, on tensors of the CPU that are handed
over but not read. Both allocate what they would on a GPU. `--against` runs the two checkouts in
turns, in processes of their own, so that a busy machine is busy for both.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from importlib import import_module
from pathlib import Path
from types import ModuleType

# As measured before kernels were compiled ahead and calls planned, another day on this machine.
BEFORE = {"forward": 290, "backward": 390}
CALLS, ROUNDS = 300, 5
SHAPE = {"batch": 1, "length": 3136, "directions": 4, "dim": 96, "state": 1}


def of_checkout(name: str = "") -> ModuleType:
    """A module of the kernels, which were a package of their own in older checkouts."""
    try:
        return import_module(f"workbench.kernels{name}")
    except ImportError:
        return import_module(f"kernels{name}")


def silence() -> None:
    """Let the kernels of this checkout, whichever it is, do nothing."""
    import triton

    try:
        compiling = of_checkout(".gpu.compiling")
    except ImportError:  # a checkout whose kernels Triton launched
        triton.JITFunction.__getitem__ = lambda self, grid: lambda *args, **kwargs: None
    else:
        plan = of_checkout(".gpu.plan")
        compiling.ready = plan.compiling.ready = lambda *args: None
        compiling.runner = plan.compiling.runner = lambda *args: lambda *tensors: None


def measure() -> dict[str, float]:
    """Microseconds a call: the quickest tenth, as the machine is shared."""
    # An editable install would lend another checkout the modules that it lacks.
    sys.meta_path[:] = [finder for finder in sys.meta_path if "Editable" not in repr(finder)]
    sys.path.insert(0, os.environ.get("PYTHONPATH") or str(Path(__file__).parents[1]))
    import torch

    torch.set_num_threads(1)
    silence()
    kernels = of_checkout()
    try:
        backend = of_checkout(".gpu").backend
    except ImportError:  # an older checkout
        backend = of_checkout(".triton_scan")

    b, length, k, d, n = SHAPE.values()
    u, delta = torch.zeros(b, length, d), torch.zeros(b, length, k, d)
    A, B, C = -torch.ones(k * d, n), torch.zeros(b, length, k, n), torch.zeros(b, length, k, n)
    D, bias = torch.zeros(k * d), torch.zeros(k * d)
    order = torch.arange(length, dtype=torch.int32).expand(k, -1).contiguous()
    u.requires_grad_()

    # The public function, checks and all, with the GPU's kernels for tensors of the CPU.
    kernels._triton, kernels._backend_of = backend, lambda *args, **kwargs: backend

    def scan():
        return kernels.cross_selective_scan(
            u, delta, A, B, C, D, paths=order, delta_bias=bias, delta_softplus=True
        )

    dy = torch.zeros_like(scan())
    y = scan()
    found = {
        "forward": _tenth(scan),
        "backward": _tenth(lambda: torch.autograd.grad(y, u, dy, retain_graph=True)),
    }
    with torch.no_grad():
        found["forward, no gradients"] = _tenth(scan)
    u.requires_grad_()
    everything = [x.requires_grad_() for x in (u, delta, A, B, C, D, bias)]
    y = scan()
    found["backward, all gradients"] = _tenth(
        lambda: torch.autograd.grad(y, everything, dy, retain_graph=True)
    )
    return found


def _tenth(call: Callable) -> float:
    for _ in range(20):
        call()
    times = []
    for _ in range(CALLS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1e6 * statistics.quantiles(times, n=10)[0]


def in_turns(checkouts: dict[str, Path]) -> dict[str, dict[str, float]]:
    """The least over rounds of every figure, by checkout: the machine is shared."""
    rounds: dict[str, list[dict]] = {name: [] for name in checkouts}
    for _ in range(ROUNDS):
        for name, root in checkouts.items():
            environment = {**os.environ, "PYTHONPATH": str(root)}
            command = [sys.executable, __file__, "--once"]
            done = subprocess.run(
                command, env=environment, check=True, capture_output=True, text=True
            )
            rounds[name].append(json.loads(done.stdout))
    return {
        name: {key: round(min(x[key] for x in found)) for key in found[0]}
        for name, found in rounds.items()
    }


def table(results: dict) -> str:
    about = ", ".join(f"{key} {value}" for key, value in results["machine"].items())
    times = results["microseconds"]
    names = list(times)
    lines = [
        "# What a call of the GPU scan costs the processor", "",
        f"`benchmarks/scan_host.py`: {about}.", "",
        f"Microseconds without the launches, fused cross scan {tuple(results['shape'].values())} "
        "(batch, length, directions, dim, state), the quickest tenth of calls. The first column is "
        "an earlier measurement of the code before; the others were taken in turns.", "",
        f"| | first measured | {' | '.join(names)} |",
        f"|---|--:|{'--:|' * len(names)}",
    ]  # fmt: skip
    for key in times[names[-1]]:
        cells = [str(results["before"].get(key, ""))]
        cells += [f"{times[name][key]:.0f}" for name in names]
        lines.append(f"| {key} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, help="write this JSON file and a .md table")
    parser.add_argument("--against", type=Path, help="another checkout, called 'before'")
    parser.add_argument("--once", action="store_true", help="print one measurement as JSON")
    args = parser.parse_args()
    if args.once:
        print(json.dumps(measure()))
        return
    import torch
    import triton

    checkouts = {"before": args.against.resolve()} if args.against else {}
    checkouts["now"] = Path(__file__).parents[1]
    results = {
        "machine": {
            "date": date.today().isoformat(),
            "torch": torch.__version__,
            "triton": triton.__version__,
            "cores": os.cpu_count(),
        },
        "shape": SHAPE,
        "before": BEFORE,
        "microseconds": in_turns(checkouts),
    }
    print(table(results))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(results, indent=1) + "\n")
        args.out.with_suffix(".md").write_text(table(results))


if __name__ == "__main__":
    main()
