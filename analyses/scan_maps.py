"""What each scan direction of several models carries to a place, and the scans' coefficients.

python -m analyses.scan_maps --model vmamba_nano vim_nano --layer 2 --out out
"""

import sys

from workbench.cli import main

if __name__ == "__main__":
    sys.exit(main(["scan-maps", *sys.argv[1:]]))
