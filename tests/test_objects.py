"""Boxes on their way to the model, scores in closed form, and maps that know the answer."""

import itertools

import numpy as np
import pytest
import torch
from external_models import pair
from PIL import Image
from test_attribution import batch as plain_batch
from torch import nn

from workbench import create_model, figures, load, objects, open_images, preprocessing_for
from workbench.cli import main
from workbench.images import Preprocessing
from workbench.methods.objects import metrics
from workbench.methods.objects.config import ObjectsConfig
from workbench.methods.objects.maps import CONTROLS, map_of

BOXES = np.array([[4.0, 6, 20, 30], [40, 2, 70, 60]])


def folder(place, rows: str, count: int = 3):
    place.mkdir()
    for i in range(count):
        noise = np.random.default_rng(i).integers(0, 255, (64, 80, 3), dtype=np.uint8)
        Image.fromarray(noise).save(place / f"{i}.png")
    (place / "boxes.csv").write_text(f"file,left,top,right,bottom\n{rows}")
    return place


@pytest.mark.parametrize(
    ("mode", "extent"),
    [*itertools.product(("center", "squash", "border"), ((80, 64), (31, 90))),
     ("center", (3000, 70))],
)  # fmt: skip
@pytest.mark.parametrize("object_size", [None, (20, 24), (96, 96)])
def test_a_box_goes_where_its_pixels_go(mode, extent, object_size) -> None:
    """The mean colour of a painted box lies inside the moved box, to a pixel of its edges."""
    way = Preprocessing((32, 48), 0.8, mode, interpolation="bilinear", object_size=object_size)
    width, height = extent
    left, top = width // 2 - width // 9 - 1, height // 3
    box = np.array([[left, top, left + width // 4 + 1, top + height // 3]])
    picture = np.zeros((height, width, 3), np.uint8)
    picture[top : box[0, 3], left : box[0, 2]] = (255, 0, 0)
    seen = way.picture(Image.fromarray(picture)).astype(int)
    painted = (seen[..., 0] - seen[..., 1]) > 127
    (found,) = way.boxes(box.astype(float), extent)
    rows, columns = np.nonzero(painted)
    edges = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    np.testing.assert_allclose(found, edges, atol=1.01)


def test_a_box_out_of_sight_is_gone_and_one_on_the_edge_is_cut() -> None:
    way = Preprocessing((32, 32), 1.0)
    boxes = np.array([[0.0, 0, 10, 32], [10, 4, 30, 20]])
    np.testing.assert_allclose(way.boxes(boxes, (64, 32)), [[0, 4, 14, 20]])


def test_a_table_and_a_pack_of_it_hold_the_same_boxes(tmp_path, capsys) -> None:
    rows = "0.png,4,6,19,29\n0.png,40,2,69,59\n2.png,0,0,79,63\nno.png,1,1,2,2\n"
    images = open_images(folder(tmp_path / "photos", rows))
    assert images.boxes is not None and [len(b) for b in images.boxes] == [2, 0, 1]
    np.testing.assert_array_equal(images.boxes[0], BOXES)
    assert any("no.png" in said for said in images.left_out)
    assert main(["pack", str(tmp_path / "photos"), str(tmp_path / "p.npz")]) == 0
    again = open_images(tmp_path / "p.npz")
    assert again.boxes is not None
    for one, other in zip(images.boxes, again.boxes, strict=True):
        np.testing.assert_array_equal(one, other)
    images.boxes[1] = BOXES[:1]
    assert open_images(tmp_path / "photos").fingerprint != images.fingerprint
    part = images.subset([2, 0])
    assert part.boxes is not None and len(part.boxes[1]) == 2
    with np.load(tmp_path / "p.npz") as archive:
        pack = dict(archive)
    del pack["box"]
    np.savez(tmp_path / "bad.npz", **pack, box=np.zeros((2, 4)))
    with pytest.raises(ValueError, match=r"box is float64 \(2, 4\) for 3 images"):
        open_images(tmp_path / "bad.npz")
    capsys.readouterr()


def test_boxes_that_hold_nothing_are_told_of_once(tmp_path) -> None:
    rows = "0.png,4,6,4,29\n1.png,40,2,80,59\n2.png,5,5,40,40\n"
    result = objects("vmamba_nano", folder(tmp_path / "photos", rows), maps=("tokens",))
    notes = " ".join(result.meta["notes"])
    assert "0.png: its box 4,6,4,29 is empty" in notes
    assert "1.png: its box 40,2,80,59 reaches out of the picture of 80 x 64" in notes
    assert result.meta["scored"] == 1 and result.meta["unscored"] == 2
    assert np.isnan(result.scores[:2]).all() and result.examples == [2]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("0.png,1,2,x,9\n", "line 2, is no box"),
        ("0.png,1,2\n", "line 2, is no box"),
        ("cat.png,1,2,3,4\n", "has no box of an image"),
        ("0.png,1,2,1,9\n1.png,0,0,79,63\n", "none of the 3 images has a box"),
    ],
)
def test_tables_without_boxes_are_refused_in_a_sentence(rows, words, tmp_path, capsys) -> None:
    place = str(folder(tmp_path / "photos", rows))
    assert main(["objects", "--model", "vmamba_nano", "--maps", "tokens", "--images", place]) == 2
    assert words in capsys.readouterr().err


def brute_force(values: np.ndarray, inside: np.ndarray) -> float:
    """One threshold after the other, each precision counted from scratch."""
    total, before = 0.0, 0.0
    for threshold in sorted(set(values.ravel()), reverse=True):
        chosen = values >= threshold
        recall = (chosen & inside).sum() / inside.sum()
        total += (recall - before) * (chosen & inside).sum() / chosen.sum()
        before = recall
    return total


def test_average_precision_is_that_of_thresholds_one_by_one() -> None:
    rng = np.random.default_rng(0)
    for levels, share in itertools.product((2, 5, 1000), (0.1, 0.6)):
        values, inside = rng.integers(0, levels, (9, 11)) / 7, rng.random((9, 11)) < share
        found = metrics.average_precision(values, inside)
        assert found == pytest.approx(brute_force(values, inside), rel=1e-12)
        assert metrics.average_precision(np.exp(values), inside) == pytest.approx(found)


def test_scores_of_maps_that_know_all_or_nothing() -> None:
    inside = metrics.mask_of(np.array([[2.0, 1, 6, 4]]), (8, 10))
    assert inside.sum() == 12 and inside[1:4, 2:6].all()
    assert metrics.average_precision(inside * 1.0, inside) == 1
    assert metrics.average_precision(np.ones((8, 10)), inside) == pytest.approx(12 / 80)
    # all pixels around come first: hit k of m is found behind n others
    behind = np.mean([k / (68 + k) for k in range(1, 13)])
    last = np.where(inside, -np.arange(80.0).reshape(8, 10), 1.0)
    assert metrics.average_precision(last, inside) == pytest.approx(behind)
    assert metrics.pointing(inside * 1.0, inside) == 1
    assert metrics.pointing(1.0 - inside, inside) == 0
    assert metrics.pointing(np.ones((8, 10)), inside) == pytest.approx(12 / 80)


def test_a_repository_has_the_maps_of_our_network_with_its_weights() -> None:
    external, own = pair("vmamba")
    batch = plain_batch(torch.randn(2, 3, 64, 64))
    for name in ("erf", "scan-maps", "tokens", "saliency"):
        theirs, ours = (map_of(name, m, batch, ObjectsConfig()) for m in (external, own))
        np.testing.assert_allclose(theirs, ours, rtol=1e-2, atol=1e-4 * ours.max())


def test_a_map_of_a_class_needs_a_classifier() -> None:
    with pytest.raises(ValueError, match="Conv2d gives no scores"):
        batch = plain_batch(torch.randn(1, 3, 32, 32))
        map_of("saliency", nn.Conv2d(3, 5, 4, 4), batch, ObjectsConfig())


def test_scan_maps_of_vim_are_what_reaches_the_class_token() -> None:
    model, x = create_model("vim_nano", "auto").eval(), torch.randn(1, 3, 64, 64)
    from workbench import scan_maps
    from workbench.methods.scan_maps.config import ScanMapsConfig

    config = ScanMapsConfig(layer="-1", query="class")
    result = scan_maps.combine(scan_maps.measure(model, plain_batch(x), config), config, {})
    row = result.map(result.meta["sites"][-1]["name"])
    found = map_of("scan-maps", model, plain_batch(x), ObjectsConfig())[0]
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(row / row.sum())[None, None], (64, 64), mode="bilinear"
    )
    np.testing.assert_allclose(found, expected[0, 0], rtol=1e-5)


