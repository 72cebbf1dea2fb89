"""The atlas against whole matrices, and its numbers in closed form."""

import numpy as np
import pytest
import torch
from external_models import pair
from test_attribution import batch
from torch import Tensor, nn

from workbench import atlas, create_model, figures, load, record
from workbench.cli import main
from workbench.methods.atlas import metrics
from workbench.methods.atlas.config import AtlasConfig
from workbench.mixing.hidden_attention import hidden_attention


def result_of(model: nn.Module, x: Tensor, **settings):
    config = AtlasConfig(**settings)
    return atlas.combine(atlas.measure(model.eval(), batch(x), config), config, {})


@pytest.mark.parametrize(("name", "layer"), [("vmamba_nano", 3), ("vim_nano", 1)])
def test_reach_and_steps_are_those_of_the_whole_matrix(name: str, layer: int) -> None:
    model, x = create_model(name, "auto").eval(), torch.randn(1, 3, 64, 48)
    result = result_of(model, x, layer=str(layer), queries=3)
    with record(model) as sites, torch.no_grad():
        model(x)
    for k, entry in enumerate(result.meta["sites"]):
        if entry["direction"] == "all":
            continue
        matrix = hidden_attention(sites[entry["name"]]).matrix("abs").double().numpy()
        length, (height, width) = len(matrix), entry["cells"]
        order = np.arange(height * width)
        if name == "vim_nano":  # the class token stands in the middle
            order = np.insert(order, height * width // 2, -1)
        elif "column" in entry["direction"]:
            order = order.reshape(height, width).T.ravel()
        order = order[::-1] if "reversed" in entry["direction"] else order
        far, lag = [], []
        total, count = np.zeros((2, 2 * height - 1, 2 * width - 1))
        for query, (row, column) in enumerate(entry["queries"]):
            t = int(np.flatnonzero(order == row * width + column)[0])
            weights = np.where(order < 0, 0, matrix[t]) / matrix[t, order >= 0].sum()
            y, x_ = np.divmod(order, width)
            stride = 64 / height
            far.append((weights * np.hypot(y - row, x_ - column)).sum() * stride)
            own = np.zeros((height, width))
            own[y[order >= 0], x_[order >= 0]] = weights[order >= 0]
            np.testing.assert_allclose(result.maps[k, query], own, rtol=1e-3, atol=1e-7)
            lag.append((weights * np.abs(np.arange(length) - t)).sum())
            for s in np.flatnonzero(order >= 0):
                at = y[s] - row + height - 1, x_[s] - column + width - 1
                total[at] += weights[s]
                count[at] += 1
        numbers = result.meta["numbers"]
        assert numbers[f"reach/{entry['name']}"]["value"] == pytest.approx(np.mean(far), rel=1e-4)
        assert numbers[f"steps/{entry['name']}"]["value"] == pytest.approx(np.mean(lag), rel=1e-4)
        expected = np.where(count > 0, total / np.maximum(count, 1), np.nan)
        np.testing.assert_allclose(result.map(k), expected, rtol=1e-3, atol=1e-7)


def test_a_repository_has_the_atlas_of_our_network_with_its_weights() -> None:
    external, own = pair("vmamba")
    x = torch.randn(2, 3, 64, 64)
    theirs, ours = result_of(external, x, queries=2), result_of(own, x, queries=2)
    np.testing.assert_allclose(theirs.offsets, ours.offsets, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(theirs.similarity, ours.similarity, atol=1e-3)


def test_likeness_is_linear_cka() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 40, 6))
    turn = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    even = np.full_like(x, 0.3)
    found = metrics.similarity(np.stack([x, y, 3 * x @ turn + rng.normal(size=6), even]))
    centred = [z - z.mean(axis=0) for z in (x, y)]

    def cross(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.square(a.T @ b).sum())

    whole = np.sqrt(cross(centred[0], centred[0]) * cross(centred[1], centred[1]))
    assert found[0, 1] == pytest.approx(cross(*centred) / whole, rel=1e-10)
    assert found[0, 2] == pytest.approx(1) and found[1, 2] == pytest.approx(found[0, 1])
    assert np.isnan(found[3]).all()
    wide = rng.normal(size=(3, 7, 30))  # more features than examples: the other way round
    kept = np.linalg.svd(wide - wide.mean(axis=1, keepdims=True), full_matrices=False)
    narrow = kept[0] * kept[1][:, None]  # the same up to a rotation of the features
    np.testing.assert_allclose(metrics.similarity(wide), metrics.similarity(narrow))


def test_likeness_of_few_images_is_estimated_without_its_bias() -> None:
    """Maps of independent values that share a half: covariances 1 and 2, so CKA is 1 / 4."""
    rng = np.random.default_rng(1)

    def draw(images: int) -> np.ndarray:
        shared = rng.normal(size=(images, 4, 12))
        return np.stack([shared + rng.normal(size=shared.shape) for _ in range(2)])

    plain, estimated, held = [], [], []
    for _ in range(60):
        maps = draw(12)
        plain.append(metrics.estimated(maps, 13, 200, 0.95)[0][0, 1] - 0.25)
        found, half = metrics.estimated(maps, 10, 200, 0.95)
        assert half is not None
        estimated.append(found[0, 1] - 0.25)
        held.append(abs(estimated[-1]) < half[0, 1])
    assert abs(np.mean(estimated)) < 0.25 * np.mean(plain)
    assert np.mean(held) > 0.85
    assert metrics.estimated(maps, 13, 200, 0.95)[1] is None


def test_maps_are_moved_around_their_queries_and_keep_their_sum() -> None:
    maps = np.random.default_rng(0).random((1, 5, 4))
    alone = metrics.around(maps, [(3, 1)])
    np.testing.assert_array_equal(np.nan_to_num(alone), metrics.moved(maps[0], (3, 1)))
    assert np.isnan(alone).sum() == 9 * 7 - 20
    for place in ((-0.5, 3.5), (2.25, 0.4)):
        assert metrics.moved(maps[0], place).sum() == pytest.approx(maps.sum())
    between = metrics.moved(maps[0], (2.5, 1))
    both = [metrics.moved(maps[0], (row, 1)) for row in (2, 3)]
    np.testing.assert_allclose(between, np.mean(both, axis=0))


def test_components_are_those_of_points_on_a_line() -> None:
    along = np.array([0.0, 1, 5, -2])
    places, shares = metrics.principal(along[:, None] * np.array([0.6, 0, 0.8]) + 7)
    np.testing.assert_allclose(places[:, 0], along - along.mean(), atol=1e-12)
    np.testing.assert_allclose(shares, [1, 0], atol=1e-12)
    assert not metrics.principal(np.ones((1, 3)))[0].any()


def test_an_atlas_is_drawn_and_told_and_wrong_words_are_refused(tmp_path, capsys) -> None:
    result = atlas("mambavision_nano", limit=1, queries=2)
    assert len(result.plot().axes) >= 8 + 4
    again = load(result.save(tmp_path / "atlas.npz"))
    assert "levels.1.blocks.2.mixer/attention" in figures.of("atlas").report(again)
    (sheet,) = figures.of("atlas").sheets([again])
    assert "without intervals, which need 100 images" in sheet.caption
    for wrong, words in (
        (["--layer", "layer.3"], "near are layers.3"),
        (["--queries", "0"], "queries must be at least 1"),
    ):
        assert main(["atlas", "--model", "vim_nano", "--limit", "1", *wrong]) == 2
        assert words in capsys.readouterr().err
    assert main(["atlas", "--model", "resnet_nano", "--limit", "1"]) == 2
    assert "no selective scan" in capsys.readouterr().err
