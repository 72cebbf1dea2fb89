"""A repository in the app: its model on every page, its code in a process of its own."""

import os
import shutil
import sys
from pathlib import Path
from unittest.mock import Mock, patch

import pytest
from shown_command import shown_command
from streamlit.testing.v1 import AppTest

from workbench import erf, external
from workbench.app import erf_measure, repository, session
from workbench.app.measure import measure
from workbench.app.session import Spec
from workbench.cli import app as command
from workbench.cli import main
from workbench.images import open_images, preprocessing_for
from workbench.runner import run

EXTERNAL = Path(__file__).parent / "external"
APP = str(Path(__file__).parents[1] / "workbench" / "app" / "main.py")
ADAPTER = """
import os
from pathlib import Path

Path(__file__).with_name("process").write_text(str(os.getpid()))


def make():
    from models.vmamba import VSSM

    print("what external code prints disturbs nobody")
    return VSSM()
"""

OF_96_PIXELS = """

class Of96(VSSM):
    def __init__(self, img_size=96):
        super().__init__()
        self.img_size = img_size
"""


@pytest.fixture
def adapter(tmp_path, monkeypatch):
    """The adapter of the small VMamba, with which the app is started."""
    folder = tmp_path / "Their-VMamba"  # of another path in every test, as caches live on
    shutil.copytree(EXTERNAL / "vmamba", folder)
    file = tmp_path / "adapter.py"
    file.write_text(ADAPTER)
    start(monkeypatch, "--repo", folder, "--adapter", file, "--weights", tmp_path)
    yield file
    close()


def start(monkeypatch, *options):
    """What `vssm app` with these options gives the app."""
    server = Mock(**{"poll.return_value": 0, "wait.return_value": 0})
    with patch.object(command.subprocess, "Popen", return_value=server) as started:
        assert main(["app", "--headless", *map(str, options)]) == 0
    for name, value in started.call_args.kwargs["env"].items():
        monkeypatch.setenv(name, value)
    session.st.cache_data.clear()


def close():
    for known in repository.offered():
        repository.process_of(known).close()


@pytest.fixture
def app(adapter):
    def visit(page: str | None = None, **query: str) -> AppTest:
        test = AppTest.from_file(APP, default_timeout=120)
        if page is not None:
            test.run()  # only then are the pages known
            test.switch_page(f"{page}.py")
        test.query_params.update(size="64", model="Their-VMamba", **query)
        return test.run()

    return visit


def fine(app: AppTest) -> AppTest:
    assert not app.exception
    assert [error.value for error in app.error] == []
    return app


def test_models_are_named_without_an_adapter_and_have_their_own_size(tmp_path, monkeypatch):
    shutil.copytree(EXTERNAL / "vmamba", tmp_path / "Named")
    file = tmp_path / "Named" / "models" / "vmamba.py"
    file.write_text(file.read_text() + OF_96_PIXELS)
    start(monkeypatch, "--repo", tmp_path / "Named", "--model", "VSSM", "Of96")
    page = AppTest.from_file(APP, default_timeout=120)
    page.query_params.update(position="0.1,0.9", model="your repository: Of96")
    words = shown_command(fine(page.run())).split()
    close()
    assert page.selectbox(key="model").options[:2] == [
        "your repository: VSSM", "your repository: Of96",
    ]  # fmt: skip
    assert words[words.index("--model") + 1] == "Of96" and "--adapter" not in words
    assert words[words.index("--repo") + 1] == str(tmp_path / "Named")
    assert words[words.index("--size") + 1] == "96"


def test_a_click_measures_the_field_in_another_process(app, adapter):
    page = fine(app(position="0.1,0.9"))
    words = shown_command(page).split()
    assert words[words.index("--adapter") + 1] == str(adapter) and "--model" not in words
    assert any("Random (untrained) weights" in text.value for text in page.markdown)
    process = int(adapter.with_name("process").read_text())
    assert process != os.getpid()
    assert not any(name.partition(".")[0] == "models" for name in sys.modules)

    spec = Spec("Their-VMamba", "auto", 0, 64)
    stage, images = erf_measure.stage_count(spec), open_images("samples", 1)
    config = erf_measure.config_at(spec, stage, (0.1, 0.9), "none")
    there = measure(spec, "erf", images, config)
    model = external.load(adapter.with_name("Their-VMamba"), adapter, size=64)
    here = run(erf, model, images, config, preprocessing=preprocessing_for(model, 64))
    assert there.map.tobytes() == here.map.tobytes()


@pytest.mark.parametrize("page", ["scan_maps", "sensitivity"])
def test_other_pages_show_it(app, page):
    found = fine(app(page, position="0.5,0.5", steps="1"))
    assert found.header[0].value == page.replace("_", " ").capitalize()
    assert found.get("image") and "--repo" in shown_command(found)


def test_resolution_is_measured_without_labels(app):
    sizes = {"sizes-224": ["64", "96"]}
    page = app("resolution", data="sidebar picture", **sizes)
    next(button for button in page.button if button.key == "go").click().run()
    assert "--repo" in shown_command(fine(page))
    assert len(page.table[0].value) == 3


def test_what_stops_a_page_stops_the_measurement_and_no_more(adapter):
    class Leave(BaseException):
        pass

    def leave(done: int, total: int, note: str | None) -> None:
        raise Leave

    spec, images = Spec("Their-VMamba", "auto", 0, 64), open_images("samples", 2)
    config = erf_measure.config_at(spec, 1, (0.5, 0.5), "none")
    with pytest.raises(Leave):
        measure(spec, "erf", images, config, leave)
    seen = []
    found = measure(spec, "erf", images, config, lambda *told: seen.append(told))
    assert found.meta["images_used"] == 2 and seen[-1][:2] == (2, 2)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import nothing_of_this_name", "pip install nothing_of_this_name"),
        ("raise KeyError('blocks')", "failed at adapter.py:2: KeyError: 'blocks'"),
        ("import os; os._exit(9)", "the process of Their-VMamba ended (exit code 9)"),
    ],
)
def test_what_goes_wrong_there_is_a_sentence_here(app, adapter, code, said):
    adapter.write_text(f"def make():\n    {code}\n")
    page = app()
    assert not page.exception
    # what markdown would read as a sign of its own is escaped
    assert any(said in error.value.replace("\\", "") for error in page.error)
    adapter.write_text(ADAPTER)
    fine(page.run())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--adapter", "{0}/a.py"], "--adapter makes the model of a repository"),
        (["--repo", "{0}/none", "--adapter", "{0}/a.py"], "clone the repository there"),
        (["--repo", "{0}", "--adapter", "{0}/none.py"], "give a Python file with make()"),
        (["--repo", "{0}", "--model", "Nobody"], "has no class or function 'Nobody'"),
        (["--model", "vmamba_nano"], "give --repo with it"),
    ],
)
def test_the_command_wants_a_folder_and_a_file(tmp_path, capsys, options, said):
    (tmp_path / "a.py").write_text("")
    assert main(["app", *(option.format(tmp_path) for option in options)]) == 2
    assert said in capsys.readouterr().err
