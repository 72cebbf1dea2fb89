"""Turn finished training runs into the checkpoints that ship with the project.

    python samples/checkpoints.py vmamba_nano=out/train/vmamba_nano \\
        --train imagenette_train_160.npz --validation imagenette_val_128.npz imagenette_val_224.npz

A run is a folder that `vssm train` wrote. Of several, MODEL=RUN,RUN, each begun where the one
before ended (Izmailov et al. 2018, arXiv 1803.05407) or all at the same weights (Wortsman et al.
2022, arXiv 2203.05482), the mean of their weights is taken. Batch
norms then measure their statistics anew on whole training photographs: those of training are of
crops and of pictures mixed by CutMix. The weights are rounded to half precision, evaluated as
rounded on every validation image (one crop, at 64, 128 and 224 px) and written to
samples/weights/ under the model's name and the size trained at, with how they were made in the
file's metadata. A pack of smaller pictures is not enlarged.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from workbench import create_model, open_images, preprocessing_for
from workbench.train import accuracy, run_identity
from workbench.weights.files import sha256

SIZES = (64, 128, 224)
MEASURED, BATCH = 2048, 64  # photographs that batch norms are measured on, as many at a time
OUT = Path(__file__).parent / "weights"


def recipe_of(run: Path, train: Path) -> dict:
    """How the run was made, once its checkpoint confirms that it was made so on these images."""
    state = torch.load(run / "checkpoint.pt", map_location="cpu", weights_only=True)
    with safe_open(run / "weights.safetensors", "pt") as file:
        told = file.metadata()
    recipe, start = json.loads(told["recipe"]), told.get("start_sha256")
    options = {key: value for key, value in recipe.items() if key != "classes"}
    if state["identity"] != run_identity(options, open_images(train).fingerprint, start):
        sys.exit(f"{run} was not trained on {train.name}")
    return {
        **recipe,
        "optimizer": "AdamW, betas 0.9 and 0.99, cosine to 1 %, averaged weights",
        "steps": state["step"],
        "hours": round(state["seconds"] / 3600, 2),
        "data": train.name,
        "data_sha256": sha256(train),
        **({"start_sha256": start} if start else {}),
    }


def mean(files: list[Path]) -> dict[str, Tensor]:
    """The mean of the weights in several files; counts are those of the last."""
    read = [load_file(file) for file in files]
    return {
        key: torch.stack([weights[key] for weights in read]).mean(0) if x.is_floating_point() else x
        for key, x in read[-1].items()
    }


def measure_norms(name: str, weights: dict[str, Tensor], train: Path, size: int) -> int:
    """Replace the running statistics of batch norms by those of whole training photographs.

    Returns:
        how many photographs they were measured on: 0 for a model without batch norms.
    """
    model = create_model(name, img_size=size).eval()
    model.load_state_dict(weights)
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    if not norms:
        return 0
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
        norm.train()
    images, prepared = open_images(train), preprocessing_for(model, size)
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:MEASURED]
    for batch in chosen.split(BATCH):
        pictures = np.stack([prepared.picture(images.load(i)) for i in batch.tolist()])
        with torch.no_grad():
            model(prepared.tensor(pictures))
    weights.update({key: x for key, x in model.state_dict().items() if "running_" in key})
    return len(chosen)


def ship(name: str, runs: list[Path], train: Path, validation: list[Path]) -> Path:
    *before, recipe = (recipe_of(run, train) for run in runs)
    full = mean([run / "weights.safetensors" for run in runs])
    if measured := measure_norms(name, full, train, recipe["size"]):
        recipe["norms_measured_on"] = measured
    if before:
        recipe["mean_with"] = before
    weights = {key: x.half() if x.is_floating_point() else x for key, x in full.items()}
    OUT.mkdir(exist_ok=True)
    file = OUT / f"{name}.imagenette{recipe['size']}.safetensors"
    save_file(weights, file)
    found = {}
    for pack in validation:
        images = open_images(pack)
        native = min(images.load(0).size)
        for size in (size for size in SIZES if size <= native):  # never enlarged
            model = create_model(name, file, img_size=size)
            correct, count = accuracy(model, images, preprocessing_for(model, size))
            found.setdefault(pack.name, {})[size] = [correct, count]
            print(f"{name} {pack.name} {size} px: {100 * correct / count:.2f} %", flush=True)
    metadata = {
        "model": name,
        "recipe": json.dumps(recipe),
        "seed": str(recipe["seed"]),
        "steps": str(recipe["steps"]),
        "data_sha256": recipe["data_sha256"],
        "accuracy": json.dumps(found),
        "validation_sha256": json.dumps({pack.name: sha256(pack) for pack in validation}),
        "licence": "weights: Apache-2.0; trained on ImageNet photographs, for research",
    }
    save_file(weights, file, metadata=metadata)
    return file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", help="MODEL=FOLDER,... that vssm train wrote")
    parser.add_argument("--train", type=Path, required=True, help="the pack they were trained on")
    parser.add_argument("--validation", type=Path, nargs="+", required=True, help="labelled packs")
    args = parser.parse_args()
    for run in args.runs:
        name, _, folders = run.partition("=")
        file = ship(name, list(map(Path, folders.split(","))), args.train, args.validation)
        print(f"wrote {file} ({file.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    main()
