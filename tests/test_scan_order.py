"""Trained scans in another order, and without their states."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch

from workbench import create_model, record, robustness, scans
from workbench.kernels import selective_scan
from workbench.perturbations.scan_order import random_order, reordered, without_state

MODELS = ("vmamba_nano", "vim_nano", "mambavision_nano")
SIZE = 64
WANTED = ("u", "delta", "A", "B", "C", "D", "y")


@pytest.fixture(params=MODELS)
def model(request) -> torch.nn.Module:
    return create_model(request.param, pretrained=True)


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


def seen(model, x, around=None):
    """What goes into the first layer's scans and comes out, inside a block."""
    sites = scans(model, SIZE)
    first = [site for site in sites if site.module == sites[0].module]
    with torch.no_grad(), around or nullcontext(), record(model, *WANTED) as found:
        model(x)
    return first, found


def test_a_scan_in_another_order_is_the_scan_of_permuted_tokens(model, x) -> None:
    first, plain = seen(model, x)
    _, moved = seen(model, x, reordered(model, scans(model, SIZE), seed=3))
    for i, site in enumerate(first):
        given = plain[site.name]
        order = random_order(site, np.random.default_rng((3, i)))
        assert sorted(order) == list(range(len(order)))
        fixed = site.path.order < 0  # a class token, padding
        assert (order[fixed] == np.flatnonzero(fixed)).all()
        u, delta, B, C = (given[name][..., order] for name in ("u", "delta", "B", "C"))
        D = given.get("D")
        y = selective_scan(u, delta, given["A"], B, C, D, backend="reference")
        y = y[..., np.argsort(order)]
        torch.testing.assert_close(moved[site.name]["y"], y, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(y, given["y"], atol=1e-3)


def test_without_a_state_only_d_u_is_left(model, x) -> None:
    first, plain = seen(model, x)
    _, found = seen(model, x, without_state(model))
    for site in first:
        u, D = plain[site.name]["u"], plain[site.name]["D"]
        torch.testing.assert_close(found[site.name]["y"], D[:, None] * u)


def test_nothing_is_left_behind(model, x) -> None:
    with torch.no_grad():
        before = model(x)
        for around in (reordered(model, scans(model, SIZE)), without_state(model)):
            with around:
                assert not torch.allclose(model(x), before, atol=1e-3)
        assert torch.equal(model(x), before)


def test_robustness_counts_both() -> None:
    result = robustness("vim_nano", limit=3, attacks=("none",), probes=("scan",), size=SIZE)
    names = [condition["name"] for condition in result.meta["conditions"]]
    assert names == ["clean", "scan/random-order", "scan/without-state"]
    assert not np.array_equal(result.margins[0], result.margins[1])
    without = robustness("resnet_nano", limit=3, attacks=("none",), probes=("scan",), size=SIZE)
    assert "no selective scan" in without.meta["missing"]["scan"]
