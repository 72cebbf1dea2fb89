"""Results: numpy arrays and `meta` in one file, complete or absent, same bytes for same content.

Everything that methods, figures, scripts and the app exchange is one of the classes below. A file
is a plain `.npz` that `numpy.load` reads without this package: arrays by field name, and `meta`, a
JSON text.
"""

import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import secrets
import subprocess
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, BinaryIO, ClassVar

import numpy as np

SCHEMA = 1
"""Version of the file layout; a file with a higher one is refused."""

_KINDS: dict[str, type["Result"]] = {}


class ResultError(ValueError):
    """A result file that cannot be written or read; the message is one sentence for the user."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Result:
    """What a method found: array fields added by the subclass, and `meta`.

    A subclass names its `kind`, the word by which `load` finds it again, and declares one field
    per array; a field that may be None is left out of the file when it is. `meta` holds only what
    JSON holds (config, model, images, provenance ...): see `provenance`.
    """

    kind: ClassVar[str]
    meta: dict[str, Any]

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
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

    def save(self, path: str | PurePath) -> Path:
        """Write one uncompressed `.npz` and return its path.

        The file appears complete or not at all, and equal content gives equal bytes. Raises
        `ResultError` where the file cannot be written.
        """
        return save_arrays(path, self.arrays(), {**self.meta, "kind": self.kind})


@dataclass(frozen=True, eq=False, kw_only=True)
class Erf(Result):
    """The effective receptive field: which input pixels move the centre of the output, and how
    much.

    map: (h, w) float64, >= 0, sums to 1: the mean over the images.
    maps: (n, h, w) float32, one map per image, as measured (not normalised).
    splits: (k, h, w) float64, parts of the field, or None; their names are `meta["splits"]`.
    picture: (h, w, 3) uint8, the first image as the model saw it, for overlays, or None.

    Raises `ValueError` when a shape or the sum of `map` is wrong.
    """

    kind: ClassVar[str] = "erf"
    map: np.ndarray
    maps: np.ndarray
    splits: np.ndarray | None = None
    picture: np.ndarray | None = None

    def __post_init__(self) -> None:
        size = self.map.shape
        if self.map.ndim != 2 or self.maps.ndim != 3 or self.maps.shape[1:] != size:
            raise ValueError(
                f"map has the shape {size} and maps {self.maps.shape}; they must be (h, w) and "
                "(n, h, w) with the same h and w."
            )
        total = float(self.map.sum())
        if not (self.map >= 0).all() or not abs(total - 1) < 1e-6:
            raise ValueError(
                f"map has the sum {total:g} and the minimum {self.map.min():g}; "
                "it must be non-negative and sum to 1."
            )
        if self.splits is not None and (self.splits.ndim != 3 or self.splits.shape[1:] != size):
            raise ValueError(f"splits has the shape {self.splits.shape}; it must be (k, h, w).")
        if self.picture is not None and self.picture.shape != (*size, 3):
            raise ValueError(f"picture has the shape {self.picture.shape}; it must be (h, w, 3).")

    @property
    def numbers(self) -> dict[str, dict[str, Any]]:
        """Name -> {"value", "low", "high", "unit"}; low and high bound the interval."""
        return self.meta["numbers"]


@dataclass(frozen=True, eq=False, kw_only=True)
class ScanMaps(Result):
    """Which cells each scan direction carries to a query, and what the scans' coefficients say.

    A site is one direction of one layer, or the sum of a layer's directions. Sites have grids of
    their own, so their maps lie one after the other, each in image order; `map` picks one out.
    `meta["sites"]` lists the sites, `meta["quantities"]` the quantities.

    maps: (n, quantities, total) float32, per image, of the first images only; nan where a site
        lacks a quantity.
    mean: (quantities, total) float64, the mean over all images.
    outside: (images, 2, sites) float32, what row and column give to the class token, or in sum to
        the padding of windows.
    picture: (h, w, 3) uint8, the first image as the model saw it, or None.

    Raises `ValueError` when shapes and sites do not fit together.
    """

    kind: ClassVar[str] = "scan-maps"
    maps: np.ndarray
    mean: np.ndarray
    outside: np.ndarray
    picture: np.ndarray | None = None

    def __post_init__(self) -> None:
        total = sum(site["cells"][0] * site["cells"][1] for site in self.meta["sites"])
        size = (len(self.meta["quantities"]), total)
        if self.mean.shape != size or self.maps.ndim != 3 or self.maps.shape[1:] != size:
            raise ValueError(
                f"maps has the shape {self.maps.shape} and mean {self.mean.shape}; for these sites "
                f"they must be (n, {size[0]}, {size[1]}) and {size}."
            )

    def map(self, site: str, quantity: str = "row", image: int | None = None) -> np.ndarray:
        """(rows, columns) of a site by its name: the mean over images, or that of one image."""
        names = [entry["name"] for entry in self.meta["sites"]]
        if site not in names or quantity not in self.meta["quantities"]:
            raise ValueError(
                f"there is no {quantity} of {site}; sites are {_listed(names)} and quantities "
                f"{_listed(self.meta['quantities'])}."
            )
        entry = self.meta["sites"][names.index(site)]
        values = self.mean if image is None else self.maps[image]
        rows, columns = entry["cells"]
        begin = entry["start"]
        row = values[self.meta["quantities"].index(quantity)]
        return row[begin : begin + rows * columns].reshape(rows, columns)


@dataclass(frozen=True, eq=False, kw_only=True)
class Attribution(Result):
    """Which pixels predictions rest on, and how faithful the maps are.

    maps: (n, h, w) float32, per image, of the first images only; signed where the method is.
    pictures: (n, h, w, 3) uint8, these images as the model saw them.
    deletion, insertion: (images, k, points) float32, the target's probability while pixels go or
        come, by the map and then by the maps of `meta["references"]`, or None.

    Raises `ValueError` when shapes do not fit together.
    """

    kind: ClassVar[str] = "attribution"
    maps: np.ndarray
    pictures: np.ndarray
    deletion: np.ndarray | None = None
    insertion: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.maps.ndim != 3 or self.pictures.shape != (*self.maps.shape, 3):
            raise ValueError(
                f"maps has the shape {self.maps.shape} and pictures {self.pictures.shape}; they "
                "must be (n, h, w) and (n, h, w, 3)."
            )


@dataclass(frozen=True, eq=False, kw_only=True)
class ResolutionPoint(Result):
    """What a model says of images at one size, and what that costs; `meta["size"]` is the size.

    logits: (n, k) float32, of the classes `meta["classes"]` where the head was restricted to some.
    features: (n, c) float32, what the head reads.
    labels: (n,) int64, columns of logits (-1: none of them), or None without labels.
    refit: (n,) int64, what a head says that was fitted at this size to the other images, or None.
    seconds: (n,) float64, of an image's share in its batch.
    latency, cpu_seconds: (p,) float64, of one image alone: wall time, and processor time of all
        threads.
    horizons: (layers, 3) float64, quantiles 10, 50 and 90 % of the scans' memory in steps, mean
        over images; lengths: (layers,), the steps there are.

    Raises `ValueError` when shapes do not fit together.
    """

    kind: ClassVar[str] = "resolution-point"
    logits: np.ndarray
    features: np.ndarray
    seconds: np.ndarray
    latency: np.ndarray
    cpu_seconds: np.ndarray
    horizons: np.ndarray
    lengths: np.ndarray
    labels: np.ndarray | None = None
    refit: np.ndarray | None = None

    def __post_init__(self) -> None:
        n = len(self.logits)
        for name in ("features", "seconds", "labels", "refit"):
            value = getattr(self, name)
            if value is not None and len(value) != n:
                raise ValueError(f"logits has {n} images and {name} {len(value)}.")
        if self.horizons.shape != (len(self.lengths), 3):
            raise ValueError(
                f"horizons has the shape {self.horizons.shape} for {len(self.lengths)} layers."
            )


@dataclass(frozen=True, eq=False, kw_only=True)
class Resolution(Result):
    """One model over sizes: `points` holds the numbers of each size, `meta["missing"]` the sizes
    that could not be measured and why, `meta["exponents"]` how cost grows with pixels.

    sizes: (k,) int64, rising.
    correct: (k, n) int8, per image: 1 right, 0 wrong, -1 no label; or None without labels.
    agrees: (k, n) int8, 1 where the prediction is that at the native size; or None without a point
        there.

    Raises `ValueError` when shapes do not fit together.
    """

    kind: ClassVar[str] = "resolution"
    sizes: np.ndarray
    correct: np.ndarray | None = None
    agrees: np.ndarray | None = None

    def __post_init__(self) -> None:
        sizes = [point["size"] for point in self.points]
        if list(self.sizes) != sizes or any(len(x) != len(sizes) for x in self._per_size()):
            raise ValueError(f"arrays and points do not belong to the same sizes {sizes}.")

    def _per_size(self) -> list[np.ndarray]:
        return [x for x in (self.correct, self.agrees) if x is not None]

    @property
    def points(self) -> list[dict[str, Any]]:
        """For each size {"size", "numbers", "layers"}; numbers as of `Erf`, by name."""
        return self.meta["points"]

    def number(self, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(value, low, high), each (k,) float64, of a number over the sizes; nan where missing."""
        entries = [point["numbers"].get(name, {}) for point in self.points]
        value, low, high = (
            np.array([np.nan if e.get(k) is None else e[k] for e in entries], dtype=np.float64)
            for k in ("value", "low", "high")
        )
        return value, low, high


