"""The published maps of VMamba and HiddenMambaAttn, number by number, and what is corrected."""

import golden
import pytest
import torch
from torch import Tensor

from workbench.methods.scan_maps.published_views import (
    CLASS_MAPS,
    MODES,
    class_maps,
    class_row,
    direction_matrix,
    direction_panels,
    in_image_order,
    normalise,
    stage_rollout,
)
from workbench.mixing.hidden_attention import hidden_attention
from workbench.models import VMamba
from workbench.paths import scan_path
from workbench.trace import record


@pytest.fixture(scope="module")
def vmamba():
    """The golden record, and the tensors and paths of its layer."""
    (file,) = golden.load("vmamba_analysis")["attention_records"]
    model = golden.fill_model(VMamba(**golden.vmamba_arguments(file["args"])))
    layer = f"layers.{file['stage']}.blocks.{file['block']}"
    with record(model, sites=f"{layer}.*") as sites:
        model(golden.inputs(file))
    paths = [scan_path(name.partition("/")[2], file["H"], file["W"]) for name in sites]
    return file, list(sites.values()), paths


@pytest.fixture(scope="module")
def vim():
    """The golden record and its model."""
    file = golden.load("vim_hidden_attention_mini")
    defaults = golden.load("vim_mini_p16_64")["constructor"]
    file["constructor"] = {**defaults, **file["constructor"]}
    return file, golden.build(file)


