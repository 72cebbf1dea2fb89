"""Weight files: where they are, how one is fetched, and how it is read without running anything."""

import contextlib
import difflib
import functools
import hashlib
import pickle
import re
import shutil
import tempfile
import threading
import urllib.error
import urllib.request
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import huggingface_hub
import safetensors
import safetensors.torch
import torch
from timm.models import PretrainedCfg
from torch import Tensor, nn

from workbench.models.family import source_of, unreachable

__all__ = ["fetch_published", "find_weights", "read_state_dict"]

# Best first: the one file that nothing can hide code in, then the names in use.
PATTERNS = ("*.safetensors", "*.pth", "*.pth.tar", "*.ckpt", "*.pt", "*.bin")


def find_weights(spec: str | Path) -> Path:
    """Return the weight file that `spec` means.

    Args:
        spec: a file; a folder with one weight file in it (model.safetensors wins, then the first
            of `PATTERNS` that is there); "hf-hub:owner/name" or "hf-hub:owner/name/file", with
            "@revision" after the name if wanted. A hub file that was fetched before needs no
            network.

    Raises:
        FileNotFoundError: there is no such file; the sentence names the nearest ones.
        ValueError: several files could be meant.
        ConnectionError: the hub cannot be reached.
    """
    text = str(spec)
    if text.startswith("hf-hub:"):
        return _from_hub(text.removeprefix("hf-hub:"))
    path = Path(spec).expanduser()
    if path.is_dir():
        return _in_folder(path)
    if path.is_file():
        return path
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no weight file {text}: no folder {path.parent} either")
    near = difflib.get_close_matches(path.name, sorted(p.name for p in path.parent.iterdir()))
    hint = f"; near it: {', '.join(near)}" if near else ""
    raise FileNotFoundError(f"there is no weight file {text}{hint}")


def _in_folder(folder: Path) -> Path:
    if (folder / "model.safetensors").is_file():
        return folder / "model.safetensors"
    for pattern in PATTERNS:
        files = sorted(path for path in folder.glob(pattern) if path.is_file())
        if len(files) == 1:
            return files[0]
        if files:
            names = ", ".join(path.name for path in files)
            raise ValueError(f"the folder {folder} has several weight files, name one: {names}")
    raise FileNotFoundError(
        f"the folder {folder} has no weight file ({', '.join(('model.safetensors', *PATTERNS))})"
    )


def _from_hub(text: str) -> Path:
    owner, _, rest = text.partition("/")
    name, _, file = rest.partition("/")
    name, _, revision = name.partition("@")
    if not owner or not name:
        raise ValueError(f"a hub file is named hf-hub:owner/name/file, not hf-hub:{text}")
    where = {"repo_id": f"{owner}/{name}", "revision": revision or None}
    if file:
        fetch = functools.partial(huggingface_hub.hf_hub_download, filename=file, **where)
    else:
        patterns = ["*.json", *PATTERNS]
        fetch = functools.partial(
            huggingface_hub.snapshot_download, allow_patterns=patterns, **where
        )
    # The copy at hand comes first, so that a run repeats itself with and without a network. The
    # hub's client lets errors of several libraries through: every one means the same here.
    found = None
    with contextlib.suppress(Exception):
        found = Path(str(fetch(local_files_only=True)))
    if found is None or (found.is_dir() and not any(any(found.glob(p)) for p in PATTERNS)):
        place = f"the hub repository {owner}/{name}"
        if not _answers(huggingface_hub.constants.ENDPOINT):
            raise unreachable(file or "a weight file", place)
        try:
            found = Path(str(fetch()))
        except Exception as error:
            raise unreachable(file or "a weight file", place) from error
    return find_weights(found)


