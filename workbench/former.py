"""Words of earlier versions, understood in choices, in options and in stored results."""

from typing import Any

CHOICES = {
    "transplant": "patching",
    "path": "route",  # of a split; a ScanPath is another thing
}
OPTIONS = {"transplant_eps_255": "patching_eps_255"}


def renamed(told: Any) -> Any:
    """Keys and texts of lists and dicts in the words of today."""
    if isinstance(told, dict):
        return {renamed(key): renamed(value) for key, value in told.items()}
    if isinstance(told, list):
        return [renamed(value) for value in told]
    return (CHOICES | OPTIONS).get(told, told) if isinstance(told, str) else told
