"""What predictions withstand: attacks, corruptions, parts that are lost or moved, turned images.

python -m analyses.robustness --model vmamba_nano resnet_nano --data PACK.npz --baseline resnet_nano
"""

import sys

from workbench.cli import main

if __name__ == "__main__":
    sys.exit(main(["robustness", *sys.argv[1:]]))
