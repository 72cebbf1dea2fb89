"""Numbers in the documents are those of the results that ship."""

import re
import sys
from pathlib import Path

import pytest

from workbench.figures.cells import words
from workbench.results import load

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "samples"))
import tables  # noqa: E402


@pytest.mark.parametrize("name", tables.TABLES)
def test_a_table_is_what_the_results_say(name: str) -> None:
    file, rows = tables.TABLES[name]
    text = (ROOT / file).read_text()
    assert tables.replaced(text, name, tables.markdown(rows())) == text, "samples/tables.py"


def test_every_table_of_results_is_made() -> None:
    named = [
        found
        for path in ROOT.glob("docs/*.md")
        for found in re.findall(r"<!-- numbers: (.+?) -->", path.read_text())
    ]
    assert sorted(named) == sorted(tables.TABLES)


def test_numbers_in_sentences_on_robustness_are_those_of_the_results() -> None:
    text = (ROOT / "docs" / "robustness.md").read_text()
    prose = re.sub(r"<!-- numbers.*?end of numbers -->", "", text, flags=re.DOTALL)
    said = re.findall(r"\d+\.\d \[\d+\.\d, \d+\.\d\]", prose)
    known = {
        words(number, ".1f")
        for file in tables.STORED.glob("robustness/*.npz")
        for condition in load(file).meta["conditions"]
        for number in condition["numbers"].values()
    }
    assert said and not set(said) - known
