"""Time of the GPU scan against what the hardware allows and against mamba_ssm's CUDA kernel.

    python benchmarks/scan_gpu.py --out benchmarks/results/scan_gpu.json
    python benchmarks/scan_gpu.py --short --out out/scan_gpu_short.md   # five minutes
    python benchmarks/scan_gpu.py --dry-run      # shapes and floors, on any machine

A floor is the largest of three times: every input and output moved once at the copy bandwidth of
the memory; n + 2 exponentials per element forward (n + 4 backward) at 16 per clock and
multiprocessor; 6 n + 10 floating-point operations forward, 20 n backward. The rates are those of an
H200; the copy bandwidth is also measured, and with a GPU the floors use the measured one.

Scans: softplus(delta + bias), the scan and D u. "forward" runs without autograd, "backward" is the
gradient of all seven inputs. Inputs are (b, l, d) in memory for ours, (b, d, l) for mamba_ssm, as
each likes it best. mamba_ssm is compared when it imports; it is built where nvcc is:

    pip download --no-deps --no-build-isolation --no-binary :all: mamba-ssm   # the sources
    MAMBA_FORCE_BUILD=TRUE pip install --no-build-isolation mamba_ssm-*.tar.gz

Cross scans: "fused" reads the image along four paths and adds up; "copies" copies it into four
sequences, scans, copies back and adds, with our scan or with mamba_ssm's. In both delta, B and C
are there already. Floors of cross scans are those of the fused form, with u and y moved once.

A time is the median over repeats, by CUDA events, with the L2 cache cleared before each. At batch 1
launching takes Python longer than running takes the GPU, so that forward and forward + backward are
replayed from CUDA graphs there, without clearing the cache, and "backward" is the difference.
"""

import argparse
import json
import platform
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

import torch
from torch import Tensor

BANDWIDTH = 4.3e12  # bytes/s, what a copy reaches on an H200
EXPONENTIALS = 4.18e12  # per second: 132 multiprocessors, 16 per clock, 1.98 GHz
OPERATIONS = 67e12  # float32 per second
DEVICE = "cuda"


@dataclass(frozen=True)
class Case:
    """A scan of `batch` images: `directions` groups of `dim` channels each."""

    batch: int
    length: int
    directions: int
    dim: int
    state: int

    @property
    def elements(self) -> int:
        return self.batch * self.length * self.directions * self.dim

    def floor(self, backward: bool, width: int, bandwidth: float, fused: bool = False) -> float:
        """Seconds; `fused` counts u and y of a cross scan once for all directions."""
        shared = 1 / self.directions if fused else 1
        tensors = (
            3 * shared + 2 if backward else 2 * shared + 1
        )  # u, dy, du, delta, ddelta / u, y, delta
        tokens = self.batch * self.length * self.directions * self.state
        moved = width * (tensors * self.elements + (4 if backward else 2) * tokens)
        exponentials = self.elements * (self.state + (4 if backward else 2))
        operations = self.elements * (20 * self.state if backward else 6 * self.state + 10)
        return max(moved / bandwidth, exponentials / EXPONENTIALS, operations / OPERATIONS)


SCANS = {
    "VMamba-T stage 1, batch 128": Case(128, 3136, 4, 96, 1),
    "VMamba-T stage 2, batch 128": Case(128, 784, 4, 192, 1),
    "VMamba-T stage 3, batch 128": Case(128, 196, 4, 384, 1),
    "VMamba-T stage 4, batch 128": Case(128, 49, 4, 768, 1),
    "VMamba-T v0 stage 1, batch 128": Case(128, 3136, 4, 192, 16),
    "Vim-T, batch 128": Case(128, 197, 1, 384, 16),
    "Vim-S, batch 128": Case(128, 197, 1, 768, 16),
    "16384 steps, 16 states": Case(1, 16384, 1, 384, 16),
    "16384 steps, 4 directions": Case(1, 16384, 4, 384, 1),
}
CROSS = [name for name, case in SCANS.items() if case.directions == 4]


