"""What can go wrong in a repository's code, said in a sentence."""

import re
import socket
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

from torch import nn

from workbench.external.imports import is_installed
from workbench.external.names import stands_in
from workbench.external.theirs import TheirFiles

_PIP_NAMES = {
    "cv2": "opencv-python",
    "PIL": "pillow",
    "pywt": "pywavelets",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
"""Packages that are imported under another name."""


class _Download(BaseException):
    """Somebody looked up a host. No Exception, as libraries catch those and try again."""


@contextmanager
def no_network() -> Iterator[None]:
    """Inside the block a download ends in an error that `explained` knows."""

    def refuse(host: Any, *args: Any, **kwargs: Any) -> None:
        raise _Download(host)

    with patch.object(socket, "getaddrinfo", refuse):
        yield


@contextmanager
def watched_weights() -> Iterator[list[nn.Module]]:
    """The modules whose weights are loaded inside the block."""
    loaded: list[nn.Module] = []
    load_state_dict = nn.Module.load_state_dict

    def note(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        loaded.append(module)
        return load_state_dict(module, *args, **kwargs)

    with patch.object(nn.Module, "load_state_dict", note):
        yield loaded


@contextmanager
def explained(what: str, theirs: TheirFiles) -> Iterator[None]:
    """What goes wrong in external code, in one sentence.

    Args:
        what: is done.
        theirs: knows what went wrong before and was let pass.

    Raises:
        ValueError: in place of any error; those of the workbench stay as they are.
    """
    try:
        yield
    except _Download as error:
        raise ValueError(
            f"{what} wants to download from {error}: name a model without pretrained weights with "
            "--model, or let make() of an adapter build one, and give a checkpoint with --weights"
        ) from None
    except SystemExit as error:
        at = _their_place(error)
        raise ValueError(
            f"{what} ended the program at {at} while it was imported: it is a script; name another "
            "model with --model, or write an adapter (docs/your-model.md)"
        ) from error
    except Exception as error:
        raise ValueError(_said(what, error, theirs)) from error


def _said(what: str, error: Exception, theirs: TheirFiles) -> str:
    place = traceback.extract_tb(error.__traceback__)[-1]
    if isinstance(error, ValueError) and Path(place.filename).is_relative_to(_OWN):
        return str(error)
    if isinstance(error, ImportError) and theirs.failed:
        error = theirs.failed[0]  # the package went on without what is now missed
    if isinstance(error, ModuleNotFoundError):
        package = (error.name or str(error)).partition(".")[0]
        if stands_in(package):
            return f"{error.name} has no stand-in: {_ELSE}"
        if "." in (error.name or "") and find_spec(package) is not None:
            return (
                f"the installed {package} has no {error.name}: install the version of {package} "
                "that the repository asks for"
            )
        return f"the repository needs the package {package!r}, {_absent(package, theirs.folder)}"
    said = (str(error).splitlines() or [""])[0]
    at = _their_place(error)
    if any(word in said for word in ("CUDA", "NVIDIA", "nvidia", "active drivers")):
        return f"{at} needs a GPU, and there is none here ({said}): {_ELSE}"
    said = f"{what} failed at {at}: {type(error).__name__}: {said}"
    unmet = isinstance(error, ImportError | NameError) or "NoneType" in said
    if unmet and theirs.missing:
        package = theirs.missing[0]
        said += f"; it asked in vain for the package {package!r}, {_absent(package, theirs.folder)}"
    return said


def _absent(package: str, folder: Path) -> str:
    for file in sorted(folder.rglob("setup.py")):
        if re.search(rf"Extension\(\s*(name\s*=\s*)?[\"']{re.escape(package)}[\"']",
                     file.read_text(errors="replace")):  # fmt: skip
            return (
                "an extension that the repository compiles for GPUs: where there is one, run "
                f"pip install {file.relative_to(folder.parent).parent}"
            )
    return f"which is not installed: pip install {_PIP_NAMES.get(package, package)}"


_ELSE = "name another model with --model, or let make() of an adapter choose what does not need it"

_OWN = Path(__file__).parents[1]


def _their_place(error: BaseException) -> str:
    """File and line of the last statement on the way to an error that is not a library's."""
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [f for f in frames if not is_installed(f.filename) and not _is_ours(f.filename)]
    frame = (theirs or list(frames))[-1]
    return f"{Path(frame.filename).name}:{frame.lineno}"


def _is_ours(file: str) -> bool:
    return Path(file).is_relative_to(_OWN) or file.startswith("<")
