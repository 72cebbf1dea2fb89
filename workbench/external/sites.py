"""The scan calls of an external model: who calls, which call it is, and the module it goes through.

Every stand-in for a scan ends in `scan`. It finds the calling module by walking the stack to the
first frame whose `self` is a module, and hands the tensors to the `StandInScan` that belongs to
this call; hooks on that reach them as in a model of ours.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import FrameType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workbench.kernels import selective_scan, softplus
from workbench.paths import ScanPath
from workbench.scan import SelectiveScan


@dataclass(frozen=True, eq=False)
class Call:
    """A scan call as `watching` sees it.

    Attributes:
        name: the stand-in that was called.
        module: the calling module.
        functions: classes of `torch.autograd.Function` in whose `forward` the call was made.
        u: (b, groups * d, l), detached.
        groups: of B and C: the directions of the call.
    """

    name: str
    module: nn.Module
    functions: tuple[type, ...]
    u: Tensor
    groups: int


class StandInScan(SelectiveScan):
    """One scan call of a external module, with its directions.

    Attributes:
        paths_at: image size (h, w) -> the path of every direction; no path where the scan does not
            go over the image in an order that is known.
        paths: those of the forward pass that is running.
    """

    def __init__(self, directions: tuple[str, ...]) -> None:
        super().__init__(directions)
        self.paths_at: dict[tuple[int, int], tuple[ScanPath, ...]] = {}
        self.paths: tuple[ScanPath, ...] = ()

    def sequences(
        self,
        u: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None,
        z: Tensor | None,
        delta_bias: Tensor | None,
        delta_softplus: bool,
        return_last_state: bool,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """`kernels.selective_scan` of sequences in scan order, through `forward` for hooks."""
        delta = delta.to(torch.promote_types(delta.dtype, torch.float32))
        if delta_softplus:
            delta = softplus(delta, delta_bias)
        elif delta_bias is not None:
            delta = delta + delta_bias[:, None]
        B, C = (x.unsqueeze(1) if x.ndim == 3 else x for x in (B, C))
        y = self(u=u, delta=delta, A=A, B=B, C=C, D=D, paths=self.paths)
        if z is not None:
            y = (y * F.silu(z)).to(y.dtype)
        if not return_last_state:
            return y
        return y, selective_scan(u, delta, A, B, C, return_last_state=True)[1]


class Scans(nn.ModuleList):
    """The scan calls of one module, in the order in which a forward pass of the model makes them.

    Attributes:
        next: the number of the next call.
    """

    def __init__(self) -> None:
        super().__init__()
        self.next = 0


def scans_of(module: nn.Module) -> Scans | None:
    """The calls that belong to a external module; None when none are known."""
    return next((child for child in module.children() if isinstance(child, Scans)), None)


_WATCH: ContextVar[Callable[[Call], None] | None] = ContextVar("watch", default=None)


@contextmanager
def watching(watch: Callable[[Call], None]) -> Iterator[None]:
    """Inside the block every scan returns zeros, `watch` is told of every call, and what a model
    draws by chance is the same in every block."""
    token = _WATCH.set(watch)
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices):
            torch.default_generator.manual_seed(0)
            if devices:
                torch.cuda.manual_seed(0)
            yield
    finally:
        _WATCH.reset(token)


def scan(
    name: str,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """`kernels.selective_scan`, called by a external module through the stand-in `name`."""
    tensors = (u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state)
    watch = _WATCH.get()
    module, functions = _caller(sys._getframe(1))
    if watch is not None and module is not None:
        groups = 1 if B.ndim == 3 else B.shape[1]
        watch(Call(name, module, functions, u.detach(), groups))
        y = torch.zeros_like(u)
        return (y, u.new_zeros(len(u), *A.shape)) if return_last_state else y
    calls = None if module is None else scans_of(module)
    if calls is None:
        return selective_scan(*tensors)
    number, calls.next = calls.next, calls.next + 1
    # A call beyond those of the traced pass, as a recomputation in the backward pass makes it.
    site = calls[number] if number < len(calls) else None
    if not isinstance(site, StandInScan) or not site.observed:
        return selective_scan(*tensors)
    return site.sequences(*tensors)


def _caller(frame: FrameType | None) -> tuple[nn.Module | None, tuple[type, ...]]:
    """The first module on the stack, and the autograd functions on the way to it."""
    functions: list[type] = []
    while frame is not None:
        local = frame.f_locals
        module = local.get("self")
        if isinstance(module, nn.Module):
            return module, tuple(functions)
        kind = getattr(type(local.get("ctx")), "_forward_cls", None)
        if kind is not None and kind not in functions:
            functions.append(kind)
        frame = frame.f_back
    return None, tuple(functions)


class _Context:
    """What an autograd function that runs as ordinary code is given as `ctx`."""

    def __init__(self, needs: tuple[bool, ...]) -> None:
        self.needs_input_grad = needs

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        pass

    mark_non_differentiable = mark_dirty = set_materialize_grads = save_for_backward


@contextmanager
def opened(functions: tuple[type, ...]) -> Iterator[None]:
    """Inside the block these autograd functions run as ordinary code.

    What happens inside `torch.autograd.Function.forward` carries no graph, so gradients with
    respect to B, C and delta would not exist there, and a patch would change values without
    changing gradients. As the stand-ins themselves are differentiable, autograd does the rest.
    """

    def ordinary(function: type):
        def apply(*args: object) -> object:
            needs = tuple(isinstance(x, Tensor) and x.requires_grad for x in args)
            return function.forward(_Context(needs), *args)  # pyright: ignore

        return apply

    for function in functions:
        function.apply = staticmethod(ordinary(function))  # pyright: ignore
    try:
        yield
    finally:
        for function in functions:
            if "apply" in vars(function):  # not when two passes of one model overlap
                del function.apply  # pyright: ignore
