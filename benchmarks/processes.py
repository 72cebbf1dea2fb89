"""Images per second of two processes against one, each with one thread.

    python benchmarks/processes.py --out benchmarks/results/processes

Runs `analyses.erf` on few and on many images, alone and under torchrun, and takes the time between
the two, so that starting Python and building the model do not count. Alternated, medians. The
result files of both are compared byte for byte.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from workbench.images import SAMPLES
from workbench.results import provenance

ROOT = Path(__file__).parents[1]
LAUNCHERS = {1: [], 2: ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]}


def seconds(processes: int, images: Path, model: str, out: Path) -> float:
    """Wall time of one run."""
    command = [sys.executable, *LAUNCHERS[processes], "-m", "analyses.erf"]
    command += ["--model", f"[{model}]", "--images", str(images), "--before_after", "false"]
    command += [
        "--weights",
        "[random]",
        "--size",
        "224",
        "--settings.chunk",
        "2",
        "--out",
        str(out),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    started = time.perf_counter()
    subprocess.run(command, cwd=ROOT, env=environment, check=True, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


def written(folder: Path) -> dict[str, bytes]:
    """The files of a run."""
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--model", default="vmamba_tiny_s1l8")
    options.add_argument("--few", type=int, default=8)
    options.add_argument("--many", type=int, default=48)
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--out", type=Path, default=None, help="stem of .json and .md")
    args = options.parse_args()
    times: dict[tuple[int, int], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        pictures = sorted(p for p in SAMPLES.iterdir() if p.suffix in (".jpg", ".png"))
        for count in (args.few, args.many):
            images = Path(folder) / f"images-{count}"
            images.mkdir()
            for i in range(count):
                picture = pictures[i % len(pictures)]
                shutil.copy(picture, images / f"{i:03d}{picture.suffix}")
        for repeat in range(args.repeats):
            for count in (args.few, args.many):
                for processes in LAUNCHERS:
                    out = Path(folder) / f"out-{repeat}-{count}-{processes}"
                    images = Path(folder) / f"images-{count}"
                    taken = seconds(processes, images, args.model, out)
                    times.setdefault((processes, count), []).append(taken)
        one, two = (written(Path(folder) / f"out-0-{args.many}-{n}") for n in LAUNCHERS)
    rates = {}
    for processes in LAUNCHERS:
        few, many = (statistics.median(times[processes, n]) for n in (args.few, args.many))
        rates[processes] = (args.many - args.few) / (many - few)
    found = {
        "model": args.model,
        "images_per_second": rates,
        "ratio": rates[2] / rates[1],
        "ratios": [
            (times[1, args.many][i] - times[1, args.few][i])
            / (times[2, args.many][i] - times[2, args.few][i])
            for i in range(args.repeats)
        ],
        "same_bytes": one == two,
        "seconds": {f"{p} processes, {n} images": t for (p, n), t in times.items()},
        **provenance(),
    }
    print(json.dumps(found, indent=2))
    if args.out:
        args.out.with_suffix(".json").write_text(json.dumps(found, indent=2) + "\n")
        args.out.with_suffix(".md").write_text(
            "# Several processes\n\n"
            "Images per second of two processes against one, each with one thread.\n\n"
            f"    python benchmarks/processes.py --out {args.out}\n\n"
            f"ERF of {args.model} at 224 px, {args.few} against {args.many} images, "
            f"median of {args.repeats}; {found['platform']}, "
            f"torch {found['versions']['torch']}.\n\n"
            "| processes | images/s |\n|---|--:|\n"
            + "".join(f"| {n} | {rate:.2f} |\n" for n, rate in rates.items())
            + f"\nRatio {found['ratio']:.2f} (the repeats one by one: "
            + ", ".join(f"{ratio:.2f}" for ratio in found["ratios"])
            + f"); same bytes in every file: {found['same_bytes']}.\n"
        )


if __name__ == "__main__":
    main()