def floors(bandwidth: float) -> dict:
    """Microseconds by case, pass and dtype; of cross scans also the fused form."""
    found = {}
    for name, case in SCANS.items():
        entry = {"case": asdict(case), "scan": {}}
        for dtype, width in (("float32", 4), ("bfloat16", 2)):
            entry["scan"][dtype] = {
                "forward": 1e6 * case.floor(False, width, bandwidth),
                "backward": 1e6 * case.floor(True, width, bandwidth),
            }
        if name in CROSS:
            entry["fused"] = {
                dtype: {
                    "forward": 1e6 * case.floor(False, width, bandwidth, fused=True),
                    "backward": 1e6 * case.floor(True, width, bandwidth, fused=True),
                }
                for dtype, width in (("float32", 4), ("bfloat16", 2))
            }
        found[name] = entry
    return found


def microseconds(call: Callable, repeat_ms: int, graph: bool = False) -> float:
    from triton import testing

    if graph:
        return 1e3 * testing.do_bench_cudagraph(call, rep=repeat_ms, return_mode="median")
    return 1e3 * testing.do_bench(call, warmup=repeat_ms // 4, rep=repeat_ms, return_mode="median")


def measure_bandwidth(repeat_ms: int) -> float:
    """Bytes read and written per second by a copy of 2 GiB."""
    source = torch.empty(2**29, device=DEVICE)
    target = torch.empty_like(source)
    return 2 * 4 * 2**29 / (1e-6 * microseconds(lambda: target.copy_(source), repeat_ms))


def draw(case: Case, dtype: torch.dtype) -> dict[str, Tensor]:
    """Inputs in token order and channels last, with the statistics of a fresh Mamba block."""
    generator = torch.Generator(DEVICE).manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, device=DEVICE, dtype=dtype)

    b, length, k, d, n = case.batch, case.length, case.directions, case.dim, case.state
    return {
        "u": normal(b, length, k, d),
        "delta": normal(b, length, k, d),
        "A": -torch.arange(1.0, n + 1, device=DEVICE).repeat(k * d, 1),
        "B": normal(b, length, k, n),
        "C": normal(b, length, k, n),
        "D": torch.ones(k * d, device=DEVICE),
        "delta_bias": normal(k * d).float() * 0.5 - 4,
    }


def as_sequences(args: dict[str, Tensor], contiguous: bool) -> dict[str, Tensor]:
    """(b, k d, l) and (b, k, n, l), either as views or laid out that way."""
    views = {
        name: x.flatten(2).transpose(1, 2)
        if name in ("u", "delta")
        else x.permute(0, 2, 3, 1)
        if name in ("B", "C")
        else x
        for name, x in args.items()
    }
    return {name: x.contiguous() for name, x in views.items()} if contiguous else views


def time_both(scan: Callable, args: dict[str, Tensor], repeat_ms: int) -> dict[str, float]:
    """Microseconds of the forward pass, and of the gradient of everything."""
    graph = len(args["u"]) == 1
    leaves = {name: x.detach().requires_grad_() for name, x in args.items()}
    values = list(leaves.values())
    y = scan(**leaves)
    dy = torch.randn_like(y)

    def forward():
        with torch.no_grad():
            scan(**leaves)

    def backward():
        again = scan(**leaves) if graph else y
        torch.autograd.grad(again, values, dy, retain_graph=not graph)

    first = microseconds(forward, repeat_ms, graph)
    second = microseconds(backward, repeat_ms, graph)
    return {"forward": first, "backward": second - first if graph else second}


def mamba_ssm() -> Callable | None:
    """mamba_ssm's selective scan, where it is installed."""
    try:
        from mamba_ssm.ops.selective_scan_interface import (  # pyright: ignore
            selective_scan_fn,
        )
    except ImportError:
        return None
    return lambda u, delta, A, B, C, D, delta_bias: selective_scan_fn(
        u, delta, A, B, C, D, None, delta_bias, True
    )


def ours(u, delta, A, B, C, D, delta_bias) -> Tensor:
    from workbench.kernels.gpu import backend

    return backend.selective_scan(u, delta, A, B, C, D, delta_bias, True)[0]


def four_paths(side: int) -> Tensor:
    """Rows, columns and both reversed, (4, side^2)."""
    rows = torch.arange(side * side, dtype=torch.int32, device=DEVICE)
    columns = rows.view(side, side).T.flatten()
    return torch.stack([rows, columns, rows.flip(0), columns.flip(0)])


def fused(order: Tensor) -> Callable:
    from workbench.kernels.gpu import backend

    def scan(u, delta, A, B, C, D, delta_bias):
        return backend.cross_selective_scan(u, delta, A, B, C, D, delta_bias, True, order, True)

    return scan


