"""The scan along paths over an image, against gathering, scanning and scattering."""

import pytest
import torch
from rounding import assert_within_rounding
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from workbench.kernels import available_backends, cross_selective_scan, reference, selective_scan
from workbench.paths import CROSS, scan_path

needs_cpu = pytest.mark.skipif("cpu" not in available_backends(), reason="numba does not import")
NAMES = ("u", "delta", "A", "B", "C", "D", "delta_bias")


def draw(batch, grid, directions, dim, state, shared=True, seed=0):
    """Random arguments by name, and paths over `grid`."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    tokens = grid[0] * grid[1]
    args = {
        "u": normal(batch, tokens, *(() if shared else (directions,)), dim),
        "delta": normal(batch, tokens, directions, dim),
        "A": -torch.exp(normal(directions * dim, state)),
        "B": normal(batch, tokens, directions, state),
        "C": normal(batch, tokens, directions, state),
        "D": normal(directions * dim),
        "delta_bias": 0.5 * normal(directions * dim) - 1,
    }
    names = [CROSS[i % 4] for i in range(directions)]
    return args, torch.stack([torch.from_numpy(scan_path(n, *grid).order.copy()) for n in names])


def run(args, paths, backend, merge, dtype=torch.float32, dy_seed=1):
    args = {name: x.detach().to(dtype).requires_grad_() for name, x in args.items()}
    y = cross_selective_scan(**args, paths=paths, delta_softplus=True, merge=merge, backend=backend)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(dy_seed))
    grads = torch.autograd.grad(y, list(args.values()), dy.to(dtype))
    return {"y": y.detach(), **dict(zip((f"d{n}" for n in args), grads, strict=True))}


def definition(paths, merge):
    return lambda args: run(args, paths, "reference", merge, args["u"].dtype)


def assert_close(result, expected, tolerance=1e-6):
    assert result.keys() == expected.keys()
    for name, value in expected.items():
        largest = value.abs().max().item()
        error = (result[name].double() - value.double()).abs().max().item()
        assert error <= tolerance * largest, f"{name}: {error / max(largest, 1e-30):.1e}"


CASES = [  # batch, grid, directions, dim, state, shared u
    (1, (1, 1), 1, 1, 1, True),
    (2, (3, 5), 4, 5, 3, True),
    (1, (9, 13), 4, 40, 1, True),
    (2, (7, 10), 2, 16, 16, False),
    (3, (14, 14), 1, 33, 8, True),
    (1, (16, 9), 4, 96, 1, False),
]


@needs_cpu
@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_cpu_equals_gather_scan_scatter_in_float64(case, merge):
    args, paths = draw(*case)
    assert_within_rounding(run(args, paths, "cpu", merge), definition(paths, merge), args)


@needs_cpu
@pytest.mark.parametrize("merge", [True, False])
def test_a_path_may_leave_tokens_out(merge):
    args, _ = draw(2, (4, 6), 3, 20, 2)
    paths = torch.full((3, 10), -1)
    for i, steps in enumerate((10, 7, 0)):
        paths[i, :steps] = torch.randperm(24, generator=torch.Generator().manual_seed(i))[:steps]
    result = run(args, paths, "cpu", merge)
    assert_within_rounding(result, definition(paths, merge), args)
    never = sorted(set(range(24)) - set(paths.flatten().tolist()))
    assert never and not result["y"][:, never].any() and not result["du"][:, never].any()


@needs_cpu
@pytest.mark.parametrize("state", [1, 4])
def test_fused_and_unfused_have_the_same_bits(state):
    """Permute, scan, permute back, add: what the fused form saves, to the last bit."""
    args, paths = draw(2, (9, 11), 4, 40, state)
    inverse = paths.argsort(1)
    u, delta, B, C = (args[name] for name in ("u", "delta", "B", "C"))
    u = u.unsqueeze(2).expand(-1, -1, 4, -1)
    permuted = [
        torch.stack([x[:, paths[i], i].transpose(1, 2) for i in range(4)], 1)
        for x in (u, delta, B, C)
    ]
    u, delta = (x.flatten(1, 2) for x in permuted[:2])
    rest = {"D": args["D"], "delta_bias": args["delta_bias"], "delta_softplus": True}
    y = selective_scan(u, delta, args["A"], *permuted[2:], **rest)
    y = y.unflatten(1, (4, -1))
    y = torch.stack([y[:, i][..., inverse[i]].transpose(1, 2) for i in range(4)], 2)
    for merge, expected in ((False, y), (True, reference.sum_of_directions(y))):
        fused = cross_selective_scan(**args, paths=paths, delta_softplus=True, merge=merge)
        assert torch.equal(fused, expected)


@needs_cpu
@pytest.mark.parametrize("threads", [1, 3])
def test_bits_do_not_depend_on_threads(threads):
    args, paths = draw(2, (12, 12), 4, 64, 2)
    before = torch.get_num_threads()
    expected = run(args, paths, "cpu", True)
    torch.set_num_threads(threads)
    try:
        result = run(args, paths, "cpu", True)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(result[name], x) for name, x in expected.items())


@needs_cpu
def test_strided_inputs_need_no_copy_and_change_nothing():
    args, paths = draw(2, (5, 6), 2, 16, 3)
    expected = run(args, paths, "cpu", True)
    wide = torch.randn(2, 30, 2, 7)  # delta's rank, B and C are slices of one projection
    wide[..., 1:4], wide[..., 4:] = args["B"], args["C"]
    outermost = args["delta"].permute(2, 0, 1, 3).contiguous().permute(1, 2, 0, 3)
    strided = {**args, "B": wide[..., 1:4], "C": wide[..., 4:], "delta": outermost}
    strided["u"] = torch.randn(2, 30, 40)[..., 8:24].copy_(args["u"])
    leaves = {name: x.requires_grad_() for name, x in strided.items()}
    y = cross_selective_scan(**leaves, paths=paths, delta_softplus=True)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    du, ddelta, dB = torch.autograd.grad(y, [leaves[n] for n in ("u", "delta", "B")], dy)
    assert torch.equal(y.detach(), expected["y"]) and torch.equal(du, expected["du"])
    assert torch.equal(ddelta, expected["ddelta"]) and torch.equal(dB, expected["dB"])
    assert ddelta.stride() == outermost.stride()


@needs_cpu
def test_operator_passes_the_checks_of_torch_library():
    args, paths = draw(2, (3, 4), 4, 20, 3)
    leaves = [args[name].requires_grad_() for name in NAMES]
    scan = torch.ops.vssm.selective_scan_cpu.default
    torch.library.opcheck(scan, (*leaves, paths.int(), True, True, True))
    torch.library.opcheck(scan, (*leaves[:5], None, None, paths.int(), False, False, True))


@needs_cpu
def test_flops_are_those_of_the_scans():
    args, paths = draw(2, (5, 6), 4, 20, 3)
    with FlopCounterMode(display=False) as counter:
        cross_selective_scan(**args, paths=paths)
    assert counter.get_total_flops() == 2 * 30 * 80 * (9 * 3 + 2)


@needs_cpu
def test_fake_tensors_have_the_shapes_of_real_ones():
    args, paths = draw(2, (5, 6), 4, 20, 3)
    for merge in (True, False):
        real = cross_selective_scan(**args, paths=paths, merge=merge)
        with FakeTensorMode() as mode:
            faked = {k: mode.from_tensor(x) for k, x in args.items()}
            fake = cross_selective_scan(**faked, paths=mode.from_tensor(paths), merge=merge)
        assert (fake.shape, fake.stride()) == (real.shape, real.stride())


@needs_cpu
def test_compiles_without_a_graph_break():
    args, paths = draw(1, (3, 4), 4, 8, 2)
    compiled = torch.compile(cross_selective_scan, fullgraph=True, backend="aot_eager")
    y = compiled(**args, paths=paths, delta_softplus=True)
    assert torch.equal(y, cross_selective_scan(**args, paths=paths, delta_softplus=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"u": torch.zeros(1, 12, 7)}, r"u must be \(b, l, d\) = \(1, 12, 8\)"),
        ({"delta": torch.zeros(1, 12, 8)}, r"delta must be \(b, l, k, d\)"),
        ({"A": torch.zeros(8, 2)}, r"A must be \(k d, n\) = \(32, n\)"),
        ({"B": torch.zeros(1, 4, 12, 2)}, r"B must be \(b, l, k, n\) = \(1, 12, 4, 2\)"),
        ({"paths": torch.zeros(3, 12, dtype=torch.long)}, r"paths must be integers \(k, s\)"),
        ({"paths": torch.zeros(4, 13, dtype=torch.long)}, "at most once"),
        ({"backend": "cuda"}, "backend must be"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_what_does_not_fit_is_named(change, message):
    args, paths = draw(1, (3, 4), 4, 8, 2)
    with pytest.raises(ValueError, match=message):
        cross_selective_scan(**{**args, "paths": paths, **change})


@needs_cpu
def test_a_path_out_of_the_image_is_refused():
    args, paths = draw(1, (3, 4), 4, 8, 2)
    with pytest.raises(IndexError, match="within the 12 tokens"):
        cross_selective_scan(**args, paths=paths + 1)


@needs_cpu
@pytest.mark.parametrize("merge", [True, False])
def test_derivatives_of_derivatives_are_those_of_the_definition(merge):
    args, paths = draw(1, (3, 4), 4, 4, 2)
    paths[0, -2:] = -1

    def second(backend, dtype):
        leaves = {name: x.detach().to(dtype).requires_grad_() for name, x in args.items()}
        y = cross_selective_scan(
            **leaves, paths=paths, delta_softplus=True, merge=merge, backend=backend
        )
        grads = torch.autograd.grad(y.square().sum(), list(leaves.values()), create_graph=True)
        seconds = torch.autograd.grad(sum(g.square().sum() for g in grads), list(leaves.values()))
        return dict(zip(leaves, seconds, strict=True))

    assert_close(second("cpu", torch.float32), second("reference", torch.float64))