@dataclass(frozen=True, eq=False, kw_only=True)
class Robustness(Result):
    """What a model says of images under attack, corrupted, cut up and turned.

    `meta["conditions"]` describes the rows below: name, group, series, level and numbers of each;
    the first is the clean images.

    predictions: (k, n) int64, the class of each image under each condition.
    margins: (k, n) float32, the label's logit minus the largest other one; nan without a label.
    labels: (n,) int64, -1 where unknown; `meta["labels"]` says where they come from.

    Raises `ValueError` when shapes do not fit together.
    """

    kind: ClassVar[str] = "robustness"
    predictions: np.ndarray
    margins: np.ndarray
    labels: np.ndarray

    def __post_init__(self) -> None:
        size = (len(self.meta["conditions"]), len(self.labels))
        if self.predictions.shape != size or self.margins.shape != size:
            raise ValueError(
                f"predictions has the shape {self.predictions.shape} and margins "
                f"{self.margins.shape}; for these conditions and labels both must be {size}."
            )

    @property
    def correct(self) -> np.ndarray:
        """(k, n) int8: 1 right, 0 wrong, -1 no label."""
        right = (self.predictions == self.labels).astype(np.int8)
        return np.where(self.labels < 0, np.int8(-1), right)

    def row(self, name: str) -> int:
        """The place of a condition by its name, such as attack/pgd/2."""
        names = [condition["name"] for condition in self.meta["conditions"]]
        if name not in names:
            raise ValueError(f"there is no condition {name}; there are {_listed(names)}.")
        return names.index(name)


