"""Files of `torch.save`, read by torch's own restricted reader, with nothing real beside tensors.

That reader knows tensors and plain containers. Every other name in a file (a configuration, a loss,
a path: no part of the weights) gets a stand-in that keeps nothing and does nothing, so that neither
the real class nor its module is ever looked up.
"""

import builtins
import inspect
import pickle
import re
import threading
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import torch

from workbench.archives import UNPACKED, bearable
from workbench.files import printable

_MOST_NAMES = 500
# torch keeps one list of allowed names for the whole process.
_ONE_READER = threading.Lock()


class _Inert(list):
    """A list, because torch's reader fills exact lists, and allowed subclasses, only."""

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __new__(cls, *args: object, **kwargs: object) -> "_Inert":
        return super().__new__(cls)

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__()

    def __setstate__(self, state: object) -> None:
        pass


class _InertDict:
    """In the place of subclasses of dict: the reader fills exact dicts only."""

    def __new__(cls, *args: object, **kwargs: object) -> OrderedDict:  # type: ignore[misc]
        return OrderedDict()


def read_torch(path: Path, zipped: bool) -> Mapping:
    """The content of a file; tensors on the CPU.

    Raises:
        ValueError: when it is damaged, holds no dictionary, or calls what only an attack would.
    """
    mmap = _check_zip(path) if zipped else False
    stand_ins: dict[str, type] = {}
    for _ in range(_MOST_NAMES):
        try:
            content = _load(path, mmap, stand_ins)
            break
        except Exception as error:  # a damaged file can raise nearly anything
            if not _learnt(stand_ins, error):
                raise _refusal(path.name, error) from error
    else:
        raise ValueError(f"{path.name} refers to more than {_MOST_NAMES} classes and functions")
    if isinstance(content, _Inert):
        raise ValueError(
            f"{path.name} holds a whole {type(content).__name__} as Python objects, which would "
            "have to be run to be read; save its state_dict() instead"
        )
    if not isinstance(content, Mapping):
        raise ValueError(f"{path.name} holds a {type(content).__name__}, not a dict of weights")
    return content


def _load(path: Path, mmap: bool, stand_ins: Mapping[str, type]) -> object:
    allowed = [(kind, name) for name, kind in stand_ins.items()]
    with _ONE_READER, torch.serialization.safe_globals(allowed), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about pickle protocols and TorchScript
        if mmap:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        with path.open("rb") as file:  # by its name, torch would take it for another format
            return torch.load(file, map_location="cpu", weights_only=True)


def _check_zip(path: Path) -> bool:
    """Check sizes, then every entry's CRC, which torch does not; whether the file can be mapped.

    Entries that are compressed have to be unpacked.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            total = sum(entry.file_size for entry in entries)
            longest = max((e.file_size for e in entries if e.filename.endswith(".pkl")), default=0)
            if total > bearable(path.stat().st_size) or longest > UNPACKED:
                raise ValueError(
                    f"{path.name} unpacks to {total / 2**20:,.0f} MB, more than weights of its size"
                )
            wrong = archive.testzip()
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        raise ValueError(
            f"{path.name} is damaged or incomplete ({printable(error)}); get it again"
        ) from error
    except Exception as error:
        if isinstance(error, ValueError):
            raise
        raise ValueError(f"{path.name} is damaged or incomplete; get it again") from error
    if wrong is not None:
        raise ValueError(
            f"{path.name} is damaged: the checksum of {printable(wrong, 60)} is another; get it "
            "again"
        )
    stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
    return stored and path.suffix != ".safetensors"


def _learnt(stand_ins: dict[str, type], error: Exception) -> bool:
    """Whether the reader stopped at something that a stand-in can take the place of."""
    said = str(error)
    if not isinstance(error, pickle.UnpicklingError):
        return False
    if unknown := re.search(r"Unsupported global: GLOBAL (\S+) was not", said):
        name = unknown[1] if "." in unknown[1] else f"builtins.{unknown[1]}"
        if name in stand_ins or _hostile(name):
            return False
        module, _, last = name.rpartition(".")
        stand_ins[name] = type(last, (_Inert,), {"__module__": module, "__qualname__": last})
        return True
    filled = re.search(r"Can only SETITEMS? for .* but got <class '([^']+)'>", said)
    if filled and filled[1] in stand_ins and stand_ins[filled[1]] is not _InertDict:
        stand_ins[filled[1]] = type("_", (_InertDict,), {})
        return True
    return False


def _hostile(name: str) -> bool:
    """Built-in functions (eval, exec, open): no data are made by them. `getattr` is how mmengine's
    log refers to its own methods.
    """
    module, _, last = name.rpartition(".")
    found = getattr(builtins, last, None) if module == "builtins" else None
    return (inspect.isbuiltin(found) and found is not getattr) or last in ("open", "__import__")


def _refusal(file: str, error: Exception) -> ValueError:
    said = str(error)
    reference = re.search(r"\bGLOBAL (\S+)", said)
    if isinstance(error, pickle.UnpicklingError) and reference:
        name = reference[1] if "." in reference[1] else f"builtins.{reference[1]}"
        return ValueError(
            f"{file} refers to `{printable(name, 100)}`, which weights never need; nothing in it "
            "was run"
        )
    if "TorchScript" in said:
        return ValueError(f"{file} is a TorchScript program, not weights")
    if "persistent_load" in said:
        return ValueError(
            f"{file} holds modules as Python objects, which would have to be run to be read; save "
            "a state_dict() instead"
        )
    reason = type(error).__name__
    if "Unsupported operand" in said:
        reason = "a pickle with instructions that weights do not need; nothing in it was run"
    return ValueError(f"{file} is damaged, incomplete or no checkpoint ({reason})")
