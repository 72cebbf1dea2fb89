"""Which of B, C and delta breaks under attack, and what that says to the published claims.

python -m analyses.sensitivity --model [vmamba_nano,vim_nano] --data PACK.npz --limit 100 --out out
"""

from pathlib import Path

from jsonargparse import auto_cli

from workbench import SensitivityConfig, sensitivity
from workbench.figures.files import publish
from workbench.figures.sensitivity import report
from workbench.study import study


def main(
    model: list[str],
    data: str = "samples",
    weights: list[str] = ["auto"],  # noqa: B006
    limit: int | None = None,
    out: Path = Path("out"),
    settings: SensitivityConfig = SensitivityConfig(),  # noqa: B008
) -> None:
    """Measure, save, draw, tabulate and print the verdicts."""
    results = study(sensitivity, model, data, settings, weights=weights, limit=limit, out=out)
    publish(results, out)
    print(*map(report, results), sep="\n\n")


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
