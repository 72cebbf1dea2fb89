"""The recipes of the documentation run, and its commands have the options that they use."""

import ast
import contextlib
import io
import json
import re
import shlex
from pathlib import Path

import pytest

from workbench import Study, cli, methods
from workbench.cli import parse
from workbench.cli.examples import EXAMPLES
from workbench.cli.options import read_fields

ROOT = Path(__file__).parents[1]


def commands(text: str) -> list[str]:
    """What is passed to `vssm` in the code blocks of a document, also under torchrun."""
    blocks = re.findall(r"```(\w*)\n(.*?)```", text, re.DOTALL)
    shell = "\n".join(block for language, block in blocks if language in ("", "bash", "sh"))
    starts = r"^(?:vssm|(?:srun|torchrun|python) .*-m (?:workbench\.cli|analyses\.(?=\w)))\s*"
    lines = shell.replace("\\\n", " ").splitlines()
    return [re.sub(starts, "", line) for line in lines if re.match(starts, line)]


DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = [(path.name, line) for path in DOCUMENTS for line in commands(path.read_text())]


@pytest.mark.parametrize(("document", "command"), COMMANDS)
def test_commands_of_the_documents_are_understood(document, command):
    words = [word for word in shlex.split(command, comments=True) if word != "..."]
    words = words[: words.index(">")] if ">" in words else words
    name, args = parse(words)
    if name in methods.METHODS:
        assert read_fields(args, Study).model or args.repo
        read_fields(args, methods.get(name).Config)


@pytest.mark.parametrize("example", [line for lines in EXAMPLES.values() for line in lines])
def test_examples_of_the_help_are_understood(example):
    test_commands_of_the_documents_are_understood("help", commands(f"```\n{example}\n```")[0])


def test_commands_are_found_all_of_them_and_wrong_ones_are_refused():
    assert len(COMMANDS) >= 40
    told = {line.split()[0] for document, line in COMMANDS if document == "README.md"}
    assert set(cli.commands()) <= told
    with pytest.raises(ValueError, match="there is no option --quickly"):
        parse(["erf", "--model", "vim_nano", "--quickly"])


@pytest.mark.parametrize(("document", "least"), [("README.md", 2), ("docs/library.md", 12)])
def test_recipes_run_in_order(document, least, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)
    assert len(blocks) >= least
    names: dict = {}
    printed = {}
    for block in blocks:
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(compile(block, document, "exec"), names)
        printed[block] = out.getvalue()
    if document == "README.md":
        assert (tmp_path / "field.pdf").is_file() and names["slower"].shape == (1, 10)
        return
    assert all(printed.values())
    moved = re.search(r"tensor\(([\d.e-]+)", next(v for k, v in printed.items() if "before" in k))
    assert moved and float(moved[1]) > 0
    sites = next(value for block, value in printed.items() if "site.layer" in block)
    assert len(sites.splitlines()) == 24


def test_the_notebooks_run(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    shown = {}
    for file in sorted((ROOT / "examples").glob("*.ipynb")):
        assert file.stat().st_size < 200_000
        names: dict = {}
        for cell in json.loads(file.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "code":
                *lines, last = ast.parse("".join(cell["source"])).body
                exec(compile(ast.Module(lines, []), file.name, "exec"), names)
                assert isinstance(last, ast.Expr)
                shown[file.name] = eval(
                    compile(ast.Expression(last.value), file.name, "eval"), names
                )
        names.clear()
    assert set(shown) == {"first_look.ipynb", "my_own_network.ipynb", "a_papers_figure.ipynb"}
    assert len(shown["first_look.ipynb"]) == 4  # a horizon for each direction
    rows, moved = shown["my_own_network.ipynb"]
    assert rows == 19 and moved > 0
    assert {file.name for file in (tmp_path / "figure").iterdir()} >= {"erf.pdf", "erf.tex"}
