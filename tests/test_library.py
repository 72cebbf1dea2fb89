"""One call from a model and images, however they come; results that show themselves."""

import dataclasses
import inspect
import re

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import workbench
from workbench import methods
from workbench.images import Preprocessing, open_images
from workbench.weights.create import weights_of

QUICK = {"resamples": 5, "progress": None}
PREPARED = Preprocessing((32, 32), 1.0)


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    images = open_images("samples", 3)
    return [PREPARED.picture(images.load(i)) for i in range(3)]


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.GELU(), nn.Conv2d(8, 4, 3, 2, 1))


def test_images_in_memory_give_the_map_of_their_files(pictures, net, tmp_path) -> None:
    for i, picture in enumerate(pictures):
        Image.fromarray(picture).save(tmp_path / f"{i}.png")
    x, y = PREPARED.tensor(pictures), torch.tensor([0, 2, 1])
    stacked = np.stack(pictures)
    loader = DataLoader(TensorDataset(x, y), batch_size=2)
    sources = [
        str(tmp_path / "*.png"), [tmp_path / f"{i}.png" for i in range(3)],
        [Image.fromarray(p) for p in pictures], stacked, list(stacked / 255),
        x, x.half(), x.numpy(), list(x), (x, y), [x, y], TensorDataset(x, y), loader,
        torch.from_numpy(stacked).movedim(3, 1), stacked.transpose(0, 3, 1, 2) / 255.0,
        [{"image": Image.fromarray(p), "label": 0} for p in pictures], iter(list(x)),
    ]  # fmt: skip
    options = {"position": "0.3,0.6", **QUICK}
    expected = workbench.erf(net, tmp_path, preprocessing=PREPARED, **options).maps
    for source in sources:
        prepared = isinstance(source, str | list | np.ndarray)
        size = {"preprocessing": PREPARED} if prepared else {}
        found = workbench.run("erf", net, source, **size, **options)
        assert np.array_equal(found.maps, expected), type(source)
    assert workbench.erf(net, loader, limit=2, **options).meta["images_used"] == 2


def test_tensors_are_measured_at_their_size_and_their_values_are_named(pictures, net) -> None:
    x = PREPARED.tensor(pictures)
    for source, words in ((x, "normalised"), (x * 0 + 0.5, "0-1"), (x * 0 + 200.0, "0-255")):
        images = open_images(source)
        assert words in images.describe() and images.size == (32, 32)
    assert workbench.erf(net, x, **QUICK).map.shape == (32, 32)
    assert workbench.erf(net, x, size=48, **QUICK).map.shape == (48, 48)
    grey = open_images(x[:, :1] * 0 + 0.5, values="0-1").load(0)
    assert grey.getpixel((0, 0)) == (128, 128, 128)
    other = open_images(x * 0, normalisation=((0.5,) * 3, (0.25,) * 3), values="normalised")
    assert other.load(0).getpixel((0, 0)) == (128, 128, 128)


def test_labels_come_with_datasets(pictures) -> None:
    x = PREPARED.tensor(pictures)
    data = TensorDataset(x, torch.tensor([0, 2, 1]))
    assert open_images(data).targets(10) == [0, 2, 1]
    assert open_images(data).targets(2) is None  # a label of 2 is none of two classes
    data.classes = ["a", "b", "c"]  # type: ignore
    assert open_images(DataLoader(data)).classes == ["a", "b", "c"]
    masks = [(Image.fromarray(p), Image.fromarray(p).convert("L")) for p in pictures]
    assert len(open_images(masks)) == 3  # a mask is no picture to be measured


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (torch.full((1, 3, 8, 8), 9.0) * torch.tensor([1.0, -1, 1])[:, None, None], "not 0 to 1"),
        (torch.full((1, 3, 8, 8), torch.nan), "not 0 to 1"),
        (torch.zeros(1, 7, 8, 8), "neither (3, h, w) nor"),
        (torch.zeros(3), "neither (3, h, w) nor"),
        (np.zeros((8, 8, 3), complex), "holds no colours"),
        ([[]], "no picture in"),
        ({"text": 1}, "is called image"),
        (None, "NoneType is no picture"),
        ("https://example.org/cat.jpg", "download it"),
    ],
)
def test_what_is_no_picture_is_said(source, words) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        open_images(source)


