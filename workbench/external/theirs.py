"""How a repository's own files are imported: from where, and what of a script is left out."""

import ast
import importlib
import importlib.util
import io
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any
from unittest.mock import patch

import torch

from workbench.external.cross import CROSS
from workbench.external.imports import StandIns
from workbench.external.names import on_demand, stands_in
from workbench.external.search import Definition, Repository, Source


def folders(repository: Repository, source: Source) -> list[Path]:
    """Where a file's imports are found: what goes on the import path, in this order.

    The folder that its package lies in, those around it, a fork of mamba_ssm, and the nearest
    folders of what else of the repository it imports, directly or not.
    """
    root = repository.folder
    # So many folders up as its package has __init__ files, or its relative imports ask for.
    depth = len(source.path.parent.parts)
    files = {other.path for other in repository.sources}
    packages = 0
    inside = source.path.parent
    while inside.parts and inside / "__init__.py" in files:
        packages, inside = packages + 1, inside.parent
    levels = [len(m) - len(m.lstrip(".")) for m, _ in source.imports.values()]
    top = root.joinpath(*source.path.parent.parts[: depth - max([packages, *levels])])
    found = [top]
    while found[-1] != root:
        found.append(found[-1].parent)
    near = sorted(forks(root), key=lambda fork: -len({*fork.parts} & {*found[0].parts}))
    found += near[:1]
    for _, module, sources in repository.imported(source):
        first = module.partition(".")[0]
        known = not first or stands_in(first) or first in sys.stdlib_module_names
        if known or not sources or any(_holds(folder, first) for folder in found):
            continue
        if importlib.util.find_spec(first) is None:
            parts = sources[0].parts
            found.append(root.joinpath(*parts[: len(parts) - len(module.split("."))]))
    return list(dict.fromkeys(found))


def forks(folder: Path) -> list[Path]:
    """The folders with a fork of mamba_ssm in them."""
    return [file.parents[1] for file in sorted(folder.rglob("mamba_ssm/__init__.py"))]


def module_name(repository: Repository, source: Source, folder: Path) -> str:
    """The dotted name of a file, imported from `folder`."""
    return ".".join((repository.folder.joinpath(*source.parts)).relative_to(folder).parts)


def _holds(folder: Path, name: str) -> bool:
    return (folder / name).is_dir() or (folder / f"{name}.py").is_file()


class TheirFiles(MetaPathFinder):
    """Finds the repository's files, for `TheirLoader`.

    Attributes:
        folder: the repository.
        scripts: files of which only definitions run.
        failed: what went wrong in an `__init__.py`, whose package goes on without the rest.
        missing: packages that the repository's files asked for in vain, also where they go on.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.scripts: set[Path] = set()
        self.failed: list[Exception] = []
        self.missing: list[str] = []

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and type(spec.loader) is SourceFileLoader:
            file = Path(spec.loader.path)
            if file.is_relative_to(self.folder):
                spec.loader = TheirLoader(spec.loader.name, str(file), self)
                return spec
        return None


class Missing(MetaPathFinder):
    """Asked last: keeps the names that nobody has.

    What is not known of a package that is stood in, and Triton, are stand-ins too, which refuse to
    be used, and what timm has moved is found; not for an import inside `try`, which has something
    else in its place.
    """

    def __init__(self, theirs: TheirFiles, stand_ins: StandIns) -> None:
        self.theirs, self.stand_ins = theirs, stand_ins

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        asking: FrameType | None = sys._getframe(1)
        while asking is not None and asking.f_code.co_filename.startswith("<frozen"):
            asking = asking.f_back
        file, top = Path(asking.f_code.co_filename) if asking else Path(), name.partition(".")[0]
        if asking is None or not file.is_relative_to(self.theirs.folder):
            return None
        if on_demand(name) and not _is_tried(file, asking.f_lineno):
            return ModuleSpec(name, self.stand_ins, is_package=True)
        if top not in sys.modules:
            self.theirs.missing.append(top)
        return None


def _is_tried(file: Path, line: int) -> bool:
    """Whether a line of a file is inside `try`."""
    return any(
        isinstance(node, ast.Try)
        and node.body[0].lineno <= line <= (node.body[-1].end_lineno or line)
        for node in ast.walk(ast.parse(file.read_bytes()))
    )


class TheirLoader(SourceFileLoader):
    """Imports one file of the repository."""

    def __init__(self, name: str, path: str, finder: TheirFiles) -> None:
        super().__init__(name, path)
        self.finder = finder

    def get_code(self, fullname: str):
        file = Path(self.path)
        if file not in self.finder.scripts:
            return super().get_code(fullname)
        tree = ast.parse(self.get_data(self.path))
        return compile(definitions_of(tree), self.path, "exec", dont_inherit=True)

    def exec_module(self, module: ModuleType) -> None:
        try:
            super().exec_module(module)
        except Exception as error:
            # What a package imports for its own sake need not be what the model needs.
            if not self.is_package(module.__name__):
                raise
            self.finder.failed.append(error)
        if not torch.cuda.is_available():
            _stand_in_for_triton(vars(module))


def _stand_in_for_triton(names: dict[str, Any]) -> None:
    """Put our cross scans in the place of those that a module defines by Triton kernels."""
    if {"triton_cross_scan", "triton_cross_merge"} <= names.keys():
        for name, ours in CROSS.items():
            if getattr(names.get(name), "__module__", None) == names["__name__"]:
                names[name] = ours


def definitions_of(tree: ast.Module) -> ast.Module:
    """A module without the script at its end: what follows the last definition, and binds no name
    that a definition uses."""
    kinds = (ast.ClassDef, ast.FunctionDef)
    last = max((i for i, node in enumerate(tree.body) if isinstance(node, kinds)), default=-1)
    used = {
        inner.id
        for node in tree.body[: last + 1]
        if isinstance(node, kinds)
        for inner in ast.walk(node)
        if isinstance(inner, ast.Name)
    }
    kept = [node for node in tree.body[last + 1 :] if _bound(node) & used]
    return ast.Module([*tree.body[: last + 1], *kept], [])


def _bound(node: ast.stmt) -> set[str]:
    names = {
        inner.id
        for inner in ast.walk(node)
        if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store)
    }
    aliases = getattr(node, "names", []) if isinstance(node, ast.Import | ast.ImportFrom) else []
    return names | {alias.asname or alias.name.partition(".")[0] for alias in aliases}


@contextmanager
def their_files(folder: Path, stand_ins: StandIns) -> Iterator[TheirFiles]:
    """Inside the block the repository's files are imported in this way; scripts in them see no
    arguments and no input, and what they print goes where errors go."""
    finder = TheirFiles(folder)
    missing = Missing(finder, stand_ins)
    sys.meta_path.insert(sys.meta_path.index(stand_ins) + 1, finder)
    sys.meta_path.append(missing)
    try:
        with (
            patch.object(sys, "argv", [str(folder)]),
            patch.object(sys, "stdin", io.StringIO()),
            redirect_stdout(sys.stderr),
        ):
            yield finder
    finally:
        sys.meta_path.remove(finder)
        sys.meta_path.remove(missing)


def imported(repository: Repository, definition: Definition, finder: TheirFiles, top: Path):
    """The class or function of a definition, from the folder that is first on the import path."""
    finder.scripts.add(repository.folder / definition.source.path)
    name = module_name(repository, definition.source, top)
    return getattr(importlib.import_module(name), definition.name)
