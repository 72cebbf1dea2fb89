"""What predictions keep when the tensors of the scans are rounded to few bits.

python -m analyses.quantize --model vmamba_nano vim_nano --data PACK.npz --limit 100 --out out
"""

import sys

from workbench.cli import main

if __name__ == "__main__":
    sys.exit(main(["quantize", *sys.argv[1:]]))
