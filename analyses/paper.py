"""All figures and tables of a paper from one YAML file; only what changed is made again.

python -m analyses.paper --file analyses/configs/gallery.yaml --out out/figures
"""

from pathlib import Path

from jsonargparse import auto_cli

from workbench.paper import make, read


def main(file: Path, out: Path = Path("out/figures")) -> None:
    """Measure, draw and tabulate what is not there yet."""
    make(read(file), out)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
