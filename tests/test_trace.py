"""Record and patch, on every family."""

import threading

import pytest
import torch
from torch import Tensor, nn

from workbench import create_model
from workbench.scan import SelectiveScan
from workbench.trace import patch, record, scans

FAMILIES = ("vmamba_nano", "vim_nano", "mambavision_nano")


def model_and_image(name: str) -> tuple[nn.Module, Tensor]:
    model = create_model(name, "random").requires_grad_(False)
    return model, torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def hooks(model: nn.Module) -> int:
    scan = (m for m in model.modules() if isinstance(m, SelectiveScan))
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in scan)


@pytest.mark.parametrize("keep", ["cpu", "graph"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_recorded_run_has_the_bits_of_a_plain_one(name, keep):
    model, x = model_and_image(name)
    plain = model(x)
    with record(model, keep=keep) as seen:
        recorded = model(x)
    assert torch.equal(recorded, plain) and hooks(model) == 0
    assert list(seen) == [site.name for site in scans(model)]
    assert set(next(iter(seen.values()))) == {"u", "delta", "A", "B", "C", "D", "y"}
    assert all((tensors["delta"] >= 0).all() for tensors in seen.values())


@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_reach_recorded_tensors_and_obey_the_gauge(name):
    """B_n * s with C_n / s changes nothing, so <B, dJ/dB> = <C, dJ/dC> at every scan."""
    model, x = model_and_image(name)
    model.double()
    with record(model, "B", "C", "y", keep="graph") as seen:
        loss = model(x.double()).square().sum()
    tensors = [t for parts in seen.values() for t in (parts["B"], parts["C"], parts["y"])]
    grads = torch.autograd.grad(loss, tensors)
    assert all(grad.abs().max() > 0 for grad in grads[2::3])
    for B, dB, C, dC in zip(tensors[::3], grads[::3], tensors[1::3], grads[1::3], strict=True):
        left, right = (B * dB).sum((0, 2)), (C * dC).sum((0, 2))
        torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-15)
        assert left.abs().max() > 0


@pytest.mark.parametrize("name", FAMILIES)
def test_a_patch_that_changes_nothing_keeps_the_bits(name):
    model, x = model_and_image(name)
    plain = model(x)
    same = {key: lambda tensor: tensor.clone() for key in ("u", "delta", "A", "B", "C", "D", "y")}
    with patch(model, **same):
        assert torch.equal(model(x), plain)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_patch_reaches_its_direction_only(name):
    model, x = model_and_image(name)
    site = scans(model)[-1]
    with record(model, "y") as plain:
        model(x)
    with patch(model, site.name, y=torch.zeros_like), record(model, "y") as seen:
        model(x)
    for known, tensors in seen.items():
        if known == site.name:
            assert not tensors["y"].any() and plain[known]["y"].any()
        else:
            assert torch.equal(tensors["y"], plain[known]["y"])


def test_scaling_B_up_and_C_down_leaves_the_logits():
    model, x = model_and_image("vmamba_nano")
    plain = model(x)
    with patch(model, B=lambda B: B * 4, C=lambda C: C / 4):  # powers of two: exact
        assert torch.equal(model(x), plain)


@pytest.mark.parametrize("name", FAMILIES)
def test_sites_know_grid_and_path(name):
    model, x = model_and_image(name)
    sites = scans(model, 64)
    assert [site.name for site in sites] == [site.name for site in scans(model)]
    assert scans(model)[0].grid is None
    with record(model, "u") as seen:
        model(x)
    for site in sites:
        assert site.path is seen.paths[site.name] and site.path.name == site.direction
        assert len(site.path) == seen[site.name]["u"].shape[-1]
    wide = scans(model, (64, 96))
    if name == "vmamba_nano":
        assert wide[0].grid == (16, 24)


def test_hooks_vanish_after_an_exception():
    model, x = model_and_image("vim_nano")
    with pytest.raises(ZeroDivisionError), patch(model, B=lambda B: 1 / 0), record(model):
        model(x)
    assert hooks(model) == 0


def test_threads_do_not_see_each_other():
    model, x = model_and_image("vim_nano")
    plain = model(x)
    inside, done = threading.Event(), threading.Event()
    found = {}

    def other():
        inside.wait()
        found["logits"] = model(x)
        done.set()

    thread = threading.Thread(target=other)
    thread.start()
    with patch(model, y=torch.zeros_like), record(model, "y") as seen:
        inside.set()
        done.wait()
        assert not seen
        assert not torch.equal(model(x), plain)
    thread.join()
    assert torch.equal(found["logits"], plain)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: record(m, "H"), "no tensor 'H'; it has u, delta"),
        (lambda m: record(m, sites="layers.9*"), "no scan site matches 'layers.9\\*'; near are"),
        (lambda m: record(m, keep="gpu"), "keep must be"),
        (lambda m: patch(m, A_log=torch.neg), "no tensor 'A_log'"),
    ],
)
def test_a_wrong_name_is_answered_in_a_sentence(call, message):
    model, _ = model_and_image("vim_nano")
    with pytest.raises(ValueError, match=message), call(model):
        pass


def test_a_patch_of_another_shape_is_refused():
    model, x = model_and_image("vim_nano")
    with (
        pytest.raises(ValueError, match=r"returned shape .* where .* is needed"),
        patch(model, delta=lambda delta: delta[..., :3]),
    ):
        model(x)
