"""The table on B, C and delta."""

import csv
import io
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from workbench import figures
from workbench.figures.cells import csv_number, words
from workbench.results import Result, load

STORED = Path(__file__).parent / "results" / "sensitivity"
FAMILIES = ("vmamba_nano", "vim_nano", "mambavision_nano")


def sensitivity() -> Iterator[list[str]]:
    """What attacks do through B, C and delta, and the verdicts."""
    results = [load(STORED / f"{model}.npz") for model in FAMILIES]
    found = [_numbers(result) for result in results]

    def row(title: str, told: Callable[[dict], str]) -> list[str]:
        return [title, *(told(numbers) for numbers in found)]

    yield ["", *FAMILIES]
    for name, title in (
        ("clean", "accuracy, clean (%)"),
        ("attacked", "accuracy under attack, 4/255 (%)"),
    ):
        yield [title, *(words(result.meta[name], ".1f") for result in results)]
    yield [
        "accuracy that withstands every cut, 1/255 (%)",
        *(words(result.meta["views"]["cut"]["withstands"], ".1f") for result in results),
    ]
    counts = [[sum(of) for of in zip(*result.meta["entries"], strict=True)] for result in results]
    yield [
        "numbers an image has in B / C / delta",
        *(" / ".join(f"{n:,}" for n in of[:3]) for of in counts),
    ]
    for norm in ("linf", "l2", "l2 of own norm"):
        for tensor in ("B", "C", "delta"):
            key = ("gradient", tensor, f"margin, {norm}")
            yield row(
                f"share of first-order sensitivity, {norm}, {tensor} (%)",
                lambda of, key=key: words(of[key], ".1f"),
            )
    for tensor in ("B", "C", "delta"):
        budgets = [result.meta["views"]["perturb"]["flipping"][tensor] for result in results]
        yield [f"median flipping budget, linf, {tensor}", *map(_budget, budgets)]
    for tensor in ("B", "C", "delta", "u", "B + C + delta", "scan output"):
        yield row(
            f"recovered by putting clean {tensor} back, 4/255: of the margin, accuracy then",
            lambda of, t=tensor: _recovered(of, f"all {t}"),
        )
    for i, claim in enumerate(results[0].meta["claims"]):
        verdicts = [_verdict(result.meta["claims"][i]) for result in results]
        yield [f'"{claim["claim"]}"', *verdicts]


def _numbers(result: Result) -> dict[tuple[str, str, str], dict[str, float | None]]:
    """(view, row, number) -> number, of a table of sensitivity."""
    table = csv.DictReader(io.StringIO(figures.csv_table(result)))
    return {(line["view"], line["row"], line["number"]): csv_number(line) for line in table}


def _budget(found: Mapping[str, Any]) -> str:
    median = found["median"]
    return "over 1" if median is None else f"{median:.2g}"


def _recovered(of: Mapping, row: str) -> str:
    margin, accuracy = of["patching", row, "recovered"], of["patching", row, "accuracy, recovered"]
    return f"{words(margin, '.2f')}, {accuracy['value']:.1f} %"


def _verdict(claim: Mapping[str, Any]) -> str:
    views = "; ".join(f"{view} {says}" for view, says in sorted(claim["views"].items()))
    return f"**{claim['verdict']}**" + (f" ({views})" if views else "")
