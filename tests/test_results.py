import dataclasses
import io
import json
import os
import platform
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from workbench.results import (
    Erf,
    Result,
    ResultError,
    content_hash,
    load,
    provenance,
    save_arrays,
    store,
)


def an_erf(**changes: object) -> Erf:
    numbers = np.random.default_rng(0)
    heat = numbers.random((6, 5))
    fields: dict = {
        "meta": {"model": "tiny", "numbers": {"area": {"value": 0.25, "unit": "of the image"}}},
        "map": heat / heat.sum(),
        "maps": numbers.random((3, 6, 5)).astype(np.float32),
    }
    return Erf(**{**fields, **changes})


def test_a_result_comes_back_with_class_arrays_dtypes_and_meta(tmp_path: Path) -> None:
    picture = np.arange(90, dtype=np.uint8).reshape(6, 5, 3)
    saved = an_erf(picture=picture)
    back = load(saved.save(tmp_path / "a.npz"))
    assert isinstance(back, Erf)
    assert back.meta == saved.meta
    for name in ("map", "maps", "picture"):
        assert getattr(back, name).dtype == getattr(saved, name).dtype
        np.testing.assert_array_equal(getattr(back, name), getattr(saved, name))
    assert back.numbers["area"]["value"] == 0.25


def test_an_absent_optional_array_is_not_in_the_file(tmp_path: Path) -> None:
    path = an_erf().save(tmp_path / "a.npz")
    with np.load(path) as archive:
        assert sorted(archive.files) == ["map", "maps", "meta"]
    back = load(path)
    assert isinstance(back, Erf) and back.splits is None and back.picture is None


def test_numpy_alone_reads_the_file_and_its_meta(tmp_path: Path) -> None:
    with np.load(an_erf().save(tmp_path / "a.npz"), allow_pickle=False) as archive:
        meta = json.loads(str(archive["meta"]))
    assert meta["kind"] == "erf" and meta["schema"] == store.SCHEMA and meta["model"] == "tiny"


def test_equal_content_gives_equal_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = an_erf(meta={"b": 1, "a": 2}).save(tmp_path / "first.npz").read_bytes()
    monkeypatch.setattr("time.time", lambda: 2_000_000_000.0)
    heat = an_erf().map
    again = an_erf(meta={"a": 2, "b": 1}, map=np.asfortranarray(heat))
    assert again.save(tmp_path / "again.npz").read_bytes() == first
    arrays = {"x": np.ones(2), "y": np.zeros(2)}
    one = save_arrays(tmp_path / "one.npz", arrays, {})
    two = save_arrays(tmp_path / "two.npz", dict(reversed(arrays.items())), {})
    assert one.read_bytes() == two.read_bytes()
    other = an_erf(meta={"a": 2, "b": 1}, map=heat[::-1].copy())
    assert other.save(tmp_path / "other.npz").read_bytes() != first


def test_the_file_is_not_compressed(tmp_path: Path) -> None:
    with zipfile.ZipFile(an_erf().save(tmp_path / "a.npz")) as archive:
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}


def test_saving_makes_the_folder_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = an_erf().save(tmp_path / "deep" / "er" / "a.npz")
    assert list(path.parent.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_file_and_no_half_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = an_erf().save(tmp_path / "a.npz")
    before = path.read_bytes()
    write = np.lib.format.write_array
    calls = []

    def fill_up(file: object, array: np.ndarray, **keywords: object) -> None:
        calls.append(array)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        write(file, array, **keywords)  # type: ignore[arg-type]

    monkeypatch.setattr(np.lib.format, "write_array", fill_up)
    with pytest.raises(ResultError, match=r"a\.npz cannot be written \(No space left on device\)"):
        an_erf(meta={"new": True}).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ResultError, match=r"cannot be written .*; choose a folder") as caught:
        an_erf().save(tmp_path / "file" / "a.npz")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("keep", [0, 10, 400, -30])
def test_a_truncated_file_is_refused(tmp_path: Path, keep: int) -> None:
    path = an_erf().save(tmp_path / "a.npz")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ResultError, match=r"a\.npz is not a readable result file"):
        load(path)


def test_a_flipped_bit_is_refused(tmp_path: Path) -> None:
    path = an_erf().save(tmp_path / "a.npz")
    data = bytearray(path.read_bytes())
    at = bytes(data).index(an_erf().map.tobytes()) + 40
    data[at] ^= 1
    path.write_bytes(data)
    with pytest.raises(ResultError, match="not a readable result file"):
        load(path)


def test_files_of_other_programs_are_refused(tmp_path: Path) -> None:
    text, array, archive = (tmp_path / name for name in ("a.txt", "a.npy", "b.npz"))
    text.write_text("hello")
    np.save(array, np.ones(3))
    np.savez(archive, x=np.ones(3))
    for path in (text, array, archive, tmp_path):
        with pytest.raises(ResultError, match="not a readable result file"):
            load(path)


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match=r"There is no result file .*gone\.npz"):
        load(tmp_path / "gone.npz")


