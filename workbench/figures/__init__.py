"""Results to pictures, tables and words: a module for each kind of result, of the same name.

Each of them has

    sheets(results) -> Iterator[Sheet]      its figures, with file names and captions
    tables(results) -> dict[str, str]       file name -> text of a CSV or LaTeX file
    report(result) -> str                   what a terminal shows
"""

from importlib import import_module
from types import ModuleType


def of(kind: str) -> ModuleType:
    """The module that draws results of a kind, such as `scan-maps`.

    Raises:
        ValueError: when there is none.
    """
    try:
        return import_module(f"{__name__}.{kind.replace('-', '_')}")
    except ModuleNotFoundError as error:
        raise ValueError(f"results of the kind {kind} are not drawn") from error