def test_a_model_by_name_has_the_weights_of_the_command_line() -> None:
    trained = workbench.create_model("vmamba_nano", pretrained=True)
    by_name = workbench.erf("vmamba_nano", "samples", limit=1, size=32, stage="2", **QUICK)
    made = workbench.erf(trained, "samples", limit=1, size=32, stage=2, **QUICK)
    assert np.array_equal(by_name.map, made.map)
    for result in (by_name, made):
        assert result.meta["facts"]["weights_label"] == "vmamba_nano.imagenette128.safetensors"
    changed = workbench.create_model("vmamba_nano", pretrained=True)
    with torch.no_grad():
        next(changed.parameters()).mul_(2)  # trained on: its file does not say all of it
    other = workbench.erf(changed, "samples", limit=1, size=32, stage=2, **QUICK)
    assert other.meta["hash"] != made.meta["hash"]
    untrained = workbench.erf("vmamba_nano", weights="random", limit=1, size=32, **QUICK)
    assert untrained.meta["facts"]["training"] == "before training"


def test_pretrained_is_a_word_for_weights(tmp_path) -> None:
    assert weights_of("resnet50", pretrained=True) == "official"
    assert weights_of("vmamba_nano", "auto") == "official" and weights_of("resnet50") is None
    assert weights_of("resnet50", "auto") is None
    plain = workbench.create_model("vmamba_nano").state_dict()
    same = workbench.create_model("vmamba_nano", pretrained=False).state_dict()
    assert all(torch.equal(value, same[name]) for name, value in plain.items())
    with pytest.raises(ValueError, match="not both"):
        workbench.create_model("vmamba_nano", "official", pretrained=True)
    mine = tmp_path / "mine.py"
    mine.write_text(
        "from torch import nn\ndef make(pretrained):\n    return nn.Conv2d(3, 1 + pretrained, 1)\n"
    )
    assert workbench.create_model(f"{mine}:make", pretrained=True).weight.shape[0] == 2


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"postion": "1,1"}, TypeError, "did you mean position"),
        ({"wieghts": "random"}, TypeError, "did you mean weights"),
        ({"stage": "four"}, ValueError, "stage must be int, not 'four'"),
        ({"stage": 1.5}, ValueError, "stage must be int, not 1.5"),
        ({"measure": "max"}, ValueError, "measure must be one of abs"),
        ({"weights": "random"}, ValueError, "this module has its own"),
        ({"device": "cuda:99"}, ValueError, "cannot be used here"),
    ],
)
def test_a_wrong_keyword_is_one_sentence(given, error, words, net) -> None:
    with pytest.raises(error, match=words):
        workbench.erf(net, "samples", limit=1, **given)
    with pytest.raises(ValueError, match="Study"):
        workbench.erf([net], "samples")


def test_fields_and_arguments_are_told_apart(net) -> None:
    passed = {
        name
        for name, parameter in inspect.signature(workbench.run).parameters.items()
        if parameter.kind is not inspect.Parameter.POSITIONAL_ONLY
    }
    for name in methods.METHODS:
        assert not passed & {field.name for field in dataclasses.fields(methods.get(name).Config)}
    options = {"method": "saliency", "target": 3, "faithfulness": False, "progress": None}
    found = workbench.attribution("vim_nano", limit=1, size="32", pretrained=True, **options)
    assert found.meta["config"]["target"] == "3" and found.maps.shape == (1, 32, 32)


def test_a_result_shows_itself(net, tmp_path) -> None:
    result = workbench.erf(net, "samples", limit=2, size=32, **QUICK)
    assert len(repr(result).splitlines()) == 3 and "Sequential" in repr(result)
    text = result._repr_html_()
    told = text.partition("<pre>")[2].partition("</pre>")[0].splitlines()
    assert len(told) == 6 and "A50" in told[1] and "<details>" in text  # a title and five numbers
    assert result._repr_png_()[:4] == b"\x89PNG"
    assert result.plot().axes
    table = result.to_pandas().set_index("number")
    for name, number in result.numbers.items():
        if number["value"] is not None:
            assert table.loc[name, "value"] == pytest.approx(number["value"], rel=1e-5)
    assert repr(workbench.load(result.save(tmp_path / "one.npz"))) == repr(result)


def test_a_result_that_lacks_what_is_shown_has_a_repr_all_the_same() -> None:
    from workbench.results import Erf

    bare = Erf(meta={"model": "<b>net"}, map=np.ones((1, 1)), maps=np.ones((1, 1, 1)))
    assert repr(bare) == "Erf of <b>net" and bare._repr_html_() is None
    with pytest.raises(ValueError, match="make it again"):
        bare.plot()
