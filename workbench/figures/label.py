"""How a figure names what it shows."""

from workbench.results import Result


def label(result: Result, separator: str = ", ") -> str:
    """The model and its weights."""
    facts = result.meta.get("facts", {})
    return separator.join(filter(None, (facts.get("model", "model"), facts.get("weights_label"))))
