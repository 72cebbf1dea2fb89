"""Where numbers come from: versions, platform, git revision; and hashes of content."""

import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
from pathlib import Path, PurePath
from typing import Any

import numpy as np


def provenance(**facts: Any) -> dict[str, Any]:
    """Where numbers come from: versions, platform and git revision, and the given facts.

    Holds no time and no host name, so a repeated run gives the same bytes.
    """
    return {"versions": _versions(), "platform": _platform(), **_revision(), **facts}


def content_hash(value: Any) -> str:
    """8 hexadecimal digits that depend on the content of `value` only, for file names."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:8]


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces.

    Dataclasses, numpy numbers and arrays, paths and sets are written as what they hold. Raises
    `TypeError` for anything else that JSON does not know.
    """
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=_plain
    )


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, PurePath):
        return value.as_posix()
    if isinstance(value, set | frozenset):
        return sorted(value)
    raise TypeError(f"{value!r} cannot be written as JSON; use numbers, text, lists and dicts.")


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for distribution in ("vssm-workbench", "torch", "timm", "numba", "numpy"):
        try:
            versions[distribution] = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _platform() -> str:
    # not platform.platform(): a kernel release says nothing about the numbers
    return f"{platform.system()} {platform.machine()}"


@functools.cache
def _revision() -> dict[str, Any]:
    """Git revision of the project and whether tracked files differ from it; {} outside git."""
    project = Path(__file__).resolve().parents[2]
    # only the project's own repository counts, not one that an environment happens to lie in
    if not (project / ".git").exists():
        return {}
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(project), *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=20,
            env=environment,
        ).stdout.strip()

    try:
        revision = git("rev-parse", "HEAD")
        dirty = bool(git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"revision": revision, "dirty": dirty}
