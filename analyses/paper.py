"""All figures and tables of a paper from one YAML file: `vssm figures` as a script.

python -m analyses.paper analyses/configs/gallery.yaml --out out/figures
"""

import sys

from workbench.cli import main

if __name__ == "__main__":
    sys.exit(main(["figures", *sys.argv[1:]]))
