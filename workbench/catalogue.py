"""Which methods there are: a file of `methods/` that has a file of the same name in `figures/`."""

import pkgutil
from importlib import import_module
from types import ModuleType
from typing import Any

from workbench import figures, methods


def names() -> tuple[str, ...]:
    """All methods, as the command line spells them: `erf`, `scan-maps` ..."""
    both = {module.name for module in pkgutil.iter_modules(methods.__path__)}
    both &= {module.name for module in pkgutil.iter_modules(figures.__path__)}
    return tuple(sorted(name.replace("_", "-") for name in both))


def method(name: str) -> ModuleType:
    """The module of a method: `measure`, `combine` and its configuration."""
    return import_module(f"workbench.methods.{name.replace('-', '_')}")


def title(name: str) -> str:
    """Its name in words: what its docstring begins with, up to the colon."""
    return (method(name).__doc__ or name).partition(":")[0]


def config_class(name: str) -> Any:
    """Its configuration, such as `ScanMapsConfig` of `scan-maps`."""
    words = name.replace("-", "_").split("_")
    return getattr(method(name), "".join(map(str.title, words)) + "Config")
