"""From a repository and an adapter to a model: what can go wrong on the way, said in a sentence."""

import socket
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

from workbench.external.adapter import read_adapter
from workbench.external.imports import is_installed, stand_in
from workbench.external.model import ExternalModel
from workbench.external.names import stands_in
from workbench.weights import Provenance, load_into
from workbench.weights.files import read_state_dict

_PIP_NAMES = {
    "cv2": "opencv-python",
    "PIL": "pillow",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
"""Packages that are imported under another name."""


def load(
    repo: str | Path,
    adapter: str | Path,
    *,
    size: int | tuple[int, int] = 224,
    weights: str | Path | None = None,
    entry: str | None = None,
    seed: int = 0,
) -> ExternalModel:
    """The model of somebody's repository, unedited, on any machine.

    Runs the repository's code with all rights of the user.

    Args:
        repo: the folder that the repository's own scripts are run from.
        adapter: a Python file with make(); see `workbench.external.adapter`.
        size: of the images by which the model is looked at first, in pixels.
        weights: a checkpoint for the model; by default it stays as make() returns it.
        entry: the key of the checkpoint to use.
        seed: of random weights; the global random state is left alone.

    Raises:
        ValueError: when the repository cannot be imported, the model cannot be built or has no
            scan, or the weights do not fit; one sentence with what to do.
    """
    size = (size, size) if isinstance(size, int) else size
    with stand_in(repo, installed=False) as stand_ins, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        with _explained(Path(adapter).name), _watched_weights() as own_weights, _no_network():
            parts = read_adapter(adapter)
            model = parts.make()
        if not isinstance(model, nn.Module):
            raise ValueError(
                f"make() of {Path(adapter).name} returned a {type(model).__name__}, not a "
                "torch.nn.Module"
            )
        notes: list[str] = []
        facts: dict[str, Any] = {}
        if weights is not None:
            state, facts = read_state_dict(Path(weights), entry)
            notes += load_into(model, state).notes
        with _explained(f"{type(model).__name__} with images of {size[0]} x {size[1]} pixels"):
            found = ExternalModel(model, parts, size, stand_ins.imported)
    source = str(weights) if weights is not None else "from make()" if own_weights else "random"
    found.pretrained_cfg = getattr(model, "pretrained_cfg", None)
    read = {key: facts.get(key) for key in ("file", "sha256", "entry")}
    found.provenance = Provenance(type(model).__name__, source, **read, seed=seed, notes=notes)
    return found


class _Download(BaseException):
    """Somebody looked up a host. No Exception, as libraries catch those and try again."""


@contextmanager
def _no_network() -> Iterator[None]:
    def refuse(host: Any, *args: Any, **kwargs: Any) -> None:
        raise _Download(host)

    with patch.object(socket, "getaddrinfo", refuse):
        yield


@contextmanager
def _watched_weights() -> Iterator[list[nn.Module]]:
    """The modules whose weights are loaded inside the block."""
    loaded: list[nn.Module] = []
    load_state_dict = nn.Module.load_state_dict

    def note(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        loaded.append(module)
        return load_state_dict(module, *args, **kwargs)

    with patch.object(nn.Module, "load_state_dict", note):
        yield loaded


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """What goes wrong in external code, in one sentence.

    Raises:
        ValueError: in place of any error; those of the workbench stay as they are.
    """
    try:
        yield
    except _Download as error:
        raise ValueError(
            f"{what} wants to download from {error}: let make() build the model without pretrained "
            "weights, and give a checkpoint as weights"
        ) from None
    except ModuleNotFoundError as error:
        package = (error.name or str(error)).partition(".")[0]
        if stands_in(package):
            raise ValueError(
                f"{error.name} has no stand-in: let make() choose a model that does not import it"
            ) from error
        raise ValueError(
            f"the repository needs the package {package!r}, which is not installed: "
            f"pip install {_PIP_NAMES.get(package, package)}"
        ) from error
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        if isinstance(error, ValueError) and Path(place.filename).is_relative_to(_OWN):
            raise
        said = (str(error).splitlines() or [""])[0]
        at = _their_place(error)
        if any(word in said for word in ("CUDA", "NVIDIA", "nvidia")):
            raise ValueError(
                f"{at} needs a GPU, and there is none here ({said}): import only the file that "
                "defines the model, or let make() choose an implementation for CPUs"
            ) from error
        raise ValueError(f"{what} failed at {at}: {type(error).__name__}: {said}") from error


_OWN = Path(__file__).parents[1]


def _their_place(error: Exception) -> str:
    """File and line of the last statement on the way to an error that is not a library's."""
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [f for f in frames if not is_installed(f.filename) and not _is_ours(f.filename)]
    frame = (theirs or list(frames))[-1]
    return f"{Path(frame.filename).name}:{frame.lineno}"


def _is_ours(file: str) -> bool:
    return Path(file).is_relative_to(_OWN) or file.startswith("<")
