"""Which pixels predictions rest on, and how faithful the maps are.

python -m analyses.attribution --model vmamba_nano --method grad-cam --out out
"""

import sys

from workbench.cli import main

if __name__ == "__main__":
    sys.exit(main(["attribution", *sys.argv[1:]]))
