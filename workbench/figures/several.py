"""Drawing takes one result or many."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from workbench.results import Result

Draw = Callable[..., Any]


def together(draw: Draw) -> Draw:
    """What draws many results in one figure, for one too."""

    @wraps(draw)
    def drawn(results: Any, *given: Any, **options: Any) -> Any:
        return draw([results] if isinstance(results, Result) else results, *given, **options)

    return drawn


def each(draw: Draw) -> Draw:
    """What draws one result, for many too: a list of figures."""

    @wraps(draw)
    def drawn(results: Any, *given: Any, **options: Any) -> Any:
        if isinstance(results, Result):
            return draw(results, *given, **options)
        return [draw(result, *given, **options) for result in results]

    return drawn
