"""Atlas: where every layer and direction looks, on one page, and which of them look alike (Visual
Attention Exploration in Vision-Based Mamba Models, arXiv 2502.20764).
"""

from workbench.methods.atlas.config import AtlasConfig
from workbench.methods.method import Method


class Atlas(Method):
    """See the module."""

    name = "atlas"
    Config = AtlasConfig


method = Atlas()
