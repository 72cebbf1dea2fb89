"""The recipes of the documentation run, and its commands have the options that they use."""

import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest

from workbench.cli import parse

ROOT = Path(__file__).parents[1]
RECIPES = ROOT / "docs" / "library.md"


def commands(text: str) -> list[str]:
    """The `vssm` commands in the code blocks of a document."""
    blocks = re.findall(r"```(\w*)\n(.*?)```", text, re.DOTALL)
    shell = "\n".join(block for language, block in blocks if language in ("", "bash", "sh"))
    lines = shell.replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith("vssm ")]


DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = [(path.name, line) for path in DOCUMENTS for line in commands(path.read_text())]


@pytest.mark.parametrize(("document", "command"), COMMANDS)
def test_commands_of_the_documents_parse(document, command):
    words = shlex.split(command, comments=True)
    name, _ = parse(words[1:])
    assert name == words[1]


def test_commands_are_found_and_wrong_ones_are_refused():
    assert len(COMMANDS) >= 25
    with pytest.raises(ValueError, match="there is no option --quickly"):
        parse(["erf", "--model", "vim_nano", "--quickly"])


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
