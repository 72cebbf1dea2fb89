"""The pages, the reference and the citation agree with what is there; no network, no mkdocs."""

import dataclasses
import inspect
import json
import re
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from docstring_parser import parse

import workbench
from workbench import methods

ROOT = Path(__file__).parents[1]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted(ROOT.glob("docs/*.md")),
    *sorted(ROOT.glob("examples/*.ipynb")),
    *sorted(ROOT.glob("benchmarks/results/*.md")),
]
PUBLIC = ["workbench", "workbench.external", "workbench.kernels", "workbench.results"]


def prose(page: Path) -> str:
    """The Markdown of a page or a notebook, without blocks of code and the signs in spans."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".ipynb":
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"]
        text = "\n\n".join("".join(cell["source"]) for cell in cells)
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    return re.sub(r"`([^`]*)`", lambda code: re.sub(r"[^\w -]", "", code[1]), text)


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ +(.+?)\s*$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", text).strip().lower().replace(" ", "-") for text in headings}


def broken(page: Path) -> list[str]:
    """The relative links and pictures of a page that lead to no file, or to no heading of it."""
    found = re.findall(r"\]\(\s*<?([^)\s>]+)|(?:src|href)=\"([^\"]+)\"", prose(page))
    wrong = []
    for link in ("".join(groups) for groups in found):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        if not target.is_file() or (anchor and anchor not in anchors(target)):
            wrong.append(link)
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    assert not broken(page)


def test_links_that_lead_nowhere_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    (tmp_path / "folder").mkdir()
    page.write_text(
        "# The `first` heading: here\n[a](page.md#the-first-heading-here) [b](#there) [c](no.md)\n"
        '![d](no.png) [e](folder) `[f](code.md)` [g](https://x.y) <img src="no.svg">\n'
        "[h\ni](page.md#no) [![j](k.png)](page.md)\n```\n[l](m.md)\n```\n"
    )
    assert broken(page) == ["#there", "no.md", "no.png", "folder", "no.svg", "page.md#no", "k.png"]


def test_every_page_is_in_the_navigation() -> None:
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    listed = [page for section in nav for pages in section.values() for page in pages]
    pages = {page.relative_to(ROOT).as_posix() for page in PAGES}
    assert len(listed) == len({*listed})
    assert {page for page in listed if not page.startswith("api/")} == pages


def undocumented(name: str, found: object) -> Iterator[str]:
    """Names without a docstring of their own: an object, its public methods, its fields."""
    if not (inspect.isroutine(found) or inspect.isclass(found) or inspect.ismodule(found)):
        found = type(found)
    text = found.__doc__ or ""
    if not text or text.startswith(f"{found.__name__}("):  # a dataclass writes that itself
        yield name
    if not inspect.isclass(found):
        return
    for member, value in vars(found).items():
        called = inspect.isroutine(value) or isinstance(value, property)
        if called and not member.startswith("_") and not inspect.getdoc(getattr(found, member)):
            yield f"{name}.{member}"
    if dataclasses.is_dataclass(found):
        told = {entry.arg_name for of in found.__mro__ for entry in parse(of.__doc__ or "").params}
        missing = (field.name for field in dataclasses.fields(found) if field.name not in told)
        yield from (f"{name}.{field}" for field in missing)


@pytest.mark.parametrize("module", PUBLIC)
def test_every_public_name_says_what_it_is(module: str) -> None:
    found = import_module(module)
    assert not [line for name in found.__all__ for line in undocumented(name, getattr(found, name))]


@pytest.mark.parametrize("name", methods.METHODS)
def test_every_method_is_public_with_its_options(name: str) -> None:
    method = methods.get(name)
    assert getattr(workbench, name.replace("-", "_")) is method
    assert getattr(workbench, method.Config.__name__) is method.Config
    assert type(method).__doc__ != methods.method.Method.__doc__


def test_names_without_a_docstring_are_found() -> None:
    @dataclasses.dataclass
    class Options:
        side: int = 1

        def double(self) -> int:
            return 2 * self.side

    assert [*undocumented("O", Options)] == ["O", "O.double", "O.side"]
    Options.__doc__ = "What is asked.\n\n    Attributes:\n        side: in pixels.\n"
    Options.double.__doc__ = "Twice the side."
    assert not [*undocumented("O", Options)]


def test_the_citation_names_this_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    said = {key: citation[key] for key in ("title", "version", "license")}
    assert said == {
        "title": project["name"],
        "version": project["version"],
        "license": project["license"],
    }
