"""The app's logic without a browser: a click is simulated by the state that it leaves."""

import io
import re
from pathlib import Path

import pytest
from PIL import Image
from shown_command import shown_command
from streamlit.testing.v1 import AppTest

from workbench import ResolutionConfig, resolution
from workbench.app import resolution_measure
from workbench.app.class_names import class_names
from workbench.app.session import Spec
from workbench.images import open_images
from workbench.runner import joined, parts
from workbench.weights import create_model, facts_of

APP = str(Path(__file__).parents[1] / "workbench" / "app" / "main.py")


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


def test_first_visit_measures_the_middle_and_says_what_it_found(app):
    fine(app.run())
    assert any("Random (untrained) weights" in text.value for text in app.markdown)
    share = app.table[0].value.iloc[1, 1]
    assert not any(text.value.startswith("Says ") for text in app.caption)
    said = next(text.value for text in app.markdown if text.value.startswith("Half of what"))
    assert float(re.findall(r"[\d.]+", said)[0]) == pytest.approx(float(share.split()[0]), abs=0.51)
    assert "--position 2,2" in shown_command(app)


def test_first_visit_compares_three_trained_networks(app, monkeypatch):
    monkeypatch.delenv("VSSM_WEIGHTS")
    fine(app.run())
    assert app.multiselect(key="beside").value == ["vim_nano", "resnet_nano"]
    answers = [text.value for text in app.caption if text.value.startswith("Says ")]
    assert len(answers) == 3 and all("It knows 10 classes only" in text for text in answers)
    assert answers[0].startswith("Says English springer")
    assert len(shown_command(app).splitlines()) == 3
    said = next(text.value for text in app.markdown if text.value.startswith("Half of what"))
    assert said.count("%") == 3


def test_click_measures_the_cell_under_it_and_goes_to_the_url(app):
    fine(app.run())
    clicked(app, 0.1, 0.9)
    assert "--position 0,3" in shown_command(app)
    assert app.query_params["position"] == "0.1000,0.9000"
    clicked(app, 0.9, 0.1)
    assert "--position 3,0" in shown_command(app)


def test_deep_link_restores_every_choice(app):
    app.query_params.update(
        model="vim_nano", image="coffee.jpg", stage="2", seed="3", position="0.1,0.6"
    )
    fine(app.run())
    assert not app.warning
    assert shown_command(app) == (
        "vssm erf --model vim_nano --weights random --seed 3 --images samples/images/coffee.jpg "
        "--size 64 --stage 2 --position 0,4 --out out"
    )


def test_bad_deep_link_falls_back(app):
    app.query_params.update(
        model="nonsense", image="none.jpg", size="65", stage="9", position="1.5,x", split="all"
    )
    app.query_params.update(stge="2", seed="3", second="none", training="TRUE")
    fine(app.run())
    said = " ".join(warning.value for warning in app.warning)
    for words in (
        "model = nonsense, which cannot be chosen here; it is vmamba_nano now",
        "image = none.jpg",
        "size = 65",
        "stage = 9",
        "position = 1.5,x",
        "split = all",
        "stge = 2, and there is no such choice here",
    ):
        assert words in said
    assert len(app.warning) == 7
    assert app.selectbox(key="model").value == "vmamba_nano"
    assert app.session_state["place"] is None
    app.button_group(key="stage").set_value("1").run()
    assert len(app.warning) == 6
    assert not {"model", "image", "size", "stage", "position", "split"} & set(app.query_params)


def test_stage_changes_the_measurement(app):
    fine(app.run())
    clicked(app, 0.5, 0.5)
    before = [row.tolist() for row in app.table[0].value.to_numpy()]
    app.button_group(key="stage").set_value("1").run()
    assert "--stage 1" in shown_command(fine(app))
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
    app.query_params.update(second="vim_nano", position="0.1,0.6")  # of an earlier version
    fine(app.run())
    lines = shown_command(app).splitlines()
    assert "vmamba_nano" in lines[0] and "--position 0,2" in lines[0]
    assert "vim_nano" in lines[1] and "--position 0,4" in lines[1]


