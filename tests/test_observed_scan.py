"""A scan that somebody listens to computes what one does that nobody listens to."""

import pytest
import torch

from workbench.paths import CROSS
from workbench.scan import SelectiveScan


def arguments(shared: bool, class_token: int | None):
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    tokens, k, d, n = 15 + (class_token is not None), 4, 20, 2
    return {
        "u": normal(2, tokens, d) if shared else normal(2, tokens, k, d),
        "delta": normal(2, tokens, k, d),
        "A": -torch.exp(normal(k * d, n)),
        "B": normal(2, tokens, k, n),
        "C": normal(2, tokens, k, n),
        "D": normal(k * d),
        "delta_bias": normal(k * d),
    }


def gradients(scan, args, class_token):
    leaves = {name: x.clone().requires_grad_() for name, x in args.items()}
    y = scan.cross(**leaves, grid=(3, 5), class_token=class_token)
    return y.detach(), torch.autograd.grad(y.sin().sum(), list(leaves.values()))


@pytest.mark.parametrize("class_token", [None, 8])
@pytest.mark.parametrize("shared", [True, False])
def test_an_observed_scan_has_the_bits_and_the_gradients_of_a_fused_one(shared, class_token):
    args = arguments(shared, class_token)
    scan = SelectiveScan(CROSS)
    y, expected = gradients(scan, args, class_token)
    seen = []
    scan.register_forward_pre_hook(
        lambda module, _, tensors: seen.append(tensors["u"].shape), with_kwargs=True
    )
    observed, found = gradients(scan, args, class_token)
    assert seen == [(2, 80, args["u"].shape[1])]
    assert torch.equal(observed, y)
    for name, x, other in zip(args, found, expected, strict=True):
        torch.testing.assert_close(
            x, other, rtol=1e-4, atol=2e-6, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_an_observed_scan_has_forward_and_second_derivatives():
    args = arguments(True, None)
    derivatives = []
    for observed in (False, True):
        scan = SelectiveScan(CROSS, backend="reference")
        if observed:
            scan.register_forward_hook(lambda *_: None)

        def loss(u, scan=scan):
            y = scan.cross(**{**args, "u": u}, grid=(3, 5))
            return y.sin().sum()

        u = args["u"]
        along = torch.func.jvp(torch.func.grad(loss), (u,), (u,))[1]
        batch = torch.func.vmap(torch.func.grad(loss))(torch.stack([u, 2 * u]))
        derivatives.append((along, batch))
    for one, other in zip(*derivatives, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
