"""Models over image sizes: accuracy on `data`, agreement with the trained size on `images`.

python -m analyses.resolution --model [vmamba_nano,vim_nano] --sizes [32,64,128] --out out
"""

from pathlib import Path

from jsonargparse import auto_cli

from workbench.figures.files import publish
from workbench.methods.resolution import ResolutionConfig
from workbench.study import sweeps


def main(
    model: list[str],
    sizes: list[int],
    data: str | None = None,
    images: str = "samples",
    weights: list[str] = ["auto"],  # noqa: B006
    limit: int | None = None,
    erf_images: int = 4,
    out: Path = Path("out"),
    settings: ResolutionConfig = ResolutionConfig(),  # noqa: B008
) -> None:
    """Measure, save, draw and tabulate."""
    options = {"sizes": sizes, "weights": weights, "limit": limit, "erf_images": erf_images}
    curves = sweeps(model, data or images, settings, labelled=bool(data), out=out, **options)
    publish(curves, out)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
