"""The tables of docs that hold what was measured, from the results that ship.

    python samples/tables.py

A table stands between `<!-- numbers: NAME -->` and `<!-- end of numbers -->`, and is not edited by
hand: `tests/test_docs_numbers.py` compares.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tables_lenses as lenses
from tables_sensitivity import sensitivity

from workbench import methods, paper
from workbench.figures.cells import words
from workbench.results import Resolution, Result, load
from workbench.statistics import difference
from workbench.summary import row_and_seed, summarise

ROOT = Path(__file__).parents[1]
STORED = ROOT / "samples" / "results"


def robustness() -> Iterator[list[str]]:
    """Accuracies under attack, without patches and of corrupted pictures."""
    models = ("vmamba_nano", "resnet_nano")
    stored = [load(STORED / "robustness" / f"{model}.npz") for model in models]
    baseline = next(result for result in stored if result.meta["model"] == "resnet_nano")
    results = methods.get("robustness").compare(stored, baseline=baseline.meta["model"])
    yield ["", *models]
    for title, *place in (
        ("clean", "clean", "", None),
        ("random change of 4/255, the control", "attack", "random", 4),
        ("PGD-20, 0.5/255", "attack", "pgd", 0.5),
        ("PGD-20, 1/255", "attack", "pgd", 1),
        ("PGD-20, 2/255", "attack", "pgd", 2),
        ("PGD-20, 4/255", "attack", "pgd", 4),
        ("AutoAttack, 4/255", "attack", "autoattack", 4),
        ("half of the patches gone, at random", "drop", "random", 0.5),
        ("4 x 4 patches shuffled", "shuffle", "patches", 4),
    ):
        yield [title, *(words(_condition(result, *place), ".1f") for result in results)]
    error = "mean corruption error"
    yield [
        "mean error over 15 corruptions",
        *(words(result.meta["numbers"][error], ".1f") for result in results),
    ]
    for name in ("mCE", "relative mCE"):
        said = f"{name} against resnet_nano" if name == "mCE" else name
        yield [said, *(_against(result, name) for result in results)]
    yield ["signs of gradient masking", *map(_masking, results)]


def _condition(result: Result, group: str, series: str, level: float | None) -> dict[str, Any]:
    (numbers,) = (
        c["numbers"]
        for c in result.meta["conditions"]
        if (c["group"], c["series"], c["level"]) == (group, series, level)
    )
    return numbers["accuracy"]


def _against(result: Result, name: str) -> str:
    baseline = result.meta["baseline"]
    return "100" if baseline["model"] == result.meta["model"] else words(baseline[name], ".1f")


def _masking(result: Result) -> str:
    checks = result.meta["checklist"]["checks"]
    failed = [check["name"] for check in checks if not check["passed"]]
    return f"{len(failed) or 'none'} of {len(checks)}"


def scan_paths() -> Iterator[list[str]]:
    """The ablation: means over trainings, and the differences that seeds alone make."""
    figure = paper.read(ROOT / "analyses/configs/scan_paths.yaml").figures["ablation"]
    summary = summarise(paper.stored_results(figure), figure.panels)
    yield ["", "trainings", *(column.title for column in summary.columns)]
    for row in summary.rows:
        count = len(summary.columns[0].trainings[row])
        means = (column.others[row].value for column in summary.columns)
        yield [row, str(count), *(f"{mean:.2f}" for mean in means)]
    yield [
        "undecided below",
        "",
        *("-" if column.least is None else f"{column.least:.2g}" for column in summary.columns),
    ]


def against_cross() -> Iterator[list[str]]:
    """Differences to the four-way cross, paired over images, means over trainings."""
    trainings: dict[str, list[Resolution]] = {}
    for file in sorted((ROOT / "samples" / "scan-paths").glob("*-resolution.npz")):
        result = load(file)
        assert isinstance(result, Resolution)
        row, _ = row_and_seed(result.meta["facts"]["weights_label"])
        trainings.setdefault(row, []).append(result)

    def right(row: str, size: int) -> np.ndarray:
        return np.mean([of.correct[of.sizes.tolist().index(size)] for of in trainings[row]], axis=0)

    sizes = (32, 64, 128)
    yield ["less the cross (points)", *(f"{size} px" for size in sizes)]
    own = "cross (4)"
    gains = {row: difference(right(row, 64), right(own, 64)).value for row in trainings}
    for row in sorted(gains.keys() - {own}, key=lambda row: -gains[row]):
        found = (difference(right(row, size), right(own, size)).times(100) for size in sizes)
        yield [row, *(words(number.as_dict(), "+.1f") for number in found)]


TABLES: dict[str, tuple[str, Callable[[], Iterator[Sequence[str]]]]] = {
    "robustness": ("docs/robustness.md", robustness),
    "sensitivity": ("docs/sensitivity.md", sensitivity),
    "scan-paths": ("docs/scan-paths.md", scan_paths),
    "scan-paths-pairs": ("docs/scan-paths.md", against_cross),
    "bits": ("docs/quantization.md", lenses.bits),
    "tensors": ("docs/quantization.md", lenses.tensors),
    "reach": ("docs/atlas.md", lenses.reach),
    "norms": ("docs/tokens.md", lenses.norms),
    "objects": ("docs/objects.md", lenses.objects),
    "deletion": ("docs/attribution.md", lenses.deletion),
    "shuffled": ("docs/attribution.md", lenses.shuffled),
}
"""Name -> document, and the rows."""


def markdown(rows: Iterator[Sequence[str]]) -> str:
    """A table whose first row is its head."""
    head, *rest = rows
    lines = [head, ["---"] * len(head), *rest]
    return "\n".join(re.sub(r"\|  (?=\|)", "| ", f"| {' | '.join(line)} |") for line in lines)


def replaced(text: str, name: str, table: str) -> str:
    """A document with one of its tables."""
    start, end = f"<!-- numbers: {name} -->", "<!-- end of numbers -->"
    pattern = re.compile(f"{re.escape(start)}.*?{re.escape(end)}", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"there is no {start} ... {end}")
    return pattern.sub(lambda _: f"{start}\n\n{table}\n\n{end}", text)


def main() -> None:
    for name, (file, rows) in TABLES.items():
        path = ROOT / file
        path.write_text(replaced(path.read_text(), name, markdown(rows())))


if __name__ == "__main__":
    main()
