"""How maps are shown: `linear`, `log10(x + 1)`, or a power such as `x ** 0.25`."""

import numpy as np


def power_of(transform: str) -> float | None:
    """0.25 of `x ** 0.25`; None for another transform."""
    base, _, power = transform.partition(" ** ")
    return float(power) if base == "x" and power else None


def display(p: np.ndarray, transform: str) -> np.ndarray:
    """The map transformed and divided by its maximum: values in [0, 1]."""
    power = power_of(transform)
    if power is not None:
        p = p**power
    elif transform == "log10(x + 1)":
        p = np.log10(p + 1)
    return p / p.max() if p.max() > 0 else p
