"""Scan maps of several models at one query: a result and a figure of each.

python -m analyses.scan_maps --model vmamba_nano vim_nano --images samples --out out
"""

from pathlib import Path

from jsonargparse import auto_cli

from workbench import create_model, open_images, preprocessing_for, run
from workbench.figures.files import save_figure
from workbench.figures.scan_maps import caption, draw
from workbench.methods import scan_maps
from workbench.methods.scan_maps import ScanMapsConfig
from workbench.runner import tqdm_progress
from workbench.weights import facts_of


def main(
    model: list[str],
    images: str = "samples",
    weights: str = "random",
    size: int | None = None,
    out: Path = Path("out"),
    settings: ScanMapsConfig = ScanMapsConfig(layer="2"),  # noqa: B008
) -> None:
    """Measure, save and draw."""
    pictures = open_images(images)
    for name in model:
        network = create_model(name, weights, img_size=size)
        result = run(
            scan_maps,
            network,
            pictures,
            settings,
            preprocessing=preprocessing_for(network, size),
            facts=facts_of(network),
            out=out,
            progress=tqdm_progress(name),
        )
        save_figure(draw(result), out / f"scan-maps-{name}", caption(result))


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
