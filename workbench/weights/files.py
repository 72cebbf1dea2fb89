"""Weight files: where they are, how one is fetched, and how it is read without running anything."""

import contextlib
import difflib
import functools
import hashlib
import json
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
from safetensors import SafetensorError, safe_open
from timm.models import PretrainedCfg
from torch import Tensor, nn

from workbench import places
from workbench.files import printable, regular
from workbench.models.family import source_of, unreachable
from workbench.weights.entries import choose
from workbench.weights.reading import read
from workbench.weights.values import check_kind

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
    path = places.found(spec)
    if path.is_dir():
        return _in_folder(path)
    if path.is_file():
        return path
    if path.exists():
        regular(path)
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


def file_of(facts: Mapping[str, Any], folder: str | Path = "samples/weights") -> Path | None:
    """The file in a folder that a result was measured with: it may have another name by now.

    Args:
        facts: of the result, see `Provenance.facts`.
    """
    digest, name = facts.get("weights_sha256"), str(facts.get("weights"))
    known = [path for pattern in PATTERNS for path in places.found(folder).glob(pattern)]
    near = sorted(known, key=lambda path: (path.name != name, path.name))
    return next((path for path in near if digest and sha256(path) == digest), None)


def recipe_of(path: str | Path) -> dict[str, Any]:
    """How `vssm train` made a weight file, in the fields of `TrainConfig`, with `classes`, their
    names, and `data`, the name of the training images; nothing of a file that does not say so.
    """
    return _told(path, "recipe")


def _told(path: str | Path, key: str) -> dict[str, Any]:
    """What a weight file says of itself under a key, as JSON; nothing where it says nothing."""
    try:
        with safe_open(path, framework="pt") as file:
            found = json.loads((file.metadata() or {}).get(key, "{}"))
    except (OSError, ValueError, SafetensorError):
        return {}
    return found if isinstance(found, dict) else {}


IMAGENETTE = (
    "tench",
    "English springer",
    "cassette player",
    "chain saw",
    "church",
    "French horn",
    "garbage truck",
    "gas pump",
    "golf ball",
    "parachute",
)


def known_classes(path: Path | None, count: int | None) -> list[str] | str:
    """The names of the `count` classes that weights tell apart: those in a file of `vssm train`,
    or "imagenet-1k" for a thousand classes; nothing where they are not known.
    """
    if count == 1000:
        return "imagenet-1k"
    recipe = recipe_of(path) if path else {}
    names = recipe.get("classes")
    if names is None and str(recipe.get("data")).startswith("imagenette"):
        names = list(IMAGENETTE)  # files from before the names were written
    if not isinstance(names, list) or len(names) != count:
        return []
    return [printable(str(name), 60) for name in names]


def trained_paths(path: str | Path) -> list[str]:
    """The scan paths that a file of `vssm train` names, none where it names none."""
    names = recipe_of(path).get("scan_paths")
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


def built_with(paths: Sequence[str]) -> dict[str, Any]:
    """The argument of a model's constructor for scan paths as `TrainConfig` has them; one name may
    be that of a set.
    """
    return {"scan_paths": paths[0] if len(paths) == 1 else tuple(paths)} if paths else {}


def trained_size(path: str | Path) -> int | None:
    """The side in pixels of the images that a file of `vssm train` was trained on, else None."""
    size = recipe_of(path).get("size")
    return size if isinstance(size, int) and 4 <= size <= 4096 else None


LOSS = 0.05
"""Share of right answers that a network may lose at a size and still be said to work there."""


def finest_size(path: str | Path) -> int | None:
    """The largest side in pixels at which the network still works, by the accuracies that a file of
    `samples/checkpoints.py` holds; None for a file that does not say them.
    """
    found: list[int] = []
    for told in _told(path, "accuracy").values():
        try:
            shares = {int(size): correct / count for size, (correct, count) in told.items()}
        except (AttributeError, TypeError, ValueError, ZeroDivisionError):
            continue
        best = max(shares.values(), default=0.0)
        found += [size for size, share in shares.items() if share >= best - LOSS]
    return max((size for size in found if 4 <= size <= 4096), default=None)


def read_state_dict(path: str | Path, entry: str | None = None) -> tuple[dict[str, Tensor], dict]:
    """Read the tensors of a weight file onto the CPU; nothing in the file is ever run.

    Args:
        path: a safetensors file or a file written by `torch.save`, whatever they are called.
        entry: where in a checkpoint the weights lie; see `workbench.weights.entries.choose`.

    Returns:
        The tensors by name, as they are in the file, and facts: file, sha256, format, entry,
        entries (all keys under which there are tensors).

    Raises:
        ValueError: the file is damaged, is no checkpoint, has no such entry, holds tensors without
            plain numbers, or calls what only an attack would.
    """
    path = Path(path)
    form, content = read(path)
    entry, weights, entries = choose(path.name, content, entry)
    state = {k: v.detach() if isinstance(v, nn.Parameter) else v for k, v in weights.items()}
    for key, value in state.items():
        check_kind(key, value)
    facts = {
        "file": path.name,
        "sha256": sha256(path),
        "format": form,
        "entry": entry,
        "entries": entries,
    }
    return state, facts
