"""The process beside the app in which a repository's code runs: answers calls until the app ends.

Calls come in by standard input and answers go out by standard output, which nobody else may use.
"""

import os
import pickle
import traceback
from importlib import import_module
from typing import IO, Any

from streamlit.logger import set_log_level

from workbench.app.repository import ERRORS, Callback


class Stop(BaseException):
    """The app wants no more of this call. No Exception, as those are caught on the way."""


def main() -> None:
    """Answer calls one after the other."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # what external code prints goes where errors go
    set_log_level("ERROR")  # caches of Streamlit warn that there is no page
    while True:
        try:
            request = pickle.load(requests)
        except EOFError:
            return
        try:
            answer = "value", _called(request, requests, answers)
        except Stop:
            answer = "value", None
        except Exception as error:
            names = [kind.__name__ for kind in ERRORS if isinstance(error, kind)]
            name = names[0] if names else type(error).__name__
            message = str(error) if names else f"{name}: {error}"
            answer = "error", (name, message, traceback.format_exc())
        _send(answer, answers)


def _called(request: tuple, requests: IO[bytes], answers: IO[bytes]) -> Any:
    module, function, args, kwargs = request

    def received(value: Any) -> Any:
        if not isinstance(value, Callback):
            return value

        def call(*given: Any) -> None:
            _send(("call", (value.number, given)), answers)
            if not pickle.load(requests):
                raise Stop

        return call

    found = getattr(import_module(module), function)
    return found(*map(received, args), **{k: received(v) for k, v in kwargs.items()})


def _send(message: Any, answers: IO[bytes]) -> None:
    answers.write(pickle.dumps(message))  # whole or not at all
    answers.flush()


if __name__ == "__main__":
    main()
