"""Result files: cut, flipped, edited, and with parts of what they say missing or of other types."""

import copy
import io
import json
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from corpus.case import Case
from workbench import figures
from workbench.places import SAMPLES
from workbench.results import load, load_arrays, save_arrays

SAMPLED = (
    "erf.npz",
    "scan-maps/vmamba_nano.npz",
    "resolution/vim_nano-resolution.npz",
    "robustness/resnet_nano.npz",
    "sensitivity/vim_nano.npz",
)
OTHERS: tuple[Any, ...] = (None, 7, "word", [], {}, [1, 2], {"a": None}, -1, True, 1e300)


def shown(path: Path) -> Any:
    """A result, with all that a terminal says of it."""
    result = load(path)
    with figures.complete(path.name):
        pictures = figures.of(result.kind)
        pictures.report(result)
        [sheet.caption for sheet in pictures.sheets([result])]
        pictures.tables([result])
    return result


def places(meta: Any, path: tuple = (), depth: int = 0) -> Iterator[tuple]:
    if depth < 4 and isinstance(meta, dict | list):
        for key, value in list(meta.items() if isinstance(meta, dict) else enumerate(meta))[:20]:
            yield (*path, key)
            yield from places(value, (*path, key), depth + 1)


def edited(meta: dict, path: tuple, change: Callable[[Any, Any], None]) -> dict:
    meta = copy.deepcopy(meta)
    inner: Any = meta
    for key in path[:-1]:
        inner = inner[key]
    change(inner, path[-1])
    return meta


def cases(folder: Path, seed: int) -> Iterator[Case]:
    rng = np.random.default_rng(seed)

    def case(name: str, make: Callable[[Path], Any], good: bool | None, run: Callable) -> Case:
        path = folder / f"{name.replace('/', '-').replace(' ', '-')}.npz"
        return Case(f"results/{name}", lambda: make(path), lambda: run(path), good)

    for sample in SAMPLED:
        arrays, meta = load_arrays(SAMPLES / "results" / sample)
        kind = meta["kind"]
        stored = save_arrays(folder / f"whole-{kind}.npz", arrays, meta)
        whole, expected = stored.read_bytes(), load(stored)

        def same(path: Path, expected: Any = expected) -> bool:
            result = shown(path)
            own = result.arrays()
            return result.meta == expected.meta and all(
                np.array_equal(own[name], value, equal_nan=value.dtype.kind == "f")
                for name, value in expected.arrays().items()
            )

        yield case(f"{kind} whole", lambda p, d=whole: p.write_bytes(d), True, same)
        for number in range(4):
            data = whole[: int(rng.integers(len(whole)))]
            yield case(f"{kind} cut {number}", lambda p, d=data: p.write_bytes(d), False, same)
        for number in range(6):
            flipped = bytearray(whole)
            flipped[int(rng.integers(len(whole)))] ^= 1 << int(rng.integers(8))
            yield case(
                f"{kind} flipped {number}", lambda p, d=bytes(flipped): p.write_bytes(d), None, same
            )
        known = list(places(meta))
        for number in range(12):
            path = known[int(rng.integers(len(known)))]
            removed = edited(meta, path, lambda inner, key: inner.pop(key))
            yield case(
                f"{kind} without {number}",
                lambda p, m=removed, a=arrays: save_arrays(p, a, m),
                None,
                lambda p: bool(shown(p)),
            )
            other = OTHERS[int(rng.integers(len(OTHERS)))]
            changed = edited(meta, path, lambda inner, key, o=other: inner.__setitem__(key, o))
            yield case(
                f"{kind} changed {number}",
                lambda p, m=changed, a=arrays: save_arrays(p, a, m),
                None,
                lambda p: bool(shown(p)),
            )
            yield case(
                f"{kind} edited {number}",
                lambda p, d=whole, m=changed: p.write_bytes(_with_meta(d, m)),
                None if changed == meta else False,
                same,
            )
    arrays, meta = load_arrays(SAMPLES / "results" / "erf.npz")
    zeros = np.zeros(2**29, np.uint8)
    whole = save_arrays(folder / "whole.npz", arrays, meta).read_bytes()

    def bomb(path: Path, name: str) -> None:
        with (
            zipfile.ZipFile(io.BytesIO(whole)) as stored,
            zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        ):
            for entry in stored.namelist():
                if entry != f"{name}.npy":
                    archive.writestr(entry, stored.read(entry))
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, zeros)

    yield case("unknown giant", lambda p: bomb(p, "alien"), True, lambda p: bool(shown(p)))
    yield case("giant map", lambda p: bomb(p, "map"), False, shown)
    yield case("giant meta", lambda p: bomb(p, "meta"), False, shown)
    yield case("pipe", os.mkfifo, False, shown)
    yield case("folder", Path.mkdir, False, shown)
    yield case("device", lambda p: p.symlink_to("/dev/zero"), False, shown)
    for schema in (-1, 0, True, "1", None, 99):
        data = _with_meta(whole, {**meta, "schema": schema})
        yield case(f"schema {schema}", lambda p, d=data: p.write_bytes(d), False, shown)
    for kind in ("horoscope", None, 7, [], "\x1b[31m"):
        told = {**meta, "kind": kind}
        yield case(f"kind {kind!r:.4}", lambda p, m=told: save_arrays(p, arrays, m), False, shown)
    for name, data in {"photo": b"\xff\xd8\xff\xe0", "text": b"hello", "empty": b""}.items():
        yield case(name, lambda p, d=data: p.write_bytes(d), False, shown)


def _with_meta(whole: bytes, meta: dict) -> bytes:
    """The archive with another text, and the checksums of the old one: as an editor would."""
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(whole)) as stored,
        zipfile.ZipFile(buffer, "w") as archive,
    ):
        old = json.loads(str(np.load(io.BytesIO(stored.read("meta.npy")))))
        kept = {key: old[key] for key in ("checksum", "checksums")}
        member = io.BytesIO()
        np.save(member, np.array(json.dumps({"schema": old["schema"], **meta, **kept})))
        for entry in stored.namelist():
            archive.writestr(
                entry, member.getvalue() if entry == "meta.npy" else stored.read(entry)
            )
    return buffer.getvalue()