class Trap:
    """Unpickling it would leave a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def test_pickled_objects_are_refused_without_running_them(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    path = an_erf().save(tmp_path / "a.npz")
    with np.load(path) as archive:
        members = dict(archive)
    np.savez(path, **{**members, "picture": np.array([Trap(trace)], dtype=object)})  # type: ignore
    with pytest.raises(ResultError, match="not a readable result file"):
        load(path)
    assert not trace.exists()


def test_objects_are_not_saved(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="array x holds objects"):
        save_arrays(tmp_path / "a.npz", {"x": np.array([{}], dtype=object)}, {})
    assert not list(tmp_path.iterdir())


def test_a_newer_file_asks_for_an_update(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "SCHEMA", store.SCHEMA + 1)
    path = an_erf().save(tmp_path / "a.npz")
    monkeypatch.undo()
    with pytest.raises(ResultError, match=r"newer version .*; update vssm-workbench"):
        load(path)


def test_an_unknown_kind_lists_the_known_ones(tmp_path: Path) -> None:
    path = save_arrays(tmp_path / "a.npz", {}, {"kind": "horoscope"})
    with pytest.raises(ResultError, match=r'"horoscope".*knows .*erf'):
        load(path)


def test_a_result_without_one_of_its_arrays_is_refused(tmp_path: Path) -> None:
    path = save_arrays(tmp_path / "a.npz", {"map": an_erf().map}, {"kind": "erf"})
    with pytest.raises(ResultError, match=r'lacks the arrays maps of a "erf"'):
        load(path)


def test_an_upload_is_read_like_a_file(tmp_path: Path) -> None:
    data = an_erf().save(tmp_path / "a.npz").read_bytes()
    assert load(io.BytesIO(data)).meta == an_erf().meta
    with pytest.raises(ResultError, match="The given file is not a readable"):
        load(io.BytesIO(data[:100]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"map": np.full((6, 5), 1.0)}, "sum 30"),
        ({"map": np.full((6, 5), np.nan)}, "sum nan"),
        ({"map": np.eye(6, 5) * 0.4 - np.eye(6, 5, 1) * 0.2}, "minimum -0.2"),
        ({"maps": np.zeros((3, 5, 6))}, r"maps \(3, 5, 6\)"),
        ({"splits": np.zeros((6, 5))}, r"splits has the shape \(6, 5\)"),
        ({"picture": np.zeros((6, 5), np.uint8)}, r"picture has the shape \(6, 5\)"),
    ],
)
def test_an_erf_checks_its_arrays(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        an_erf(**changes)


def test_two_classes_cannot_share_a_kind() -> None:
    with pytest.raises(TypeError, match='has the kind "erf" of Erf'):
        type("Other", (Result,), {"kind": "erf", "__module__": __name__})
    with pytest.raises(TypeError, match="needs a class attribute `kind`"):
        type("Nameless", (Result,), {"__module__": __name__})


def test_provenance_names_versions_and_no_time_or_host() -> None:
    import platform

    found = provenance(seed=3)
    assert found["seed"] == 3
    assert found["versions"]["numpy"] == np.__version__
    assert {"python", "torch", "timm"} <= found["versions"].keys()
    assert found == provenance(seed=3)
    if platform.node():
        assert platform.node() not in json.dumps(found)


def test_the_content_hash_depends_on_content_only() -> None:
    @dataclasses.dataclass(frozen=True)
    class Config:
        size: tuple[int, int]
        eps: float

    one = content_hash({"config": Config((2, 3), 0.5), "path": Path("a/b"), "n": np.int64(4)})
    same = content_hash({"n": 4, "path": "a/b", "config": {"eps": 0.5, "size": [2, 3]}})
    assert one == same and len(one) == 8 and int(one, 16) >= 0
    assert content_hash({"config": Config((3, 2), 0.5), "path": "a/b", "n": 4}) != one
    with pytest.raises(TypeError, match="cannot be written as JSON"):
        content_hash(object())


def test_what_a_killed_process_left_is_removed_and_what_a_running_one_writes_stays(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    host = store.safe_name(platform.node())
    dead, alive, other = (
        tmp_path / f".a.npz.{writer}-0123abcd.unfinished"
        for writer in (f"{host}-{child.pid}", f"{host}-{os.getpid()}", f"elsewhere-{child.pid}")
    )
    for left in (dead, alive, other):
        left.write_bytes(b"half")
    path = an_erf().save(tmp_path / "a.npz")
    assert set(tmp_path.iterdir()) == {path, alive, other}


@pytest.mark.parametrize("part", ["meta", "checksums"])
def test_a_number_that_was_changed_is_noticed(tmp_path, part: str) -> None:
    """An archive that is whole, with other numbers in it."""
    path = an_erf().save(tmp_path / "a.npz")
    with np.load(path) as archive:
        members = dict(archive)
    meta = json.loads(str(members["meta"]))
    if part == "meta":
        meta["numbers"]["area"]["value"] = 99999
        members["meta"] = np.array(json.dumps(meta))
    else:
        members["maps"] = members["maps"] * 2
    np.savez(path, **members)
    with pytest.raises(ResultError, match="was changed after it was written"):
        load(path)


def test_a_file_of_the_first_version_is_read_without_checksums(tmp_path) -> None:
    path = an_erf().save(tmp_path / "a.npz")
    with np.load(path) as archive:
        members = dict(archive)
    meta = json.loads(str(members["meta"]))
    del meta["checksum"], meta["checksums"]
    np.savez(path, **{**members, "meta": np.array(json.dumps({**meta, "schema": 1}))})
    assert load(path).meta == an_erf().meta
