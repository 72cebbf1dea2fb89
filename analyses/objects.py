"""How well maps of models tell objects from what is around them.

python -m analyses.objects --model vim_nano --images samples --out out
"""

import sys

from workbench.cli import main

if __name__ == "__main__":
    sys.exit(main(["objects", *sys.argv[1:]]))
