"""Models of the repository that the app was started with, each in a process of its own.

So what it imports and changes does not touch the app, and a crash ends its process alone. It is no
protection from malice: the code has the rights of the user who named it.
"""

import functools
import json
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import streamlit as st

P = ParamSpec("P")
R = TypeVar("R")

INSIDE = "VSSM_REPOSITORY_PROCESS"
"""Set in the environment of that process."""

_TOLD = "VSSM_REPOSITORY"

ERRORS: tuple[type[Exception], ...] = (ConnectionError, OSError, MemoryError, ValueError)
"""What the page says in a sentence; the first that fits stands for an error of the process."""


@dataclass(frozen=True)
class Repository:
    """One model: the folder, and the file that makes it or its name there where one is given."""

    folder: Path
    adapter: Path | None = None
    model: str | None = None

    @property
    def name(self) -> str:
        return self.model or self.folder.name


def told(folder: str | Path, adapter: str | Path | None, models: Sequence[str]) -> dict[str, str]:
    """What `vssm app --repo FOLDER` was told, for the environment of the app."""
    found = {"folder": str(Path(folder).resolve()), "models": list(models)}
    found["adapter"] = None if adapter is None else str(Path(adapter).resolve())
    return {_TOLD: json.dumps(found)}


def offered() -> list[Repository]:
    """The models of the repository by the app's environment."""
    if _TOLD not in os.environ:
        return []
    found = json.loads(os.environ[_TOLD])
    adapter = found["adapter"] and Path(found["adapter"])
    return [Repository(Path(found["folder"]), adapter, m) for m in found["models"] or [None]]


def repository_of(model: str) -> Repository | None:
    """Where a model of that name is found; None for the workbench's own models."""
    return next((own for own in offered() if own.name == model), None)


def beside_the_model(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function of a module run where its model is: here, or in the repository's process.

    Its first argument is the `Spec`, or has one as `spec`. What it takes and returns must pickle;
    arguments that are functions are called here, and what they raise stops the other process.
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        spec: Any = getattr(args[0], "spec", args[0])
        known = repository_of(spec.model)
        if known is None or INSIDE in os.environ:
            return function(*args, **kwargs)
        return process_of(known).call(function.__module__, function.__name__, args, kwargs)

    return call


@dataclass(frozen=True)
class Callback:
    """Stands for an argument that is a function."""

    number: int


class Process:
    """The other process; one call at a time, from any thread."""

    def __init__(self, name: str) -> None:
        self.name, self.lock = name, threading.Lock()
        self.process: subprocess.Popen | None = None

    def call(self, module: str, function: str, args: tuple, kwargs: dict) -> Any:
        """Call `module.function` there.

        Raises:
            ValueError, OSError, MemoryError: as the function does, in one sentence; ValueError also
                when the process ends.
            RuntimeError: for any other error, with the traceback of the process as a note.
        """
        callbacks: list[Callable] = []

        def sent(value: Any) -> Any:
            if not callable(value):
                return value
            callbacks.append(value)
            return Callback(len(callbacks) - 1)

        request = module, function, [*map(sent, args)], {k: sent(v) for k, v in kwargs.items()}
        begins = self.process is None
        said = f"Starting the process of {self.name} ..."
        with self.lock, st.spinner(said) if begins else nullcontext():
            try:
                return self._answer(request, callbacks)
            except (EOFError, BrokenPipeError):
                assert self.process is not None
                code = self.process.wait()
                self.process = None
                raise ValueError(
                    f"the process of {self.name} ended (exit code {code}), perhaps for want of "
                    "memory; choose a smaller size, the next choice starts it again"
                ) from None

    def close(self) -> None:
        """End the process; the next call begins another."""
        with self.lock:
            if self.process is not None:
                self.process.communicate()  # it ends when there is nothing more to read
                self.process = None

    def _answer(self, request: tuple, callbacks: list[Callable]) -> Any:
        self._send(request)
        stopped: BaseException | None = None
        while True:
            kind, value = self._receive()
            if kind == "call":
                number, args = value
                try:
                    callbacks[number](*args)
                except BaseException as error:  # Streamlit stops a page by such
                    stopped = error
                self._send(stopped is None)
            elif stopped is not None:  # and what was left to do there is undone
                raise stopped
            elif kind == "value":
                return value
            else:
                name, message, trace = value
                known = {error.__name__: error for error in ERRORS}
                error = known.get(name, RuntimeError)(message)
                error.add_note(trace)
                raise error

    def _send(self, message: Any) -> None:
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "workbench.app.repository_process"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, INSIDE: "1"},
            )
        assert self.process.stdin is not None
        self.process.stdin.write(pickle.dumps(message))
        self.process.stdin.flush()

    def _receive(self) -> Any:
        assert self.process is not None and self.process.stdout is not None
        return pickle.load(self.process.stdout)


@st.cache_resource(show_spinner=False)
def process_of(known: Repository) -> Process:
    """The process of a repository, the same for all sessions; begun by the first call."""
    return Process(known.name)