def copies(side: int, scan: Callable, channels_last: bool) -> Callable:
    """The cross scan as models run it: copy the image four times, scan, copy back and add.

    delta, B and C are sequences already, in scan order, as a projection of the copies gives them.
    """
    axis, stacked = (1, 2) if channels_last else (2, 1)  # of the tokens and of the directions

    def chain(u, delta, A, B, C, D, delta_bias):
        columns = u.unflatten(axis, (side, side)).transpose(axis, axis + 1).flatten(axis, axis + 1)
        four = torch.stack([u, columns, u.flip(axis), columns.flip(axis)], stacked)
        sequences = four.flatten(2).mT if channels_last else four.flatten(1, 2)
        y = scan(sequences, delta, A, B, C, D, delta_bias)
        four = y.mT.unflatten(2, (4, -1)) if channels_last else y.unflatten(1, (4, -1))
        rows, columns, rows_back, columns_back = four.unbind(stacked)
        columns = (columns + columns_back.flip(axis)).unflatten(axis, (side, side))
        rows = rows + rows_back.flip(axis)
        return rows + columns.transpose(axis, axis + 1).flatten(axis, axis + 1)

    return chain


def for_copies(args: dict[str, Tensor], order: Tensor, channels_last: bool) -> dict[str, Tensor]:
    """delta, B and C along the paths, and everything laid out as the scan wants it."""
    along = {
        name: torch.stack([args[name][:, path, k] for k, path in enumerate(order.long())], 2)
        for name in ("delta", "B", "C")
    }
    u = args["u"] if channels_last else args["u"].mT.contiguous()
    return {**args, **as_sequences(along, not channels_last), "u": u}


def measure(case: Case, cross: bool, dtype: torch.dtype, repeat_ms: int) -> dict:
    """Microseconds by what was run."""
    args, peer = draw(case, dtype), mamba_ssm()
    found = {"scan": {"ours": time_both(ours, as_sequences(args, False), repeat_ms)}}
    if peer is not None:
        found["scan"]["mamba_ssm"] = time_both(peer, as_sequences(args, True), repeat_ms)
    if cross:
        side = round(case.length**0.5)
        order = four_paths(side)
        args["u"] = args["u"][:, :, 0].contiguous()
        unfused = for_copies(args, order, True)
        with torch.no_grad():  # the same thing is compared
            same = fused(order)(**args).float(), copies(side, ours, True)(**unfused).float()
        torch.testing.assert_close(*same, rtol=2e-2, atol=2e-2 * same[0].abs().max().item())
        found["cross scan"] = {
            "fused": time_both(fused(order), args, repeat_ms),
            "copies, ours": time_both(copies(side, ours, True), unfused, repeat_ms),
        }
        if peer is not None:
            unfused = for_copies(args, order, False)
            chain = copies(side, peer, False)
            found["cross scan"]["copies, mamba_ssm"] = time_both(chain, unfused, repeat_ms)
    return found


def machine(measured: bool) -> dict[str, str]:
    info = {"date": date.today().isoformat(), "torch": torch.__version__}
    if not measured:
        return {**info, "gpu": "not measured"}
    import triton

    return {
        **info,
        "gpu": torch.cuda.get_device_name(),
        "triton": triton.__version__,
        "python": platform.python_version(),
        "mamba_ssm": "compared" if mamba_ssm() else "not installed",
    }


def table(results: dict) -> str:
    """The results as a Markdown page."""
    about = ", ".join(f"{key} {value}" for key, value in results["machine"].items())
    bandwidth = results["bandwidth"] / 1e12
    lines = [
        "# The GPU scan", "", f"`benchmarks/scan_gpu.py`: {about}.", "",
        f"Microseconds. Floors for {bandwidth:.2f} TB/s; in brackets the floor over the time.", "",
        "| case (batch, length, directions, dim, state) | dtype | what | forward floor | forward "
        "| backward floor | backward |",
        "|---|---|---|--:|--:|--:|--:|",
    ]  # fmt: skip

    def row(name, case, dtype, what, floor, time):
        cells = []
        for key in ("forward", "backward"):
            shown = (
                f"{time[key]:.0f} ({100 * floor[key] / time[key]:.0f} %)"
                if time
                else "not measured"
            )
            cells += [f"{floor[key]:.0f}", shown]
        lines.append(f"| {name} {case} | {dtype} | {what} | " + " | ".join(cells) + " |")

    for name, entry in results["cases"].items():
        case = tuple(entry["case"].values())
        for dtype in ("float32", "bfloat16"):
            times = entry.get("times", {}).get(dtype, {})
            for what, time in times.get("scan", {"ours": None}).items():
                row(name, case, dtype, f"scan, {what}", entry["scan"][dtype], time)
            if "fused" in entry:
                for what, time in times.get("cross scan", {"fused": None}).items():
                    row(name, case, dtype, f"cross scan, {what}", entry["fused"][dtype], time)
    return "\n".join(lines) + "\n"


