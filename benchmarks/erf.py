"""Time and memory of an effective receptive field over many images.

    python benchmarks/erf.py --out benchmarks/results/erf

Runs what `vssm erf` runs (decode, resize, forward, backward to the input, combine, bootstrap) after
one warm-up image, in this process. The scan's share is its part of the CPU time of one chunk's
forward and backward, by torch's profiler.

"times a copy" compares one chunk's forward and backward with the same where every scan is replaced
by a copy of its input, plus the means of delta, B and C, so that all projections keep their
backward pass: what the scan costs on any processor. The two take turns, and the least CPU time of
each counts.
"""

import argparse
import json
import platform
import resource
import time
from importlib.metadata import version
from pathlib import Path
from unittest import mock

# First, because it decides how torch's threads wait.
from workbench.process import prepare  # isort: skip

prepare()
from workbench import ErfConfig, create_model, erf, open_images, preprocessing_for, run  # isort: skip
from workbench.methods.erf.measure import gradient  # isort: skip
from workbench.scan import SelectiveScan  # isort: skip
import numpy as np
import torch
from processor import processor
from torch.profiler import ProfilerActivity, profile

MODELS = ("vmamba_tiny_s1l8", "vim_tiny", "mambavision_tiny")


def scan_share(model: torch.nn.Module, x: torch.Tensor, config: ErfConfig) -> float:
    """Part of the CPU time of one forward and backward that our scan operators take."""
    gradient(model, x, config)
    with profile(activities=[ProfilerActivity.CPU]) as trace:
        gradient(model, x, config)
    events = trace.key_averages()
    total = sum(event.self_cpu_time_total for event in events)
    scan = sum(event.self_cpu_time_total for event in events if "selective_scan" in event.key)
    return scan / total


def copy(self, *, u, delta, B, C, **rest) -> torch.Tensor:
    """In place of `SelectiveScan.cross`: its input, at no more cost than the memory it moves."""
    y = u.clone() if u.ndim == 3 else u.sum(2)
    return y + (delta.mean() + B.mean() + C.mean())


def times_a_copy(model: torch.nn.Module, x: torch.Tensor, config: ErfConfig, rounds: int) -> float:
    """CPU time of a forward and backward pass, relative to one with copies for scans."""
    least = {}
    for _ in range(rounds + 1):  # the first round warms up
        for name, cross in (("scan", SelectiveScan.cross), ("copy", copy)):
            with mock.patch.object(SelectiveScan, "cross", cross):
                start = time.process_time()
                gradient(model, x, config)
                taken = time.process_time() - start
            least.setdefault(name, []).append(taken)
    return min(least["scan"][1:]) / min(least["copy"][1:])


def peak_megabytes() -> float:
    """Largest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(name: str, count: int, size: int, config: ErfConfig, rounds: int) -> dict:
    """Seconds for `count` images, and the peak memory after a fifth of them and after all."""
    model = create_model(name)
    paths = sorted((Path(__file__).parents[1] / "samples" / "images").glob("*.jpg"))
    images = open_images([paths[i % len(paths)] for i in range(count)])
    preprocessing = preprocessing_for(model, size)
    run(erf, model, images.subset(range(1)), config, preprocessing=preprocessing)
    run(erf, model, images.subset(range(count // 5)), config, preprocessing=preprocessing)
    early = peak_megabytes()
    start = time.perf_counter()
    run(erf, model, images, config, preprocessing=preprocessing)
    seconds = time.perf_counter() - start
    chunk = [preprocessing.picture(images.load(i)) for i in range(config.chunk)]
    x = preprocessing.tensor(np.stack(chunk))
    return {
        "model": name,
        "images": count,
        "size": size,
        "seconds": round(seconds, 2),
        "milliseconds_per_image": round(1000 * seconds / count, 1),
        "scan_share": round(scan_share(model.requires_grad_(False), x, config), 3),
        "times_a_copy": round(times_a_copy(model, x, config, rounds), 3),
        f"peak_mb_after_{count // 5}": round(early),
        f"peak_mb_after_{count}": round(peak_megabytes()),
    }


def machine() -> dict:
    """Processor, threads and versions."""
    names = ("torch", "numba", "numpy", "timm")
    return {
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {name: version(name) for name in names} | {"python": platform.python_version()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--chunk", type=int, default=ErfConfig.chunk)
    parser.add_argument("--before", type=Path, help="the JSON file of another version")
    parser.add_argument("--out", type=Path, help="write STEM.json and STEM.md")
    parser.add_argument("--rounds", type=int, default=4, help="of the comparison with copies")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    config = ErfConfig(chunk=args.chunk)
    rows = [measure(name, args.images, args.size, config, args.rounds) for name in args.models]
    if args.before:
        old = {row["model"]: row for row in json.loads(args.before.read_text())["rows"]}
        for row in rows:
            for key in ("milliseconds_per_image", "scan_share", "times_a_copy"):
                row[f"before:_{key}"] = old[row["model"]][key]
    facts = machine()
    keys = list(rows[0])
    lines = ["| " + " | ".join(key.replace("_", " ") for key in keys) + " |"]
    lines.append("|" + "---|" * len(keys))
    lines += ["| " + " | ".join(str(row[key]) for key in keys) + " |" for row in rows]
    table = "\n".join(lines)
    print(table)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.with_suffix(".json").write_text(
            json.dumps({"machine": facts, "chunk": config.chunk, "rows": rows}, indent=2) + "\n"
        )
        about = f"{facts['processor']}, {facts['threads']} threads, " + ", ".join(
            f"{name} {number}" for name, number in facts["versions"].items()
        )
        text = f"# Effective receptive field\n\n{__doc__}\n{about}.\n\n{table}\n"
        args.out.with_suffix(".md").write_text(text)


if __name__ == "__main__":
    main()
