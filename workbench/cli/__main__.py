"""`python -m workbench.cli` is `vssm`, also under torchrun."""

import sys

from workbench.cli import main

sys.exit(main())
