"""The GPU scan on a GPU: `pytest -m gpu`. `test_triton.py` holds what can be tested without one."""

import pytest
import torch
from interpreted import cross, draw, draw_sequences, errors, sequences, wide

from workbench.kernels import reference

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here"),
]
if torch.cuda.is_available():
    from workbench.kernels.gpu import backend, plan

FLOAT32 = 2e-6
HALF = 1e-2


@pytest.fixture(autouse=True)
def empty_cache():
    yield
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def to_gpu(args):
    return {name: x.cuda() for name, x in args.items()}


def assert_right(result, expected, rounded=None, limit=FLOAT32):
    """Within the limit, or as close as the definition itself comes in float32."""
    found = errors(result, expected)
    floor = errors(rounded, expected) if rounded else dict.fromkeys(found, 0.0)
    for name, error in found.items():
        assert error <= max(limit, 1.5 * floor[name]), f"{name}: {error:.1e} ({floor[name]:.1e})"


def test_scans_equal_the_golden_records():
    golden = pytest.importorskip("test_scan", exc_type=ImportError)
    for record in golden.RECORDS:
        args, dy = golden.golden_arguments(record)
        leaves = {name: x.cuda().requires_grad_() for name, x in args.items()}
        for name in ("B", "C"):
            leaves[name] = leaves[name].reshape(len(args["u"]), -1, *args[name].shape[-2:])
        y, _ = backend.selective_scan(**leaves, delta_softplus=record["delta_softplus"])
        grads = torch.autograd.grad(y, list(leaves.values()), dy.cuda())
        result = {"out": y.detach(), **dict(zip(leaves, grads, strict=True))}
        for name, entry in {"out": record["out"], **record["grads"]}.items():
            expected = torch.tensor(entry["values"]).reshape(entry["shape"]).cuda()
            found = errors({"x": result[name].reshape(expected.shape)}, {"x": expected})["x"]
            assert found <= FLOAT32, f"{record['name']}, {name}: {found:.1e}"


SEQUENCES = [  # batch, groups, dim, state, length
    (1, 1, 1, 1, 1),
    (2, 1, 5, 3, 13),
    (3, 1, 16, 1, 64),
    (1, 3, 48, 16, 200),
    (2, 3, 120, 5, 129),
    (2, 1, 160, 8, 196),
    (1, 4, 384, 1, 3136),
    (2, 1, 384, 16, 197),
    (1, 2, 64, 64, 100),
    (5, 4, 64, 2, 17),
]


@pytest.mark.parametrize("shape", SEQUENCES, ids=str)
def test_sequences_equal_the_definition_in_float64(shape):
    args = to_gpu(draw_sequences(*shape))
    assert_right(
        sequences(backend, args), sequences(reference, wide(args)), sequences(reference, args)
    )


@pytest.mark.parametrize("state", [1, 2, 3, 4, 8, 16])
@pytest.mark.parametrize("batch", [1, 40])
def test_every_number_of_states_on_both_tiles(batch, state):
    args, order = draw(batch, 150, 4, 72, state)
    args, order = to_gpu(args), order.cuda()
    order[1, -5:] = -1
    assert_right(
        cross(backend, args, order),
        cross(reference, wide(args), order),
        cross(reference, args, order),
    )


PATHS = [  # batch, tokens, directions, dim, state, shared u
    (1, 1, 1, 1, 1, True),
    (2, 37, 4, 5, 3, True),
    (2, 197, 2, 96, 16, False),
    (1, 784, 4, 192, 1, True),
    (3, 196, 4, 33, 8, True),
    (1, 3136, 4, 96, 1, True),
]