def _answers(url: str) -> bool:
    """Whether there is a network; the hub's client alone tries for half a minute."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=5):
            return True
    except urllib.error.HTTPError:  # it answers, if only to refuse
        return True
    except OSError:
        return False


def fetch_published(config: PretrainedCfg) -> Path:
    """Return the file of a configuration with a hub id or a URL, fetched when needed.

    Raises:
        ConnectionError: neither a copy nor a network is there; the sentence says which file, from
            where, and where to put it.
    """
    file, place = source_of(config)
    if config.hf_hub_id:
        return _from_hub(f"{config.hf_hub_id}/{file}")
    path = Path(torch.hub.get_dir()) / "checkpoints" / file
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        # A half-loaded file must not be taken for the whole one later.
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            part = Path(folder) / file
            with urllib.request.urlopen(config.url, timeout=10) as source, part.open("wb") as out:
                shutil.copyfileobj(source, out)
            part.replace(path)
    except OSError as error:
        raise unreachable(file, place) from error
    return path


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _Inert:
    """Takes the place of an object that is not weights: keeps nothing, does nothing."""

    def __new__(cls, *args: object) -> "_Inert":
        return super().__new__(cls)

    def __init__(self, *args: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


# What published checkpoints hold beside tensors: training arguments, a configuration, the best
# accuracy as a NumPy scalar, mmengine's training log. None of it is needed, so none of the real
# classes and functions is used. A CfgNode is a dict, and the reader fills exact dicts only.
_STAND_INS = [
    (OrderedDict, "yacs.config.CfgNode"),
    *(
        (_Inert, name)
        for name in (
            "argparse.Namespace",
            "numpy.dtype",
            "numpy.ndarray",
            "numpy.core.multiarray.scalar",
            "numpy._core.multiarray.scalar",
            "numpy.core.multiarray._reconstruct",
            "numpy._core.multiarray._reconstruct",
            "mmengine.logging.history_buffer.HistoryBuffer",
            "builtins.getattr",  # how mmengine's log refers to its own methods
        )
    ),
]
# torch keeps one list of allowed names for the whole process.
_ONE_READER = threading.Lock()

ENTRIES = ("model", "state_dict", "model_ema", "state_dict_ema", "module")


def read_state_dict(path: str | Path, entry: str | None = None) -> tuple[dict[str, Tensor], dict]:
    """Read the tensors of a weight file onto the CPU; nothing in the file is ever run.

    Args:
        path: a .safetensors file or a file written by `torch.save` (any name).
        entry: the key of a checkpoint under which the weights lie; by default the first of
            `ENTRIES` that is there, or the file's dict itself.

    Returns:
        The tensors by name, as they are in the file, and facts: file, sha256, format, entry,
        entries (all keys under which there are tensors).

    Raises:
        ValueError: the file is damaged, is no checkpoint, has no such entry, or refers to
            something that weights never need.
    """
    path = Path(path)
    with path.open("rb") as file:
        start = file.read(4)
    if not start:
        raise ValueError(f"{path.name} is empty")
    if path.suffix == ".safetensors":
        form, content = "safetensors", _read_safetensors(path)
    elif start == b"PK\x03\x04":
        form, content = "torch", _read_torch(path, mmap=True)
    elif start[:1] == b"\x80":  # how a pickle begins
        form, content = "torch (before 1.6)", _read_torch(path, mmap=False)
    else:
        raise ValueError(f"{path.name} is not a checkpoint: neither safetensors nor torch.save")
    entries = [key for key, value in content.items() if _has_tensors(value)]
    entry = _choose(path.name, content, entries, entry)
    weights = content if entry is None else content[entry]
    state = {
        key: value.detach() if isinstance(value, nn.Parameter) else value
        for key, value in weights.items()
        if isinstance(key, str) and isinstance(value, Tensor)
    }
    facts = {
        "file": path.name,
        "sha256": sha256(path),
        "format": form,
        "entry": entry,
        "entries": entries,
    }
    return state, facts


def _has_tensors(value: object) -> bool:
    return isinstance(value, Mapping) and any(isinstance(v, Tensor) for v in value.values())


def _choose(file: str, content: Mapping, entries: list[str], entry: str | None) -> str | None:
    listed = f"it has {', '.join(map(str, entries))}" if entries else "it has no entries"
    if entry is not None:
        if entry not in entries:
            raise ValueError(f"{file} has no weights under {entry!r}: {listed}")
        return entry
    for name in ENTRIES:
        if name in entries:
            return name
    if _has_tensors(content):
        return None
    if entries:
        raise ValueError(f"{file} has no usual entry: {listed}, name one with entry=")
    raise ValueError(f"{file} has no tensors in it")


def _read_safetensors(path: Path) -> Mapping:
    try:
        return safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path.name} is damaged or incomplete ({error})") from error


def _read_torch(path: Path, mmap: bool) -> Mapping:
    try:
        with _ONE_READER, torch.serialization.safe_globals(_STAND_INS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols and TorchScript
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # a damaged file can raise nearly anything
        reference = re.search(r"\bGLOBAL (\S+)", str(error))
        if isinstance(error, pickle.UnpicklingError) and reference:
            name = reference[1] if "." in reference[1] else f"builtins.{reference[1]}"
            raise ValueError(
                f"{path.name} refers to `{name}`, which weights never need; nothing in it was run"
            ) from None
        if "TorchScript" in str(error):
            raise ValueError(f"{path.name} is a TorchScript program, not weights") from None
        reason = type(error).__name__
        if "Unsupported operand" in str(error):
            reason = "a pickle with instructions that weights do not need; nothing in it was run"
        raise ValueError(
            f"{path.name} is damaged, incomplete or no checkpoint ({reason})"
        ) from error
    if not isinstance(content, Mapping):
        raise ValueError(f"{path.name} holds a {type(content).__name__}, not a dict of weights")
    return content
