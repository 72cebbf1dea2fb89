"""`stand_in`: inside the block, a repository's imports find its own modules and our stand-ins."""

import copy
import importlib
import site
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import timm.layers
import timm.models._registry as registry
import torch

from workbench.external.names import content, is_leaf, refused, stands_in
from workbench.external.redirect import redirected


class StandIns(MetaPathFinder, Loader):
    """Finds the stand-ins.

    Attributes:
        installed: whether packages that are installed and work come first.
        imported: names of the stand-ins that were imported.
    """

    def __init__(self, installed: bool) -> None:
        self.installed = installed
        self.imported: list[str] = []
        self._working: dict[str, bool] = {}

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not stands_in(name) or (not is_leaf(name) and self._real(name, path)):
            return None
        return ModuleSpec(name, self, is_package=True)

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__
        vars(module).update(content(name))
        vars(module).setdefault("__getattr__", refused(name))
        self.imported.append(name)

    def _real(self, name: str, path: Sequence[str] | None) -> bool:
        """Whether there is a module of that name that is to be used: a fork, or what works."""
        others = (finder for finder in sys.meta_path if finder is not self)
        spec = next((s for f in others if (s := f.find_spec(name, path)) is not None), None)
        if spec is None or spec.origin is None:  # none, or a folder without any code
            return False
        if not is_installed(spec.origin) or name.startswith("fvcore"):
            return True
        return self.installed and self._works(name.partition(".")[0])

    def _works(self, package: str) -> bool:
        """Whether there is a GPU, and an installed package of GPU code can be imported."""
        if not torch.cuda.is_available():
            return False
        if package not in self._working:
            self._working[package] = True  # while it is tried
            try:
                importlib.import_module(package)
            except Exception:
                self._working[package] = False
                for name in [n for n in sys.modules if n.partition(".")[0] == package]:
                    del sys.modules[name]
        return self._working[package]


def is_installed(file: str) -> bool:
    """Whether a file is one of Python's or of an installed package."""
    return any(Path(file).is_relative_to(folder) for folder in _installation())


@cache
def _installation() -> frozenset[str]:
    folders = {sysconfig.get_path(kind) for kind in ("purelib", "platlib", "stdlib")}
    return frozenset(folders | {*site.getsitepackages(), site.getusersitepackages()})


def check_folder(repo: str | Path) -> None:
    """Raises ValueError when there is no such folder."""
    if not Path(repo).is_dir():
        raise ValueError(f"there is no folder {repo}; clone the repository there")


@contextmanager
def stand_in(*folders: str | Path, installed: bool = True) -> Iterator[StandIns]:
    """Stand in for mamba_ssm, its forks' compiled modules and what else needs CUDA.

    Afterwards everything is as it was, also after an exception: modules, import path, torch's
    functions, timm's registry. Objects made inside go on working.

    Args:
        folders: go first on the import path, such as the folder that the repository's own scripts
            are run from.
        installed: use installed packages of those names where they work. Their scans cannot be
            followed, so `load` does not.

    Raises:
        ValueError: when there is no such folder.
    """
    for folder in folders:
        check_folder(folder)
    finder = StandIns(installed)
    first = [str(Path(folder).resolve()) for folder in folders]
    path, modules = list(sys.path), dict(sys.modules)
    hidden = {name for name in modules if stands_in(name) or _clashes(name, first)}
    for name in hidden:
        del sys.modules[name]
    sys.meta_path.insert(0, finder)
    sys.path[:0] = first
    importlib.invalidate_caches()
    try:
        with _process_state(), redirected():
            yield finder
    finally:
        sys.meta_path.remove(finder)
        added = [entry for entry in sys.path if entry not in path]
        sys.path[:] = path
        new = [(name, module) for name, module in sys.modules.items() if name not in modules]
        for name in [name for name, module in new if _belongs(module, finder, added)]:
            del sys.modules[name]
        sys.modules.update({name: modules[name] for name in hidden})


def _clashes(name: str, folders: list[str]) -> bool:
    """Whether a loaded module hides one of the repository's: both are called `models`, perhaps."""
    top = name.partition(".")[0]
    file = getattr(sys.modules.get(top), "__file__", None)
    if file is None or is_installed(file) or top in _OURS:
        return False
    return any(Path(f, top).is_dir() or Path(f, f"{top}.py").is_file() for f in folders)


_OURS = ("workbench",)
"""Needed while the repository's code runs, whatever is called so there."""


def _belongs(module: ModuleType, finder: StandIns, folders: list[str]) -> bool:
    """Whether a module is a stand-in, or comes from the folders that were on the path."""
    if getattr(getattr(module, "__spec__", None), "loader", None) is finder:
        return True
    places = [getattr(module, "__file__", None), *list(getattr(module, "__path__", ()))]
    return any(
        Path(place).is_relative_to(folder) and not is_installed(place)
        for place in places
        if place
        for folder in folders
    )


@contextmanager
def _process_state() -> Iterator[None]:
    """Put back what imports of model code are known to change for the whole process."""
    tables = {
        name: _copied(table)
        for name, table in vars(registry).items()
        if name.startswith("_") and name != "__builtins__" and isinstance(table, dict | set)
    }
    drop_path = dict(vars(timm.layers.DropPath))
    flags = {name: getattr(torch.backends.cudnn, name) for name in _FLAGS}
    try:
        yield
    finally:
        for name, table in tables.items():
            live: Any = getattr(registry, name)
            live.clear()
            live.update(table)
        for name in {*vars(timm.layers.DropPath), *drop_path}:
            if name not in drop_path:
                delattr(timm.layers.DropPath, name)
            elif vars(timm.layers.DropPath).get(name) is not drop_path[name]:
                setattr(timm.layers.DropPath, name, drop_path[name])
        for name, value in flags.items():
            setattr(torch.backends.cudnn, name, value)


def _copied(table: dict | set) -> dict | set:
    """A copy of a table of timm's registry and of the lists and sets in it."""
    if isinstance(table, set):
        return set(table)
    inner = dict | list | set
    return {k: copy.copy(v) if isinstance(v, inner) else v for k, v in table.items()}


_FLAGS = ("benchmark", "deterministic", "enabled", "allow_tf32")
