"""Where every layer and direction of models looks, on one page.

python -m analyses.atlas --model vmamba_nano vim_nano --out out
"""

import sys

from workbench.cli import main

if __name__ == "__main__":
    sys.exit(main(["atlas", *sys.argv[1:]]))
