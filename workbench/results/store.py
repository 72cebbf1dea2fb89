"""Result files: complete or absent, the same bytes for the same content.

A file is a plain `.npz` that `numpy.load` reads without this package: arrays by field name, and
`meta`, a JSON text with checksums of the arrays and of itself.
"""

import dataclasses
import glob
import hashlib
import json
import os
import platform
import re
import secrets
import zipfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, BinaryIO, ClassVar, Self

import numpy as np

from workbench.archives import open_npz
from workbench.files import NotAFile, printable
from workbench.former import renamed
from workbench.results import schema
from workbench.results.provenance import canonical_json
from workbench.results.shown import Shown

SCHEMA = 2
"""Version of the file layout; a file with a higher one is refused. The first had no checksums."""

_LONGEST = 64 * 2**20
"""Bytes of the longest `meta` that is read."""

_KINDS: dict[str, type["Result"]] = {}


class ResultError(ValueError):
    """A result file that cannot be written or read; the message is one sentence for the user."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Result(Shown):
    """What a method found: array fields added by the subclass, and `meta`.

    A subclass names its `kind`, the word by which `load` finds it again, and declares one field
    per array; a field that may be None is left out of the file when it is.

    Attributes:
        meta: only what JSON holds (config, model, images, provenance ...): see `provenance`.
    """

    kind: ClassVar[str]
    in_former_words: ClassVar[tuple[str, ...]] = ()
    """Parts of `meta` that files of earlier versions may hold in other words."""

    meta: dict[str, Any]

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        cls.__repr__ = Shown.__repr__  # not that of a dataclass, which writes the arrays out
        kind = cls.__dict__.get("kind")
        if not isinstance(kind, str) or not kind:
            raise TypeError(f"{cls.__name__} needs a class attribute `kind`, a non-empty text.")
        other = _KINDS.setdefault(kind, cls)
        if other.__qualname__ != cls.__qualname__ or other.__module__ != cls.__module__:
            raise TypeError(f'{cls.__name__} has the kind "{kind}" of {other.__name__}.')
        _KINDS[kind] = cls

    def arrays(self) -> dict[str, np.ndarray]:
        """The array fields that are not None, by field name."""
        values = {name: getattr(self, name) for name in _array_fields(type(self))}
        return {name: np.asarray(value) for name, value in values.items() if value is not None}

    def as_stored(self) -> Self:
        """The same with its `meta` as the file gives it back, in the file's order."""
        return dataclasses.replace(self, meta=json.loads(canonical_json(self.meta)))

    def save(self, path: str | PurePath, compressed: bool = False) -> Path:
        """Write one `.npz` and return its path.

        The file appears complete or not at all, and equal content gives equal bytes (compressed:
        with one version of zlib). Raises `ResultError` where the file cannot be written.
        """
        return save_arrays(path, self.arrays(), {**self.meta, "kind": self.kind}, compressed)


def load(source: str | PurePath | BinaryIO) -> Result:
    """Read a result file (a path, or an open binary file such as an upload).

    The class is found by `kind`. Raises `ResultError` for a file that is missing, truncated, of
    another program, of a newer version, or that holds pickled objects.
    """
    name = _name_of(source)
    arrays, meta = load_arrays(source, of_kind=True)
    kind = meta.pop("kind", None)
    cls = _class_of(kind, name)
    if cls.in_former_words:
        arrays = {renamed(name): value for name, value in arrays.items()}
        meta |= {key: renamed(meta[key]) for key in cls.in_former_words if key in meta}
    fields = _array_fields(cls)
    absent = [field for field, required in fields.items() if required and field not in arrays]
    if absent:
        raise ResultError(f'{name} lacks the arrays {listed(absent)} of a "{kind}" result.')
    if wrong := schema.problem(cls.kind, meta):
        raise ResultError(
            f'{name} is a damaged "{kind}" result ({printable(wrong)}); make it again.'
        )
    try:
        return cls(meta=meta, **arrays)
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        raise ResultError(f'{name} holds a damaged "{kind}" result: {printable(error)}') from error


def _class_of(kind: Any, name: str) -> type[Result]:
    cls = _KINDS.get(kind) if isinstance(kind, str) else None
    if cls is None:
        raise ResultError(
            f'{name} holds a result of kind "{printable(kind, 60)}", but this version knows '
            f"{listed(_KINDS)}; read it with the version that wrote it."
        )
    return cls


def save_arrays(
    path: str | PurePath,
    arrays: Mapping[str, np.ndarray],
    meta: Mapping[str, Any],
    compressed: bool = False,
) -> Path:
    """Write arrays and `meta` as one `.npz`, making its folder where needed.

    The bytes depend on the content only (fixed time stamps, sorted members, C order). Written
    beside `path` and renamed, so no reader ever sees half a file. Raises `ResultError` where that
    fails, `TypeError` for arrays of objects or a `meta` that JSON cannot hold.
    """
    path = Path(path)
    members: dict[str, np.ndarray] = {}
    for name, value in arrays.items():
        if name == "meta":
            raise TypeError('An array cannot be called "meta": that member holds the JSON text.')
        members[name] = np.asarray(value, order="C")
        if members[name].dtype.hasobject:
            raise TypeError(
                f"The array {name} holds objects; a result file holds numbers and text."
            )
    checksums = {name: _checksum(array) for name, array in members.items()}
    told = json.loads(canonical_json({**meta, "schema": SCHEMA, "checksums": checksums}))
    members["meta"] = np.array(canonical_json({**told, "checksum": _checksum_of_meta(told)}))
    with atomic_write(path) as unfinished, zipfile.ZipFile(unfinished, "w") as archive:
        for name in sorted(members):
            info = zipfile.ZipInfo(f"{name}.npy")  # dated 1980, whenever written
            info.create_system = 3  # the same on Windows
            info.external_attr = 0o644 << 16
            info.compress_type = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
            with archive.open(info, "w", force_zip64=True) as member:
                np.lib.format.write_array(member, members[name], allow_pickle=False)
    return path


