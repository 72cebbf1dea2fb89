"""Chosen numbers of several results side by side: what a panel shows, and what is refused."""

import csv
import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import yaml

from workbench import paper
from workbench.cli import main
from workbench.figures import summary as pictures
from workbench.results import Result, load
from workbench.statistics import least_difference, of_trainings, pooled
from workbench.summary import Panel, summarise

STORED = Path(__file__).parents[1] / "samples" / "results"
ACCURACY = Panel("top-1 (%)", "resolution", "top1", {"size": 64})


def of_network(result: Result, called: str) -> Result:
    facts = {**result.meta["facts"], "weights_label": called, "model": "net"}
    return dataclasses.replace(result, meta={**result.meta, "facts": facts, "model": "net"})


@pytest.fixture(scope="module")
def curves() -> dict[str, Result]:
    """Stored curves of four networks, as trainings of two and two others."""
    models = {"vmamba": "a, seed 0", "vim": "a, seed 1", "resnet": "b, seed 0", "vit": "c"}
    stored = {n: STORED / "resolution" / f"{m}_nano-resolution.npz" for m, n in models.items()}
    return {name: of_network(load(file), name) for name, file in stored.items()}


def test_a_panel_has_the_numbers_of_the_tables(curves) -> None:
    field = of_network(load(STORED / "erf.npz"), "b, seed 0")
    panels = [ACCURACY, Panel("field", "erf", "A50")]
    found = summarise([*curves.values(), field], panels)
    accuracy, area = found.columns
    for name, curve in curves.items():
        row, _, seed = name.partition(", seed ")
        (point,) = (p["numbers"]["top1"] for p in curve.points if p["size"] == 64)
        number = accuracy.trainings[row][seed]
        assert np.allclose([number.value, number.low, number.high], [*_parts(point)], rtol=1e-5)
    assert math.isclose(area.trainings["b"]["0"].value, field.numbers["A50"]["value"], rel_tol=1e-5)
    assert set(area.trainings) == {"b"} and area.least is None
    best = sorted(accuracy.others, key=lambda row: -accuracy.others[row].value)
    assert list(found.rows) == best == sorted("abc", key=best.index)


def _parts(number: dict) -> tuple[float, float, float]:
    return number["value"], number["low"], number["high"]


def test_spread_between_trainings_is_that_of_the_pairs(curves) -> None:
    (column,) = summarise([*curves.values()], [ACCURACY]).columns
    first, second = (number.value for number in column.trainings["a"].values())
    spread = abs(first - second) / math.sqrt(2)
    t = 12.706204736  # 1 degree of freedom, tables
    assert math.isclose(column.least, t * spread * math.sqrt(2), rel_tol=1e-6)
    mean = column.others["a"]
    assert math.isclose(mean.value, (first + second) / 2)
    assert math.isclose(mean.high - mean.value, t * spread / math.sqrt(2), rel_tol=1e-6)
    alone = column.others["c"]
    assert math.isclose(alone.high - alone.value, t * spread, rel_tol=1e-6)


def test_intervals_of_trainings_hold_the_mean_as_often_as_they_say() -> None:
    draw, held, differ = np.random.default_rng(0), 0, 0
    for _ in range(2000):
        groups = [draw.normal(mean, 0.7, n) for mean, n in ((3, 2), (1, 3), (5, 1))]
        found = of_trainings(groups[2], groups)
        held += found.low <= 5 <= found.high
        pair = draw.normal(2, 0.7, 2)  # two trainings of which nothing is known
        differ += abs(pair[0] - pair[1]) > least_difference(groups)
    assert abs(held / 2000 - 0.95) < 0.015 and abs(differ / 2000 - 0.05) < 0.015


def test_spread_needs_two_trainings_of_one() -> None:
    assert pooled([[1.0], [2.0]])[1] == 0 and least_difference([[1.0], [2.0]]) is None
    assert of_trainings([1.0], [[1.0], [2.0]]).low is None
    assert math.isnan(of_trainings([], [[1.0]]).value)


@pytest.mark.parametrize(
    ("panel", "words"),
    [
        (Panel("p", "erf", "A50"), "no result of erf"),
        (Panel("p", "resolution", "top2", {"size": 64}), "no number 'top2'; the nearest is top5"),
        (Panel("p", "resolution", "top1", {"sizes": 64}), "no column 'sizes'; the nearest is size"),
        (Panel("p", "resolution", "top1"), "9 lines of the table of resolution"),
        (Panel("p", "resolution", "top1", {"size": 65}), "no lines of the table"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_panel_that_nothing_fits_is_refused(curves, panel: Panel, words: str) -> None:
    with pytest.raises(ValueError, match=r"^panel 'p': ") as refused:
        summarise([*curves.values()], [panel])
    assert words in str(refused.value)


def test_one_training_twice_is_refused(curves) -> None:
    with pytest.raises(ValueError, match="two resolution results of a, seed 0"):
        summarise([*curves.values(), curves["a, seed 0"]], [ACCURACY])


def test_levels_of_intervals_are_not_mixed(curves) -> None:
    def at(curve: Result, level: float) -> Result:
        interval = {**curve.meta["interval"], "confidence": level}
        return dataclasses.replace(curve, meta={**curve.meta, "interval": interval})

    ninety = [at(curve, 0.9) for curve in curves.values()]
    assert "90 % interval" in pictures.caption(summarise(ninety, [ACCURACY]))
    with pytest.raises(ValueError, match="90 % and 95 %"):
        summarise([ninety[0], *list(curves.values())[1:]], [ACCURACY])


def test_figure_and_tables_come_from_one_file(tmp_path: Path, curves, capsys) -> None:
    for i, curve in enumerate(curves.values()):
        curve.save(tmp_path / f"{i}.npz", compressed=bool(i % 2))
    figure = {"method": "summary", "stored": [f"{tmp_path}/*.npz"]}
    panels = {"top-1 (%)": {"method": "resolution", "number": "top1", "size": 64}}
    file = tmp_path / "paper.yaml"

    def write(**more) -> None:
        file.write_text(yaml.safe_dump({"formats": ["svg"], "figures": {"all": figure | more}}))

    write(panels=panels)
    files = paper.make(paper.read(file), tmp_path / "out")
    assert [f.name for f in files] == ["summary.svg", "summary.txt", "summary.csv", "summary.tex"]
    rows = list(csv.DictReader((tmp_path / "out/all/summary.csv").open()))
    assert {(row["network"], row["seed"]) for row in rows} == {
        ("a", "0"), ("a", "1"), ("a", "all"), ("b", "0"), ("b", "all"), ("c", ""), ("c", "all"),
    }  # fmt: skip
    assert "undecided below" in (tmp_path / "out/all/summary.tex").read_text()
    for wrong, words in (
        ({}, "needs panels"),
        ({"panels": {"p": "top1"}}, "panel p of figure all"),
        ({"panels": {"p": {"method": "errf", "number": "A50"}}}, "the nearest is erf"),
        ({"panels": panels, "stored": []}, "needs stored results"),
        ({"panels": panels, "method": "erf"}, "panels is not known"),
    ):
        write(**wrong)
        assert main(["figures", str(file), "--out", str(tmp_path / "no")]) == 2
        assert words in capsys.readouterr().err


def test_words_say_how_many_were_trained_again(curves) -> None:
    panels = [ACCURACY]
    said = pictures.caption(summarise([*curves.values()], panels))
    assert "3 networks" in said and "trained more than once (a)" in said
    alone = {name: curve for name, curve in curves.items() if name != "a, seed 1"}
    assert "No network was trained twice" in pictures.caption(summarise([*alone.values()], panels))
