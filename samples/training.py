"""Receptive fields while a network learns, from the snapshots of its training runs.

    python samples/training.py out/train/vmamba_nano out/train/vim_nano out/train/mambavision_nano

Folders of trainings at 64 px, called as their networks; the end is what ships, trained further at
128 px. All is measured at 128 px. Writes one result for each model and snapshot to
samples/results/training/, and the picture of all: a row for each epoch, a column for each model.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from workbench import ErfConfig, create_model, erf, open_images, run
from workbench.figures.files import save_figure
from workbench.methods.erf.figure import draw
from workbench.results import Erf
from workbench.weights import facts_of

HERE = Path(__file__).parent
EPOCHS = (0, 1, 3, 10, None)  # None: the weights that ship
SIZE = 128


def field(folder: Path, epoch: int | None) -> Erf:
    """The field of the last stage's central unit over the sample images; at the end with that of
    each image, which the app's story plays.
    """
    name = folder.name
    model = create_model(
        name, "auto" if epoch is None else folder / "snapshots" / f"epoch-{epoch}.safetensors"
    )
    when = "end of training" if epoch is None else f"epoch {epoch}"
    facts = {**facts_of(model), "weights_label": when, "training": when}
    result = run(erf, model, open_images("samples", 10), ErfConfig(), size=SIZE, facts=facts)
    assert isinstance(result, Erf)
    stem = "end" if epoch is None else f"epoch-{epoch}"
    if epoch is not None:
        result = replace(result, maps=result.maps[:0])
    result.save(HERE / "results" / "training" / f"{name}-{stem}.npz", compressed=True)
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
