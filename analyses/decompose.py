"""What every token adds to the output of a layer, through convolution, scan and gate.

python -m analyses.decompose --model vim_nano vmamba_nano --out out
"""

import sys

from workbench.cli import main

if __name__ == "__main__":
    sys.exit(main(["decompose", *sys.argv[1:]]))
