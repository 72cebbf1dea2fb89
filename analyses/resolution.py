"""Models over image sizes: accuracy on `--data`, agreement with the trained size on `--images`.

python -m analyses.resolution --model vmamba_nano vim_nano --sizes 32 64 128 --out out
"""

import sys

from workbench.cli import main

if __name__ == "__main__":
    sys.exit(main(["resolution", *sys.argv[1:]]))
