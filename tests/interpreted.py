"""Runs the GPU kernels on CPU tensors in Triton's interpreter; `test_triton.py` starts it.

    TRITON_INTERPRET=1 python tests/interpreted.py [part of a case's name ...]

A process of its own, because Triton reads that variable once. Prints a JSON object of what each
case found: relative errors against the definition in float64, or whether something holds. The
interpreter takes seconds for what a GPU does in microseconds, so everything is tiny.
"""

import contextlib
import dataclasses
import functools
import inspect
import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

CASES: dict[str, Callable[[], dict]] = {}


def case(function: Callable[[], dict]) -> Callable[[], dict]:
    def run() -> dict:
        with tiles("tall"):
            return function()

    CASES[function.__name__] = run
    return function


def draw(batch, length, directions, dim, state, shared=True, seed=0):
    """Random arguments of a cross scan by name, and a permutation of the tokens per direction."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    args = {
        "u": normal(batch, length, *(() if shared else (directions,)), dim),
        "delta": normal(batch, length, directions, dim),
        "A": -torch.exp(normal(directions * dim, state)),
        "B": normal(batch, length, directions, state),
        "C": normal(batch, length, directions, state),
        "D": normal(directions * dim),
        "delta_bias": 0.5 * normal(directions * dim) - 1,
    }
    order = [torch.randperm(length, generator=generator) for _ in range(directions)]
    return args, torch.stack(order).int()


def cross(module, args, order, merge=True, softplus=True, dy_dtype=torch.float32):
    """Return y and the gradients of sum(y dy), by name."""
    leaves = {name: x.detach().clone().requires_grad_() for name, x in args.items()}
    given = {"D": None, "delta_bias": None, **leaves}
    y = module.cross_selective_scan(**given, delta_softplus=softplus, order=order, merge=merge)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(dy_dtype)
    grads = torch.autograd.grad(y, list(leaves.values()), dy.to(y))
    return {"y": y.detach(), **{f"d{k}": g for k, g in zip(leaves, grads, strict=True)}}


def sequences(module, args, of=("y", "last")):
    """Return y, the last state and gradients of a weighted sum of what `of` names, by name."""
    leaves = {name: x.detach().clone().requires_grad_() for name, x in args.items()}
    y, last = module.selective_scan(**leaves, delta_softplus=True)
    generator = torch.Generator().manual_seed(1)
    weighted = {
        name: (x * torch.randn(x.shape, generator=generator).to(x)).sum()
        for name, x in (("y", y), ("last", last))
    }
    loss = torch.stack([weighted[name].double() for name in of]).sum()
    grads = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
    result = {"y": y.detach(), "last": last.detach()}
    return {**result, **{f"d{k}": g for k, g in zip(leaves, grads, strict=True)}}


def draw_sequences(batch, groups, dim, state, length):
    """Random arguments of a plain scan, by name: those of a cross scan, seen as (b, d, l)."""
    args, _ = draw(batch, length, groups, dim // groups, state, shared=False)
    for name in ("u", "delta"):
        args[name] = args[name].flatten(2).transpose(1, 2).contiguous()
    for name in ("B", "C"):
        args[name] = args[name].permute(0, 2, 3, 1).contiguous()
    return args


def wide(args):
    return {name: x.double() for name, x in args.items()}


def errors(result, expected) -> dict[str, float]:
    assert result.keys() == expected.keys()
    return {
        name: ((result[name].double() - x.double()).abs().max() / x.abs().max()).item()
        if x.abs().max() > 0
        else float(result[name].abs().max())
        for name, x in expected.items()
    }


def cross_errors(args, order, **kwargs):
    from workbench.kernels import reference
    from workbench.kernels.gpu import backend

    return errors(
        cross(backend, args, order, **kwargs), cross(reference, wide(args), order, **kwargs)
    )


def sequence_errors(args, **kwargs):
    from workbench.kernels import reference
    from workbench.kernels.gpu import backend

    return errors(sequences(backend, args, **kwargs), sequences(reference, wide(args), **kwargs))


@contextlib.contextmanager
def tiles(kind: str):
    """Every scan takes the "tall" tile, the "wide" one, or the wide one "cut" into segments.

    The tall one is made small, for the interpreter adds up element by element.
    """
    from workbench.kernels.gpu import plan, variants

    few, wanted, shortest = {
        "tall": (10**9, plan.WANTED, plan.SHORTEST),
        "wide": (0, 1, 10**6),
        "cut": (0, 10**6, 2),
    }[kind]
    tall = dataclasses.replace(variants.TALL, steps=16, channels=4)
    with (
        mock.patch.multiple(plan, FEW=few, WANTED=wanted, SHORTEST=shortest),
        mock.patch.multiple(variants, TALL=tall),
    ):
        plan.plan.cache_clear()
        yield
    plan.plan.cache_clear()


def padded(args, order):
    """The last direction leaves three tokens out."""
    order = order.clone()
    order[-1, -3:] = -1
    return args, order


@case
def one_step_of_one_channel():
    return cross_errors(*draw(1, 1, 1, 1, 1))


@case
def merged_paths_of_different_lengths():
    args, order = draw(1, 19, 2, 5, 2)
    order = order[:, :18].clone()
    order[1, -2:] = -1
    return cross_errors(args, order)


@case
def one_input_per_direction_and_a_padded_path():
    args, order = draw(1, 17, 2, 3, 3, shared=False)
    order[0, -3:] = -1
    return cross_errors(args, order, merge=False)


@case
def neither_softplus_nor_bias_nor_skip():
    args, order = draw(1, 9, 2, 3, 2)
    args["delta"] = args["delta"].abs()
    del args["D"], args["delta_bias"]
    return cross_errors(args, order, softplus=False)


@case
def bias_without_softplus():
    args, order = draw(1, 5, 1, 2, 1)
    args["delta"] = args["delta"].abs() + 3
    return cross_errors(args, order, softplus=False)


def _scans():
    """Cases over the numbers of states and directions, on both tiles."""
    shapes = [  # kind, batch, tokens, directions, dim, state
        ("tall", 1, 21, 4, 5, 1), ("tall", 2, 17, 1, 4, 2), ("tall", 1, 33, 2, 3, 3),
        ("tall", 1, 9, 3, 2, 4), ("tall", 1, 18, 5, 2, 8), ("tall", 1, 18, 2, 5, 16),
        ("tall", 1, 17, 8, 2, 1), ("tall", 1, 5, 7, 1, 1), ("tall", 1, 5, 6, 1, 2),
        ("wide", 2, 17, 4, 3, 1), ("wide", 1, 9, 1, 37, 2), ("wide", 1, 10, 2, 32, 3),
        ("wide", 1, 9, 2, 3, 4), ("wide", 1, 9, 1, 3, 8), ("wide", 1, 9, 1, 3, 16),
        ("wide", 1, 4, 8, 2, 1),
        ("cut", 1, 37, 2, 3, 1), ("cut", 1, 50, 1, 2, 3),
    ]  # fmt: skip
    for kind, *shape in shapes:

        def run(kind=kind, shape=shape, path=lambda *x: x):
            with tiles(kind):
                return cross_errors(*path(*draw(*shape)))

        name = f"{kind}_of_{shape[-1]}_states_{shape[2]}_directions_{shape[1]}_tokens"
        CASES[name] = run
        if shape[1] > 16:
            CASES[f"{name}_padded"] = functools.partial(run, path=padded)


_scans()


def the_tall_tile_as_it_is_compiled():
    return cross_errors(*draw(1, 130, 1, 8, 1))


CASES["the_tall_tile_as_it_is_compiled"] = the_tall_tile_as_it_is_compiled


@case
def segments_along_paths():
    args, order = draw(1, 50, 2, 3, 1)
    order = order[:, :45].clone()
    order[1, -9:] = -1
    with tiles("cut"):
        return cross_errors(args, order)


@case
def sequences_in_groups():
    return sequence_errors(draw_sequences(2, 2, 4, 2, 17))


@case
def segments_of_sequences():
    with tiles("cut"):
        return sequence_errors(draw_sequences(1, 1, 3, 2, 64))


@case
def only_the_last_state_has_a_gradient():
    return sequence_errors(draw_sequences(1, 1, 3, 2, 18), of=("last",))


@case
def steps_far_from_zero():
    args = draw_sequences(1, 1, 4, 2, 6)
    args["delta"][:, 0] += 30
    args["delta"][:, 1] -= 30
    return sequence_errors(args)


def half(dtype):
    from workbench.kernels import reference
    from workbench.kernels.gpu import backend

    args, order = draw(1, 6, 2, 3, 2)
    args = {k: x.to(dtype) if k in ("u", "delta", "B", "C") else x for k, x in args.items()}
    result = cross(backend, args, order, dy_dtype=dtype)
    expected = cross(reference, wide(args), order, dy_dtype=dtype)
    dtypes = [result[f"d{k}"].dtype == x.dtype for k, x in args.items()]
    dtypes.append(result["y"].dtype == dtype)
    found = {"dtypes": all(dtypes)}
    for name, x in expected.items():
        error = (result[name].double() - x).abs()
        # Nothing but the rounding of the result itself comes on top of what float32 has. The
        # interpreter rounds towards zero where it makes bfloat16.
        kept = result[name].dtype
        rounding = torch.finfo(kept).eps * (1 if kept == torch.bfloat16 else 0.5) * x.abs()
        found[name] = ((error - rounding).clamp(min=0).max() / x.abs().max()).item()
    return found


@case
def bfloat16_inputs():
    return half(torch.bfloat16)


@case
def float16_inputs():
    return half(torch.float16)


@case
def inputs_of_different_dtypes_are_read_in_float32():
    from workbench.kernels import reference
    from workbench.kernels.gpu import backend

    args, order = draw(1, 6, 2, 3, 2)
    args["u"] = args["u"].bfloat16()
    result = cross(backend, args, order, dy_dtype=torch.bfloat16)
    expected = cross(reference, wide(args), order, dy_dtype=torch.bfloat16)
    half = [result[name].dtype == torch.bfloat16 for name in ("y", "du")]
    kept = {k: x for k, x in result.items() if k not in ("y", "du")}
    return {**errors(kept, {k: expected[k] for k in kept}), "half": all(half)}


@case
def softplus_and_its_derivatives():
    from workbench.kernels import reference
    from workbench.kernels.gpu import backend

    extremes = [-100.0, -87.0, -30.0, -10.0, -1e-3, 0.0, 1e-6, 1.0, 19.0, 30.0, 1e4, 1e30]
    x = torch.tensor(extremes).reshape(1, 2, 6)
    found = {}
    for name, layout in (("", x), (" (channels last)", x.transpose(1, 2).contiguous().mT)):
        both = []
        for module, dtype in ((backend, torch.float32), (reference, torch.float64)):
            leaf = layout.to(dtype).requires_grad_()
            bias = torch.tensor([0.5, -0.25], dtype=dtype, requires_grad=True)
            y = module.softplus(leaf, bias)
            # 1 at the largest values: their squares would overflow float32.
            weight = torch.exp(-leaf.detach().clamp(min=0))
            dx, dbias = torch.autograd.grad(
                (y * weight).square().sum(), (leaf, bias), create_graph=True
            )
            ddx, ddbias = torch.autograd.grad(dx.sum(), (leaf, bias))
            both.append({"dbias": dbias, "ddbias": ddbias, "y": y, "dx": dx, "ddx": ddx})
        result, expected = both
        for key in ("dbias", "ddbias", "ddx"):
            found |= errors({key + name: result[key]}, {key + name: expected[key]})
        # Right relative to each value, not only to the largest. An exponential of x is off by half
        # an ulp of x log2(e), as the interpreter does not fuse multiply-adds, and by 4 ulp that
        # numpy allows its exp2; y takes one and dx three, and 4 ulp are for the rest.
        exponential = layout.abs().double().clamp(max=90) * 2**-24 + 4 * 2**-23
        for key, exponentials in (("y", 1), ("dx", 3)):
            error = (result[key].double() - expected[key]).abs()
            bound = expected[key].abs() * (exponentials * exponential + 4 * 2**-23) + 1e-37
            found[key + name] = bool((error <= bound).all())
    return found


@case
def strided_inputs_give_the_same_bits():
    from workbench.kernels.gpu import backend

    args, order = draw(1, 6, 2, 3, 2)
    expected = cross(backend, args, order)
    joined = torch.cat([args["delta"], args["B"], args["C"], torch.ones(1, 6, 2, 1)], -1)
    strided = {
        **args,
        **dict(zip(("delta", "B", "C"), joined.split([3, 2, 2, 1], -1)[:3], strict=True)),
        "u": args["u"].transpose(1, 2).contiguous().transpose(1, 2),
    }
    leaves = {name: x.requires_grad_() for name, x in strided.items()}
    y = backend.cross_selective_scan(**leaves, delta_softplus=True, order=order, merge=True)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    grads = torch.autograd.grad(y, list(leaves.values()), dy.mT.contiguous().mT)
    result = {"y": y, **{f"d{k}": g for k, g in zip(leaves, grads, strict=True)}}
    return {name: torch.equal(result[name], x) for name, x in expected.items()}


@case
def without_gradients_the_output_has_the_same_bits():
    from workbench.kernels.gpu import backend

    args = draw_sequences(1, 1, 2, 2, 35)
    found = {}
    for name, context in (
        ("whole", tiles("tall")),
        ("wide", tiles("wide")),
        ("in segments", tiles("cut")),
    ):
        with context:
            leaves = {key: x.clone().requires_grad_() for key, x in args.items()}
            saved = backend.selective_scan(**leaves, delta_softplus=True)
            plain = backend.selective_scan(**args, delta_softplus=True)
        found[name] = all(torch.equal(*pair) for pair in zip(saved, plain, strict=True))
    return found


@case
def unvisited_tokens_stay_zero():
    from workbench.kernels.gpu import backend

    args, order = draw(1, 9, 2, 2, 1, shared=False)
    order[0, -2:] = -1
    left_out = torch.ones(9, 2, dtype=torch.bool)
    for k in range(2):
        left_out[order[k, order[k] >= 0].long(), k] = False
    torch.use_deterministic_algorithms(True)  # what torch.empty returns is NaN
    try:
        result = cross(backend, args, order, merge=False)
    finally:
        torch.use_deterministic_algorithms(False)
    found = {"some are left out": left_out.sum().item() == 2}
    found["all written"] = all(bool(x.isfinite().all()) for x in result.values())
    for name in ("y", "du", "ddelta", "dB", "dC"):
        zero = result[name].eq(0).all(-1)[0]
        found[name] = torch.equal(zero, left_out)
    return found


@case
def nan_goes_no_further_than_in_the_definition():
    from workbench.kernels import reference
    from workbench.kernels.gpu import backend

    found = {}
    for name in ("u", "delta", "C"):
        args = draw_sequences(1, 1, 2, 2, 5)
        args[name][0, ..., 1, 3] = torch.nan
        result, expected = sequences(backend, args), sequences(reference, args)
        found[name] = all(torch.equal(result[k].isnan(), x.isnan()) for k, x in expected.items())
        found[f"{name} is seen"] = bool(result["y"].isnan().any())
    return found


@case
def an_empty_batch():
    from workbench.kernels.gpu import backend

    args, order = draw(0, 5, 2, 3, 2)
    result = cross(backend, args, order)
    return {
        "y": result["y"].shape == (0, 5, 3),
        "zeros": not any(result[name].any() for name in ("dA", "dD", "ddelta_bias")),
    }


@case
def derivatives_of_derivatives():
    from workbench.kernels import reference
    from workbench.kernels.gpu import backend

    args, order = draw(1, 3, 2, 2, 1)

    def seconds(module, dtype):
        leaves = {name: x.detach().to(dtype).requires_grad_() for name, x in args.items()}
        y = module.cross_selective_scan(**leaves, delta_softplus=True, order=order, merge=True)
        grads = torch.autograd.grad(y.square().sum(), list(leaves.values()), create_graph=True)
        grads = torch.autograd.grad(sum(g.square().sum() for g in grads), list(leaves.values()))
        return dict(zip(leaves, grads, strict=True))

    return errors(seconds(backend, torch.float32), seconds(reference, torch.float64))


@case
def operators_pass_the_checks_of_torch_library():
    args, order = draw(1, 3, 2, 1, 1)
    leaves = [x.requires_grad_() for x in args.values()]
    scan = torch.ops.vssm.selective_scan_triton.default
    torch.library.opcheck(scan, (*leaves, order, True, True, True))
    torch.library.opcheck(scan, (*leaves[:5], None, None, None, False, False, True))
    x, bias = torch.randn(1, 2, 3, requires_grad=True), torch.randn(2, requires_grad=True)
    torch.library.opcheck(torch.ops.vssm.softplus_triton.default, (x, bias))
    backward = torch.ops.vssm.softplus_triton_backward.default
    torch.library.opcheck(backward, (torch.ones(1, 2, 3), x, bias, x))
    return {"passed": True}


@case
def it_compiles_without_a_graph_break():
    from workbench.kernels.gpu import backend

    args, order = draw(1, 3, 2, 1, 1)

    def both(args):
        step = backend.softplus(args["delta"].flatten(2).mT).mT.reshape(1, 3, 2, 1)
        given = {**args, "delta": step, "delta_bias": None}
        y = backend.cross_selective_scan(**given, delta_softplus=False, order=order, merge=True)
        B = args["B"].permute(0, 2, 3, 1)
        z, last = backend.selective_scan(step.flatten(2).mT, step.flatten(2).mT, args["A"], B, B)
        return y.sum() + z.sum() + last.square().sum()

    leaves = [x.requires_grad_() for x in args.values() if x is not args["delta_bias"]]
    expected = both(args)
    result = torch.compile(both, fullgraph=True, backend="aot_eager")(args)
    pairs = zip(
        torch.autograd.grad(result, leaves), torch.autograd.grad(expected, leaves), strict=True
    )
    return {"y": torch.equal(result, expected), "gradients": all(torch.equal(*x) for x in pairs)}


@case
def models_export_for_any_batch():
    from test_traced_models import MAKE

    from workbench import kernels
    from workbench.kernels.gpu import backend

    found = {}
    batch = torch.export.Dim("batch", min=1, max=64)
    with mock.patch.multiple(kernels, _cpu=backend, _triton=backend):  # as it is on a GPU
        for name, make in MAKE.items():
            torch.manual_seed(0)
            model, x = make().eval(), torch.randn(2, 3, 16, 16)
            made = torch.export.export(model, (x,), dynamic_shapes=({0: batch},))
            found[f"{name} scans"] = "vssm.selective_scan_triton" in str(made.graph)
            with torch.no_grad():
                found[name] = torch.equal(made.module()(x[:1]), model(x[:1]))
    return found


@case
def flops_and_fake_tensors():
    from workbench.kernels.gpu import backend

    args, order = draw(2, 7, 2, 3, 2)
    order = order[:, :5].contiguous()
    found = {}
    with FakeTensorMode() as mode:
        fake = {name: mode.from_tensor(x.requires_grad_()) for name, x in args.items()}
        fake_order = mode.from_tensor(order)
        with FlopCounterMode(display=False) as counter:
            y = backend.cross_selective_scan(
                **fake, delta_softplus=True, order=fake_order, merge=True
            )
        found["forward"] = counter.get_total_flops() == 2 * 5 * 6 * (9 * 2 + 2)
        with FlopCounterMode(display=False) as counter:
            grads = torch.autograd.grad(y.sum(), list(fake.values()))
        found["backward"] = counter.get_total_flops() == 2 * 5 * 6 * (19 * 2 + 4)
        found["y"] = y.shape == (2, 7, 3)
        found["gradients"] = all(
            g.shape == x.shape for g, x in zip(grads, fake.values(), strict=True)
        )
    return found


@case
def what_does_not_run_is_taken_over_by_the_definition():
    from workbench.kernels import reference
    from workbench.kernels.gpu import backend, compiling, fallback, plan, softplus

    args, order = draw(1, 6, 2, 3, 2)
    sequence = draw_sequences(1, 1, 2, 2, 5)
    problem = compiling.Unusable("no C compiler")
    plan.plan.cache_clear()
    softplus._runner.cache_clear()
    fallback._warn_once.cache_clear()
    with (
        mock.patch.object(compiling, "ready", side_effect=problem),
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.simplefilter("always")
        found = cross(backend, args, order)
        found_of_sequences = sequences(backend, sequence)
        step = backend.softplus(sequence["delta"], sequence["delta_bias"])
    expected = cross(reference, args, order)
    found = errors(found, expected)
    found |= {
        f"{name} of a sequence": x
        for name, x in errors(found_of_sequences, sequences(reference, sequence)).items()
    }
    exact = reference.softplus(sequence["delta"], sequence["delta_bias"])
    found["softplus"] = torch.equal(step, exact)
    found["said once"] = [str(x.message) for x in caught] == [
        "the GPU scan cannot run here (no C compiler); the reference scan takes its place, which "
        "is many times slower"
    ]
    return found


@case
def a_gradient_that_nobody_needs_is_not_made():
    from workbench.kernels.gpu import backend

    args, order = draw(1, 6, 2, 3, 2)
    expected = cross(backend, args, order)
    found = {}
    for name in ("u", "B", "D"):
        leaf = args[name].clone().requires_grad_()
        given = {**args, name: leaf}
        y = backend.cross_selective_scan(**given, delta_softplus=True, order=order, merge=True)
        dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
        (gradient,) = torch.autograd.grad(y, leaf, dy)
        found[name] = torch.equal(gradient, expected[f"d{name}"])
    return found


@case
def scans_are_composed_in_any_order():
    """The scan across threads takes an associative function for granted."""
    from workbench.kernels.gpu import arithmetic

    generator = torch.Generator().manual_seed(0)
    first, second, third = torch.rand(3, 4, 5, generator=generator, dtype=torch.float64)

    def then_before(*x):  # as in the kernel, in float64
        a1, b1, _, _, a2, b2, p2, q2 = x
        return a1 * a2, a2 * b1 + b2, a1 * p2, p2 * b1 + q2

    left = then_before(*then_before(*first, *second), *third)
    right = then_before(*first, *then_before(*second, *third))
    found = errors(dict(enumerate(left)), dict(enumerate(right)))
    source = inspect.getsource(arithmetic.then_before.fn)
    found["the same"] = "return a1 * a2, tl.fma(a2, b1, b2), a1 * p2, tl.fma(p2, b1, q2)" in source
    return found


@case
def the_short_benchmark_runs():
    """All but its times, its sizes and the GPU."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
    import scan_gpu
    import scan_gpu_short as short

    def once(call):
        call()
        return 1.0

    with (
        mock.patch.multiple(scan_gpu, DEVICE="cpu"),
        mock.patch.multiple(
            short,
            CROSS={"cross": ((1, 2, 3), (490, 1440), (150, 450))},
            SEQUENCES={"scan": ((1, 3, 1, 2, 2), None, None)},
            cold_compilation=lambda: {"first": 2.0},
            largest_error=lambda: 1e-7,
        ),
        mock.patch.object(torch.cuda, "get_device_name", lambda: "a GPU"),
    ):
        page = short.run(
            scan_gpu.draw, scan_gpu.as_sequences, scan_gpu.fused, scan_gpu.ours,
            scan_gpu.four_paths, scan_gpu.Case, once,
        )  # fmt: skip
    return {
        "a row of each": "| cross | float32 | 490 / 1440 | 150 / 450 | 1 / 1 |" in page
        and "| scan | bfloat16 |  |  | 1 / 1 |" in page
    }


def main() -> None:
    torch.set_num_threads(1)
    found = {}
    wanted = sys.argv[1:]
    for name, function in CASES.items():
        if wanted and not any(x in name for x in wanted):
            continue
        start = time.perf_counter()
        found[name] = function()
        found[name]["seconds"] = time.perf_counter() - start
    print(json.dumps(found))


if __name__ == "__main__":
    if os.environ.get("TRITON_INTERPRET") != "1":
        raise SystemExit("set TRITON_INTERPRET=1 first")
    main()
