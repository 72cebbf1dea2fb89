"""How far a float32 result may lie from the exact one, on any machine.

A computation in float32 cannot be closer than what rounding its inputs changes, and a good one is
not much further. So the bound is measured with the problem itself: ROUNDINGS times what half an ulp
on every input changes in float64, and as many half ulps of the largest value. Where terms cancel,
as in sums over time, the bound grows with them. Roundings in between that no input mimics, as of
exp(delta A) near 1, which a slow state piles up, show in the definition run in float32: twice its
own error is allowed too.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Tensors = dict[str, Tensor]

HALF_ULP = 2.0**-24  # relative, of float32
ROUNDINGS = 8.0  # the CPU scan took up to 3.8 in 60 problems of 6 shapes


def assert_within_rounding(
    result: Tensors, definition: Callable[[Tensors], Tensors], given: Tensors
) -> None:
    """Compare with `definition`, a function of tensors of either precision, at float32 `given`."""
    given = {name: x.detach() for name, x in given.items()}
    exact = definition({name: x.double() for name, x in given.items()})
    simple = definition(given)
    generator = torch.Generator().manual_seed(0)
    changes = dict.fromkeys(exact, 0.0)
    for _ in range(2):
        shaken = {}
        for name, x in given.items():
            signs = torch.randint(0, 2, x.shape, generator=generator) * 2 - 1
            shaken[name] = x.double() * (1 + HALF_ULP * signs)
        for name, x in definition(shaken).items():
            changes[name] = max(changes[name], (x - exact[name]).abs().max().item())
    for name, x in exact.items():
        error, plain = ((y[name].double() - x).abs().max().item() for y in (result, simple))
        bound = ROUNDINGS * (changes[name] + HALF_ULP * x.abs().max().item())
        assert error <= max(bound, 2 * plain), f"{name}: {error:.1e}, allowed {bound:.1e}"
