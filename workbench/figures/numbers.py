"""Tables of results whose numbers are one flat list, `meta["numbers"]`."""

from collections.abc import Sequence
from typing import Any

from workbench.figures.cells import csv_text, interval, latex_cell, latex_tabular
from workbench.figures.label import label
from workbench.results import Result


def csv_table(results: Sequence[Result]) -> str:
    """One line for each model and number."""
    rows = [
        (*first_cells(result), name, number)
        for result in results
        for name, number in result.meta["numbers"].items()
    ]
    return csv_text(["model", "weights", "images", "number"], rows)


def first_cells(result: Result) -> list[Any]:
    """Model, weights and number of images: what rows of a table begin with."""
    meta = result.meta
    return [meta["model"], meta["facts"].get("weights_label", ""), meta["images_used"]]


def with_intervals(result: Result, images: int | None = None) -> str:
    """How a caption ends that tells of means over images: at which level their intervals are, or
    how many images these need.

    Args:
        images: of which the means are, by default all.
    """
    fewest = result.meta.get("intervals_from", 0)
    if (images or result.meta["images_used"]) < fewest:
        return f"without intervals, which need {fewest} images"
    return f"with {100 * result.meta['config']['confidence']:g} % intervals"


def latex_table(results: Sequence[Result], columns: Sequence[str]) -> str:
    """A row for each model, a column for each of these numbers, with intervals."""
    first = results[0].meta
    units = {name: first["numbers"][name]["unit"] for name in columns}
    heads = [f"{name} ({unit})" if unit else name for name, unit in units.items()]
    rows = (
        [label(result), *(latex_cell(result.meta["numbers"][name]) for name in columns)]
        for result in results
    )
    return latex_tabular(["", *heads], rows, first["images"]["source"])


def report(result: Result, first: Sequence[str] = ()) -> str:
    """A line for each number that is defined, these `first`."""
    meta = result.meta
    lines = [f"{label(result)}, {meta['images_used']} images"]
    for name in dict.fromkeys((*first, *meta["numbers"])):
        number = meta["numbers"][name]
        if number["value"] is not None:
            value = f"{number['value']:>9.4g} {number['unit']:11}"
            lines.append(f"  {name:34} {value} {interval(number)}".rstrip())
    return "\n".join(lines)
