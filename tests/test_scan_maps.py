"""Scan maps against closed forms, against the scan's own linearity, and what must not change."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import workbench
from workbench import scan_maps
from workbench.geometry import Grid
from workbench.images import Batch
from workbench.methods.scan_maps.config import ScanMapsConfig
from workbench.methods.scan_maps.measure import NUMBERS, QUANTITIES
from workbench.methods.scan_maps.published_views import direction_panels
from workbench.mixing.hidden_attention import hidden_attention
from workbench.mixing.layers import Direction, find_layers, layer_names, scan_layers
from workbench.mixing.query import Query
from workbench.mixing.statistics import horizon_quantiles, pixels, token_statistics
from workbench.models import MambaVision, Vim, VMamba
from workbench.models.mambavision import window_partition
from workbench.paths import scan_path
from workbench.scan import to_scan_order
from workbench.trace import patch, record


@pytest.fixture(scope="module")
def vmamba() -> VMamba:
    torch.manual_seed(0)
    return VMamba(dims=(8, 16), depths=(1, 1), d_state=3, num_classes=5).eval()


@pytest.fixture(scope="module")
def vim() -> Vim:
    torch.manual_seed(0)
    return Vim(img_size=48, embed_dim=16, depth=2, d_state=4, num_classes=5).eval()


@pytest.fixture(scope="module")
def mambavision() -> nn.Module:
    """With several windows and padding, and without the zeros of the start of training."""
    torch.manual_seed(0)
    model = MambaVision(
        dim=8, in_dim=8, depths=(1, 1, 2, 2), window_size=(8, 8, 3, 2), num_classes=4
    )
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data += 0.2 * torch.randn_like(parameter)
    return model.eval()


def batch(x: Tensor) -> Batch:
    pictures = np.zeros((len(x), *x.shape[-2:], 3), np.uint8)
    return Batch(x, pictures, tuple("abcdef"[: len(x)]), None, tuple(range(len(x))))


def measured(model: nn.Module, x: Tensor, **settings) -> workbench.results.ScanMaps:
    config = ScanMapsConfig(**settings)
    return scan_maps.combine(scan_maps.measure(model, batch(x), config), config, {})


def test_constant_coefficients_draw_the_cross_of_the_cross_scan(vmamba) -> None:
    """One S6 layer with constant steps: delta (rho^|di W + dj| + rho^|dj H + di|), a cross."""
    step, rate, height, width = 0.4, 0.5, 6, 8
    rho = math.exp(-rate * step)
    fixed = {
        "delta": lambda x: torch.full_like(x, step),
        "A": lambda x: torch.full_like(x, -rate),
        "B": lambda x: torch.ones_like(x) / 3,  # three equal states
        "C": torch.ones_like,
    }
    with patch(vmamba, "layers.0.*", **fixed):
        result = measured(vmamba, torch.randn(1, 3, 24, 32), layer="0", query="2,3")
    rows = np.arange(height)[:, None] - 2
    columns = np.arange(width)[None, :] - 3
    by_rows, by_columns = rows * width + columns, columns * height + rows
    single = {
        "row": np.where(by_rows <= 0, rho ** np.abs(by_rows), 0),
        "row-reversed": np.where(by_rows >= 0, rho ** np.abs(by_rows), 0),
        "column": np.where(by_columns <= 0, rho ** np.abs(by_columns), 0),
        "column-reversed": np.where(by_columns >= 0, rho ** np.abs(by_columns), 0),
    }
    layer = layer_names(vmamba)[0]
    for direction, expected in {**single, "all": sum(single.values())}.items():
        found = result.map(f"{layer}/{direction}", "row")
        assert np.allclose(found, step * expected, atol=1e-7), direction
        if direction != "all":
            mirrored = single[direction[: -len("-reversed")]] if "rev" in direction else None
            mirrored = single[f"{direction}-reversed"] if mirrored is None else mirrored
            assert np.allclose(result.map(f"{layer}/{direction}", "column"), step * mirrored)
        count = 4 if direction == "all" else 1
        assert np.allclose(result.map(f"{layer}/{direction}", "diagonal"), count * step)
    half_life = math.log(2) / (rate * step)
    numbers = result.meta["numbers"][f"{layer}/column"]
    for key, value in {
        "horizon": half_life,
        "horizon_10": half_life,
        "horizon_90": half_life,
        "horizon_along": 4 * half_life,
        "horizon_across": 4 * half_life / height,
        "delta": step,
        "C": math.sqrt(3),
    }.items():
        assert numbers[key]["value"] == pytest.approx(value, rel=1e-5), key
    assert np.allclose(result.map(f"{layer}/row", "horizon"), half_life)


@pytest.mark.parametrize("family", ["vmamba", "vim", "mambavision"])
def test_rows_are_what_changes_at_the_query_when_u_changes_in_a_cell(family, request) -> None:
    """The scan is linear in u while its coefficients stay: patch u in one cell of the image, and y
    at the query moves by the entry of the map. Every step on the way to the image is in it.
    """
    model = request.getfixturevalue(family)
    size = {"vmamba": (24, 32), "vim": (48, 64), "mambavision": (72, 104)}[family]
    x = torch.randn(1, 3, *size)
    query, others = (1, 2), [(0, 0), (0, 3), (1, 1), (1, 2), (2, 0)]
    layer = layer_names(model)[0]
    result = measured(
        model, x, layer=layer, query=f"{query[0]},{query[1]}", aggregate="mean", with_D=True
    )
    for direction in scan_layers(model, x, [layer])[0].directions:
        site = f"{layer}/{direction.name}"
        columns = result.meta["sites"][0]["cells"][1]
        found = result.map(site, "row")
        window, step = direction.find(query[0] * columns + query[1])
        with record(model, "y", sites=site) as plain:
            model(x)
        for cell in others:
            place = direction.find(cell[0] * columns + cell[1])

            def raised(u: Tensor, place=place) -> Tensor:
                u = u.clone()
                u[place[0], :, place[1]] += 1
                return u

            with record(model, "y", sites=site) as changed, patch(model, site, u=raised):
                model(x)
            moved = changed[site]["y"] - plain[site]["y"]
            expected = moved[window, :, step].mean()
            assert found[cell] == pytest.approx(float(expected), abs=2e-6), (site, cell)


def test_the_sum_of_directions_is_taken_before_the_channels_are_aggregated(vmamba) -> None:
    x = torch.randn(1, 3, 24, 32)
    layer = find_layers(vmamba, "-1")[0]
    rows = []
    for direction in scan_layers(vmamba, x, [layer])[0].directions:
        row = direction.matrix_of(0).row(int(direction.path.inverse[5]), "channels")
        rows.append(row[:, torch.from_numpy(direction.path.inverse.astype(np.int64))])
    total = torch.stack(rows).sum(dim=0)
    by_name = {
        "abs": total.abs().mean(0),
        "mean": total.mean(0),
        "norm": total.norm(dim=0),
    }
    for aggregate, expected in by_name.items():
        found = measured(vmamba, x, layer=layer, query="1,1", aggregate=aggregate)
        assert np.allclose(found.map(f"{layer}/all").flatten(), expected, atol=1e-7), aggregate
    found = measured(vmamba, x, layer=layer, query="1,1", channel=7)
    assert np.allclose(found.map(f"{layer}/all").flatten(), total[7], atol=1e-7)


def test_the_class_token_is_asked_and_answers(vim) -> None:
    x = torch.randn(2, 3, 48, 64)  # 3 x 4 cells, class token at 6
    result = measured(vim, x, layer="1", query="class", aggregate="mean")
    (layer,) = scan_layers(vim, x, find_layers(vim, "1"))
    expected = []
    for direction in layer.directions:
        matrix = direction.matrix_of(1).matrix("mean")
        row = matrix[int(np.flatnonzero(direction.path.order == -1)[0])]
        expected.append(row.flip(0) if "reversed" in direction.name else row)
        site = f"{layer.name}/{direction.name}"
        cells = torch.cat([expected[-1][:6], expected[-1][7:]])
        assert np.allclose(result.map(site, image=1).flatten(), cells, atol=1e-7)
    both = expected[0] + expected[1]
    assert np.allclose(
        result.map(f"{layer.name}/all", image=1).flatten(),
        torch.cat([both[:6], both[7:]]),
        atol=1e-7,
    )
    assert result.outside[1, 0, 2] == pytest.approx(float(both[6]), abs=1e-7)
    assert result.meta["sites"][0]["query"] is None


@pytest.mark.parametrize("view", ["alpha", "contribution"])
def test_windows_end_at_their_borders_and_padding_is_counted(mambavision, view) -> None:
    x = torch.randn(1, 3, 72, 104)
    layers = scan_layers(mambavision, x, layer_names(mambavision))
    result = measured(mambavision, x, query="1,2", view=view, aggregate="mean")
    kinds = {site["kind"] for site in result.meta["sites"]}
    assert kinds == {"scan", "attention"}
    for layer, site in zip(layers, result.meta["sites"], strict=True):
        (direction,) = layer.directions
        rows, columns = layer.cells
        assert site["windows"] == direction.windows and site["cells"] == [rows, columns]
        cells = np.sort(direction.places[direction.places >= 0])
        assert np.array_equal(cells, np.arange(rows * columns))
        window, step = direction.find(1 * columns + 2)
        found = result.map(site["name"])
        own = np.isin(np.arange(rows * columns), direction.places[window]).reshape(rows, columns)
        assert not found[~own].any()
        row = direction.matrix_of(0, window, view).row(step, "mean")
        total = found.sum() + result.outside[0, 0, result.meta["sites"].index(site)]
        assert total == pytest.approx(float(row.sum()), abs=1e-6)
        if site["kind"] == "attention" and view == "alpha":
            assert total == pytest.approx(1, abs=1e-6)
            assert np.isnan(result.map(site["name"], "delta")).all()


def test_windows_are_those_of_the_model(mambavision) -> None:
    for layer in scan_layers(mambavision, torch.randn(1, 3, 72, 104), layer_names(mambavision)):
        (direction,) = layer.directions
        rows, columns = layer.cells
        window = direction.path.height
        cells = torch.arange(rows * columns).view(1, 1, rows, columns)
        padding = (0, -columns % window, 0, -rows % window)
        expected = window_partition(nn.functional.pad(cells, padding, value=-1), window)[..., 0]
        assert direction.windows > 1 and expected.min() < 0
        assert np.array_equal(direction.places, expected.numpy())


def test_contributions_of_attention_add_up_to_its_output(mambavision) -> None:
    x = torch.randn(1, 3, 72, 104)
    name = next(n for n in layer_names(mambavision) if not n.endswith("scan"))
    seen = {}
    projection = mambavision.get_submodule(f"{name}.proj")
    handle = projection.register_forward_pre_hook(lambda _, args: seen.update(y=args[0]))
    mambavision(x)
    handle.remove()
    (layer,) = scan_layers(mambavision, x, [name])
    (direction,) = layer.directions
    for window in range(direction.windows):
        matrix = direction.matrix_of(0, window, "contribution")
        expected = seen["y"][window].T  # (channels of all heads, l)
        assert torch.allclose(matrix.row(3, "channels").sum(dim=1), expected[:, 3], atol=1e-5)
        columns = [matrix.column(s, "channels") for s in range(matrix.length)]
        assert torch.allclose(torch.stack(columns).sum(dim=0), expected, atol=1e-5)
        diagonal = torch.stack([c[:, s] for s, c in enumerate(columns)], dim=1)
        assert torch.allclose(matrix.diagonal("channels"), diagonal, atol=1e-6)


def test_the_mean_contribution_with_d_is_the_output_at_the_query(vmamba, vim) -> None:
    for model, cell in ((vmamba, "1,1"), (vim, "1,1")):
        x = torch.randn(1, 3, 48, 64)
        settings = {"view": "contribution", "aggregate": "mean", "with_D": True}
        result = measured(model, x, layer="0", query=cell, **settings)
        with record(model, "y", sites=f"{layer_names(model)[0]}/*") as sites:
            model(x)
        (layer,) = scan_layers(model, x, layer_names(model)[:1])
        for k, direction in enumerate(layer.directions):
            _, step = direction.find(layer.cells[1] + 1)
            y = sites[f"{layer.name}/{direction.name}"]["y"][0, :, step].mean()
            found = result.map(f"{layer.name}/{direction.name}").sum() + result.outside[0, 0, k]
            assert found == pytest.approx(float(y), abs=1e-6)


def test_maps_follow_an_image_that_is_turned_over() -> None:
    """A network whose directions share their weights sees a transposed image transposed."""
    torch.manual_seed(0)
    model = VMamba(dims=8, depths=(1,), num_classes=2, conv=1).eval()
    op = model.get_submodule("layers.0.blocks.0.op")
    with torch.no_grad():
        for weight in (op.x_proj_weight, op.dt_projs_weight, op.dt_projs_bias):
            weight.copy_(weight[:1].expand_as(weight))
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.copy_((module.weight + module.weight.transpose(2, 3)) / 2)
    x = torch.randn(1, 3, 20, 28)
    there = measured(model, x, query="1,4")
    back = measured(model, x.transpose(2, 3), query="4,1")
    layer = layer_names(model)[0]
    for one, other in (("row", "column"), ("column-reversed", "row-reversed"), ("all", "all")):
        for quantity in ("row", "column", "diagonal"):
            a = there.map(f"{layer}/{one}", quantity)
            b = back.map(f"{layer}/{other}", quantity)
            assert np.allclose(a, b.T, atol=1e-6), (one, quantity)
        assert a.any()


def test_published_panels_are_the_matrices_rows(vmamba) -> None:
    x = torch.randn(1, 3, 24, 32)
    (layer,) = scan_layers(vmamba, x, find_layers(vmamba, "0"))
    tensors = [direction.tensors for direction in layer.directions]
    paths = [direction.path for direction in layer.directions]
    cell = 2 * layer.cells[1] + 5
    for view, mode in (("QK", "CB"), ("QwKw", "CwBw"), ("w", "ww")):
        for how in ("none", "minmax", "absmax"):
            panels = direction_panels(tensors, paths, mode, how)
            result = measured(
                vmamba, x, layer="0", query="2,5", view=view, aggregate="mean", normalise=how
            )
            names = {site["direction"] for site in result.meta["sites"]}
            assert ("nall" in names) == (how != "none")
            for k, panel in enumerate([*[f"a{k}" for k in range(4)], "all"]):
                site = result.meta["sites"][k]["name"]
                found = result.map(site).flatten()
                assert np.allclose(found, panels[panel][cell], atol=1e-6), (view, how, panel)
                found = result.map(site, "diagonal").flatten()
                assert np.allclose(found, panels[panel].diagonal(), atol=1e-6)
        assert result.meta["quirks"]


def test_statistics_by_hand() -> None:
    delta = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    tensors = {
        "delta": delta,
        "A": torch.tensor([[-1.0], [-1.0]]),
        "B": torch.tensor([[[3.0, 0.0], [4.0, 1.0]]]),
        "C": torch.ones(1, 2, 2),
        "y": torch.tensor([[[3.0, 0.0], [4.0, 2.0]]]),
    }
    found = token_statistics({**tensors, "A": torch.tensor([[-1.0], [-1.0]])})
    assert found["delta"].tolist() == [[2.0, 3.0]]
    assert found["B"].tolist() == [[5.0, 1.0]]
    assert found["output"].tolist() == [[5.0, 2.0]]
    # Of two rates torch takes the lower as their median.
    assert torch.allclose(found["horizon"], math.log(2) / torch.tensor([[1.0, 2.0]]))
    low, high = horizon_quantiles(delta, tensors["A"], (0, 1))
    assert low == pytest.approx(math.log(2) / 3.5) and high == pytest.approx(math.log(2) / 1.5)


@pytest.mark.parametrize(
    ("name", "class_token", "expected"),
    [
        ("row", None, (40.0, 10 / 5 * 4)),
        ("row-reversed", 7, (40.0, 10 / 5 * 4)),
        ("column", None, (40.0, 10 / 3 * 4)),
    ],
)
def test_a_horizon_in_pixels(name, class_token, expected) -> None:
    assert pixels(scan_path(name, 3, 5, class_token), 10, (4, 4)) == pytest.approx(expected)


def test_shares_add_up_and_chunks_change_nothing(vmamba, tmp_path) -> None:
    images = [(f"{i}.png", png(i)) for i in range(3)]
    results = [
        workbench.run(scan_maps, vmamba, images, ScanMapsConfig(chunk=chunk)) for chunk in (1, 2)
    ]
    for key in ("maps", "mean", "outside"):
        a, b = (getattr(result, key) for result in results)
        assert np.allclose(a, b, rtol=1e-4, atol=1e-7, equal_nan=True), key
    numbers = results[0].meta["numbers"]
    for layer in layer_names(vmamba):
        shares = [v["share"]["value"] for k, v in numbers.items() if k.startswith(layer)]
        assert len(shares) == 4 and sum(shares) == pytest.approx(100, abs=1e-3)
    one = numbers[f"{layer}/row"]["delta"]
    assert one["value"] > 0 and one["low"] is None  # three images
    file = results[0].save(tmp_path / "maps.npz")
    loaded = workbench.load(file)
    assert isinstance(loaded, workbench.results.ScanMaps)
    site = loaded.meta["sites"][-1]["name"]
    assert np.array_equal(loaded.map(site), results[0].map(site))
    assert loaded.meta["quantities"] == list(QUANTITIES)
    assert set(one) == {"value", "low", "high", "unit"} and set(numbers[f"{layer}/row"]) == {
        *NUMBERS
    }
    json.dumps(loaded.meta, allow_nan=False)


def png(seed: int) -> bytes:
    import io

    from PIL import Image

    pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_the_forward_pass_ends_after_the_last_layer_asked_and_leaves_no_hook(vmamba) -> None:
    reached = []
    handle = vmamba.classifier.register_forward_hook(lambda *_: reached.append(1))
    scan_layers(vmamba, torch.randn(1, 3, 24, 32), find_layers(vmamba, "0"))
    handle.remove()
    assert not reached
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in vmamba.modules())


def test_layers_are_found_by_number_name_and_pattern(vmamba, mambavision) -> None:
    names = layer_names(vmamba)
    assert names == ["layers.0.blocks.0.op.scan", "layers.1.blocks.0.op.scan"]
    assert find_layers(vmamba, "-1") == find_layers(vmamba, "layers.1") == names[1:]
    assert find_layers(vmamba, "*") == names
    assert any(not name.endswith("scan") for name in layer_names(mambavision))


@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        ("vmamba", {"layer": "layers.7"}, "no scan layer 'layers.7'; near are layers"),
        ("vmamba", {"layer": "2"}, "has 2 layers, 0 to 1, so there is no layer 2"),
        ("vmamba", {"query": "99,0"}, "lies outside the map of"),
        ("vmamba", {"query": "middle"}, "is not understood"),
        ("vmamba", {"query": "class"}, "no class token passes through layers.0"),
        ("vmamba", {"with_gate": True}, "no gate multiplies the output"),
        ("vmamba", {"channel": 8}, "has 8 channels, 0 to 7, so there is no channel 8"),
        (
            "vim",
            {"view": "QK", "aggregate": "mean", "normalise": "minmax"},
            "need paths through the whole image",
        ),
    ],
)
def test_what_does_not_fit_is_said(model, settings, message, request) -> None:
    with pytest.raises(ValueError, match=message):
        measured(request.getfixturevalue(model), torch.randn(1, 3, 48, 48), **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"view": "softmax"}, "view must be one of alpha"),
        ({"aggregate": "channels"}, "aggregate must be one of abs, mean, norm"),
        ({"view": "QK", "with_D": True}, "view QK has no with_D"),
        ({"normalise": "minmax"}, "over the whole matrix"),
        ({"view": "contribution", "with_convolution": True}, "leave with_convolution out"),
        ({"chunk": 0}, "chunk must be at least 1"),
    ],
)
def test_settings_that_contradict_each_other(settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        ScanMapsConfig(**settings)


def test_a_model_without_scans_is_named() -> None:
    with pytest.raises(ValueError, match="Linear has no selective scan"):
        find_layers(nn.Linear(2, 2), "*")


def test_scan_order_of_a_cell_is_that_of_the_path() -> None:
    """What `find` says is where `to_scan_order` puts a cell."""
    model = VMamba(dims=8, depths=(1,), num_classes=2).eval()
    (layer,) = scan_layers(model, torch.randn(1, 3, 20, 28), find_layers(model, "0"))
    for direction in layer.directions:
        image = torch.zeros(1, 1, 5, 7)
        image[..., 2, 3] = 1
        step = int(to_scan_order(image, direction.path).argmax())
        assert direction.find(2 * 7 + 3) == (0, step)
        assert isinstance(replace(direction, gate=None).matrix_of(0).row(step), Tensor)


def test_mambavision_is_one_of_the_families(mambavision) -> None:
    assert isinstance(mambavision, MambaVision)
    x = torch.randn(2, 3, 72, 104)
    layers = scan_layers(mambavision, x, layer_names(mambavision)[:1])
    (direction,) = layers[0].directions
    with record(mambavision, sites=f"{layers[0].name}/*") as sites:
        mambavision(x)
    (tensors,) = sites.values()
    at = direction.windows  # the first window of the second image
    expected = hidden_attention(tensors, at).row(7)
    assert torch.equal(direction.matrix_of(1, 0).row(7), expected)


def test_a_cell_beside_a_path_is_asked_at_the_nearest_that_it_visits():
    grid = Grid((4, 4), (1.0, 1.0), (0.0, 0.0))
    even = SimpleNamespace(places=np.array([[10, 8, 2, 0, -2]]))  # of 4 x 4, every second
    for cell, nearest in (((3, 3), (2, 2)), ((2, 0), (2, 0)), ((0, 3), (0, 2)), ((1, 1), (0, 0))):
        assert Query(cell, grid).cell_in(cast(Direction, even)) == nearest
    nowhere = SimpleNamespace(places=np.array([[-2, -1]]))
    assert Query((1, 1), grid).cell_in(cast(Direction, nowhere)) == (1, 1)
    assert Query(None, grid).cell_in(cast(Direction, even)) is None