@contextmanager
def atomic_write(path: PurePath) -> Iterator[Path]:
    """A place beside `path` to write to, which becomes `path` at the end: no reader sees half a
    file, and an error leaves what was there. Raises `ResultError` where that cannot be written.
    """
    path = Path(path)
    writer = f"{safe_name(platform.node())}-{os.getpid()}"
    unfinished = path.with_name(f".{path.name}.{writer}-{secrets.token_hex(4)}.unfinished")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        try:
            yield unfinished
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise ResultError(
            f"{path} cannot be written ({_reason(error)}); choose a folder that is writable and "
            "has free space."
        ) from error


def _sweep(path: Path) -> None:
    """Remove what processes of this machine left that were killed while they wrote `path`."""
    here = safe_name(platform.node())
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.unfinished"):
        writer = re.search(rf"\.{re.escape(here)}-(\d+)-[0-9a-f]{{8}}\.unfinished$", left.name)
        if writer and not _runs(int(writer[1])):
            left.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    if os.name == "nt":  # where signal 0 would end it
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is somebody else's
        return True
    return True


def load_arrays(
    source: str | PurePath | BinaryIO, *, of_kind: bool = False
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read what `save_arrays` wrote: the arrays by name, and `meta` without schema and checksums.

    Args:
        of_kind: read only the arrays that a result of this kind has.

    Raises `ResultError` for anything else, and for what was changed after it was written.
    """
    name = _name_of(source)
    try:
        with open_npz(source) as archive:
            if archive.length("meta") > _LONGEST:
                raise ValueError("its meta is longer than that of any result")
            meta = _meta(archive["meta"], name)
            checksums = meta.pop("checksums", None)
            wanted: Collection[str] = archive.names if checksums is None else checksums
            if of_kind:
                fields = _array_fields(_class_of(meta.get("kind"), name))
                wanted = [member for member in archive.names if renamed(member) in fields]
            arrays = {member: archive[member] for member in wanted if member != "meta"}
    except ResultError:
        raise
    except FileNotFoundError as error:
        raise ResultError(
            f"There is no result file {name}; check the path, or run the analysis that writes it."
        ) from error
    except NotAFile as error:
        raise ResultError(f"{name} is not a readable result file: {error}.") from error
    except Exception as error:  # a damaged zip raises a dozen types; each means the same here
        raise ResultError(
            f"{name} is not a readable result file ({_reason(error)}); it may be truncated or "
            "written by another program, so make it again."
        ) from error
    if checksums is not None:
        found = {member: _checksum(array) for member, array in arrays.items()}
        if any(checksums.get(member) != value for member, value in found.items()):
            raise ResultError(_CHANGED.format(name))
    return arrays, meta


_CHANGED = (
    "{} was changed after it was written: its content has another checksum; make it again, or get "
    "the file as it was."
)


def _meta(member: np.ndarray, name: str) -> dict[str, Any]:
    """The JSON text of a file. Raises `ResultError` where it was changed."""
    if member.dtype.kind != "U" or member.ndim:
        raise ValueError("its meta is no text")
    meta = json.loads(str(member))
    if not isinstance(meta, dict):
        raise ValueError("its meta is no JSON object")
    version = meta.get("schema")
    if type(version) is not int or version < 1:
        raise ValueError("the schema version is not a number from 1 up")
    if version > SCHEMA:
        raise ResultError(
            f"{name} was written by a newer version (file schema {version}, this one reads up to "
            f"{SCHEMA}); update vssm-workbench."
        )
    if version > 1 or "checksums" in meta:
        checksum = meta.pop("checksum", None)
        if not isinstance(meta.get("checksums"), dict) or checksum != _checksum_of_meta(meta):
            raise ResultError(_CHANGED.format(name))
    del meta["schema"]
    return meta


def _checksum(array: np.ndarray) -> str:
    digest = hashlib.sha256(f"{array.dtype.str} {array.shape}\n".encode())
    digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _checksum_of_meta(meta: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json(meta).encode("utf-8", "surrogatepass")).hexdigest()


def safe_name(name: str) -> str:
    """A model's name, or any other, as part of a file name."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.") or "model"


def file_name(method: str, model: str, hash8: str) -> str:
    """The file that a run writes its result to."""
    return f"{method}-{safe_name(model)}-{hash8}.npz"


def _array_fields(cls: type[Result]) -> dict[str, bool]:
    """Names of the array fields, each with whether it must be there."""
    return {
        field.name: field.default is dataclasses.MISSING
        for field in dataclasses.fields(cls)
        if field.name != "meta"
    }


def _name_of(source: Any) -> str:
    if isinstance(source, str | PurePath):
        return str(source)
    return str(getattr(source, "name", "The given file"))


def _reason(error: BaseException) -> str:
    text = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return printable((text.splitlines() or [type(error).__name__])[0].rstrip("."))


def listed(names: Any) -> str:
    return ", ".join(sorted(names))
