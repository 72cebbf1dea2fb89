"""Pictures of scan paths over a grid: one sheet of all, or of those that match a pattern.

python -m analyses.scan_paths --grid [14,14] --pattern hilbert --out out
"""

from pathlib import Path

from jsonargparse import auto_cli

from workbench.figures.files import save_figure
from workbench.figures.paths import sheet
from workbench.paths import gallery


def main(grid: tuple[int, int] = (8, 8), pattern: str = "*", out: Path = Path("out")) -> None:
    """Draw and save."""
    found = sheet(*gallery(*grid, pattern))
    save_figure(found.draw(), out / found.name, found.caption)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
