"""Every way PyTorch takes a derivative gives the right one, or says why it cannot.

The definition is checked against finite differences in float64; the fast backends and "auto" are
checked against the definition.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from workbench.kernels import available_backends, cross_selective_scan, selective_scan, softplus

FAST = [name for name in available_backends() if name == "cpu"]
PATHS = torch.tensor([[0, 1, 2, 3, 4, 5], [5, 3, 1, 4, -1, -1]])


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, backend: str) -> Tensor:
    """y and the last state, flat: u, delta (2, 4, 6), A (4, 3), B (2, 2, 3, 6)."""
    y, last = selective_scan(
        u, delta, -A.exp(), B, B.flip(-1), delta_softplus=True, return_last_state=True,
        backend=backend,
    )  # fmt: skip
    return torch.cat([y.flatten(), last.flatten()])


def cross(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, backend: str) -> Tensor:
    """y, flat: u (2, 6, 3), delta (2, 6, 2, 3), A (6, 2), B (2, 6, 2, 2)."""
    return cross_selective_scan(
        u, delta, -A.exp(), B, B.flip(-1), paths=PATHS, delta_softplus=True, backend=backend
    ).flatten()


def step(x: Tensor, bias: Tensor, backend: str) -> Tensor:
    """Softplus, flat: x (2, 3, 5), bias (3)."""
    return softplus(x, bias, backend=backend).flatten()


CASES: dict[str, tuple[Callable[..., Tensor], tuple[tuple[int, ...], ...]]] = {
    "scan": (scan, ((2, 4, 6), (2, 4, 6), (4, 3), (2, 2, 3, 6))),
    "cross scan": (cross, ((2, 6, 3), (2, 6, 2, 3), (6, 2), (2, 6, 2, 2))),
    "softplus": (step, ((2, 3, 5), (3,))),
}


@pytest.fixture(params=CASES)
def case(request):
    """A function of tensors and a backend, and float64 tensors."""
    function, shapes = CASES[request.param]
    return function, tuple(normal(*shape, seed=i) for i, shape in enumerate(shapes))


def in_float32(tensors):
    return tuple(x.float() for x in tensors)


def assert_close(result: Tensor, expected: Tensor) -> None:
    error = (result.double() - expected.double()).abs().max() / expected.abs().max()
    assert error <= 2e-6


def test_the_definition_has_the_derivatives_of_finite_differences(case):
    function, args = case
    leaves = [x.requires_grad_() for x in args]
    assert torch.autograd.gradcheck(
        lambda *args: function(*args, "reference"), leaves, check_forward_ad=True
    )


TRANSFORMS: dict[str, Callable[[Callable, tuple[Tensor, ...]], Tensor]] = {
    "jvp": lambda f, args: torch.func.jvp(f, args, args)[1],
    "jacfwd": lambda f, args: torch.func.jacfwd(f)(*args),
    "jacrev": lambda f, args: torch.func.jacrev(f)(*args),
    "grad": lambda f, args: torch.func.grad(lambda *args: f(*args).square().sum())(*args),
    "hessian": lambda f, args: torch.func.hessian(lambda *args: f(*args).sin().sum())(*args),
    "vjp": lambda f, args: (lambda y, back: back(y)[1])(*torch.func.vjp(f, *args)),
    "vmap": lambda f, args: torch.func.vmap(f)(*(torch.stack([x, 0.5 * x]) for x in args)),
    "gradients per sample": lambda f, args: torch.func.vmap(
        torch.func.grad(lambda *args: f(*args).square().sum())
    )(*(torch.stack([x, 0.5 * x]) for x in args)),
}


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_auto_is_right_in_every_transform_of_torch_func(case, transform):
    function, args = case
    apply = TRANSFORMS[transform]
    found = apply(lambda *args: function(*args, "auto"), in_float32(args))
    expected = apply(lambda *args: function(*args, "reference"), args)
    assert expected.abs().max() > 1e-2
    assert_close(found, expected)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_a_named_backend_refuses_a_transform_in_one_sentence(case, transform, backend):
    function, args = case
    with pytest.raises(ValueError, match=r'does not support torch.func .* backend="reference"'):
        TRANSFORMS[transform](lambda *args: function(*args, backend), in_float32(args))


def test_dual_tensors_carry_their_tangents_through(case):
    function, args = case
    found = []
    for backend, given in (("auto", in_float32(args)), ("reference", args)):
        with forward_ad.dual_level():
            dual = [forward_ad.make_dual(x, x.flip(0)) for x in given]
            found.append(forward_ad.unpack_dual(function(*dual, backend)).tangent)
    assert_close(*found)


@pytest.mark.parametrize("backend", FAST)
def test_a_named_backend_refuses_dual_tensors_but_not_their_level(case, backend):
    function, args = case
    args = in_float32(args)
    expected = function(*args, backend)
    with forward_ad.dual_level():
        assert torch.equal(function(*args, backend), expected)
        with pytest.raises(ValueError, match=r'does not support forward-mode .* backend="ref'):
            function(forward_ad.make_dual(args[0], args[0]), *args[1:], backend)


@pytest.mark.parametrize("backend", FAST)
def test_a_tangent_on_the_way_back_is_refused_and_not_dropped(case, backend):
    function, args = case
    leaves = [x.requires_grad_() for x in in_float32(args)]
    y = function(*leaves, backend)
    with forward_ad.dual_level():
        dy = forward_ad.make_dual(torch.ones_like(y), torch.ones_like(y))
        with pytest.raises(NotImplementedError, match='backend="reference"'):
            torch.autograd.grad(y, leaves, dy)


@pytest.mark.parametrize("backend", FAST)
def test_a_batch_of_output_gradients_at_once(case, backend):
    function, args = case
    leaves = [x.requires_grad_() for x in in_float32(args)]
    y = function(*leaves, backend)
    dys = torch.eye(len(y))[:3]
    together = torch.autograd.grad(y, leaves, dys, is_grads_batched=True, retain_graph=True)
    for i, dy in enumerate(dys):
        single = torch.autograd.grad(y, leaves, dy, retain_graph=True)
        for x, expected in zip(together, single, strict=True):
            torch.testing.assert_close(x[i], expected)


@pytest.mark.parametrize("backend", ["auto", *FAST])
def test_the_second_derivatives_are_those_of_the_definition(case, backend):
    function, args = case
    found = []
    for name, given in ((backend, in_float32(args)), ("reference", args)):
        leaves = [x.detach().clone().requires_grad_() for x in given]
        loss = function(*leaves, name).sin().sum()
        grads = torch.autograd.grad(loss, leaves, create_graph=True)
        seconds = torch.autograd.grad(sum(g.square().sum() for g in grads), leaves)
        found.append(torch.cat([x.flatten() for x in seconds]))
    assert_close(*found)


@pytest.mark.parametrize("backend", FAST)
def test_a_gradient_that_nobody_needs_is_not_made_up(case, backend):
    """With some inputs fixed the others get the same gradients, to the bit."""
    function, args = case
    args = in_float32(args)
    leaves = [x.clone().requires_grad_() for x in args]
    every = torch.autograd.grad(function(*leaves, backend).sum(), leaves)
    for i, expected in enumerate(every):
        some = [x.clone().requires_grad_(j == i) for j, x in enumerate(args)]
        (found,) = torch.autograd.grad(function(*some, backend).sum(), some[i])
        assert torch.equal(found, expected)


def test_a_compiled_function_keeps_its_tangents():
    args = tuple(normal(*shape, seed=i) for i, shape in enumerate(CASES["scan"][1]))

    def tangent(*args):
        return torch.func.jvp(lambda *args: scan(*args, "auto"), args, args)[1]

    compiled = torch.compile(tangent, backend="aot_eager")
    assert_close(compiled(*in_float32(args)), tangent(*args))
