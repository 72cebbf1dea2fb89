"""Which of B, C and delta breaks under attack, and what that says to the published claims.

python -m analyses.sensitivity --model vmamba_nano vim_nano --data PACK.npz --limit 100 --out out
"""

import sys

from workbench.cli import main

if __name__ == "__main__":
    sys.exit(main(["sensitivity", *sys.argv[1:]]))
