"""Norms of tokens through the depth of models, and the tokens that stand out.

python -m analyses.tokens --model vim_nano vmamba_nano --out out
"""

import sys

from workbench.cli import main

if __name__ == "__main__":
    sys.exit(main(["tokens", *sys.argv[1:]]))
