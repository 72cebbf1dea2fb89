"""Results to pictures, tables and words: `figure.py` in the folder of each method.

Each of them has

    sheets(results) -> Iterator[Sheet]      its figures, with file names and captions
    tables(results) -> dict[str, str]       file name -> text of a CSV or LaTeX file
    report(result) -> str                   what a terminal shows

and `sheets` may take further arguments with defaults, which become options of the command line.
Here is what they share: files, sizes, colours, cells of tables.
"""

from importlib import import_module
from types import ModuleType

from workbench import methods


def of(kind: str) -> ModuleType:
    """The module that draws results of a kind, such as `scan-maps`.

    Raises:
        ValueError: when there is none.
    """
    if kind not in methods.METHODS:
        raise ValueError(f"results of the kind {kind} are not drawn")
    return import_module(f"{methods.folder(kind)}.figure")
