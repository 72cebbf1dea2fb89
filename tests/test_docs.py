"""The recipes of the documentation run."""

import contextlib
import io
import re
from pathlib import Path

RECIPES = Path(__file__).parents[1] / "docs" / "library.md"


def test_recipes_run_in_order(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", RECIPES.read_text(), re.DOTALL)
    assert len(blocks) >= 10
    names: dict = {}
    printed = []
    for block in blocks:
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(compile(block, str(RECIPES), "exec"), names)
        printed.append(out.getvalue())
    assert all(printed)
    moved = re.search(r"tensor\(([\d.e-]+)", printed[0])
    assert moved and float(moved[1]) > 0
    assert len(printed[1].splitlines()) == 24
