"""The app's logic without a browser: a click is simulated by the state that it leaves."""

import io
from pathlib import Path

import pytest
from PIL import Image
from streamlit.testing.v1 import AppTest

from workbench.images import open_images
from workbench.methods import erf
from workbench.runner import run
from workbench.weights import create_model

APP = str(Path(__file__).parents[1] / "app.py")


@pytest.fixture
def app(tmp_path, monkeypatch):
    """The app before its first run, on a small image, without checkpoints and stored results."""
    monkeypatch.setenv("VSSM_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("VSSM_RESULTS", str(tmp_path))
    test = AppTest.from_file(APP, default_timeout=60)
    test.query_params["size"] = "64"
    return test


def clicked(app: AppTest, row: float, column: float) -> AppTest:
    app.session_state["place"] = (row, column)
    app.run()
    return fine(app)


def fine(app: AppTest) -> AppTest:
    assert not app.exception
    assert [error.value for error in app.error] == []
    return app


def command(app: AppTest) -> str:
    return app.code[0].value


def test_first_visit_says_that_weights_are_random_and_measures_nothing(app):
    fine(app.run())
    assert any("Random (untrained) weights" in text.value for text in app.markdown)
    assert not app.code and not app.table


def test_first_visit_shows_the_stored_example_of_what_is_chosen(app, tmp_path):
    model = create_model("vmamba_nano")
    facts = {"model": "vmamba_nano", "weights": "random", "weights_label": "random", "licence": ""}
    config = erf.ErfConfig(resamples=10)
    run(erf, model, open_images("samples", 2), config, facts=facts).save(tmp_path / "erf.npz")
    fine(app.run())
    assert any("stored example" in caption.value for caption in app.caption)
    assert "[" in app.table[0].value.iloc[0, 1]
    app.selectbox(key="image").set_value("coffee.jpg").run()
    assert not fine(app).table


def test_click_measures_the_cell_under_it_and_goes_to_the_url(app):
    fine(app.run())
    clicked(app, 0.1, 0.9)
    assert "--position 0,3" in command(app)
    assert app.query_params["position"] == "0.1000,0.9000"
    clicked(app, 0.9, 0.1)
    assert "--position 3,0" in command(app)


def test_deep_link_restores_every_choice(app):
    app.query_params.update(
        model="vim_nano", image="coffee.jpg", stage="2", seed="3", position="0.1,0.6"
    )
    fine(app.run())
    assert command(app) == (
        "vssm erf --model vim_nano --weights random --images samples/images/coffee.jpg --size 64 "
        "--stage 2 --position 0,4 --seed 3 --out out"
    )


def test_bad_deep_link_falls_back(app):
    app.query_params.update(
        model="nonsense", image="none.jpg", size="65", stage="9", position="1.5,x", split="all"
    )
    fine(app.run())
    assert app.selectbox(key="model").value == "vmamba_nano"
    assert app.session_state["place"] is None
    assert not {"model", "image", "size", "stage", "position", "split"} & set(app.query_params)


def test_stage_changes_the_measurement(app):
    fine(app.run())
    clicked(app, 0.5, 0.5)
    before = [row.tolist() for row in app.table[0].value.to_numpy()]
    app.button_group(key="stage").set_value("1").run()
    assert "--stage 1" in command(fine(app))
    assert before != [row.tolist() for row in app.table[0].value.to_numpy()]


def test_another_model_offers_its_own_stages_and_weights(app, tmp_path):
    (tmp_path / "vmamba_nano.safetensors").write_bytes(b"")
    app.run()
    assert app.selectbox(key="weights").value == "vmamba_nano.safetensors"
    app.selectbox(key="model").set_value("vmamba_tiny_s1l8").run()
    assert "vmamba_nano.safetensors" not in app.selectbox(key="weights").options
    assert app.selectbox(key="weights").value == "random"
    assert len(app.button_group(key="stage").options) == 4


def test_split_shows_a_map_for_each_direction(app):
    app.query_params["split"] = "direction"
    fine(app.run())
    clicked(app, 0.5, 0.5)
    captions = [text for image in app.get("image") for text in image.captions]
    assert [text.split(":")[0] for text in captions] == [
        "whole", "row", "column", "row-reversed", "column-reversed",
    ]  # fmt: skip


def test_model_without_a_scan_says_that_it_cannot_be_split(app):
    app.query_params.update(model="resnet_nano", split="direction", position="0.5,0.5")
    app.run()
    assert not app.exception
    assert "no selective scan" in app.error[0].value


def test_two_models_share_the_place_and_each_has_its_own_cell(app):
    app.query_params.update(second="vim_nano", position="0.1,0.6")
    fine(app.run())
    lines = command(app).splitlines()
    assert "vmamba_nano" in lines[0] and "--position 0,2" in lines[0]
    assert "vim_nano" in lines[1] and "--position 0,4" in lines[1]


def test_before_and_after_training_needs_trained_weights(app):
    app.query_params.update(training="true", position="0.5,0.5")
    fine(app.run())
    assert "no state after training" in app.info[0].value
    assert len(command(app).splitlines()) == 1


def test_all_sample_images_give_intervals(app):
    app.query_params.update(model="resnet_nano", position="0.5,0.5")
    fine(app.run())
    assert "[" not in app.table[0].value.iloc[0, 1]
    next(button for button in app.button if "sample images" in button.label).click().run()
    assert "[" in fine(app).table[0].value.iloc[0, 1]
    assert "--images samples " in command(app)


def test_weights_that_do_not_fit_are_one_sentence(app, tmp_path):
    (tmp_path / "vmamba_nano.safetensors").write_bytes(b"no weights")
    app.run()
    assert not app.exception
    assert "vmamba_nano.safetensors" in app.error[0].value


def test_upload_that_is_no_picture_is_one_sentence(app):
    app.query_params["image"] = "a file of mine"
    fine(app.run())
    app.file_uploader(key="upload").set_value(("cat.png", b"no picture", "image/png"))
    app.run()
    assert not app.exception
    assert app.error[0].value.startswith("cat.png is not an image")


def test_upload_is_measured(app):
    buffer = io.BytesIO()
    Image.new("RGB", (90, 70), "teal").save(buffer, "PNG")
    app.query_params.update(image="a file of mine", position="0.5,0.5")
    fine(app.run())
    app.file_uploader(key="upload").set_value(("teal.png", buffer.getvalue(), "image/png"))
    app.run()
    assert "--images teal.png" in command(fine(app))


# Scan maps


@pytest.fixture
def maps(app):
    app.run()
    return app.switch_page("workbench/app/scan_maps.py")


@pytest.mark.parametrize("model", ["vmamba_nano", "vim_nano", "mambavision_nano"])
def test_scan_maps_of_every_family(maps, model):
    maps.query_params["model"] = model
    fine(maps.run())
    maps.selectbox(key="model").set_value(model).run()
    fine(maps)
    assert command(maps).startswith(f"vssm scan-maps --model {model}")
    assert any("Random (untrained) weights" in text.value for text in maps.markdown)


def test_a_model_without_a_scan_says_so(maps):
    fine(maps.run())
    maps.selectbox(key="model").set_value("resnet_nano").run()
    fine(maps)
    assert "no selective scan" in maps.info[0].value
    assert not maps.code
