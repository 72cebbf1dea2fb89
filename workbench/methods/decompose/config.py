"""Which layers are taken apart, and where."""

from dataclasses import dataclass

from workbench.methods.method import QueryConfig


@dataclass(frozen=True)
class DecomposeConfig(QueryConfig):
    """Which layers are taken apart, and at which token."""
