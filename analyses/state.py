"""What the hidden states of scans hold along their paths, and what is left of a marked token.

python -m analyses.state --model vim_nano vmamba_nano --out out
"""

import sys

from workbench.cli import main

if __name__ == "__main__":
    sys.exit(main(["state", *sys.argv[1:]]))