@pytest.mark.parametrize("shape", PATHS, ids=str)
@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("padded", [False, True])
def test_paths_equal_the_definition_in_float64(shape, merge, padded):
    args, order = draw(*shape)
    args = to_gpu(args)
    if padded and order.shape[1] > 2:
        order[0, -order.shape[1] // 3 :] = -1
    order = order.cuda()
    assert_right(
        cross(backend, args, order, merge=merge),
        cross(reference, wide(args), order, merge=merge),
        cross(reference, args, order, merge=merge),
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_inputs(dtype):
    args, order = draw(2, 196, 4, 96, 4)
    args, order = to_gpu(args), order.cuda()
    args = {k: x.to(dtype) if k in ("u", "delta", "B", "C") else x for k, x in args.items()}
    result = cross(backend, args, order, dy_dtype=dtype)
    expected = cross(reference, wide(args), order, dy_dtype=dtype)
    assert result["y"].dtype == result["du"].dtype == result["dB"].dtype == dtype
    assert_right(result, expected, limit=HALF)


def test_only_the_last_state_has_a_gradient():
    args = to_gpu(draw_sequences(2, 2, 64, 4, 700))
    of = ("last",)
    assert_right(sequences(backend, args, of), sequences(reference, wide(args), of))


@pytest.mark.parametrize("tokens", [784, 16384])
def test_every_run_gives_the_same_bits(tokens):
    args, order = draw(4, tokens, 4, 96, 2)
    args, order = to_gpu(args), order.cuda()
    first = cross(backend, args, order)
    for _ in range(3):
        again = cross(backend, args, order)
        assert all(torch.equal(again[name], x) for name, x in first.items())
    y = backend.cross_selective_scan(**args, delta_softplus=True, order=order, merge=True)
    assert torch.equal(y, first["y"])  # nothing was saved for a backward pass


def test_every_output_is_written():
    args, order = draw(2, 50, 2, 40, 3, shared=False)
    order[0, -7:] = -1
    torch.use_deterministic_algorithms(True)  # what torch.empty returns is NaN
    try:
        result = cross(backend, to_gpu(args), order.cuda(), merge=False)
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(x.isfinite().all() for x in result.values())
    left_out = torch.ones(50, dtype=torch.bool)
    left_out[order[0, :-7].long()] = False
    for name in ("y", "du", "ddelta", "dB", "dC"):
        zero = result[name][:, :, 0].eq(0).all(-1).cpu()
        assert torch.equal(zero, left_out.expand(2, -1)), name


def test_tiles_and_segments_change_nothing_but_rounding(monkeypatch):
    args, order = draw(1, 5000, 2, 48, 4)
    args, order = to_gpu(args), order.cuda()
    found = {}
    for tile, few, wanted, shortest in (
        ("cut", 0, 1024, 8), ("wide", 0, 1, 10**9), ("tall", 10**9, 1024, 8)
    ):  # fmt: skip
        monkeypatch.setattr(plan, "FEW", few)
        monkeypatch.setattr(plan, "PATIENT", 10**9)
        monkeypatch.setattr(plan, "WANTED", wanted)
        monkeypatch.setattr(plan, "SHORTEST", shortest)
        plan.plan.cache_clear()
        found[tile] = cross(backend, args, order)
        again = cross(backend, args, order)
        assert all(torch.equal(again[name], x) for name, x in found[tile].items())
    plan.plan.cache_clear()
    assert_right(found["cut"], found["wide"], limit=5e-6)
    assert_right(found["tall"], found["wide"], limit=5e-6)


@pytest.mark.slow
def test_a_sequence_of_65536_steps():
    args = to_gpu(draw_sequences(1, 1, 64, 2, 65536))
    assert_right(
        sequences(backend, args), sequences(reference, wide(args)), sequences(reference, args)
    )


def test_a_batch_of_8192_images():
    args, order = draw(8192, 49, 2, 32, 1)
    args, order = to_gpu(args), order.cuda()
    result = cross(backend, args, order)
    last = {name: x[-3:] if x.ndim > 2 else x for name, x in args.items()}
    leaf = {name: x.clone().requires_grad_() for name, x in last.items()}
    y = backend.cross_selective_scan(**leaf, delta_softplus=True, order=order, merge=True)
    assert torch.equal(y, result["y"][-3:])


def test_a_tensor_of_more_than_2_to_the_31_elements():
    batch, length, dim = 5400, 400, 1024
    if torch.cuda.mem_get_info()[0] < 60e9:
        pytest.skip("needs 60 GB of GPU memory")
    assert batch * length * dim > 2**31
    args, order = draw(4, length, 1, dim, 1)
    args, order = to_gpu(args), order.cuda()
    args = {k: x.bfloat16() if k in ("u", "delta", "B", "C") else x for k, x in args.items()}
    many = {
        k: x.repeat(batch // 4, *[1] * (x.ndim - 1)) if x.ndim > 2 else x for k, x in args.items()
    }
    leaves = {name: x.requires_grad_() for name, x in many.items()}
    y = backend.cross_selective_scan(**leaves, delta_softplus=True, order=order, merge=True)
    few = {name: x.detach().requires_grad_() for name, x in args.items()}
    expected = backend.cross_selective_scan(**few, delta_softplus=True, order=order, merge=True)
    assert torch.equal(y[-4:], expected)
    names = ("u", "delta", "B", "C")
    grads = torch.autograd.grad(y[-4:].float().square().sum(), [leaves[name] for name in names])
    wanted = torch.autograd.grad(expected.float().square().sum(), [few[name] for name in names])
    for name, g, x in zip(names, grads, wanted, strict=True):
        assert torch.equal(g[-4:], x), name
        assert not g[0].any(), name


def test_an_image_of_more_than_2_to_the_31_elements():
    length, dim, tail = 2**21 + 4096, 1024, 2048
    if torch.cuda.mem_get_info()[0] < 60e9:
        pytest.skip("needs 60 GB of GPU memory")
    generator = torch.Generator("cuda").manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, device="cuda", dtype=torch.bfloat16)

    args = {
        "u": normal(1, length, dim),
        "delta": normal(1, length, 1, dim),
        "A": -torch.ones(dim, 1, device="cuda"),
        "B": normal(1, length, 1, 1),
        "C": normal(1, length, 1, 1),
        "D": None,
        "delta_bias": None,
    }
    order = torch.arange(length, dtype=torch.int32, device="cuda")[None]
    y = backend.cross_selective_scan(**args, delta_softplus=True, order=order, merge=True)
    last = {k: x[:, -tail:] if x is not None and x.ndim > 2 else x for k, x in args.items()}
    expected = backend.cross_selective_scan(
        **last, delta_softplus=True, order=order[:, :tail], merge=True
    )
    # After a few hundred steps the state has forgotten where it started from.
    found = errors({"y": y[:, -tail // 2 :]}, {"y": expected[:, -tail // 2 :].double()})
    assert found["y"] <= HALF


def test_softplus_equals_the_definition():
    x = torch.linspace(-90, 90, 6 * 1000).reshape(2, 3, 1000).cuda()
    for layout in (x, x.mT.contiguous().mT):
        leaf, bias = layout.clone().requires_grad_(), torch.randn(3).cuda().requires_grad_()
        y = backend.softplus(leaf, bias)
        exact = reference.softplus(leaf.double(), bias.double())
        # x + bias is rounded, by up to 4e-6 near -90, and exp makes that its relative error.
        torch.testing.assert_close(y.double(), exact, rtol=1e-5, atol=1e-37)
        grads = torch.autograd.grad(y.sum(), (leaf, bias))
        expected = torch.autograd.grad(exact.sum(), (leaf, bias))
        torch.testing.assert_close(grads[0], expected[0].float(), rtol=1e-5, atol=1e-37)
        torch.testing.assert_close(grads[1], expected[1].float(), rtol=1e-5, atol=0)


def test_it_compiles_without_a_graph_break():
    args, order = draw(2, 64, 4, 32, 1)
    leaves = {name: x.cuda().requires_grad_() for name, x in args.items()}
    order = order.cuda()

    def scaled(leaves):
        u = torch.nn.functional.silu(leaves["u"])
        given = {**leaves, "u": u, "order": order}
        return backend.cross_selective_scan(**given, delta_softplus=True, merge=True) * 2

    y = torch.compile(scaled, fullgraph=True)(leaves)
    expected = scaled(leaves)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
    grads = torch.autograd.grad(y.sum(), list(leaves.values()))
    for g, x in zip(grads, torch.autograd.grad(expected.sum(), list(leaves.values())), strict=True):
        torch.testing.assert_close(g, x, rtol=1e-4, atol=1e-4)


def test_the_operators_pass_the_checks_of_torch_library():
    args, order = draw(1, 20, 2, 3, 2)
    leaves = [x.cuda().requires_grad_() for x in args.values()]
    operator = torch.ops.vssm.selective_scan_triton.default
    torch.library.opcheck(operator, (*leaves, order.cuda(), True, True, True))