def plot(results: dict, path: Path) -> None:
    """Time over floor of every case, float32, forward and backward side by side."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    colours = {
        "scan, ours": "#0072B2",
        "scan, mamba_ssm": "#E69F00",
        "cross scan, fused": "#009E73",
        "cross scan, copies, ours": "#56B4E9",
        "cross scan, copies, mamba_ssm": "#D55E00",
    }
    shown = set()
    names = list(results["cases"])
    figure, axes = plt.subplots(1, 2, figsize=(11, 0.62 * len(names) + 1.6), sharey=True)
    for axis, key in zip(axes, ("forward", "backward"), strict=True):
        for i, name in enumerate(names):
            entry = results["cases"][name]
            times = entry["times"]["float32"]
            bars = [(kind, what) for kind in times for what in times[kind]]
            for j, (kind, what) in enumerate(bars):
                floor = entry["scan" if kind == "scan" else "fused"]["float32"][key]
                at = i + 0.16 * (j - (len(bars) - 1) / 2)
                label = f"{kind}, {what}"
                axis.barh(at, times[kind][what][key] / floor, 0.16, color=colours[label])
                shown.add(label)
        axis.axvline(1, color="black", linewidth=1)
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter("{x:g}")
        axis.set_xlabel("time over floor")
        axis.set_title(f"{key}, float32")
        axis.grid(axis="x", which="both", alpha=0.3)
        axis.set_axisbelow(True)
    axes[0].set_yticks(range(len(names)), names)
    axes[0].invert_yaxis()
    labels = [label for label in colours if label in shown]
    handles = [plt.Rectangle((0, 0), 1, 1, color=colours[label]) for label in labels]
    figure.legend(handles, labels, loc="lower center", ncols=len(labels), frameon=False)
    figure.suptitle(f"{results['machine']['gpu']}: time over what the hardware allows (black line)")
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, help="write this JSON file, a .md table and a .png")
    parser.add_argument("--dry-run", action="store_true", help="only shapes and floors")
    parser.add_argument("--short", action="store_true", help="goals only, in five minutes")
    parser.add_argument("--only", help="only cases whose name contains this")
    parser.add_argument("--repeat-ms", type=int, default=200, help="how long to repeat each call")
    args = parser.parse_args()
    measured = not args.dry_run and torch.cuda.is_available()
    if args.short:
        if not measured:
            raise SystemExit("--short measures a GPU, and there is none here")
        print(short(args.out))
        return
    if not measured and not args.dry_run:
        print("No GPU here: printing shapes and floors only.", file=sys.stderr)

    bandwidth = measure_bandwidth(args.repeat_ms) if measured else BANDWIDTH
    results = {
        "machine": machine(measured),
        "bandwidth": bandwidth,
        "cases": {k: x for k, x in floors(bandwidth).items() if not args.only or args.only in k},
    }
    for name, entry in results["cases"].items() if measured else ():
        entry["times"] = {}
        for dtype in (torch.float32, torch.bfloat16):
            print(f"measuring {name}, {dtype}", file=sys.stderr, flush=True)
            times = measure(SCANS[name], name in CROSS, dtype, args.repeat_ms)
            entry["times"][str(dtype).removeprefix("torch.")] = times
            torch.cuda.empty_cache()
        if args.out:  # what is measured is kept if a later case fails
            write(results, args.out)
    print(table(results))
    if args.out:
        write(results, args.out)
        if measured:
            plot(results, args.out.with_suffix(".png"))


def short(path: Path | None) -> str:
    """Measure what has a goal, and write it as a Markdown page."""
    import scan_gpu_short

    def time(call: Callable) -> float:
        return microseconds(call, repeat_ms=60)

    page = scan_gpu_short.run(draw, as_sequences, fused, ours, four_paths, Case, time)
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page)
    return page


def write(results: dict, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")
    path.with_suffix(".md").write_text(table(results))


if __name__ == "__main__":
    main()
