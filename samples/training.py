"""Receptive fields while a network learns, from the snapshots of its training runs.

    python samples/training.py out/train/vmamba_nano out/train/vim_nano out/train/mambavision_nano

Writes one result for each model and snapshot to samples/results/training/, and the picture of all:
a row for each epoch, a column for each model.
"""

import argparse
from pathlib import Path

from workbench import ErfConfig, create_model, erf, open_images, preprocessing_for, run
from workbench.figures.files import save_figure
from workbench.methods.erf.figure import draw
from workbench.results import Erf
from workbench.weights import facts_of

HERE = Path(__file__).parent
EPOCHS = (0, 1, 3, 10, None)  # None: the end of the run


def field(folder: Path, epoch: int | None) -> Erf:
    """The field of the last stage's central unit over the sample images."""
    name = folder.name
    file = folder / "weights.safetensors"
    if epoch is not None:
        file = folder / "snapshots" / f"epoch-{epoch}.safetensors"
    model = create_model(name, file)
    when = "end of training" if epoch is None else f"epoch {epoch}"
    facts = {**facts_of(model), "weights_label": when, "training": when}
    preprocessing = preprocessing_for(model)
    result = run(
        erf, model, open_images("samples"), ErfConfig(), preprocessing=preprocessing, facts=facts
    )
    assert isinstance(result, Erf)
    stem = "end" if epoch is None else f"epoch-{epoch}"
    result.save(HERE / "results" / "training" / f"{name}-{stem}.npz")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, help="folders that vssm train wrote")
    parser.add_argument("--picture", type=Path, default=HERE.parent / "docs/pictures/erf-training")
    args = parser.parse_args()
    (HERE / "results" / "training").mkdir(parents=True, exist_ok=True)
    results = [field(folder, epoch) for epoch in EPOCHS for folder in args.runs]
    save_figure(draw(results), args.picture, formats=("png",))


if __name__ == "__main__":
    main()