def test_before_and_after_training_needs_trained_weights(app):
    app.query_params.update(training="true", position="0.5,0.5")
    fine(app.run())
    assert "no state after training" in app.info[0].value
    assert len(shown_command(app).splitlines()) == 1


def test_all_sample_images_give_intervals(app):
    app.query_params.update(model="resnet_nano", position="0.5,0.5")
    fine(app.run())
    assert "[" not in app.table[0].value.iloc[0, 1]
    next(button for button in app.button if "sample images" in button.label).click().run()
    assert "[" in fine(app).table[0].value.iloc[0, 1]
    assert "--images samples " in shown_command(app)


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
    assert "--images teal.png" in shown_command(fine(app))


# Scan maps


@pytest.fixture
def maps(app):
    app.run()
    return app.switch_page("scan_maps.py")


@pytest.mark.parametrize("model", ["vmamba_nano", "vim_nano", "mambavision_nano"])
def test_scan_maps_of_every_family(maps, model):
    maps.query_params["model"] = model
    fine(maps.run())
    maps.selectbox(key="model").set_value(model).run()
    fine(maps)
    assert shown_command(maps).startswith(f"vssm scan-maps --model {model}")
    assert any("Random (untrained) weights" in text.value for text in maps.markdown)


def test_a_model_without_a_scan_says_so(maps):
    fine(maps.run())
    maps.selectbox(key="model").set_value("resnet_nano").run()
    fine(maps)
    assert "no selective scan" in maps.info[0].value
    assert not maps.code


# Resolution


@pytest.fixture
def sizes(app):
    """The page of a small convolutional network over two sizes, before its first run."""
    app.switch_page("resolution.py")
    app.query_params.update({"model": "resnet_nano", "sizes-128": ["64", "128"]})
    return app


def button(app: AppTest, label: str):
    return next(button for button in app.button if button.label == label)


def captions(app: AppTest) -> list[str]:
    return [text for image in app.get("image") for text in image.captions]


def column(app: AppTest, model: str) -> list[str]:
    return app.table[0].value[model].tolist()


def test_resolution_shows_the_picture_at_every_size_before_it_measures(sizes):
    fine(sizes.run())
    assert captions(sizes) == ["**64 px**", "**128 px, trained**"]
    assert not sizes.code and not sizes.table
    assert any("Random (untrained) weights" in text.value for text in sizes.markdown)


def test_resolution_measures_curves_and_the_picture(sizes):
    sizes.query_params.update(beside=["vim_nano"], seed="1", image="coffee.jpg")
    fine(sizes.run())
    button(sizes, "Measure").click().run()
    fine(sizes)
    assert shown_command(sizes) == (
        "vssm resolution --model resnet_nano vim_nano --weights random random --seed 1 "
        "--images samples --size 128 --sizes 64 128 --out out"
    )
    # at the trained size every prediction is that at the trained size
    assert [column(sizes, name)[1][:3] for name in ("resnet_nano", "vim_nano")] == ["100"] * 2
    predictions = [text for text in captions(sizes) if "class" in text]
    assert [text.split("  ")[0] for text in predictions] == ["**64 px**", "**128 px, trained**"] * 2
    assert sum("cross-ness" in text for text in captions(sizes)) == 4
    assert button(sizes, "Measure").disabled


def test_resolution_measures_no_point_twice(sizes, monkeypatch):
    asked = []

    def spy(method, model, images, config, **options):
        asked.append((len(images), list(config.sizes)))
        return parts(method, model, images, config, **options)

    monkeypatch.setattr(resolution_measure, "parts", spy)
    sizes.query_params.update(seed="2", data="sidebar picture")
    fine(sizes.run())
    button(sizes, "Measure").click().run()
    before = column(sizes, "resnet_nano")
    sizes.multiselect(key="sizes-128").set_value(["64", "128", "160"]).run()
    assert column(fine(sizes), "resnet_nano")[:2] == before
    button(sizes, "Measure").click().run()
    assert asked == [(1, [64, 128]), (1, [160])]
    assert len(column(fine(sizes), "resnet_nano")) == 3


