"""Pictures of scan paths over a grid: `vssm paths` as a script.

python -m analyses.scan_paths 'hilbert*' --grid 14,14 --draw out/hilbert.pdf
"""

import sys

from workbench.cli import main

if __name__ == "__main__":
    sys.exit(main(["paths", *sys.argv[1:]]))
