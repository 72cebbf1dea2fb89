"""Fields while a network learns: as a figure and as an animation."""

import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from workbench.cli import main
from workbench.figures import overlay
from workbench.images import SAMPLES
from workbench.methods.erf import figure
from workbench.results import load

RESULTS = SAMPLES.parent / "results"
EPOCHS = ("epoch-0", "epoch-3", "end")


def files(model: str, *epochs: str) -> list[str]:
    return [str(RESULTS / "training" / f"{model}-{epoch}.npz") for epoch in epochs]


def pictures(file) -> list[np.ndarray]:
    with Image.open(file) as opened:
        found = []
        for number in range(opened.n_frames):
            opened.seek(number)
            found.append(np.asarray(opened.convert("RGB")))
    return found


def test_a_figure_keeps_snapshots_in_the_order_given_and_trained_networks_below(monkeypatch):
    order = ["epoch 0", "epoch 3", "epoch 10", "end of training"]
    snapshots = [load(f) for f in files("vim_nano", "epoch-0", "epoch-3", "epoch-10", "end")]

    def as_if(training):
        facts = {**snapshots[0].meta["facts"], "training": training}
        return replace(snapshots[0], meta={**snapshots[0].meta, "facts": facts})

    drawn = []
    monkeypatch.setattr(figure, "draw", drawn.extend)
    next(figure.sheets(snapshots)).draw()
    next(figure.sheets([as_if("after training"), as_if("before training")])).draw()
    found = [result.meta["facts"]["training"] for result in drawn]
    assert found == [*order, "before training", "after training"]


def test_frames_are_the_maps_on_one_scale_over_their_labels(tmp_path):
    given = files("vim_nano", *EPOCHS)
    assert main(["export", *given, "--gif", str(tmp_path / "a.gif")]) == 0
    found = pictures(tmp_path / "a.gif")
    assert len(found) == 3
    maps = [load(file).map for file in given]
    top = max(map_.max() for map_ in maps)
    for picture, map_ in zip(found, maps, strict=True):
        side = picture.shape[1]
        assert side >= 256
        drawn = overlay.enlarged(overlay.colours((map_ / top) ** 0.25), (side, side))
        np.testing.assert_array_equal(picture[:side], drawn)
    labels = [picture[picture.shape[1] :] for picture in found]
    assert all(label.max() > 200 for label in labels)
    assert not np.array_equal(labels[0], labels[1])


def test_models_play_side_by_side_each_on_its_own_scale(tmp_path):
    for model in ("vim_nano", "vmamba_nano"):
        assert main(["export", *files(model, *EPOCHS), "--gif", str(tmp_path / model)]) == 0
    both = files("vim_nano", *EPOCHS) + files("vmamba_nano", *EPOCHS)
    assert main(["export", *both, "--gif", str(tmp_path / "both.gif")]) == 0
    alone = zip(pictures(tmp_path / "vim_nano"), pictures(tmp_path / "vmamba_nano"), strict=True)
    for picture, (left, right) in zip(pictures(tmp_path / "both.gif"), alone, strict=True):
        np.testing.assert_array_equal(picture[:, : left.shape[1]], left)
        np.testing.assert_array_equal(picture[:, -right.shape[1] :], right)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (lambda _: files("vim_nano", "end"), "one field does not move"),
        (
            lambda _: [*files("vim_nano", "epoch-0", "end"), *files("vmamba_nano", "end")],
            "2 of vim_nano, 1 of vmamba_nano",
        ),
        (lambda _: [str(RESULTS / "sensitivity/vim_nano.npz")] * 2, "only those of erf"),
        (lambda folder: [*files("vim_nano", "end"), smaller(folder)], "128 x 128, 64 x 64 px"),
    ],
)
def test_what_is_no_animation_is_a_sentence(given, says, tmp_path, capsys):
    file = tmp_path / "out.gif"
    assert main(["export", *given(tmp_path), "--gif", str(file)]) == 2
    assert re.search(rf"^vssm: .*{says}", capsys.readouterr().err)
    assert not file.exists()


def smaller(folder) -> str:
    """A field of half the size."""
    field = load(files("vim_nano", "end")[0])
    halved = field.map.reshape(64, 2, 64, 2).sum(axis=(1, 3))
    small = replace(field, map=halved, maps=halved[None], picture=None)
    return str(small.save(folder / "small.npz"))


def test_a_place_that_cannot_be_written_is_a_sentence(tmp_path, capsys):
    assert main(["export", *files("vim_nano", *EPOCHS), "--gif", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"vssm: {tmp_path} cannot be written (Is a directory); choose a folder")


def test_nothing_to_write_is_a_sentence(capsys):
    assert main(["export", *files("vim_nano", "end")]) == 2
    assert "--html PAGE or --gif FILE" in capsys.readouterr().err
