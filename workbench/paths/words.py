"""How a path goes, in words."""

from workbench.paths.path import ScanPath
from workbench.paths.zoo import FAMILIES

_LINES = {
    (False, False): "left to right, row by row",
    (False, True): "right to left, row by row, from below",
    (True, False): "top to bottom, column by column",
    (True, True): "bottom to top, column by column, from the right",
}
_KINDS = {
    "zigzag-row": "to and fro, row by row",
    "zigzag-column": "to and fro, column by column",
    "diagonal": "along diagonals",
    "antidiagonal": "along diagonals",
    "spiral": "in a spiral",
    "radial": "ring by ring",
    "hilbert": "along a Hilbert curve",
    "local": "window by window",
    "atrous": "every second row and column",
    "frames": "cell by cell through all frames",
    "random": "shuffled",
}


def in_words(path: ScanPath) -> str:
    """How a path goes, such as "left to right, row by row" or "in a spiral, from the centre".

    Rows and columns are told from the order itself, whatever it is called, other kinds by their
    names and where they start; a path of which nothing is known gives its name.
    """
    cells = path.order[path.order >= 0]
    plain = ScanPath(path.name, path.height, path.width, cells)
    if plain.is_transposed is not None:
        return _LINES[plain.is_transposed, plain.is_reversed]
    stem = path.name.partition("#")[0]
    kind = next((words for name, words in _KINDS.items() if _begins(stem, name)), None)
    if kind is None or stem.endswith("-as-used"):
        return next((family.title for family in FAMILIES if stem in family.paths), stem)
    start = _start(*divmod(int(cells[0]), path.width), path)
    return f"{kind}, from the {start}" if start else kind


def _begins(name: str, kind: str) -> bool:
    return name == kind or name.startswith(f"{kind}-")


def _start(row: int, column: int, path: ScanPath) -> str:
    """The corner or the centre where a cell lies; empty for others."""
    if abs(2 * row + 1 - path.height) <= 1 and abs(2 * column + 1 - path.width) <= 1:
        return "centre"
    rows, columns = {0: "top", path.height - 1: "bottom"}, {0: "left", path.width - 1: "right"}
    if row in rows and column in columns:
        return f"{rows[row]} {columns[column]}"
    return ""
