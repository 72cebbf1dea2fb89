"""The published repositories themselves, where VSSM_REPOSITORIES names a folder of their clones."""

import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import workbench
from workbench import external
from workbench.external.probe import probe
from workbench.external.sites import watching
from workbench.external.tokens import find_tokens
from workbench.paths import PADDING, scan_path

FOLDER = os.environ.get("VSSM_REPOSITORIES")
EXAMPLES = Path(__file__).parents[1] / "examples"
CROSS = ("row", "column", "row-reversed", "column-reversed")
LOCAL = tuple(
    f"{name}{end}" for name in ("row", "column", "local-2", "local-7") for end in ("", "-reversed")
)
pytestmark = pytest.mark.skipif(not FOLDER, reason="VSSM_REPOSITORIES is not set")


def load(folder, adapter):
    return external.load(Path(FOLDER or "") / folder, EXAMPLES / adapter, size=64)


def check_gradients(model):
    x = torch.randn(1, 3, 64, 64).requires_grad_()
    model(x).square().mean().backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert len(gradients) > 10
    for gradient in (x.grad, *gradients):
        assert gradient is not None
        assert gradient.isfinite().all()
    assert x.grad is not None
    assert x.grad.any()


def lengths(model):
    with workbench.record(model, "u") as seen:
        model(torch.randn(1, 3, 64, 64))
    found = {}
    for site, tensors in seen.items():
        found.setdefault(site.partition("/")[0], []).append(tensors["u"].shape[-1])
    return list(found.values())


def test_vm_unet():
    model = load("VM-UNet", "vm_unet.py")
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == 27.43
    sides = (16, 16, 8, 8, 4, 4, 2, 2, 2, 2, 4, 4, 8, 8, 16)
    assert lengths(model) == [[side**2] * 4 for side in sides]
    for site in workbench.scans(model, 64):
        assert site.direction == CROSS[site.index]
        assert site.path is not None
        assert site.grid == (sides[site.layer],) * 2
        assert np.array_equal(site.path.order, scan_path(site.direction, *site.grid).order)
    check_gradients(model)


def test_local_vmamba():
    model = load("LocalMamba/classification", "local_vmamba.py")
    assert lengths(model) == [[441] * 8, [196] * 8, [49] * 8, [49] * 8]
    for site in workbench.scans(model, 64):
        assert site.direction == LOCAL[site.index]
        assert site.path is not None
        order = site.path.order
        expected = scan_path(site.direction, *(site.grid or ())).order
        assert np.array_equal(order[order >= 0], expected)
        if site.layer == 0:
            assert site.grid == (16, 16)
            assert (order == PADDING).sum() == 185
    check_gradients(model)


def test_a_map_of_4096_tokens_is_probed_within_a_second():
    model = load("VM-UNet", "vm_unet.py")
    module = model.model.vmunet.layers[0].blocks[0].self_attention
    x, seen = torch.randn(1, 64, 64, 96), []
    with torch.no_grad():
        with watching(seen.append):
            module(x)
        tokens, took = find_tokens(module, (x,), {}), []
        for _ in range(3):
            start = time.process_time()  # on one thread, and whatever else the machine does
            (order,) = probe(module, tokens, module, seen)
            took.append(time.process_time() - start)
    assert np.array_equal(order[1], scan_path("column", 64, 64).order)
    assert min(took) <= 1
    print(f"{min(took):.2f} s")
