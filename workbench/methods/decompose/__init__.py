"""Decompose: what every token adds to the output of a layer through convolution, scan and gate, or
through attention; the parts sum to the output (LaTIM, arXiv 2502.15612).
"""

from workbench.methods.decompose.config import DecomposeConfig
from workbench.methods.method import Method


class Decompose(Method):
    """See the module."""

    name = "decompose"
    Config = DecomposeConfig
    scans = True


method = Decompose()
