"""Training throughput of the small models on one thread.

    python benchmarks/train.py --out benchmarks/results/train

One step is a forward pass, a backward pass and an optimiser step on 64 random images of 64 px, as
`vssm train` does it. The figure is images per second of this process's CPU time, the median of the
steps after two to warm up, so that a busy machine changes it little.
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path

# First, because it decides how torch's threads wait.
from workbench.process import prepare  # isort: skip

prepare()
from workbench import create_model  # isort: skip
import torch

from workbench.train import Data, TrainConfig, Trainer

MODELS = ("resnet_nano", "mambavision_nano", "vmamba_nano", "vit_nano", "vim_nano", "s4nd_nano")


def throughput(name: str, steps: int, batch: int) -> float:
    """Images per CPU second."""
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (4 * batch, 96, 96, 3), dtype=torch.uint8)
    data = Data(pixels, torch.randint(0, 10, (4 * batch,)), 10, "random")
    config = TrainConfig(batch_size=batch, snapshots=())
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(create_model(name, "random"), data, config, Path(folder))
        taken = []
        for _ in range(steps + 2):
            start = time.process_time()
            trainer.train_step()
            taken.append(time.process_time() - start)
    return batch / statistics.median(taken[2:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="write OUT.json and OUT.md")
    parser.add_argument("--steps", type=int, default=8)
    args = parser.parse_args()
    torch.set_num_threads(1)
    machine = {
        "date": date.today().isoformat(),
        "cpu": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "torch": version("torch"),
        "numba": version("numba"),
        "load": "shared machine; CPU time of one thread",
    }
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text().splitlines()
        machine["cpu"] = next((x.split(":")[1].strip() for x in lines if "model name" in x), "")
    rows = []
    for name in MODELS:
        parameters = sum(p.numel() for p in create_model(name, "random").parameters())
        rows.append(
            {
                "model": name,
                "parameters": parameters,
                "images_per_second": round(throughput(name, args.steps, 64), 1),
            }
        )
        print(rows[-1], flush=True)
    text = ["# Training throughput, one thread", ""]
    about = ", ".join(f"{key} {value}" for key, value in machine.items())
    text += [f"Measured by `benchmarks/train.py`: {about}.", ""]
    text += ["| model | parameters | images per CPU second |", "|---|--:|--:|"]
    text += [
        f"| {r['model']} | {r['parameters'] / 1e6:.2f} M | {r['images_per_second']} |" for r in rows
    ]
    print("\n".join(text))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        results = json.dumps({"machine": machine, "models": rows}, indent=1)
        args.out.with_suffix(".json").write_text(results + "\n")
        args.out.with_suffix(".md").write_text("\n".join(text) + "\n")


if __name__ == "__main__":
    main()
