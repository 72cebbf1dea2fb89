"""Which token each step of a scan reads, learned bit by bit.

With scans that return zeros and depthwise convolutions that pass on what they get, a step depends
on one token at most. Noise on all tokens with a bit of their number set, and then on the others,
tells this bit of the token at every step: 2 log2(tokens) passes, and exact; the first step that
several tokens move ends it. For a block like one that was probed before it is enough to see whether
it reads the same tokens: noise on random ones.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from workbench.external.sites import Call, watching
from workbench.external.tokens import Tokens
from workbench.hooks import stopping

PAD = -1
"""A step that reads no token."""

_CHANNELS = 16
"""Channels of a direction that are looked at: noise on a token changes all of them."""


SEVERAL = "a step of its scans reads several tokens, or a token that depends on others"
"""Why there is no such token; with more of the model around it is as true."""

_CHECKS = 6
"""Passes in which an order that is expected is checked."""


def probe(
    module: nn.Module,
    tokens: Tokens,
    scanning: nn.Module,
    calls: Sequence[Call],
    expected: Sequence[Tensor] | None = None,
) -> list[Tensor] | str:
    """The token read at each step of each direction, or why there is no such token.

    Args:
        module: what is given the tokens; its depthwise convolutions are replaced meanwhile.
        scanning: the module in it that calls the scans.
        calls: what it calls.
        expected: what a block like this one was found to read.

    Returns:
        (groups, l) int64 for every call; `PAD` where no token is read.
    """
    with _identity(module):
        nowhere = torch.zeros(tokens.count, dtype=torch.bool, device=tokens.tensor.device)
        plain = _sequences(module, *tokens.with_noise(nowhere), scanning, len(calls))
        if [u.shape[-1] for u in plain] != [call.u.shape[-1] for call in calls]:
            return "its scans have another length when it runs alone"

        def moved(chosen: Tensor) -> list[Tensor]:
            others = _sequences(module, *tokens.with_noise(chosen), scanning, len(calls))
            return [_moved(u, v) for u, v in zip(plain, others, strict=True)]

        if expected is not None and _agrees(moved, expected, tokens.count, plain[0].device):
            return list(expected)
        number = torch.arange(tokens.count, device=plain[0].device)
        read = [torch.zeros(u.shape[1], u.shape[-1], dtype=torch.int64) for u in plain]
        none: list[Tensor] = []  # where no token is read
        for bit in range(max(1, (tokens.count - 1).bit_length())):
            chosen = (number >> bit) & 1 == 1
            ones, zeros = moved(chosen), moved(~chosen)
            neither = [~(one | zero) for one, zero in zip(ones, zeros, strict=True)]
            none = none or neither
            both = any(bool((one & zero).any()) for one, zero in zip(ones, zeros, strict=True))
            if both or not all(map(torch.equal, none, neither)):
                return SEVERAL
            read = [k + (one.cpu().long() << bit) for k, one in zip(read, ones, strict=True)]
    return [k.masked_fill(where.cpu(), PAD) for k, where in zip(read, none, strict=True)]


def _agrees(
    moved: Callable[[Tensor], list[Tensor]],
    expected: Sequence[Tensor],
    count: int,
    device: torch.device,
) -> bool:
    """Whether noise on random tokens moves the steps that should read them, and no others."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(_CHECKS):
        chosen = torch.rand(count, generator=generator) < 0.5
        should = torch.cat([chosen, torch.tensor([False])])  # the last entry for PAD, -1
        pairs = zip(moved(chosen.to(device)), expected, strict=True)
        if not all(torch.equal(found.cpu(), should[order]) for found, order in pairs):
            return False
    return True


def _moved(u: Tensor, other: Tensor) -> Tensor:
    """(groups, l): where sequences (1, groups, channels, l) differ by more than rounding."""
    size = (other - u).abs().amax(dim=(0, 2))
    return size > 1e-4 * u.abs().max()


def _sequences(
    module: nn.Module, args: tuple, kwargs: dict, scanning: nn.Module, expected: int
) -> list[Tensor]:
    seen: list[Tensor] = []
    with stopping() as stop:

        def watch(call: Call) -> None:
            if call.module is scanning:
                seen.append(call.u.unflatten(1, (call.groups, -1))[:, :, :_CHANNELS].clone())
                if len(seen) == expected:
                    stop()

        with watching(watch):
            module(*args, **kwargs)
    return seen


@contextmanager
def _identity(module: nn.Module) -> Iterator[None]:
    """Depthwise convolutions pass on what they get inside the block."""
    saved = []
    try:
        for layer in module.modules():
            if isinstance(layer, nn.Conv1d | nn.Conv2d) and layer.groups == layer.in_channels > 1:
                saved.append((layer, layer.weight))
                layer.weight = nn.Parameter(_passing_on(layer), requires_grad=False)
        yield
    finally:
        for layer, weight in saved:
            layer.weight = weight


def _passing_on(layer: nn.Conv1d | nn.Conv2d) -> Tensor:
    """The kernel with a one where the output's own place is: at the padding before it.

    A causal convolution pads k - 1 before, so that is its last tap; one that is padded by its
    caller is taken as centred.
    """
    weight = torch.zeros_like(layer.weight)
    taps = []
    for axis in range(weight.ndim - 2):
        padding, middle = layer.padding, (layer.kernel_size[axis] - 1) // 2
        steps = 0 if isinstance(padding, str) else padding[axis] // layer.dilation[axis]
        taps.append(steps or middle)
    weight[(slice(None), slice(None), *taps)] = 1.0
    return weight
