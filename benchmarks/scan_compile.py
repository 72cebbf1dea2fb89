"""What compiling the GPU scan takes, and what machine code comes of it. No GPU is needed.

    python benchmarks/scan_compile.py                       # prints the table for sm_90
    python benchmarks/scan_compile.py --out benchmarks/results/scan_compile.json

Every variant is compiled one after the other with an empty cache. Seconds are processor time, that
of ptxas included; registers and spilled bytes are of a thread, read from the machine code.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

ARCHITECTURES = (80, 90, 100)
# Before tiles took the place of chunks unrolled by hand, on the same machine and Triton (sm_90):
# 21 variants for an effective receptive field of three tiny models, 64 for everything.
BEFORE = {
    "erf of three tiny models": {"variants": 21, "seconds": 68},
    "everything": {"variants": 64, "seconds": 230},
    "longest": {"backward": 13.0, "forward": 6.0},
}


def resources(compiled) -> dict[str, int]:
    """Registers, stack and local memory of a thread of a compiled kernel, from its machine code."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        command = [str(tool), "--dump-resource-usage", file.name]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    line = printed.splitlines()[-1]
    fields = dict(field.split(":") for field in line.split() if field.count(":") == 1)
    return {name: int(fields[name]) for name in ("REG", "STACK", "LOCAL")}


def processor_seconds() -> float:
    return sum(os.times()[:4])


def measure(architectures: tuple[int, ...]) -> dict:
    """Seconds of the first architecture; registers and spills of all, by variant."""
    import torch
    import triton
    from triton.backends.compiler import GPUTarget

    from workbench.kernels.gpu import compiling
    from workbench.kernels.gpu.variants import of_group, variants

    found = {}
    compiling.build(variants()["carry, segments, fp32"], GPUTarget("cuda", 75, 32))  # imports
    for name, variant in variants().items():
        print(f"compiling {name}", file=sys.stderr, flush=True)
        entry = found[name] = {"warps": variant.warps}
        for architecture in architectures:
            start = processor_seconds()
            compiled = compiling.build(variant, GPUTarget("cuda", architecture, 32))
            seconds = processor_seconds() - start
            entry.setdefault("seconds", round(seconds, 2))
            used = resources(compiled)
            entry[f"sm_{architecture}"] = {
                "registers": used["REG"],
                "spilled": used["STACK"] + used["LOCAL"],
                "shared": compiled.metadata.shared,
            }
    erf = [x.name for group in ("tall", "softplus") for x in of_group(group, "fp32")]
    return {
        "machine": {
            "date": date.today().isoformat(),
            "torch": torch.__version__,
            "triton": triton.__version__,
            "cores": os.cpu_count(),
        },
        "variants": found,
        "sums": {
            "erf of three tiny models": _sum(found[name] for name in erf),
            "everything": _sum(found.values()),
        },
        "before": BEFORE,
    }


def _sum(entries) -> dict:
    entries = list(entries)
    return {"variants": len(entries), "seconds": round(sum(x["seconds"] for x in entries), 1)}


def table(results: dict) -> str:
    about = ", ".join(f"{key} {value}" for key, value in results["machine"].items())
    first, *_ = results["variants"].values()
    architectures = [x for x in first if x.startswith("sm_")]
    lines = [
        "# Compiling the GPU scan", "", f"`benchmarks/scan_compile.py`: {about}.", "",
        f"Processor seconds with an empty cache, for {architectures[0]}; before: the kernels that "
        "were unrolled by hand.", "",
        "| what | variants before | seconds before | variants | seconds |",
        "|---|--:|--:|--:|--:|",
    ]  # fmt: skip
    for what, now in results["sums"].items():
        was = results["before"][what]
        lines.append(
            f"| {what} | {was['variants']} | {was['seconds']} | {now['variants']} "
            f"| {now['seconds']} |"
        )
    longest = max(x["seconds"] for x in results["variants"].values())
    was = max(results["before"]["longest"].values())
    lines += [
        f"| the longest variant | 1 | {was} | 1 | {longest} |", "",
        "Registers of a thread, and in brackets the bytes it spills.", "",
        f"| variant | warps | seconds | {' | '.join(architectures)} | shared bytes |",
        f"|---|--:|--:|{'--:|' * len(architectures)}--:|",
    ]  # fmt: skip
    for name, entry in results["variants"].items():
        used = [entry[x] for x in architectures]
        cells = [f"{x['registers']} ({x['spilled']})" for x in used]
        lines.append(
            f"| {name} | {entry['warps']} | {entry['seconds']} | {' | '.join(cells)} "
            f"| {used[0]['shared']} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, help="write this JSON file and a .md table")
    args = parser.parse_args()
    architectures = (90, *(x for x in ARCHITECTURES if x != 90))
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TRITON_CACHE_DIR"] = cache
        results = measure(architectures)
    print(table(results))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(results, indent=1) + "\n")
        args.out.with_suffix(".md").write_text(table(results))


if __name__ == "__main__":
    main()
