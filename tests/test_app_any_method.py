"""The page of a method without a page of its own: its options, figures, numbers and command."""

import shlex

import numpy as np
import pytest
from PIL import Image
from streamlit.testing.v1 import AppTest

from workbench import methods
from workbench.app import any_method, glossary
from workbench.app.erf_panels import NUMBERS
from workbench.cli import parse
from workbench.cli.options import read_fields

SCRIPT = """
from workbench.app import any_method, link, sidebar
with link.checked():
    sidebar.draw()
    any_method.page({name!r})
"""


def opened(name: str, **link: str) -> AppTest:
    app = AppTest.from_string(SCRIPT.format(name=name), default_timeout=120)
    app.query_params.update({"model": "vit_nano", **link})
    app.run()
    assert not app.exception and not app.error, [error.value for error in app.error]
    return app


@pytest.mark.parametrize("name", methods.METHODS)
def test_its_options_are_those_of_the_command_line(name):
    kind = methods.get(name).Config
    app = opened(name)
    labels = {w.label for w in [*app.toggle, *app.selectbox, *app.multiselect, *app.text_input]}
    own = {n for n in kind.__dataclass_fields__ if n not in any_method.WORKINGS}
    assert {field.replace("_", " ").capitalize() for field in own} <= labels
    assert app.button(key=f"{name}-go")


def test_what_is_chosen_is_measured_drawn_and_printed_as_a_command():
    app = opened("tokens", **{"tokens-images": "this picture"})
    app.text_input(key="tokens-mad").set_value("3.5").run()
    app.text_input(key="tokens-layer").set_value("blocks.0 blocks.[45]").run()
    app.button(key="tokens-go").click().run()
    assert not app.error and not app.exception
    (line,) = [code.value for code in app.code if code.value.startswith("vssm ")]
    name, args = parse(shlex.split(line)[1:])
    config = read_fields(args, methods.get(name).Config)
    assert name == "tokens" and config.mad == 3.5 and config.layer == ("blocks.0", "blocks.[45]")
    ((key, result),) = app.session_state["any_method"].items()
    assert key[3] == config and [b["name"] for b in result.meta["blocks"]] == [
        "blocks.0", "blocks.4", "blocks.5",
    ]  # fmt: skip
    assert any("blocks.4 " in code.value for code in app.code)
    app.text_input(key="tokens-mad").set_value("4").run()  # not measured: nothing old is shown
    assert not any("blocks.4 " in code.value for code in app.code)


@pytest.mark.parametrize(
    ("key", "text", "words"),
    [
        ("tokens-mad", "many", "mad is a number"),
        ("tokens-mad", "-1", "mad must be at least 0"),
        ("tokens-layer", "nothing", "no module or block 'nothing'"),
    ],
)
def test_what_cannot_be_is_one_sentence(key, text, words):
    app = opened("tokens", **{"tokens-images": "this picture"})
    app.text_input(key=key).set_value(text).run()
    if not app.error:
        app.button(key="tokens-go").click().run()
    assert not app.exception and len(app.error) == 1 and words in app.error[0].value


def test_images_that_the_app_was_started_with(tmp_path, monkeypatch):
    colours = {"a.png": (250, 20, 20), "b.png": (20, 20, 250)}
    for file, colour in colours.items():
        Image.new("RGB", (80, 64), colour).save(tmp_path / file)
    monkeypatch.setenv("VSSM_IMAGES", str(tmp_path))
    app = opened("tokens", **{"tokens-images": "all of yours"})
    assert app.selectbox(key="image").options[:3] == ["a.png", "b.png", "springer_spaniel.jpg"]
    app.button(key="tokens-go").click().run()
    (result,) = app.session_state["any_method"].values()
    assert result.meta["images_used"] == 2
    means = result.pictures.mean(axis=(1, 2))
    assert np.abs(means - np.array(list(colours.values()))).max() < 2
    app.selectbox(key="image").set_value("b.png").run()
    assert app.session_state["choice"].images.names == ["b.png"]


def test_a_model_that_cannot_be_measured_is_named_and_in_no_command():
    chosen = {"state-images": "this picture", "model": "vmamba_nano", "beside": "resnet_nano"}
    app = opened("state", **chosen)
    app.button(key="state-go").click().run()
    assert not app.exception and "no selective scan" in app.error[0].value
    (lines,) = [code.value for code in app.code if code.value.startswith("vssm ")]
    assert "--model vmamba_nano" in lines and "resnet_nano" not in lines


def test_every_page_tells_its_words():
    assert set(glossary.ON_PAGE) == {*methods.METHODS, "story"}
    told = [word for words in glossary.ON_PAGE.values() for word in words]
    assert set(told) | set(NUMBERS) == set(glossary.WORDS)
    app = opened("tokens")
    assert "a token whose norm" in app.header[0].help