def test_objects_are_scored_drawn_and_told_and_wrong_words_are_refused(tmp_path, capsys) -> None:
    rows = "".join(f"{i}.png,{9 + i},10,40,45\n" for i in range(3))
    place = folder(tmp_path / "photos", rows)
    result = objects("resnet_nano", place, size=64)
    names = ["erf", "tokens", "saliency", "integrated-gradients", "grad-cam"]
    assert result.meta["maps"] == [*names, *CONTROLS]
    assert "no selective scan" in result.meta["missing"]["scan-maps"]
    way = preprocessing_for(create_model("resnet_nano", "auto"), 64)
    mask = metrics.mask_of(way.boxes(np.array([[9.0, 10, 41, 46]]), (80, 64)), (64, 64))
    assert (result.masks[0] == mask).all()
    uniform = result.scores[0, -1]
    np.testing.assert_allclose(uniform, mask.mean())
    erf = metrics.average_precision(result.maps[0, 0], mask)
    assert result.scores[0, 0, 0] == pytest.approx(erf)
    assert len(result.plot().axes) == 2 + 3 * 6
    again = load(result.save(tmp_path / "objects.npz"))
    assert "grad-cam" in figures.of("objects").report(again)
    bare = tmp_path / "bare"
    bare.mkdir()
    open_images("samples", 1).load(0).save(bare / "one.png")
    for wrong, words in (
        (["--maps", "scan-maps", "--images", str(place)], "no map scan-maps of this model"),
        (["--maps", "atlas", "--images", str(place)], "maps must be one of erf"),
        (["--images", str(bare)], "has no boxes around objects"),
    ):
        assert main(["objects", "--model", "resnet_nano", "--limit", "1", *wrong]) == 2
        assert words in capsys.readouterr().err