@pytest.mark.parametrize("as_published", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_vmambas_panels(vmamba, mode: str, as_published: bool) -> None:
    """On 16 tokens nothing underflows, so the exact decay gives the published numbers too."""
    file, directions, paths = vmamba
    names = {"none": "none", "minmax": "minmax", "abs": "absmax"}
    records = [entry for entry in file["maps"] if entry["mode"] == mode]
    assert len(records) >= 14
    for entry in records:
        panels = direction_panels(
            directions, paths, mode, names[entry["norm"]], as_published=as_published
        )
        panel, expected = panels[entry["route"]], entry["matrix"]
        label = f"{entry['route']} {entry['norm']}"
        noise = 3e-6 * expected["absmax"]
        assert abs(panel.mean() - expected["mean"]) <= noise, label
        assert abs(panel.std(correction=0) - expected["std"]) <= noise, label
        assert abs(panel.abs().max() - expected["absmax"]) <= noise, label
        assert close(panel.flatten()[:8], expected["first"], noise), label
        assert close(panel.flatten()[-8:], expected["last"], noise), label
        for query, values in entry["query_rows"].items():
            row, column = map(int, query.split(","))
            found = panel[row * file["W"] + column]
            if len(values) == 2:  # the sum of the row's 16 entries, and the largest
                found = torch.stack([found.sum(), found.max()])
            assert close(found, values, 16 * noise), f"{label} at {query}"


def close(found: Tensor, expected: list[float], tolerance: float) -> bool:
    return bool((found - torch.tensor(expected)).abs().max() <= tolerance)


def test_panels_of_a_rectangle_are_in_image_order() -> None:
    """The published code takes the square root of the length as the side."""
    path = scan_path("column-reversed", 2, 3)
    matrix = torch.arange(36.0).reshape(6, 6)
    found = in_image_order(matrix, path)
    for t in range(6):
        for s in range(6):
            assert found[path.order[t], path.order[s]] == matrix[t, s]


def test_the_published_quotient_underflows_and_ours_does_not() -> None:
    """Decay by 1000 e-foldings over 200 tokens: the diagonal of w must be 1 everywhere."""
    tensors = {
        "delta": torch.full((1, 2, 200), 5.0),
        "A": -torch.ones(2, 1),
        "B": torch.ones(1, 1, 200),
        "C": torch.ones(1, 1, 200),
    }
    assert torch.equal(direction_matrix(tensors, "ww").diagonal(), torch.ones(200))
    assert direction_matrix(tensors, "ww", as_published=True)[-1, -1] == 0


def test_normalisations_and_rollout() -> None:
    matrix = torch.tensor([[1.0, 0.0], [-3.0, 2.0]])
    assert torch.equal(normalise(matrix, "minmax"), (matrix + 3) / 5)
    assert torch.equal(normalise(matrix, "absmax"), matrix.abs() / 3)
    with pytest.raises(ValueError, match="none, minmax, absmax"):
        normalise(matrix, "softmax")
    blocks = [torch.rand(5, 5).tril() for _ in range(3)]
    rolled = stage_rollout(blocks)
    assert torch.allclose(rolled.sum(dim=1), torch.ones(5))  # rows stay distributions
    assert not torch.allclose(stage_rollout(blocks, as_published=True).sum(dim=1), torch.ones(5))
    with pytest.raises(ValueError, match="at least one"):
        stage_rollout([])


def test_vims_published_maps(vim) -> None:
    file, model = vim
    x, expected = golden.inputs(file), file["published_maps"]
    keys = {"raw": "raw_attention", "rollout": "rollout", "attribution": "mamba_attribution"}
    start = expected["start_layer"]
    for name in CLASS_MAPS:
        found = class_maps(model, x, name, start, as_published=True)
        assert found.shape == (1, 4, 4)
        values = torch.tensor(expected[keys[name]])
        assert (found.flatten() - values).abs().max() <= 1e-6, name
    with record(model) as sites:
        model(x)
    layer = f"layers.{expected['layer_for_vector']}.mixer.scan"
    pair = sites[f"{layer}/row"], sites[f"{layer}/row-reversed"]
    row = class_row(*pair, expected["cls_position"], as_published=True).mean(dim=0)
    assert close(row, expected["class_row_vector_mean_over_channels"], 1e-7)


def test_vims_class_row_without_the_slip_is_the_row_of_the_matrices(vim) -> None:
    file, model = vim
    with record(model) as sites:
        model(golden.inputs(file))
    pair = sites["layers.2.mixer.scan/row"], sites["layers.2.mixer.scan/row-reversed"]
    forward, backward = (hidden_attention(tensors).matrix("channels") for tensors in pair)
    expected = (forward + backward.flip(1, 2))[:, 8]
    assert torch.allclose(class_row(*pair, 8), expected, atol=1e-7)


@pytest.mark.parametrize("name", CLASS_MAPS)
def test_vims_maps_take_any_size_and_batch(vim, name: str) -> None:
    _, model = vim
    x = torch.randn(3, 3, 48, 80)
    found = class_maps(model, x, name)
    assert found.shape == (3, 3, 5) and found.isfinite().all() and (found >= 0).all()
    alone = class_maps(model, x[1:2], name)
    assert torch.allclose(alone[0], found[1], atol=1e-6)


def test_rollout_of_one_layer_is_that_layers_row(vim) -> None:
    file, model = vim
    x = golden.inputs(file)
    with record(model) as sites:
        model(x)
    pair = sites["layers.3.mixer.scan/row"], sites["layers.3.mixer.scan/row-reversed"]
    row = class_row(*pair, 8).abs().mean(dim=0)
    expected = row / (row.sum() + 1)
    found = class_maps(model, x, "rollout", start=3).flatten()
    assert torch.allclose(found, torch.cat([expected[:8], expected[9:]]), atol=1e-6)


def test_what_does_not_fit_is_said(vim) -> None:
    file, model = vim
    x = golden.inputs(file)
    with pytest.raises(ValueError, match="raw, rollout, attribution"):
        class_maps(model, x, "attention")
    with pytest.raises(ValueError, match="0 to 3, not 4"):
        class_maps(model, x, "raw", start=4)
    with pytest.raises(ValueError, match="VMamba has no class token"):
        class_maps(VMamba(dims=8, depths=(1,)), x, "raw")
    with pytest.raises(ValueError, match="CBdt cannot run"):
        direction_matrix({}, "CBdt")
