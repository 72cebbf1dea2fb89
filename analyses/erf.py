"""Effective receptive fields of several models over the same images, before and after training.

python -m analyses.erf --model [vmamba_nano,vim_nano] --images samples --out out
"""

from pathlib import Path

from jsonargparse import auto_cli

from workbench import ErfConfig, erf
from workbench.figures.files import publish
from workbench.study import study


def main(
    model: list[str],
    images: str = "samples",
    weights: list[str] = ["auto"],  # noqa: B006
    size: int | None = None,
    before_after: bool = True,
    limit: int | None = None,
    out: Path = Path("out"),
    settings: ErfConfig = ErfConfig(),  # noqa: B008
) -> None:
    """Measure, save, draw and tabulate."""
    options = {"weights": weights, "size": size, "before_after": before_after, "limit": limit}
    results = study(erf, model, images, settings, out=out, **options)
    publish(results, out)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
