"""A paper's figures from one file: what is made, what is made again, and what is refused."""

import errno
import json
from pathlib import Path

import pytest
import yaml

from workbench import erf, paper, scan_maps
from workbench.cli import main

CONFIGS = sorted((Path(__file__).parents[1] / "analyses" / "configs").glob("*.yaml"))
FIELD = {"method": "erf", "models": ["vmamba_nano"], "limit": 2, "size": 64}
SHEETS = {"venue": "neurips", "formats": ["pdf", "svg"]}


def written(folder: Path, figures: dict, **more) -> Path:
    file = folder / "paper.yaml"
    file.write_text(yaml.safe_dump({**SHEETS, "figures": figures, **more}))
    return file


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_the_shipped_files_can_be_read(file: Path) -> None:
    assert paper.read(file).figures


def test_figures_captions_tables_and_manifest_are_written(tmp_path: Path) -> None:
    figures = {
        "field": {**FIELD, "config": {"stage": 2}},
        "orders": {"method": "paths", "pattern": "row*"},
    }
    files = paper.make(paper.read(written(tmp_path, figures)), tmp_path / "out")
    made = {str(file.relative_to(tmp_path / "out")) for file in files}
    assert made == {
        *(f"field/erf.{suffix}" for suffix in ("pdf", "svg", "txt", "csv", "tex")),
        *(f"orders/paths.{suffix}" for suffix in ("pdf", "svg", "txt")),
    }
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    (origin,) = manifest["figures"]["field"]["inputs"]
    assert origin["images_used"] == 2 and origin["config"]["stage"] == 2
    assert len(origin["weights_sha256"]) == 64 and len(origin["images_fingerprint"]) == 64
    assert "torch" in manifest["versions"]
    assert 'width="396pt"' in (tmp_path / "out" / "field" / "erf.svg").read_text()  # 5.5 inches


def test_stored_results_are_drawn_and_nothing_is_measured(tmp_path, monkeypatch, capsys) -> None:
    for method in (erf, scan_maps):
        monkeypatch.setattr(method, "measure", None)
    kept = "samples/results/training/vim_nano-*.npz"
    fields = {"fields": {"method": "erf", "stored": [kept]}}
    files = paper.make(paper.read(written(tmp_path, fields)), tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert len(manifest["figures"]["fields"]["inputs"]) == 5
    assert tmp_path / "out/fields/erf.svg" in files
    for method, stored, words in (
        ("scan-maps", kept, "is a result of erf, not of scan-maps"),
        ("erf", "out/none-*.npz", "there is no stored result out/none-*.npz"),
    ):
        file = written(tmp_path, {"wrong": {"method": method, "stored": [stored]}})
        assert main(["figures", str(file), "--out", str(tmp_path / "no")]) == 2
        assert words in capsys.readouterr().err


def test_a_second_run_changes_no_byte_and_measures_nothing(tmp_path, monkeypatch) -> None:
    file = written(tmp_path, {"field": FIELD})
    paper.make(paper.read(file), tmp_path / "out")
    before = contents(tmp_path / "out")
    monkeypatch.setattr(erf, "measure", None)
    paper.make(paper.read(file), tmp_path / "out")
    assert contents(tmp_path / "out") == before


def test_figures_of_another_folder_have_the_same_bytes(tmp_path: Path) -> None:
    read = paper.read(written(tmp_path, {"field": FIELD}))
    for folder in ("one", "two"):
        paper.make(read, tmp_path / folder)
    one, two = (contents(tmp_path / folder / "field") for folder in ("one", "two"))
    assert one == two and len(one) == 5


def test_only_what_changed_is_made_again(tmp_path: Path) -> None:
    figures = {"a": FIELD, "b": {**FIELD, "config": {"stage": 2}}}
    out = tmp_path / "out"
    paper.make(paper.read(written(tmp_path, figures)), out)
    times = {file: file.stat().st_mtime_ns for file in out.rglob("*.pdf")}
    (out / "b" / "erf.pdf").write_bytes(b"damaged")
    figures["c"] = {**FIELD, "limit": 1}
    paper.make(paper.read(written(tmp_path, figures)), out)
    assert (out / "a" / "erf.pdf").stat().st_mtime_ns == times[out / "a" / "erf.pdf"]
    assert (out / "b" / "erf.pdf").read_bytes().startswith(b"%PDF")
    assert (out / "c" / "erf.pdf").is_file()
    assert len(list((out / "results" / "erf").glob("*.npz"))) == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("figures: {a: {method: erf, modles: [x]}}", "modles is not known; the nearest is models"),
        ("figures: {a: {method: erv, models: [x]}}", "erv is not known; the nearest is erf"),
        ("figures: {a: {method: erf}}", "names no models"),
        ("figures: {a: {models: [x]}}", "names no method"),
        ("figures: {a: {method: erf, models: [x], config: {stages: 2}}}", "the nearest is stage"),
        (
            "figures: {a: {method: erf, models: [x], config: {stage: two}}}",
            "stage must be int",
        ),
        ("figures: {a: {method: erf, models: [x], limit: few}}", "limit must be int, not 'few'"),
        ("figures: {a: {method: erf, models: [x], config: 3}}", "config must be a mapping"),
        ("venue: nature\nfigures: {a: {method: paths}}", "nature is not known"),
        ("formats: [png, jpg]\nfigures: {}", "jpg is not known; the nearest is png"),
        ("figuers: {}", "has no `figures:`"),
        ("figures: [", "is no YAML file"),
    ],
)
def test_a_wrong_file_is_one_sentence(text: str, words: str, tmp_path, capsys) -> None:
    file = tmp_path / "paper.yaml"
    file.write_text(text)
    assert main(["figures", str(file), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_missing_file_and_missing_images_are_named(tmp_path, capsys) -> None:
    assert main(["figures", str(tmp_path / "none.yaml")]) == 2
    assert "none.yaml" in capsys.readouterr().err
    file = written(tmp_path, {"field": {**FIELD, "images": "/nowhere/at/all"}})
    assert main(["figures", str(file), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "figure field" in error and "/nowhere/at/all" in error and "Traceback" not in error


def test_a_full_disk_is_one_sentence_and_leaves_no_half_file(tmp_path, monkeypatch, capsys) -> None:
    file = written(tmp_path, {"field": FIELD})

    def full(self: Path, content: bytes) -> int:
        with self.open("wb") as half:
            half.write(content[:10])
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_bytes", full)
    assert main(["figures", str(file), "--out", str(tmp_path / "out")]) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert {p.suffix for p in (tmp_path / "out").rglob("*") if p.is_file()} == {".npz"}
    monkeypatch.undo()
    assert main(["figures", str(file), "--out", str(tmp_path / "out")]) == 0
