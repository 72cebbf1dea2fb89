"""The pages Results and Story without a browser."""

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from shown_command import shown_command
from streamlit.testing.v1 import AppTest

from workbench import erf, methods
from workbench.app import results_list, session, story_words
from workbench.app.thumbnail import glance, thumbnail
from workbench.images import open_images
from workbench.results import load, save_arrays
from workbench.runner import run
from workbench.weights import create_model, facts_of

ROOT = Path(__file__).parents[1]
STORED = ROOT / "samples" / "results"
CURVES = STORED / "resolution"


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Receptive fields of two networks, and one by another protocol."""
    folder = tmp_path_factory.mktemp("measured")
    for name, seed, preset in (("one", 0, None), ("two", 1, None), ("log", 0, "replknet")):
        model = create_model("resnet_nano", "random", seed=seed)
        config = erf.Config(resamples=10, preset=preset)
        images = open_images("samples", 2)
        run(erf, model, images, config, facts=facts_of(model)).save(folder / f"{name}.npz")
    return folder


@pytest.fixture
def folder(measured, tmp_path, monkeypatch):
    """A results folder with these in it, and one of its subfolders with a curve."""
    shutil.copytree(measured, tmp_path / "results")
    (tmp_path / "results" / "curves").mkdir()
    shutil.copy(CURVES / "vim_nano-resolution.npz", tmp_path / "results" / "curves")
    monkeypatch.setenv("VSSM_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("VSSM_WEIGHTS", str(tmp_path))
    return tmp_path / "results"


@pytest.fixture
def page(folder):
    test = AppTest.from_file(str(ROOT / "workbench/app/main.py"), default_timeout=60)
    test.query_params["size"] = "64"
    return test.switch_page("results.py")


def chosen(page: AppTest, *names: str) -> AppTest:
    page.query_params["result"] = list(names)
    page.run()
    assert not page.exception
    assert [error.value for error in page.error] == []
    return page


def pictures(page: AppTest) -> int:
    return len(page.get("image") + page.get("imgs"))


def drop(page: AppTest, *files: tuple[str, bytes]) -> AppTest:
    page.run()
    page.file_uploader(key="dropped").set_value(
        [(name, content, "application/octet-stream") for name, content in files]
    )
    page.run()
    assert not page.exception
    return page


def test_the_table_names_what_each_file_holds(page):
    table = chosen(page).dataframe[0].value
    assert table["file"].tolist() == [
        "curves/vim_nano-resolution.npz", "log.npz", "one.npz", "two.npz",
    ]  # fmt: skip
    assert table["kind"].tolist() == ["resolution", "erf", "erf", "erf"]
    assert table["number"].tolist()[0] == "top1 at 128 px, % right"
    curve = load(CURVES / "vim_nano-resolution.npz")
    at_native = curve.number("top1")[0][curve.sizes.tolist().index(128)]
    assert table["value"].tolist()[0] == pytest.approx(at_native)
    assert set(table["version"]) == {"0.1.0"}
    assert pictures(page) == 0 and not page.code


def test_a_chosen_file_is_drawn_and_can_be_drawn_again(page, folder):
    chosen(page, "one.npz")
    assert pictures(page) == 1
    assert shown_command(page) == f"vssm show {folder / 'one.npz'} --out out"
    assert any("A50" in code.value for code in page.code)
    labels = [button.label for button in page.get("download_button")]
    assert {"Figure (PDF)", "Figure (PNG)", "Figure (SVG)", "Table (CSV)", "Data (NPZ)"} <= {
        *labels
    }


def test_fields_of_one_protocol_share_a_figure(page, folder):
    chosen(page, "one.npz", "two.npz")
    assert pictures(page) == 1
    assert f"{folder / 'one.npz'} {folder / 'two.npz'}" in shown_command(page)


def test_fields_of_two_protocols_stand_side_by_side(page):
    chosen(page, "one.npz", "log.npz")
    assert pictures(page) == 2
    assert "do not share a scale" in page.info[0].value


def test_kinds_stand_side_by_side(page):
    chosen(page, "one.npz", "curves/vim_nano-resolution.npz")
    assert pictures(page) == 2 and not page.info


def test_a_link_chooses_files_of_the_folder_only_and_each_once(page):
    chosen(page, "../../etc/passwd", "three.npz")
    assert pictures(page) == 0
    chosen(page, "one.npz", "one.npz")
    assert shown_command(page).count(".npz") == 1


def test_a_dropped_file_is_shown_at_once(page, folder):
    drop(page, ("mine.npz", (folder / "two.npz").read_bytes()))
    assert not page.error
    assert page.dataframe[0].value["file"][0] == "mine.npz (uploaded)"
    assert pictures(page) == 1
    assert shown_command(page) == "vssm show mine.npz --out out"


def saved(tmp_path: Path, arrays: dict, meta: dict) -> bytes:
    return save_arrays(tmp_path / "made.npz", arrays, meta).read_bytes()


def newer(path: Path) -> bytes:
    """The file as a later version would write it."""
    with np.load(path) as archive:
        members = dict(archive)
    meta = json.loads(str(members["meta"])) | {"schema": 99}
    buffer = io.BytesIO()
    np.savez(buffer, **{**members, "meta": np.array(json.dumps(meta))})
    return buffer.getvalue()


def test_files_that_cannot_be_opened_are_one_sentence_each(page, folder, tmp_path):
    good = (folder / "one.npz").read_bytes()
    plain = io.BytesIO()
    np.savez(plain, images=np.zeros(3))
    drop(
        page,
        ("cut.npz", good[: len(good) // 2]),
        ("words.npz", b"no archive"),
        ("plain.npz", plain.getvalue()),
        ("newer.npz", newer(folder / "one.npz")),
        ("other.npz", saved(tmp_path, {}, {"kind": "horoscope"})),
        ("bare.npz", saved(tmp_path, {"clean": np.zeros(2)}, {"kind": "sensitivity"})),
    )
    said = [error.value for error in page.error]
    assert len(said) == 6
    for sentence, words in zip(
        said,
        (
            "cut.npz is not a readable", "words.npz is not a readable",
            "plain.npz is not a readable", "newer.npz was written by a newer version",
            'other.npz holds a result of kind "horoscope"',
            "bare.npz does not say all of itself",
        ),
        strict=True,
    ):  # fmt: skip
        assert sentence.startswith(words)
    assert len(page.dataframe[0].value) == 4


def test_a_file_that_unpacks_to_too_much_is_refused(page, monkeypatch):
    monkeypatch.setattr(results_list, "LARGEST", 1)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, a=np.zeros(2**18))
    assert len(buffer.getvalue()) < 10_000
    drop(page, ("bomb.npz", buffer.getvalue()))
    assert page.error[0].value == (
        "bomb.npz holds 2 MB and the page opens up to 1 MB; use vssm show."
    )


def test_the_folder_is_only_read(page, folder):
    (folder / ".chunks").mkdir()
    (folder / ".chunks" / "00000.npz").write_bytes(b"unfinished")
    (folder / "cut.npz").write_bytes((folder / "one.npz").read_bytes()[:1000])
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    chosen(page, "one.npz", "two.npz")
    assert page.expander[0].label == "1 of the stored files cannot be read"
    assert len(page.dataframe[0].value) == 4
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_an_empty_folder_says_so(page, tmp_path, monkeypatch):
    monkeypatch.setenv("VSSM_RESULTS", str(tmp_path / "none"))
    chosen(page)
    assert "There is no result in" in page.info[0].value


def test_main_numbers_are_those_of_the_files(folder):
    one = load(folder / "one.npz")
    assert results_list.main_number(one) == ("A50", one.meta["numbers"]["A50"])
    curve = load(CURVES / "vim_nano-resolution.npz")
    unlabelled = replace(curve, correct=None)
    name, number = results_list.main_number(unlabelled)
    assert name == f"agreement at {curve.sizes[-1]} px"
    assert number == curve.points[-1]["numbers"]["agreement"]


# Story


def links(test: AppTest) -> list:
    return [element.proto for element in test.get("link_button")]


def told(test: AppTest) -> list[str]:
    """The sentence of each of the six steps."""
    titles = [element.value for element in test.subheader]
    assert [title[:2] for title in titles] == [f"{i}." for i in range(1, 7)]
    return [element.value for element in test.main.markdown][1:]


def share(number: dict) -> str:
    return f"{number['value']:.2g} %" if number["value"] < 10 else f"{number['value']:.0f} %"


def test_the_story_measures_nothing_and_tells_what_the_results_say(monkeypatch):
    def forbidden(*arguments):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(session, "load", forbidden)
    monkeypatch.delenv("VSSM_RESULTS", raising=False)
    test = AppTest.from_file(str(ROOT / "workbench/app/main.py"), default_timeout=60)
    test.switch_page("story.py").run()
    assert not test.exception
    assert [error.value for error in test.error] == []
    _, stripe, cross, training, resolution, attack = told(test)
    field = load(STORED / "training/vim_nano-end.npz").numbers
    assert share(field["row_share"]) in stripe and share(field["column_share"]) in stripe
    numbers = load(STORED / "scan-maps/vmamba_nano.npz").meta["numbers"].values()
    brought = sorted(number["share"]["value"] for number in numbers)
    assert f"{brought[0]:.0f} to {brought[-1]:.0f} %" in cross
    assert f"{load(STORED / 'erf.npz').numbers['crossness']['value']:.2f} times" in cross
    for model in ("vim", "vmamba", "mambavision"):
        end = load(STORED / f"training/{model}_nano-end.npz").numbers["A50"]
        assert f"{share(end)} in **{model}_nano**" in training
        curve = load(STORED / f"resolution/{model}_nano-resolution.npz")
        assert f"{share({'value': curve.number('A50')[0][-1]})} in **{model}_nano**" in resolution
        views = load(STORED / f"sensitivity/{model}_nano.npz").meta["views"]["gradient"]["shares"]
        for budget in ("linf", "l2"):
            largest = max(number["value"] for number in views[f"margin, {budget}"].values())
            assert f"{largest:.0f} % in **{model}_nano**" in attack
    assert [one.label for one in links(test)] == ["Make it here", "Numbers and files"] * 6
    for files in links(test)[1::2]:
        names = parse_qs(urlsplit(files.url).query)["result"]
        assert names and all((STORED / name).is_file() for name in names)


def test_the_story_of_another_results_folder_links_to_pages_only(tmp_path, monkeypatch):
    monkeypatch.setenv("VSSM_RESULTS", str(tmp_path))
    test = AppTest.from_file(str(ROOT / "workbench/app/main.py"), default_timeout=60)
    test.switch_page("story.py").run()
    assert {link.label for link in links(test)} == {"Make it here"}


def counted(**numbers: float):
    """A field with other numbers, each with an interval of a tenth around it."""
    field = load(STORED / "training/vim_nano-end.npz")
    found = {
        name: {"value": value, "low": 0.95 * value, "high": 1.05 * value, "unit": ""}
        for name, value in numbers.items()
    }
    return replace(field, meta={**field.meta, "numbers": found})


def test_sentences_of_the_story_turn_with_the_numbers():
    narrow, wide, alike = counted(A50=4), counted(A50=12), counted(A50=4.1)
    for tracks, title, says in (
        ([[narrow, wide]], "Training widens it", "grows from 4 to 12 %"),
        ([[wide, narrow]], "Training narrows it", "falls from 12 to 4 %"),
        ([[narrow, alike]], "Training leaves it as it is", "stays near 4.1 %"),
        ([[narrow, wide], [narrow, alike]], "Training widens it in 1 of 2", "stays near 4.1 %"),
        ([[narrow, wide], [wide, narrow]], "Training widens some and narrows others", "falls"),
    ):
        told = story_words.training(tracks)
        assert told[0] == title and says in told[1]
    noise = np.random.default_rng(0).uniform(1, 3, (10, 48, 48))
    # how bright the middle is differs more from photograph to photograph than a row from a column
    noise[:, 23:25, 23:25] += np.linspace(0, 500, 10)[:, None, None]
    across, both = noise.copy(), noise.copy()
    across[:, 23:25] += 1
    both[:, 23:25], both[:, :, 23:25] = both[:, 23:25] + 9, both[:, :, 23:25] + 9
    for maps, seen in (
        (across, "a stripe along its row"),
        (across.transpose(0, 2, 1), "a stripe along its column"),
        (noise, "no stripe"),
        (both, "no stripe"),
    ):
        field = counted(row_share=9, column_share=9)
        at = {**field.meta, "centre": [23.5, 23.5]}
        mean = maps.mean(axis=0)
        field = replace(field, map=mean / mean.sum(), maps=maps, picture=None, meta=at)
        title, _ = story_words.stripe(field)
        assert title.endswith(f"sees {seen}")
    maps = load(STORED / "scan-maps/vmamba_nano.npz")
    assert (
        story_words.cross(maps, counted(crossness=1.2))[0] == "Scans in 4 directions make a cross"
    )
    assert (
        story_words.cross(maps, counted(crossness=1.0))[0] == "Scans in 4 directions see all around"
    )


def test_every_kind_of_result_has_a_picture():
    stored: dict = {load(path).kind: load(path) for path in STORED.rglob("*.npz")}
    for name in set(methods.METHODS) - set(stored):
        stored[name] = run(name, "vmamba_nano", limit=1, size=64)
    assert set(stored) == set(methods.METHODS)
    for kind, result in stored.items():
        assert thumbnail(result).startswith("data:image/png"), kind
    top1 = np.array([p["numbers"]["top1"]["value"] for p in stored["resolution"].points]) / 100
    np.testing.assert_allclose(glance(stored["resolution"]), top1)
    assert glance(stored["erf"]).max() == 1
