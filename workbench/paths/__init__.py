"""Scan paths: the orders in which a scan visits the cells of a grid, and the way back.

`path.py` is the data type, `orders.py` holds the traversals as functions of a grid of cells,
`zoo.py` their names, the sets in which published models use them, and where they come from.
"""

from workbench.paths.path import CLASS_TOKEN, PADDING, ScanPath
from workbench.paths.words import in_words
from workbench.paths.zoo import (
    BIDIRECTIONAL,
    CROSS,
    FAMILIES,
    ORDERS,
    SET_SOURCES,
    SETS,
    covering_paths,
    gallery,
    register_path,
    register_set,
    scan_path,
    scan_set,
)

__all__ = [
    "BIDIRECTIONAL",
    "CLASS_TOKEN",
    "CROSS",
    "FAMILIES",
    "ORDERS",
    "PADDING",
    "SETS",
    "SET_SOURCES",
    "ScanPath",
    "covering_paths",
    "gallery",
    "in_words",
    "register_path",
    "register_set",
    "scan_path",
    "scan_set",
]