@dataclass(frozen=True, eq=False, kw_only=True)
class Sensitivity(Result):
    """What an attack does through B, C, delta and u of the scans, image by image.

    `meta["rows"]` names what the middle axes hold, `meta["views"]` has the numbers with intervals,
    `meta["claims"]` the verdicts. Margins are the label's logit minus the largest other one; below
    0 the model errs. Arrays of views that were not taken are None.

    clean, adversarial: (n,) margins.
    gradient: (n, losses, sites, tensors, measures).
    perturbed: (n, rows, 2) margins after one and after all steps; random: (n, wide rows, draws);
        flipping: (n, 3) smallest budgets of B, C, delta, infinite where none was found.
    cut: (n, rows, seeds) margins, nan where not run; alignment: (n, rows, 2).
    transplant: (n, rows, 4) margins.
    bounds: (n, sites, 3, 3).
    horizon: (n, 2, sites, 2).

    Raises `ValueError` when arrays do not belong to the same images.
    """

    kind: ClassVar[str] = "sensitivity"
    clean: np.ndarray
    adversarial: np.ndarray | None = None
    gradient: np.ndarray | None = None
    perturbed: np.ndarray | None = None
    random: np.ndarray | None = None
    flipping: np.ndarray | None = None
    cut: np.ndarray | None = None
    alignment: np.ndarray | None = None
    transplant: np.ndarray | None = None
    bounds: np.ndarray | None = None
    horizon: np.ndarray | None = None

    def __post_init__(self) -> None:
        for name, value in self.arrays().items():
            if len(value) != len(self.clean):
                raise ValueError(f"clean has {len(self.clean)} images and {name} {len(value)}.")


