"""Which of B, C and delta breaks under attack: figures and a table.

python -m analyses.sensitivity --model [vmamba_nano,vim_nano] --data PACK.npz --out out
"""

from pathlib import Path

from jsonargparse import auto_cli

from workbench import create_model, open_images, run
from workbench.figures.files import save_figure
from workbench.figures.sensitivity import caption, csv_table, draw, report
from workbench.methods import sensitivity
from workbench.methods.sensitivity import SensitivityConfig
from workbench.runner import tqdm_progress
from workbench.weights import facts_of


def main(
    model: list[str],
    data: str = "samples",
    weights: str = "official",
    limit: int | None = None,
    out: Path = Path("out"),
    settings: SensitivityConfig = SensitivityConfig(),  # noqa: B008
) -> None:
    """Measure, save, draw, tabulate; print what the views say to the published claims."""
    images = open_images(data, limit)
    results = []
    for name in model:
        network = create_model(name, weights)
        options = {"out": out, "facts": facts_of(network), "progress": tqdm_progress(name)}
        result = run(sensitivity, network, images, settings, **options)
        save_figure(draw(result), out / f"sensitivity-{name}", caption(result))
        print(report(result))
        results.append(result)
    (out / "sensitivity.csv").write_text(csv_table(results))


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
