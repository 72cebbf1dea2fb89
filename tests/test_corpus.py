"""Hundreds of generated files: nothing damaged is believed, nothing good refused, nothing hangs."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SECONDS, HANG, MEGABYTES, FEWEST = 90, 10, 1024, 400


@pytest.fixture(scope="module")
def told(tmp_path_factory) -> list[dict]:
    """What became of each case, from a process of its own whose memory is watched."""
    command = [sys.executable, "-m", "corpus", str(tmp_path_factory.mktemp("corpus")), "0"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE)])}
    # a shared machine may take twice the time
    done = subprocess.run(
        command, cwd=HERE, env=environment, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=2 * SECONDS,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def names(cases: list[dict]) -> list[str]:
    return [f"{case['name']}: {case['found']} {case['said'][:300]}" for case in cases]


def test_there_are_hundreds_of_all_kinds(told) -> None:
    kinds = Counter(case["name"].partition("/")[0] for case in told)
    assert len(told) >= FEWEST and min(kinds.values()) >= 20
    assert kinds.keys() == {"weights", "images", "results", "yaml", "options"}
    outcomes = {(case["good"], case["found"]) for case in told}
    assert {(True, "right"), (False, "refused")} <= outcomes


def test_nothing_ends_in_a_traceback_or_hangs(told) -> None:
    assert not names([case for case in told if case["found"] in ("traceback", "hang")])
    assert max(case["seconds"] for case in told) < HANG


def test_nothing_comes_out_wrong(told) -> None:
    assert not names([case for case in told if case["found"] == "wrong"])
    assert not names([case for case in told if case["good"] is False and case["found"] == "right"])


def test_nothing_good_is_refused(told) -> None:
    assert not names([case for case in told if case["good"] and case["found"] != "right"])


def test_no_case_reads_a_gigabyte_or_executes_anything(told, tmp_path_factory) -> None:
    assert sum(case["megabytes"] for case in told) < MEGABYTES
    assert not [case["executed"] for case in told if case["executed"]]
    # other tests have a marker too: their files are read without care, to show that they would run
    folders = list(tmp_path_factory.getbasetemp().glob("corpus*"))
    assert folders and not [file for folder in folders for file in folder.rglob("marker")]


def test_every_refusal_is_one_clean_sentence(told) -> None:
    for case in told:
        if case["found"] == "refused":
            assert case["said"].isprintable() and 3 < len(case["said"]) < 1500, names([case])
