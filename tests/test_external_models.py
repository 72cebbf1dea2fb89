"""A external model gives the answers of the same model written by us."""

import copy

import numpy as np
import pytest
import torch
from external_models import load, pair

import workbench
from workbench.external.redirect import redirected
from workbench.images import preprocessing_for

NAMES = ("vmamba", "vim")


def images(count=2, size=64):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def site_of(name, own):
    """The name that a site of ours has in the external model."""
    module, direction = own.split("/")
    call = 1 if name == "vim" and direction == "row-reversed" else 0
    return f"model.{module.removesuffix('.scan')}.scans.{call}/{direction}"


@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_ours(name):
    external_model, own = pair(name)
    torch.testing.assert_close(external_model(images()), own(images()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_sites_are_module_call_and_direction_with_our_paths(name):
    external_model, own = pair(name)
    found = {site.name: site for site in workbench.scans(external_model, 64)}
    ours = workbench.scans(own, 64)
    assert sorted(found) == sorted(site_of(name, site.name) for site in ours)
    for site in ours:
        path = found[site_of(name, site.name)].path
        assert np.array_equal(path.order, site.path.order)
        assert (path.height, path.width) == site.grid


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("keep", ["cpu", "graph"])
def test_records_are_ours_and_change_nothing(name, keep):
    external_model, own = pair(name)
    with workbench.record(external_model, keep=keep) as theirs:
        y = external_model(images())
    with workbench.record(own, keep=keep) as ours:
        own(images())
    torch.testing.assert_close(y, external_model(images()), rtol=1e-5, atol=1e-6)
    for site, tensors in ours.items():
        for tensor, value in tensors.items():
            other = theirs[site_of(name, site)][tensor]
            torch.testing.assert_close(other, value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("tensor", ["u", "delta", "B", "C", "y"])
def test_gradients_to_scan_tensors_are_ours(name, tensor):
    external_model, own = pair(name)
    found = {}
    for model in (external_model, own):
        with workbench.record(model, tensor, keep="graph") as seen:
            loss = model(images()).square().sum()
        sites = list(seen)
        gradients = torch.autograd.grad(loss, [seen[site][tensor] for site in sites])
        found[model] = dict(zip(sites, gradients, strict=True))
    for site, gradient in found[own].items():
        assert gradient.any()
        other = found[external_model][site_of(name, site)]
        torch.testing.assert_close(other, gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_patch_changes_values_and_gradients_as_in_ours(name):
    external_model, own = pair(name)
    answers = []
    for model in (external_model, own):
        x = images().requires_grad_()
        with workbench.patch(model, y=torch.Tensor.detach, B=lambda B: 2 * B):
            y = model(x)
        answers.append((y, *torch.autograd.grad(y.square().sum(), x)))
    for theirs, ours in zip(*answers, strict=True):
        torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(answers[0][0], external_model(images()))


@pytest.mark.parametrize("name", NAMES)
def test_gradients_through_the_compiled_route_are_those_of_ours(name):
    """The model by itself, so that the repository's own backward pass runs, in its buffers."""
    external_model, own = pair(name)
    found = []
    for model in (external_model.model, own):
        model.zero_grad()
        x = images().requires_grad_()
        with redirected():
            model(x).square().sum().backward()
        found.append({name: p.grad for name, p in model.named_parameters()} | {"x": x.grad})
    for key, gradient in found[1].items():
        assert gradient.isfinite().all()
        torch.testing.assert_close(found[0][key], gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("config", [{}, {"stage": 1}, {"split": "direction"}])
def test_receptive_fields_are_ours(name, config):
    found = []
    for model in pair(name):
        options = {"stage": 4 if name == "vim" else 2, **config}
        result = workbench.run(
            workbench.erf, model, "samples/images", workbench.ErfConfig(**options, resamples=2),
            preprocessing=preprocessing_for(model, 64),
        )  # fmt: skip
        found.append(result)
    external_model, own = found
    assert external_model.meta["centre"] == own.meta["centre"]
    scale = own.map.max()
    assert np.abs(external_model.map - own.map).max() <= 1e-5 * scale
    if own.splits is not None:
        assert np.abs(external_model.splits - own.splits).max() <= 1e-5 * own.splits.max()


@pytest.mark.parametrize("name", NAMES)
def test_scan_maps_are_ours(name):
    found = []
    for model in pair(name):
        config = workbench.ScanMapsConfig(resamples=0)
        preprocessing = preprocessing_for(model, 64)
        images = workbench.open_images("samples/images", 2)
        result = workbench.run(
            workbench.scan_maps, model, images, config, preprocessing=preprocessing
        )
        found.append({site["name"]: (site, result) for site in result.meta["sites"]})
    external_model, own = found
    for key, (site, ours) in own.items():
        if site["direction"] == "all" and name == "vim":
            continue  # its two scans are two calls, so nothing says that they are summed
        there, theirs = external_model[site_of(name, key)]
        assert there["query"] == site["query"]
        cells = slice(site["start"], site["start"] + np.prod(site["cells"]))
        other = slice(there["start"], there["start"] + np.prod(there["cells"]))
        for quantity in range(len(ours.meta["quantities"])):
            a, b = ours.mean[quantity, cells], theirs.mean[quantity, other]
            assert np.array_equal(np.isnan(a), np.isnan(b))
            if not np.isnan(a).all():  # a sum of directions has no statistics
                assert np.nanmax(np.abs(a - b)) <= 1e-5 * np.nanmax(np.abs(a))


def test_other_sizes_are_learned_when_somebody_listens():
    external_model = load("vmamba")
    with workbench.record(external_model, "delta") as seen:
        external_model(images(1, 96))
    assert {(path.height, path.width) for path in seen.paths.values()} == {(24, 24), (12, 12)}
    assert {site.grid for site in workbench.scans(external_model, (64, 96))} == {(16, 24), (8, 12)}


def test_a_copy_is_a_model_of_its_own():
    external_model = load("vim")
    other = copy.deepcopy(external_model)
    with workbench.patch(other, y=torch.zeros_like):
        changed = other(images())
        assert not torch.allclose(changed, external_model(images()))
    torch.testing.assert_close(other(images()), external_model(images()))


def test_learning_leaves_the_model_alone():
    external_model = load("vmamba")
    state = copy.deepcopy(external_model.model.state_dict())
    calls = []
    handle = external_model.model.layers[0].register_forward_hook(lambda *_: calls.append(1))
    workbench.scans(external_model, 32)
    handle.remove()
    assert calls == [1]  # of the pass that `scans` runs; none of those that learn
    for key, value in external_model.model.state_dict().items():
        assert torch.equal(value, state[key])


@pytest.mark.parametrize("method", ["resolution", "sensitivity"])
def test_methods_without_labels_run(method):
    external_model, _ = pair("vmamba")
    config = {
        "resolution": workbench.ResolutionConfig(native=64, probes=1, erf_images=1),
        "sensitivity": workbench.SensitivityConfig(
            quick=True, steps=1, draws=1, halvings=0, attack_steps=1, resamples=2
        ),
    }[method]
    images = workbench.open_images("samples/images", 1)
    result = workbench.run(
        getattr(workbench, method), external_model, images, config,
        preprocessing=preprocessing_for(external_model, 64),
    )  # fmt: skip
    if method == "resolution":
        layers = result.points[0]["layers"]
        assert len(layers) == 2 and all(layer["low"] > 0 for layer in layers)
    else:
        assert set(result.meta["views"]) == set(config.views)


def test_class_token_and_gate_are_as_in_ours():
    external_model, _ = pair("vim")
    run = {"preprocessing": preprocessing_for(external_model, 64)}
    config = workbench.ScanMapsConfig(layer="0", query="class")
    images = workbench.open_images("samples/images", 1)
    result = workbench.run(workbench.scan_maps, external_model, images, config, **run)
    assert result.meta["sites"][0]["query"] is None
    with pytest.raises(ValueError, match="no gate"):
        config = workbench.ScanMapsConfig(layer="0", with_gate=True)
        workbench.run(workbench.scan_maps, external_model, images, config, **run)
    with pytest.raises(ValueError, match="with_convolution"):
        config = workbench.ScanMapsConfig(layer="0", with_convolution=True)
        workbench.run(workbench.scan_maps, external_model, images, config, **run)
