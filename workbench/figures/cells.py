"""Numbers and words in the cells of CSV and LaTeX tables."""

import numpy as np


def csv_cell(value: float | None) -> str:
    """Six digits; empty where there is no number."""
    return "" if value is None or not np.isfinite(value) else f"{value:.6g}"


def latex_cell(value: float, low: float, high: float) -> str:
    """A value with its interval in small type; a dash where there is no value."""
    if not np.isfinite(value):
        return "--"
    if not np.isfinite(low):
        return f"{value:.3g}"
    return f"{value:.1f} {{\\tiny [{low:.1f}, {high:.1f}]}}"


def latex_text(text: str) -> str:
    """Words as LaTeX takes them."""
    for mark in "_%&#":
        text = text.replace(mark, f"\\{mark}")
    return text
