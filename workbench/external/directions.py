"""Names for learned scan orders, from the zoo of known paths."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy import ndarray

from workbench.paths import ORDERS, scan_path


def direction_names(
    orders: Sequence[ndarray], grid: tuple[int, int], like: Sequence[str] = ()
) -> tuple[str, ...]:
    """One name for each order, `#2` after the second of a kind; `path-<k>` where none is known.

    Args:
        orders: cells as visited; negative entries do not count.
        like: names to try first, one for each order: on a small grid several names fit.
    """
    names: list[str] = []
    met: Counter[str] = Counter()
    for k, order in enumerate(orders):
        first = [like[k].partition("#")[0]] if k < len(like) else []
        visited = order[order >= 0]
        name = next((n for n in (*first, *ORDERS) if _is(n, visited, grid)), f"path-{k}")
        met[name] += 1
        names.append(name if met[name] == 1 else f"{name}#{met[name]}")
    return tuple(names)


def _is(name: str, visited: ndarray, grid: tuple[int, int]) -> bool:
    try:
        order = scan_path(name, *grid).order
    except ValueError:  # unknown, or not on this grid
        return False
    return np.array_equal(order[order >= 0], visited)
