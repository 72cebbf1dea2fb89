"""Chosen numbers of several results side by side: a row for each model, a panel for each number.

    figures:
      ablation:
        method: summary
        stored: [out/results/*.npz]
        panels:
          top-1 at 64 px (%): {method: resolution, number: top1, size: 64}
          crossness of the field: {method: erf, number: crossness}

A number is called as in the method's CSV table, and what else a panel says are columns of that
table: they leave one line of each result. Weights that are called the same but for `, seed N` at
the end are trainings of one row.
"""

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from workbench import figures
from workbench.figures.cells import csv_number
from workbench.figures.label import label
from workbench.results import Result
from workbench.statistics import Number, least_difference, of_trainings

_SEED = re.compile(r"(?P<row>.+), seed (?P<seed>\d+)")


@dataclass(frozen=True)
class Panel:
    """Which number a panel shows.

    Attributes:
        title: above it, with the unit.
        method: whose results have it.
        number: as a column of the method's CSV table, or a text of its column `number`.
        where: other columns, and what stands there in the line that is meant.
    """

    title: str
    method: str
    number: str
    where: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Column:
    """One number of all rows.

    Attributes:
        trainings: row -> seed (empty without one) -> number with its interval over images.
        others: row -> mean over its trainings, with the interval in which the mean of as many
            others is expected; no interval where no row has two trainings.
        least: of two single trainings, the difference below which they are undecided: the bound
            that seeds alone exceed in (1 - confidence) of all pairs; None as above.
    """

    title: str
    trainings: Mapping[str, Mapping[str, Number]]
    others: Mapping[str, Number]
    least: float | None


@dataclass(frozen=True)
class Summary:
    """What is drawn: rows by the first column, its largest mean first, and the level of all
    intervals.
    """

    rows: Sequence[str]
    columns: Sequence[Column]
    confidence: float


def summarise(results: Sequence[Result], panels: Sequence[Panel]) -> Summary:
    """The numbers that panels show.

    Raises:
        ValueError: naming the panel, for a number that no result has, or that several lines of its
            table have; for two results that are the same row and seed; and for results whose
            intervals are of several levels.
    """
    if not panels:
        raise ValueError("a summary needs panels: titles, each with a method and a number")
    methods = {panel.method for panel in panels}
    results = [result for result in results if result.kind in methods]
    confidence = _confidence(results)
    tables = [(result.kind, *_called(result, results), _lines(result)) for result in results]
    columns = []
    for panel in panels:
        found: dict[str, dict[str, Number]] = {}
        for kind, row, seed, lines in tables:
            if kind != panel.method:
                continue
            if seed in found.setdefault(row, {}):
                again = f"{row}, seed {seed}" if seed else row
                raise ValueError(f"there are two {kind} results of {again}; give one of them")
            found[row][seed] = _number(lines, panel)
        if not found:
            raise ValueError(f"panel {panel.title!r}: there is no result of {panel.method}")
        columns.append(_column(panel.title, found, confidence))
    means = columns[0].others
    rows = sorted(dict.fromkeys(row for _, row, _, _ in tables), key=lambda row: -_mean(means, row))
    return Summary(rows, columns, confidence)


def _confidence(results: Sequence[Result]) -> float:
    """The level of the results' intervals."""
    told = [result.meta.get("interval", result.meta["config"]) for result in results]
    levels = sorted({settings["confidence"] for settings in told})
    if len(levels) > 1:
        said = " and ".join(f"{100 * level:g} %" for level in levels)
        raise ValueError(f"intervals of {said} do not stand in one figure; measure with one level")
    return levels[0] if levels else 0.95


def _mean(means: Mapping[str, Number], row: str) -> float:
    value = means[row].value if row in means else None
    return -math.inf if value is None or math.isnan(value) else value


def _column(title: str, found: Mapping[str, Mapping[str, Number]], confidence: float) -> Column:
    values = {
        row: [number.value for number in seeds.values() if number.value is not None]
        for row, seeds in found.items()
    }
    given = list(values.values())
    others = {row: of_trainings(own, given, confidence) for row, own in values.items()}
    return Column(title, found, others, least_difference(given, confidence))


def _called(result: Result, results: Sequence[Result]) -> tuple[str, str]:
    """Row and seed of a result: its weights alone, where all are of one model."""
    name = label(result)
    if len({other.meta["model"] for other in results}) == 1:
        name = name.removeprefix(f"{result.meta['facts'].get('model', '')}, ")
    return row_and_seed(name)


def row_and_seed(name: str) -> tuple[str, str]:
    """`cross, seed 1` -> cross and 1; without a seed the whole name and nothing."""
    found = _SEED.fullmatch(name)
    return (found["row"], found["seed"]) if found else (name, "")


def _lines(result: Result) -> list[dict[str, str]]:
    """The lines of a result's table, by column."""
    return list(csv.DictReader(io.StringIO(figures.csv_table(result))))


def _number(lines: Sequence[Mapping[str, str]], panel: Panel) -> Number:
    """The number of one result."""
    what = f"panel {panel.title!r}"
    columns = list(lines[0]) if lines else []
    long = "number" in columns
    for name in panel.where:
        _known(name, columns, f"{what}: the table of {panel.method} has no column")
    known = [line["number"] for line in lines] if long else [c for c in columns if _is(c, columns)]
    _known(panel.number, known, f"{what}: {panel.method} has no number")
    meant = [
        line
        for line in lines
        if all(_same(line[name], value) for name, value in panel.where.items())
        and (not long or line["number"] == panel.number)
    ]
    if len(meant) != 1:
        said = ", ".join(f"{name} {value}" for name, value in panel.where.items()) or "nothing else"
        raise ValueError(
            f"{what}: {len(meant) or 'no'} lines of the table of {panel.method} have the number "
            f"{panel.number} with {said}; its columns are {', '.join(columns)}"
        )
    return Number(**csv_number(meant[0], "value" if long else panel.number))


def _is(column: str, columns: Sequence[str]) -> bool:
    """Whether a column of a wide table is a number with its interval."""
    return f"{column}_low" in columns


def _same(text: str, value: Any) -> bool:
    try:
        return float(text) == float(value)
    except ValueError:
        return text == str(value)


def _known(name: str, known: Sequence[str], problem: str) -> None:
    if name not in known:
        known = list(dict.fromkeys(known))
        near = get_close_matches(name, known, 1)
        rest = f"the nearest is {near[0]}" if near else f"there are {', '.join(known)}"
        raise ValueError(f"{problem} {name!r}; {rest}")
