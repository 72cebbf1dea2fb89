"""Effective receptive fields of several models over the same images, before and after training.

python -m analyses.erf --model vmamba_nano vim_nano --images samples --out out
"""

import sys

from workbench.cli import main

if __name__ == "__main__":
    sys.exit(main(["erf", *sys.argv[1:]]))
