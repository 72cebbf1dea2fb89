"""What each scan direction of several models carries to a place, and the scans' coefficients.

python -m analyses.scan_maps --model [vmamba_nano,vim_nano] --settings.layer 2 --out out
"""

from pathlib import Path

from jsonargparse import auto_cli

from workbench import ScanMapsConfig, scan_maps
from workbench.figures.files import publish
from workbench.study import study


def main(
    model: list[str],
    images: str = "samples",
    weights: list[str] = ["auto"],  # noqa: B006
    size: int | None = None,
    limit: int | None = None,
    out: Path = Path("out"),
    settings: ScanMapsConfig = ScanMapsConfig(),  # noqa: B008
) -> None:
    """Measure, save, draw and tabulate."""
    options = {"weights": weights, "size": size, "limit": limit}
    results = study(scan_maps, model, images, settings, out=out, **options)
    publish(results, out)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
