import math
import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor

import golden
import pytest
import torch
from rounding import assert_within_rounding
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from workbench.kernels import available_backends, reference, selective_scan, softplus

BACKENDS = available_backends()
NAMES = ("u", "delta", "A", "B", "C", "D", "delta_bias")

# What float32 allows: each value is right to 6e-8, and errors of a few hundred steps add up.
TOLERANCE = 1e-6

if "cpu" in BACKENDS:
    from workbench.kernels import cpu
    from workbench.kernels.cpu import threads

needs_cpu = pytest.mark.skipif("cpu" not in BACKENDS, reason="numba does not import")


def draw(batch, dim, groups, state, length, seed=0, dtype=torch.float32):
    """Random arguments of a scan with softplus, by name."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    args = {
        "u": normal(batch, dim, length),
        "delta": normal(batch, dim, length),
        "A": -torch.exp(normal(dim, state)),
        "B": normal(batch, groups, state, length),
        "C": normal(batch, groups, state, length),
        "D": normal(dim),
        "delta_bias": 0.5 * normal(dim) - 1,
    }
    return {name: x.to(dtype) for name, x in args.items()}


def run(args, backend, dy=None, dlast=None, dtype=torch.float32):
    """Return y, the last state and the gradient of sum(y dy) + sum(last dlast), by name."""
    args = {name: x.detach().to(dtype).requires_grad_() for name, x in args.items()}
    y, last = selective_scan(**args, delta_softplus=True, return_last_state=True, backend=backend)
    loss = 0.0
    if dy is not None:
        loss = loss + (y * dy.to(dtype)).sum()
    if dlast is not None:
        loss = loss + (last * dlast.to(dtype)).sum()
    gradients = torch.autograd.grad(loss, list(args.values()), materialize_grads=True)
    names = [f"d{name}" for name in args]
    return {"y": y.detach(), "last": last.detach(), **dict(zip(names, gradients, strict=True))}


def definition(given):
    """`run` by the definition, from the arguments and the gradients of the outputs."""
    args = {name: x for name, x in given.items() if name not in ("dy", "dlast")}
    return run(args, "reference", given.get("dy"), given.get("dlast"), given["u"].dtype)


def assert_close(result, expected, tolerance=TOLERANCE):
    for name, value in expected.items():
        largest = value.abs().max().item()
        error = (result[name].double() - value.double()).abs().max().item()
        assert error <= tolerance * largest, f"{name}: {error / max(largest, 1e-30):.1e}"


def assert_same_bits(result, expected):
    for name, value in expected.items():
        assert torch.equal(result[name], value), name


# Against what VMamba publishes


def golden_arguments(record):
    """Return the arguments of a record and the gradient of its output."""
    given = {
        name: torch.from_numpy(golden.fill(entry["fill"], tuple(entry["shape"]))) * entry["times"]
        for name, entry in record["inputs"].items()
    }
    dy = given.pop("W")
    given["A"] = -torch.exp(given.pop("A_logs"))
    if "dt_projs_bias" in given:
        given["delta_bias"] = given.pop("dt_projs_bias")
    if record["delta"] == "abs(filled)*0.125":
        given["delta"] = given["delta"].abs() * 0.125
    return given, dy


RECORDS = golden.load("vmamba_scan")["records"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record["name"])
def test_scan_and_gradients_equal_the_golden_record(record, backend):
    args, dy = golden_arguments(record)

    def gradients(backend, dtype):
        leaves = {k: x.to(dtype).requires_grad_() for k, x in args.items()}
        y = selective_scan(**leaves, delta_softplus=record["delta_softplus"], backend=backend)
        grads = torch.autograd.grad((y * dy.to(dtype)).sum(), list(leaves.values()))
        return {"out": y.detach(), **dict(zip(leaves, grads, strict=True))}

    result = gradients(backend, torch.float32)
    assert set(result) == {"out", *record["grads"]}
    recorded = {"out": record["out"], **record["grads"]}
    expected = {
        name: torch.tensor(entry["values"]).reshape(entry["shape"])
        for name, entry in recorded.items()
    }
    assert_close(result, expected)
    assert_close(result, gradients("reference", torch.float64))


# The fast backend against the definition in float64

SHAPES = [  # batch, dim, groups, state, length
    (1, 1, 1, 1, 1),
    (2, 5, 1, 3, 13),
    (1, 16, 1, 8, 63),
    (3, 16, 1, 1, 64),
    (1, 40, 1, 16, 65),
    (2, 120, 3, 3, 200),
    (1, 48, 3, 16, 200),
    (2, 96, 2, 1, 129),
    (5, 64, 4, 2, 17),
    (0, 16, 1, 4, 8),
]


@needs_cpu
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_cpu_scan_equals_the_definition_in_float64(shape):
    batch, dim, _, state, length = shape
    args = draw(*shape)
    dy, dlast = torch.randn(batch, dim, length), torch.randn(batch, dim, state)
    result = run(args, "cpu", dy, dlast)
    if batch:
        assert_within_rounding(result, definition, {**args, "dy": dy, "dlast": dlast})
    else:
        assert result["y"].shape == (0, dim, length)
        assert not result["dA"].any()


@needs_cpu
@pytest.mark.parametrize("without", [("D",), ("delta_bias",), ("D", "delta_bias")], ids=str)
@pytest.mark.parametrize("delta_softplus", [True, False])
def test_optional_arguments_may_be_left_out(without, delta_softplus):
    args = draw(2, 20, 1, 4, 70)
    if not delta_softplus:
        args["delta"] = args["delta"].abs()
        args["delta_bias"] = args["delta_bias"].abs()
    for name in without:
        del args[name]

    def both(args, backend):
        leaves = {name: x.detach().requires_grad_() for name, x in args.items()}
        y = selective_scan(**leaves, delta_softplus=delta_softplus, backend=backend)
        grads = torch.autograd.grad(y.square().sum(), list(leaves.values()))
        return {"y": y.detach(), **dict(zip(leaves, grads, strict=True))}

    assert_within_rounding(both(args, "cpu"), lambda args: both(args, "reference"), args)


@needs_cpu
@pytest.mark.parametrize("offset", [-100, -30, 30, 100])
def test_step_sizes_far_from_zero_stay_as_exact_as_float32_allows(offset):
    """Within 1e-6, or within what rounding delta + bias and delta A alone costs: there the
    definition itself, run in float32, is as far from float64."""
    args = draw(1, 16, 1, 4, 40)
    args["delta"] = args["delta"] + offset
    dy = torch.randn(1, 16, 40, generator=torch.Generator().manual_seed(1))
    result = run(args, "cpu", dy)
    assert all(x.isfinite().all() for x in result.values())
    rounded = run(args, "reference", dy)
    exact = run(args, "reference", dy, dtype=torch.float64)
    # Steps of 4e-44 underflow: the state is zero, and so is what passes it.
    names = ("y", "du", "dD") if offset == -100 else [name for name in exact if name != "last"]
    for name in names:
        largest = exact[name].abs().max().item()
        error, floor = (
            (x[name].double() - exact[name]).abs().max().item() / largest for x in (result, rounded)
        )
        assert error <= max(TOLERANCE, 1.5 * floor), f"{name}: {error:.1e}, float32 {floor:.1e}"


@needs_cpu
def test_a_growing_state_overflows_to_infinity_and_a_fast_decay_ends_at_zero():
    u, delta, ones = torch.ones(1, 16, 3), torch.full((1, 16, 3), 200.0), torch.ones(1, 1, 3)
    delta[..., 0] = 1
    growing = selective_scan(u, delta, torch.ones(16, 1), ones, ones, backend="cpu")
    assert growing[..., 0].eq(1).all() and growing[..., 1:].eq(math.inf).all()
    u[..., 1:] = 0
    decaying = selective_scan(u, delta, -torch.ones(16, 1), ones, ones, backend="cpu")
    assert decaying[..., 0].eq(1).all() and decaying[..., 1:].eq(0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_constant_step_sums_a_geometric_series(backend):
    length, step, rate = 150, 0.1, -0.5
    ones = torch.ones(1, 16, length)
    y = selective_scan(
        ones, step * ones, torch.full((16, 2), rate), ones[:, :2], ones[:, :2], backend=backend
    )
    q = math.exp(step * rate)
    t = torch.arange(1, length + 1, dtype=torch.float64)
    assert_close({"y": y[0, 7]}, {"y": 2 * step * (1 - q**t) / (1 - q)})


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_last_state_is_what_a_scan_of_more_steps_goes_on_from(backend):
    args = draw(2, 16, 1, 4, 100)
    args.pop("D")
    step = softplus(args.pop("delta"), args.pop("delta_bias"))
    args = {**args, "delta": step}
    first = {k: x if k == "A" else x[..., :70] for k, x in args.items()}
    whole = selective_scan(**args, backend=backend)
    _, h = selective_scan(**first, return_last_state=True, backend=backend)
    for t in range(70, 100):
        decay = torch.exp(step[:, :, t, None] * args["A"])
        drive = (step * args["u"])[:, :, t, None] * args["B"][:, :, :, t]
        h = decay * h + drive
        y = (h * args["C"][:, :, :, t]).sum(-1)
        torch.testing.assert_close(y, whole[..., t], rtol=1e-5, atol=1e-5)


@needs_cpu
def test_the_last_state_alone_has_gradients():
    args = draw(2, 20, 1, 3, 70)
    dlast = torch.randn(2, 20, 3)
    result = run(args, "cpu", dlast=dlast)
    assert not result["dC"].any() and not result["dD"].any()
    assert_within_rounding(result, definition, {**args, "dlast": dlast})


# Values and layouts that break careless kernels


@needs_cpu
@pytest.mark.parametrize("name", NAMES)
def test_nan_reaches_the_output_and_goes_no_further_than_in_the_definition(name):
    args = draw(1, 20, 1, 3, 70)
    args[name].view(-1)[args[name].numel() // 2] = math.nan
    dy = torch.randn(1, 20, 70)
    result, expected = run(args, "cpu", dy), run(args, "reference", dy)
    assert result["y"].isnan().any()
    for key, value in expected.items():
        assert torch.equal(result[key].isnan(), value.isnan()), key


@needs_cpu
def test_every_output_is_written():
    """The operator fills what torch.empty returns with NaN when told to be deterministic."""
    args = draw(2, 40, 2, 3, 77)
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.utils.deterministic.fill_uninitialized_memory
        assert torch.empty(3).isnan().all()
        result = run(args, "cpu", torch.randn(2, 40, 77))
        y = softplus(args["delta"], args["delta_bias"])
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(x.isfinite().all() for x in (*result.values(), y))


@needs_cpu
def test_strided_inputs_give_the_same_bits_as_contiguous_ones():
    args, dy = draw(2, 24, 2, 3, 50), torch.randn(2, 50, 24).transpose(1, 2)
    strided = {
        name: x.movedim(-1, 0).contiguous().movedim(0, -1) if x.ndim > 1 else x.repeat(2)[::2]
        for name, x in args.items()
    }
    strided["D"], strided["delta_bias"] = args["D"], args["delta_bias"]
    assert not strided["u"].is_contiguous()
    result = run(args, "cpu", dy.contiguous())
    leaves = {name: x.requires_grad_() for name, x in strided.items()}
    y = selective_scan(**leaves, delta_softplus=True, backend="cpu")
    gradients = torch.autograd.grad(y, list(leaves.values()), dy)
    assert_same_bits(
        {"y": y, **{f"d{k}": g for k, g in zip(leaves, gradients, strict=True)}},
        {k: x for k, x in result.items() if k != "last"},
    )


@needs_cpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_inputs_are_computed_in_float32(dtype):
    args = draw(1, 16, 1, 4, 50, dtype=dtype)
    y, last = selective_scan(**args, delta_softplus=True, return_last_state=True)
    wide = {name: x.float() for name, x in args.items()}
    expected, _ = selective_scan(**wide, delta_softplus=True, return_last_state=True)
    assert y.dtype == dtype and last.dtype == torch.float32
    assert torch.equal(y, expected.to(dtype))


@pytest.mark.parametrize("backend", BACKENDS)
def test_b_and_c_without_groups_are_one_group(backend):
    args = draw(2, 8, 1, 3, 9)
    expected = selective_scan(**args, backend=backend)
    args["B"], args["C"] = args["B"][:, 0], args["C"][:, 0]
    assert torch.equal(selective_scan(**args, backend=backend), expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_z_gates_the_output_with_silu(backend):
    args, z = draw(2, 8, 1, 3, 9), torch.randn(2, 8, 9)
    expected = selective_scan(**args, backend=backend) * torch.nn.functional.silu(z)
    assert torch.equal(selective_scan(**args, z=z, backend=backend), expected)


def test_each_group_reads_its_own_b_and_c():
    args = draw(1, 12, 3, 2, 20)
    whole = selective_scan(**args, delta_softplus=True)
    for g in range(3):
        rows = slice(4 * g, 4 * g + 4)
        part = {
            name: x[:, g : g + 1]
            if name in ("B", "C")
            else x[:, rows]
            if name in ("u", "delta")
            else x[rows]
            for name, x in args.items()
        }
        torch.testing.assert_close(selective_scan(**part, delta_softplus=True), whole[:, rows])


# Threads


@needs_cpu
def test_results_do_not_depend_on_the_number_of_threads():
    args, dy = draw(2, 160, 2, 8, 300), torch.randn(2, 160, 300)
    expected = run(args, "cpu", dy)
    try:
        for threads in (2, 3, 7):
            torch.set_num_threads(threads)
            assert_same_bits(run(args, "cpu", dy), expected)
    finally:
        torch.set_num_threads(1)


@needs_cpu
def test_a_backward_pass_in_windows_of_time_has_the_same_bits(monkeypatch):
    args, dy, dlast = draw(1, 40, 1, 3, 200), torch.randn(1, 40, 200), torch.randn(1, 40, 3)
    expected = run(args, "cpu", dy, dlast)
    monkeypatch.setattr(cpu.scan, "PARTIAL_SUMS", 1)  # a tile at a time
    assert_same_bits(run(args, "cpu", dy, dlast), expected)


@needs_cpu
def test_four_python_threads_may_scan_at_once():
    arguments = [draw(1, 96, 1, 4, 200, seed) for seed in range(4)]
    dy = torch.randn(1, 96, 200)
    expected = [run(args, "cpu", dy) for args in arguments]
    try:
        torch.set_num_threads(2)
        with ThreadPoolExecutor(4) as pool:
            for _ in range(5):
                results = pool.map(lambda args: run(args, "cpu", dy), arguments)
                for result, value in zip(results, expected, strict=True):
                    assert_same_bits(result, value)
    finally:
        torch.set_num_threads(1)


@needs_cpu
def test_no_line_of_python_runs_among_the_threads():
    """Ctrl-C would raise there, and what is raised inside a callback from C is lost."""
    args = draw(2, 96, 1, 4, 200)
    lines = []

    def note(frame, event, argument):
        if event == "call" and frame.f_code.co_filename == threads.__file__:
            lines.append(frame.f_code.co_name)

    try:
        torch.set_num_threads(2)
        selective_scan(**args)
        sys.setprofile(note)
        selective_scan(**args)
    finally:
        sys.setprofile(None)
        torch.set_num_threads(1)
    assert "run" in lines and set(lines) <= {"run", "warm_up", "<listcomp>"}


@needs_cpu
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_thread_that_fails_is_not_passed_over(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)

    def breaks(first, stop):
        if first:
            raise ZeroDivisionError

    with pytest.raises((RuntimeError, ZeroDivisionError)):
        threads.run(breaks, 4, threads.SMALL)
    begun = []
    threads.run(lambda first, stop: begun.append((first, stop)), 4, threads.SMALL)
    assert sorted(begun) == [(0, 1), (1, 2), (2, 3), (3, 4)]


@needs_cpu
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # fork beside threads
def test_a_forked_child_may_scan():
    args = draw(2, 96, 1, 4, 200)
    try:
        torch.set_num_threads(2)
        expected = selective_scan(**args).numpy().tobytes()
        child = os.fork()
        if child == 0:
            os._exit(0 if selective_scan(**args).numpy().tobytes() == expected else 1)
        assert os.waitpid(child, 0)[1] == 0
    finally:
        torch.set_num_threads(1)


# Derivatives of the definition


def test_gradients_of_the_definition_equal_finite_differences():
    args = draw(2, 4, 2, 2, 5, dtype=torch.float64)

    def scan(*values):
        named = dict(zip(NAMES, values, strict=True))
        return selective_scan(**named, delta_softplus=True, return_last_state=True)

    leaves = [args[name].requires_grad_() for name in NAMES]
    assert torch.autograd.gradcheck(scan, leaves)
    assert torch.autograd.gradgradcheck(scan, leaves)


@needs_cpu
def test_derivatives_of_derivatives_are_those_of_the_definition():
    args = draw(1, 4, 2, 2, 6)

    def third(backend, dtype):
        leaves = {name: x.detach().to(dtype).requires_grad_() for name, x in args.items()}
        y, last = selective_scan(
            **leaves, delta_softplus=True, return_last_state=True, backend=backend
        )
        loss = y.sum() + last.square().sum()
        for _ in range(3):
            grads = torch.autograd.grad(
                loss, list(leaves.values()), create_graph=True, materialize_grads=True
            )
            loss = sum(
                (g * args[name].detach()).sum() for name, g in zip(leaves, grads, strict=True)
            )
        return dict(zip(leaves, (g.detach() for g in grads), strict=True))

    assert_close(third("cpu", torch.float32), third("reference", torch.float64))


# PyTorch's own machinery


@needs_cpu
def test_operators_pass_the_checks_of_torch_library():
    args = draw(2, 20, 2, 3, 70)
    leaves = [x.requires_grad_() for x in args.values()]
    torch.library.opcheck(torch.ops.vssm.softplus_cpu.default, (leaves[1], leaves[6]))
    y = torch.rand(2, 3, 4, requires_grad=True)
    backward = torch.ops.vssm.softplus_cpu_backward.default
    torch.library.opcheck(backward, (torch.ones(2, 3, 4), y, None, y))


@needs_cpu
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_flops_are_nine_per_state_update_and_two_per_skip(device):
    args = {name: x.to(device).requires_grad_() for name, x in draw(2, 20, 2, 3, 70).items()}
    with FlopCounterMode(display=False) as counter:
        y = selective_scan(**args, delta_softplus=True)
    assert counter.get_total_flops() == 2 * 20 * 70 * (9 * 3 + 2)
    with FlopCounterMode(display=False) as counter:
        torch.autograd.grad(y.sum(), list(args.values()))
    assert counter.get_total_flops() == 2 * 20 * 70 * (19 * 3 + 4)


@needs_cpu
def test_fake_tensors_have_the_shapes_of_real_ones():
    args = draw(2, 20, 2, 3, 70)
    real = run(args, "cpu", torch.ones(2, 20, 70))
    with FakeTensorMode() as mode:
        fake = run({k: mode.from_tensor(x) for k, x in args.items()}, "cpu", torch.ones(2, 20, 70))
    assert {k: x.shape for k, x in fake.items()} == {k: x.shape for k, x in real.items()}


# Softplus

EXTREMES = (-1e4, -100.0, -87.0, -30.0, -1e-3, 0.0, 1e-6, 1.0, 19.0, 21.0, 30.0, 100.0, 1e4, 1e30)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_softplus_and_its_slope_are_exact_far_from_zero(dtype):
    x = torch.tensor(EXTREMES, dtype=dtype).reshape(1, 2, -1).requires_grad_()
    y = softplus(x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    exact = torch.logaddexp(x.detach().double(), torch.zeros((), dtype=torch.float64))
    rtol = 3e-7 if dtype == torch.float32 else 1e-15
    torch.testing.assert_close(y.detach().double(), exact, rtol=rtol, atol=1e-37)
    expected = torch.sigmoid(x.detach().double())
    torch.testing.assert_close(slope.double(), expected, rtol=4 * rtol, atol=1e-37)


@pytest.mark.parametrize("length", [1, 15, 16, 17, 64, 100])
@pytest.mark.parametrize("biased", [True, False])
def test_softplus_of_any_length_adds_the_bias_of_its_channel(length, biased):
    x = (4 * torch.randn(2, 5, length)).requires_grad_()
    bias = torch.randn(5).requires_grad_() if biased else None
    leaves = (x, bias) if biased else (x,)
    dy = torch.randn_like(x)
    y = softplus(x, bias)
    grads = torch.autograd.grad(y, leaves, dy)
    wide = tuple(leaf.detach().double().requires_grad_() for leaf in leaves)
    exact = softplus(*wide)
    expected = torch.autograd.grad(exact, wide, dy.double())
    assert_close(dict(enumerate((y.detach(), *grads))), dict(enumerate((exact, *expected))))


def test_softplus_is_differentiable_twice():
    x, bias = torch.randn(1, 3, 20), torch.randn(3)
    seconds = []
    for dtype in (torch.float32, torch.float64):
        leaf = x.to(dtype).requires_grad_()
        y = softplus(leaf, bias.to(dtype))
        (dx,) = torch.autograd.grad(y.exp().sum(), leaf, create_graph=True)
        seconds.append(torch.autograd.grad(dx.square().sum(), leaf)[0])
    torch.testing.assert_close(seconds[0].double(), seconds[1], rtol=1e-5, atol=1e-6)


def test_softplus_passes_nan_on():
    x = torch.zeros(1, 2, 20)
    x[0, 1, 3] = x[0, 0, 17] = math.nan
    assert torch.equal(softplus(x).isnan(), x.isnan())


# Errors say what was given and what was expected


def wrong(**changes):
    return {**draw(2, 6, 3, 4, 5), **changes}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (wrong(u=torch.ones(6, 5)), "u must be (b, d, l) with d, l >= 1, but its shape is (6, 5)"),
        (wrong(delta=torch.ones(2, 6, 4)), "delta must be (b, d, l) = (2, 6, 5)"),
        (wrong(A=torch.ones(5, 4)), "A must be (d, n) = (6, n)"),
        (wrong(B=torch.ones(2, 3, 5, 5)), "B must be (b, n, l) = (2, 4, 5) or (b, g, n, l)"),
        (wrong(C=torch.ones(2, 2, 4, 5)), "B and C must have the same groups, but B has 3, C 2"),
        (wrong(B=torch.ones(2, 4, 4, 5), C=torch.ones(2, 4, 4, 5)), "6 channels do not divide"),
        (wrong(D=torch.ones(5)), "D must be (d) = (6,)"),
        (wrong(z=torch.ones(2, 6)), "z must be (b, d, l) = (2, 6, 5)"),
        (wrong(delta_bias=torch.ones(1)), "delta_bias must be (d) = (6,)"),
        (wrong(A=torch.ones(6, 4, dtype=torch.complex64)), "its dtype is torch.complex64"),
        (wrong(u=torch.ones(2, 6, 5, dtype=torch.int64)), "its dtype is torch.int64"),
        (wrong(D=torch.ones(6, device="meta")), "D is on meta, but"),
        (wrong(backend="gpu"), "backend must be"),
        (wrong(backend="triton"), 'backend="triton" needs tensors on a GPU'),
    ],
)
def test_a_wrong_argument_is_named_with_what_was_expected(args, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        selective_scan(**args)


@needs_cpu
def test_the_cpu_backend_refuses_float64_and_auto_takes_the_definition():
    args = draw(1, 4, 1, 2, 6, dtype=torch.float64)
    with pytest.raises(ValueError, match="float32"):
        selective_scan(**args, backend="cpu")
    named = {**args, "delta_softplus": True}
    assert torch.equal(selective_scan(**named), reference.selective_scan(**named)[0])


def test_softplus_names_a_wrong_bias():
    with pytest.raises(ValueError, match=re.escape("bias must be (d) = (3,)")):
        softplus(torch.ones(2, 3, 4), torch.ones(4))


@needs_cpu
def test_warm_up_may_be_called_again():
    cpu.warm_up()
    cpu.warm_up()