def test_resolution_keeps_the_points_of_an_interrupted_sweep(sizes, monkeypatch):
    def breaks(*arguments, **options):
        yield next(parts(*arguments, **options))
        raise ValueError("the power went out")

    monkeypatch.setattr(resolution_measure, "parts", breaks)
    sizes.query_params.update(seed="3", data="sidebar picture")
    fine(sizes.run())
    button(sizes, "Measure").click().run()
    assert not sizes.exception
    assert [error.value for error in sizes.error] == ["the power went out"]
    fine(sizes.run())
    assert sizes.table[0].value["size"].tolist() == ["128 px"]
    assert not button(sizes, "Measure").disabled


def test_resolution_never_mixes_the_protocols(sizes):
    sizes.query_params.update(seed="4", data="sidebar picture", number="Operations")
    fine(sizes.run())
    button(sizes, "Measure").click().run()
    assert "--object-size" not in shown_command(fine(sizes))
    sizes.button_group(key="object_size").set_value("constant").run()
    assert not fine(sizes).table
    button(sizes, "Measure").click().run()
    assert "--object-size constant" in shown_command(fine(sizes))


def test_resolution_draws_stored_curves_at_once(sizes, tmp_path):
    for label in ("dark", "light"):
        (tmp_path / "images" / label).mkdir(parents=True)
        for i in range(4):
            shade = (10 * i, 40, 60) if label == "dark" else (200, 220, 255 - 10 * i)
            Image.new("RGB", (64, 64), shade).save(tmp_path / "images" / label / f"{i}.png")
    model = create_model("resnet_nano", num_classes=2)
    images = open_images(tmp_path / "images")
    config = ResolutionConfig(sizes=(64,), erf_images=0)
    steps = list(parts(resolution, model, images, config, labelled=True, facts=facts_of(model)))
    joined(resolution, steps, config, tmp_path)
    fine(sizes.run())
    assert any(str(tmp_path) in caption.value for caption in sizes.caption)
    assert sizes.selectbox(key="number").value == "top1"
    assert len(column(sizes, "resnet_nano")) == 2
    assert shown_command(sizes) == (
        "vssm resolution --model resnet_nano --weights random --data images --limit 8 "
        "--size 128 --sizes 64 128 --out out"
    )
    sizes.button_group(key="object_size").set_value("constant").run()
    assert not fine(sizes).table


def test_class_names_are_those_of_the_training_images(monkeypatch):
    monkeypatch.delenv("VSSM_WEIGHTS", raising=False)
    trained = class_names(Spec("resnet_nano", "resnet_nano.imagenette64.safetensors", 0, 64), 10)
    assert (trained[0], trained[5], trained[9]) == ("tench", "French horn", "parachute")
    assert class_names(Spec("resnet_nano", "random", 0, 64), 10)[9] == "class 9"


# Sensitivity


@pytest.fixture
def attacks(app):
    app.run()
    return app.switch_page("sensitivity.py")


@pytest.mark.parametrize("model", ["vmamba_nano", "vim_nano", "mambavision_nano"])
def test_sensitivity_of_every_family(attacks, model):
    attacks.query_params["model"] = model
    fine(attacks.run())
    attacks.selectbox(key="model").set_value(model).run()
    fine(attacks)
    assert shown_command(attacks).startswith(f"vssm sensitivity --model {model}")
    assert any("ranks of B, C and delta are no evidence" in text.value for text in attacks.markdown)


def test_the_slider_sets_the_attack_and_goes_to_the_url_and_the_command(attacks):
    fine(attacks.run())
    assert "--patching-eps-255 1 " in shown_command(attacks)
    attacks.slider(key="eps").set_value(4.0).run()
    assert "--patching-eps-255" not in shown_command(fine(attacks))  # 4 is what the command takes
    attacks.slider(key="eps").set_value(0.0).run()
    fine(attacks)
    assert not attacks.code and "Move the slider" in attacks.info[0].value


def test_a_model_without_b_c_and_delta_says_so(attacks):
    attacks.selectbox(key="model").set_value("resnet_nano").run()
    assert "no selective scan" in fine(attacks).info[0].value


def test_the_script_at_the_top_is_the_app():
    found = AppTest.from_file(str(Path(__file__).parents[1] / "app.py"), default_timeout=60).run()
    assert not found.exception
    assert found.header[0].value == "Effective receptive field"
