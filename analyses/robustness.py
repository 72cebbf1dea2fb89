"""What predictions withstand: attacks, corruptions, lost and moved parts, turns.

python -m analyses.robustness --model [vmamba_nano,resnet_nano] --data PACK.npz --out out
"""

from pathlib import Path

from jsonargparse import auto_cli

from workbench import create_model, open_images, run
from workbench.figures.files import save_figure
from workbench.figures.robustness import caption, csv_table, draw, latex_table
from workbench.methods import robustness
from workbench.methods.robustness import RobustnessConfig
from workbench.runner import tqdm_progress
from workbench.weights import facts_of


def main(
    model: list[str],
    data: str = "samples",
    weights: str = "official",
    limit: int | None = None,
    out: Path = Path("out"),
    settings: RobustnessConfig = RobustnessConfig(),  # noqa: B008
) -> None:
    """Measure, save, draw and tabulate."""
    images = open_images(data, limit)
    results = []
    for name in model:
        network = create_model(name, weights)
        options = {"out": out, "facts": facts_of(network), "progress": tqdm_progress(name)}
        result = run(robustness, network, images, settings, **options)
        save_figure(draw(result), out / f"robustness-{name}", caption(result))
        results.append(result)
    (out / "robustness.csv").write_text(csv_table(results))
    (out / "robustness.tex").write_text(latex_table(results))


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
