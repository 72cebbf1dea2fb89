"""Pictures of scan paths over a grid: one sheet of all, or of those that match a pattern.

python -m analyses.scan_paths --grid [14,14] --pattern hilbert --out out
"""

from pathlib import Path

from jsonargparse import auto_cli

from workbench.figures.files import save_figure
from workbench.figures.paths import caption, draw
from workbench.paths import gallery


def main(grid: tuple[int, int] = (8, 8), pattern: str = "*", out: Path = Path("out")) -> None:
    """Draw and save."""
    families, refused = gallery(*grid, pattern)
    sheet = {f"{family.title}\n{family.source}": paths for family, paths in families.items()}
    save_figure(draw(sheet, refused), out / "paths", caption(sheet, refused))


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
