"""Models over image sizes: one figure with intervals, a CSV and a LaTeX table.

python -m analyses.resolution --model [vmamba_nano,vim_nano] --sizes [32,64,128] --out out
"""

from pathlib import Path

from jsonargparse import auto_cli

from workbench import create_model
from workbench.figures.files import save_figure
from workbench.figures.resolution import caption, csv_table, draw, latex_table
from workbench.methods.resolution import ResolutionConfig
from workbench.methods.resolution_curve import compare
from workbench.runner import tqdm_progress
from workbench.sweep import curve_of, open_data, save_curve, sweep
from workbench.weights import facts_of


def main(
    model: list[str],
    sizes: list[int],
    data: str | None = None,
    images: str = "samples",
    weights: str = "random",
    limit: int | None = None,
    erf_images: int = 4,
    out: Path = Path("out"),
    settings: ResolutionConfig = ResolutionConfig(),  # noqa: B008
) -> None:
    """Measure, save, draw and tabulate; accuracy on `data`, agreement on `images`."""
    pictures = open_data(data or images, limit)
    curves = []
    for name in model:
        network = create_model(name, weights, pos_embed=settings.positions)
        options = {"out": out / "points", "facts": facts_of(network), "erf_images": erf_images}
        options |= {"labelled": data is not None, "progress": tqdm_progress(name)}
        curve = curve_of(list(sweep(network, pictures, sizes, settings, **options)))
        save_curve(curve, out)
        curves.append(curve)
    save_figure(draw(curves), out / "resolution", caption(curves))
    (out / "resolution.csv").write_text(csv_table(curves, compare(curves)))
    number = "top1" if data else "agreement"
    (out / "resolution.tex").write_text(latex_table(curves, number))


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
