"""Effective receptive fields of several models over the same images: one figure, one file each.

python -m analyses.erf --model vmamba_nano vim_nano --images samples --out out
"""

from pathlib import Path

from jsonargparse import auto_cli

from workbench import ErfConfig, create_model, erf, open_images, preprocessing_for, run
from workbench.figures.erf import caption, draw
from workbench.figures.files import save_figure
from workbench.runner import tqdm_progress


def main(
    model: list[str],
    images: str = "samples",
    weights: str = "random",
    size: int = 224,
    out: Path = Path("out"),
    settings: ErfConfig = ErfConfig(),  # noqa: B008
) -> None:
    """Measure, save and draw."""
    pictures = open_images(images)
    results = []
    for name in model:
        network = create_model(name, weights, img_size=size)
        preprocessing = erf.prepared(preprocessing_for(network, size), settings)
        facts = {"model": name, "weights_label": weights}
        options = {"preprocessing": preprocessing, "facts": facts, "out": out}
        results.append(
            run(erf, network, pictures, settings, progress=tqdm_progress(name), **options)
        )
    save_figure(draw(results), out / "erf", caption(results))


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
