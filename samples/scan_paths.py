"""The scan-path ablation: one network, trained with other paths, everything else equal.

    python samples/scan_paths.py imagenette_train_96.npz imagenette_val_128.npz --only cross random

`vmamba_nano` at 64 px, 24 epochs, with each set of paths in place of its own: trained with
`vssm train` below `out/scan-paths` (about 16 minutes on a core each), then measured over sizes,
with patches shuffled and pictures moved and turned, and the receptive field. What is finished is
not done again; a stopped run goes on. Results: `samples/scan-paths/`, which
`vssm figures analyses/configs/scan_paths.yaml` draws.
"""

import argparse
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from workbench import create_model, open_images, run, scans
from workbench.results import Erf
from workbench.weights import facts_of

HERE = Path(__file__).parent
BUILT = HERE.parent / "out" / "scan-paths"
STORED = HERE / "scan-paths"
DIAGONAL = ["diagonal", "diagonal-reversed", "antidiagonal", "antidiagonal-reversed"]
RUNS = {
    "cross": (["cross"], (0, 1)),
    "raster": (["raster"], (0, 1)),
    "random": (["random"], (0, 1)),
    "unidi": (["unidi"], (0,)),
    "bidirectional": (["bidirectional"], (0,)),
    "continuous": (["continuous"], (0,)),
    "hilbert": (["hilbert"], (0,)),
    "spiral": (["spiral"], (0,)),
    "diagonal": (DIAGONAL, (0,)),
    "local": (["local"], (0,)),
    "omnidirectional": (["omnidirectional"], (0,)),
}
"""Sets or paths of `vssm paths`, and seeds.

They have 1 to 8 directions, which labels say behind the name; each has projections of its own,
15,456 of the 876,298 parameters of `cross`. `unidi` is one direction as often as `cross` has four:
as many parameters, one order.
"""
SIZES = (32, 48, 64, 96, 128)
PROBES = ("shuffle", "shift", "views", "scan")


def trained(name: str, seed: int, data: Path, epochs: float) -> Path:
    """The weights of a run."""
    folder = BUILT / f"{name}-{seed}"
    weights = folder / "weights.safetensors"
    if not weights.exists():
        options = ["--epochs", str(epochs), "--seed", str(seed), "--bfloat16", "--out", str(folder)]
        words = ["train", "--model", "vmamba_nano", "--data", str(data), *options]
        command = [sys.executable, "-m", "workbench.cli", *words, "--scan_paths", *RUNS[name][0]]
        subprocess.run(command, check=True)
    return weights


def measured(name: str, seed: int, weights: Path, validation: Path) -> None:
    """The results of a run, where they are not there; without the fields of single images."""
    images = open_images(validation)
    for method, config in (
        ("resolution", {"sizes": SIZES, "folds": 0, "probes": 0}),
        (
            "robustness",
            {"attacks": ("none",), "corruptions": ("none",), "probes": PROBES, "limit": 1000},
        ),
        ("erf", {"limit": 100}),
    ):
        file = STORED / f"{name}-{seed}-{method}.npz"
        if file.exists():
            continue
        model = create_model("vmamba_nano", weights)
        directions = len({site.direction for site in scans(model)})
        called = f"{name} ({directions}), seed {seed}"
        facts = {**facts_of(model), "weights_label": called}
        options = {"facts": facts, "progress": True, "labelled": True, "out": BUILT / "measured"}
        result = run(method, model, images, **options, **config)
        if isinstance(result, Erf):
            result = replace(result, maps=result.maps[:0], picture=None)
        result.save(file, compressed=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("train", type=Path, help="the Imagenette training pack")
    parser.add_argument("validation", type=Path, help="the validation pack")
    parser.add_argument("--only", nargs="+", default=[*RUNS], choices=RUNS, help="paths")
    parser.add_argument("--seed", type=int, help="one seed alone")
    parser.add_argument("--epochs", type=float, default=24)
    args = parser.parse_args()
    STORED.mkdir(parents=True, exist_ok=True)
    for name in args.only:
        for seed in RUNS[name][1] if args.seed is None else (args.seed,):
            measured(name, seed, trained(name, seed, args.train, args.epochs), args.validation)


if __name__ == "__main__":
    main()
