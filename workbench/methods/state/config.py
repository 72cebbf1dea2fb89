"""Which scans are looked into, and which token is marked."""

from dataclasses import dataclass

from workbench.methods.method import QueryConfig


@dataclass(frozen=True)
class StateConfig(QueryConfig):
    """Which scans are looked into, and which token is marked: what is left of it is followed."""
