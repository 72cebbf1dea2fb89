"""What predictions withstand: attacks, corruptions, parts that are lost or moved, turned images.

python -m analyses.robustness --model [vmamba_nano,resnet_nano] --data PACK.npz \
    --baseline resnet_nano --out out
"""

from pathlib import Path

from jsonargparse import auto_cli

from workbench import RobustnessConfig, robustness
from workbench.figures.files import publish
from workbench.study import study


def main(
    model: list[str],
    data: str = "samples",
    weights: list[str] = ["auto"],  # noqa: B006
    baseline: str | None = None,
    limit: int | None = None,
    out: Path = Path("out"),
    settings: RobustnessConfig = RobustnessConfig(),  # noqa: B008
) -> None:
    """Measure, save, draw and tabulate; mCE against `baseline`, one of the models."""
    options = {"weights": weights, "limit": limit, "baseline": baseline}
    results = study(robustness, model, data, settings, out=out, **options)
    publish(results, out)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
