"""Results to pictures, tables and words: `figure.py` in the folder of each method.

Each of them has

    sheets(results) -> Iterator[Sheet]      its figures, with file names and captions
    tables(results) -> dict[str, str]       file name -> text of a CSV or LaTeX file
    report(result) -> str                   what a terminal shows

and `sheets` may take further arguments with defaults, which become options of the command line.
Here is what they share: files, sizes, colours, cells of tables.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType

from workbench import methods
from workbench.files import printable
from workbench.results import Result, ResultError


def of(kind: str) -> ModuleType:
    """The module that draws results of a kind, such as `scan-maps`.

    Raises:
        ValueError: when there is none.
    """
    if kind not in methods.METHODS:
        raise ValueError(f"results of the kind {kind} are not drawn")
    return import_module(f"{methods.folder(kind)}.figure")


def csv_table(result: Result) -> str:
    """The first of a result's tables, as CSV."""
    tables = of(result.kind).tables([result])
    return next(text for name, text in tables.items() if name.endswith(".csv"))


@contextmanager
def complete(name: str) -> Iterator[None]:
    """Draw and describe inside the block what came from a file called `name`.

    Raises:
        ResultError: where the result lacks a part that only its figure or table asks for.
    """
    try:
        yield
    except (KeyError, TypeError, AttributeError, IndexError, StopIteration) as error:
        reason = printable(f"{type(error).__name__}: {error}")
        raise ResultError(
            f"{name} does not say all of itself ({reason}); make it again."
        ) from error
