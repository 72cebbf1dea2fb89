"""Numbers with their intervals as words and in the cells of CSV and LaTeX tables.

A number is {"value", "low", "high", "unit"}; value, and low with high, may be None.
"""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

PARTS = ("value", "low", "high")
Number = Mapping[str, Any]


def csv_cells(number: Number) -> list[str]:
    """Value, low and high with six digits; empty where there is none."""
    return ["" if number.get(part) is None else f"{number[part]:.6g}" for part in PARTS]


def csv_number(line: Mapping[str, str], column: str = "value") -> dict[str, float | None]:
    """What `csv_cells` wrote, of a line by column: value, low and high, or a column with its
    `_low` and `_high`.
    """
    names = PARTS if column == "value" else (column, f"{column}_low", f"{column}_high")
    return {
        part: float(line[name]) if line[name] else None
        for part, name in zip(PARTS, names, strict=True)
    }


def csv_text(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table as CSV; where `number` is the last column it names the number that a row ends with,
    and the columns value, low, high and unit follow.

    Raises:
        ValueError: for a row that is longer or shorter than the head.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    names = [*head, *PARTS, "unit"] if head[-1] == "number" else [*head]
    table.writerow(names)
    for *row, last in rows:
        ending = [*csv_cells(last), last["unit"]] if isinstance(last, Mapping) else [last]
        cells = len(row) + len(ending)
        if cells != len(names):
            raise ValueError(f"a row of {cells} cells below a head of {len(names)}")
        table.writerow([*row, *ending])
    return text.getvalue()


def latex_cell(number: Number) -> str:
    """A value with its interval in small type; a dash where there is no value."""
    if number.get("value") is None:
        return "--"
    if number["low"] is None:
        return f"{number['value']:.3g}"
    return "{value:.1f} {{\\tiny [{low:.1f}, {high:.1f}]}}".format(**number)


def latex_tabular(head: Sequence[str], rows: Iterable[Sequence[str]], comment: str) -> str:
    """A `tabular` (package booktabs) of rows whose first cell is text and the others numbers."""
    lines = [
        f"% {comment}",
        r"\begin{tabular}{l" + "r" * (len(head) - 1) + "}",
        r"\toprule",
        " & ".join(map(latex_text, head)) + r" \\",
        r"\midrule",
        *(" & ".join([latex_text(first), *cells]) + r" \\" for first, *cells in rows),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def latex_text(text: str) -> str:
    """Words as LaTeX takes them."""
    for mark in "_%&#":
        text = text.replace(mark, f"\\{mark}")
    return text


def words(number: Number, digits: str = ".4g", unit: str = "") -> str:
    """`value unit [low, high]`; empty where there is no value."""
    if number.get("value") is None:
        return ""
    return f"{number['value']:{digits}}{unit} {interval(number, digits)}".rstrip()


def interval(number: Number, digits: str = ".4g") -> str:
    """`[low, high]`, empty without one."""
    if number["low"] is None:
        return ""
    return f"[{number['low']:{digits}}, {number['high']:{digits}}]"
