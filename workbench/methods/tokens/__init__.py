"""Tokens: the norm of every token behind every block, which of them are outliers, where those lie
and what they say of the class (Vision Transformers Need Registers, arXiv 2309.16588; Mamba-R,
arXiv 2405.14858).
"""

from workbench.methods.method import Method
from workbench.methods.tokens.config import TokensConfig


class Tokens(Method):
    """See the module."""

    name = "tokens"
    Config = TokensConfig


method = Tokens()