def load(source: str | PurePath | BinaryIO) -> Result:
    """Read a result file (a path, or an open binary file such as an upload).

    The class is found by `kind`. Raises `ResultError` for a file that is missing, truncated, of
    another program, of a newer version, or that holds pickled objects.
    """
    name = _name_of(source)
    arrays, meta = load_arrays(source)
    kind = meta.pop("kind", None)
    cls = _KINDS.get(kind) if isinstance(kind, str) else None
    if cls is None:
        raise ResultError(
            f'{name} holds a result of kind "{kind}", but this version knows {_listed(_KINDS)}; '
            "read it with the version that wrote it."
        )
    fields = _array_fields(cls)
    absent = [field for field, required in fields.items() if required and field not in arrays]
    if absent:
        raise ResultError(f'{name} lacks the arrays {_listed(absent)} of a "{kind}" result.')
    try:
        return cls(meta=meta, **{field: arrays[field] for field in fields if field in arrays})
    except (ValueError, TypeError, AttributeError) as error:
        raise ResultError(f'{name} holds a damaged "{kind}" result: {error}') from error


def save_arrays(
    path: str | PurePath, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]
) -> Path:
    """Write arrays and `meta` as one uncompressed `.npz`, making its folder where needed.

    The bytes depend on the content only (fixed time stamps, sorted members, C order). Written
    beside `path` and renamed, so no reader ever sees half a file. Raises `ResultError` where that
    fails, `TypeError` for arrays of objects or a `meta` that JSON cannot hold.
    """
    path = Path(path)
    text = canonical_json({**meta, "schema": SCHEMA})
    members = {"meta": np.array(text)}
    for name, value in arrays.items():
        if name == "meta":
            raise TypeError('An array cannot be called "meta": that member holds the JSON text.')
        members[name] = np.asarray(value, order="C")
        if members[name].dtype.hasobject:
            raise TypeError(
                f"The array {name} holds objects; a result file holds numbers and text."
            )
    try:
        with whole(path) as unfinished, zipfile.ZipFile(unfinished, "w") as archive:
            for name in sorted(members):
                info = zipfile.ZipInfo(f"{name}.npy")  # dated 1980, whenever written
                info.create_system = 3  # the same on Windows
                info.external_attr = 0o644 << 16
                with archive.open(info, "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, members[name], allow_pickle=False)
    except OSError as error:
        raise ResultError(
            f"{path} cannot be written ({_reason(error)}); choose a folder that is writable and "
            "has free space."
        ) from error
    return path


@contextmanager
def whole(path: PurePath) -> Iterator[Path]:
    """A place beside `path` to write to, which becomes `path` at the end: no reader sees half a
    file, and an error leaves what was there.
    """
    path = Path(path)
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}.unfinished")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def load_arrays(source: str | PurePath | BinaryIO) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read what `save_arrays` wrote: the arrays by name, and `meta` without the schema version.

    Raises `ResultError` for anything else.
    """
    name = _name_of(source)
    try:
        with np.load(source, allow_pickle=False) as archive:
            members = {member: archive[member] for member in archive.files}
            meta = json.loads(str(members.pop("meta")))
            schema = meta.pop("schema")
            if not isinstance(schema, int):
                raise ValueError("the schema version is not a number")
    except FileNotFoundError as error:
        raise ResultError(
            f"There is no result file {name}; check the path, or run the analysis that writes it."
        ) from error
    except Exception as error:  # a damaged zip raises a dozen types; each means the same here
        raise ResultError(
            f"{name} is not a readable result file ({_reason(error)}); it may be truncated or "
            "written by another program, so make it again."
        ) from error
    if schema > SCHEMA:
        raise ResultError(
            f"{name} was written by a newer version (file schema {schema}, this one reads up to "
            f"{SCHEMA}); update vssm-workbench."
        )
    return members, meta


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
    return (text.splitlines() or [type(error).__name__])[0].rstrip(".")


def _listed(names: Any) -> str:
    return ", ".join(sorted(names))


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
    project = Path(__file__).resolve().parent.parent
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
