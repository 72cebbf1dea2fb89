"""Where an external model scans and along which paths, learned from what happens at its inputs."""

import copy
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from workbench.external.adapter import Adapter
from workbench.external.places import cells_of, images
from workbench.external.probe import PAD, SEVERAL, probe
from workbench.external.sites import Call, watching
from workbench.external.tokens import Tokens, find_tokens
from workbench.hooks import After, hooks
from workbench.paths import PADDING

_AROUND = 3
"""Modules whose input is tried: the caller of a scan and those around it."""

PATIENCE = 3.0
"""Seconds of processor time that a pass may take where a smaller image would do as well."""

_SILENCE = 2.0
"""Seconds for which nobody need be told anything."""


class TooSlow(BaseException):
    """A pass takes longer than `PATIENCE`. No Exception, as models catch those."""


@dataclass(eq=False)
class Learned:
    """One scan call.

    Attributes:
        module: name of the calling module.
        number: of the call among those of the module.
        stand_in: what it called.
        groups, length: directions, and steps of each.
        grid: (rows, columns), None when it is not known to go over the image.
        orders: (groups, length) cells as in `ScanPath`.
        reason: why there is no grid.
        probed: name of the module whose input the tokens were found in.
        shape, channels: of that input, and its channel axis.
        cells: (tokens,) of that input, as in `places.cells_of`.
    """

    module: str
    number: int
    stand_in: str
    groups: int
    length: int
    grid: tuple[int, int] | None = None
    orders: np.ndarray | None = None
    reason: str | None = None
    probed: str | None = None
    shape: tuple[int, ...] = ()
    channels: int = 0
    cells: Tensor | None = None


@dataclass(eq=False)
class Facts:
    """What was learned of a model at one image size.

    Attributes:
        calls: all scan calls in the order of the forward pass.
        functions: the autograd functions in which scans are called.
        maps: module name -> shape of its output, where that is a tensor of one image (the sum of a
            pair of equal tensors counts, a block's hidden state and residual).
    """

    calls: list[Learned] = field(default_factory=list)
    functions: tuple[type, ...] = ()
    maps: dict[str, tuple[int, ...]] = field(default_factory=dict)


def learn(
    model: nn.Module,
    adapter: Adapter,
    image: Tensor,
    tell: Callable[[str], None],
    hurry: bool = False,
) -> Facts:
    """Run a twin of `model` on noise in the shape of `image` (1, 3, h, w), and probe it.

    Args:
        tell: is told how far it is, now and then.
        hurry: whether a slow pass is to be given up.

    Raises:
        TooSlow: when it is.
    """
    end = time.process_time() + PATIENCE if hurry else math.inf
    tell = _now_and_then(tell)
    twin = _twin(model)
    names = {module: name for name, module in twin.named_modules()}
    first, *others = images(image)
    facts = Facts()
    with torch.no_grad():
        around: dict[nn.Module, list[nn.Module]] = {}
        inputs = _Inputs()
        calls: list[Call] = []

        def note(call: Call) -> None:
            calls.append(call)
            if call.module not in around:
                around[call.module] = _around(twin, names[call.module])
            inputs.note(around[call.module])

        def keep(module: nn.Module, args: tuple, kwargs: dict, output: object) -> None:
            found = one_map(output)
            if time.process_time() > end:
                raise TooSlow
            if found is not None:
                facts.maps[names[module]] = tuple(found.shape)

        with inputs.kept(list(names)), hooks(names, after=keep), watching(note):
            _run(twin, adapter, first)
        facts.functions = tuple(dict.fromkeys(f for call in calls for f in call.functions))
        for i, other in enumerate(others):
            tell(f"pass {i + 2} of {len(others) + 1}")
            with inputs.compared(), watching(lambda _: None):
                _run(twin, adapter, other)
        numbers: dict[nn.Module, int] = {}
        for call in calls:
            number = numbers[call.module] = numbers.get(call.module, -1) + 1
            length = call.u.shape[-1]
            facts.calls.append(Learned(names[call.module], number, call.name, call.groups, length))
        _find_paths(facts.calls, calls, around, inputs, names, adapter, image.shape[-2:], tell)
    return facts


def _now_and_then(tell: Callable[[str], None]) -> Callable[[str], None]:
    """Tell nothing for some seconds after the last time."""
    last = time.monotonic()

    def told(text: str) -> None:
        nonlocal last
        if time.monotonic() - last > _SILENCE:
            tell(text)
            last = time.monotonic()

    return told


def _twin(model: nn.Module) -> nn.Module:
    """A copy in eval mode without hooks, which shares all tensors: what is done to its modules
    leaves the model alone."""
    shared = {
        id(value): value
        for module in model.modules()
        for table in (vars(module), module._parameters, module._buffers)
        for value in table.values()
        if isinstance(value, Tensor)
    }
    twin = copy.deepcopy(model, shared).eval()
    for module in twin.modules():
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
    return twin


def _run(twin: nn.Module, adapter: Adapter, image: Tensor) -> None:
    args, kwargs = adapter.arguments(image)
    twin(*args, **kwargs)


def _around(twin: nn.Module, name: str) -> list[nn.Module]:
    """The module of that name and those around it, the model itself left out unless it calls."""
    parts = name.split(".")
    chain = [".".join(parts[:n]) for n in range(len(parts), 0, -1)][:_AROUND]
    return [twin.get_submodule(part) for part in chain]


class _Inputs:
    """What modules are given in a pass, and how much that changes from pass to pass.

    Attributes:
        found: (module, invocation) -> its tokens, or why there are none.
        changes: (module, invocation) -> (tokens,) for every pass compared.
        at: for every call, the invocation that each module was in.
        read: kind of module and scans -> what the last one of that kind read at each step.
    """

    def __init__(self) -> None:
        self.found: dict[tuple[nn.Module, int], Tokens | str] = {}
        self.changes: dict[tuple[nn.Module, int], list[Tensor]] = {}
        self.at: list[dict[nn.Module, int]] = []
        self.read: dict[tuple, list[Tensor]] = {}
        self._invoked: dict[nn.Module, int] = {}
        self._running: dict[tuple[nn.Module, int], tuple[tuple, dict]] = {}

    def note(self, around: list[nn.Module]) -> None:
        """A scan is called: keep what the modules around it were given."""
        self.at.append(dict(self._invoked))
        for module in around:
            key = (module, self._invoked.get(module, -1))
            if key in self._running and key not in self.found:
                self.found[key] = find_tokens(module, *self._running[key])

    def kept(self, modules: list[nn.Module]):
        def keep(key: tuple[nn.Module, int], args: tuple, kwargs: dict) -> None:
            # copies, as what comes next may change its input in place
            copied = [x.clone() if isinstance(x, Tensor) else x for x in args]
            named = {k: x.clone() if isinstance(x, Tensor) else x for k, x in kwargs.items()}
            self._running[key] = tuple(copied), named

        def forget(module: nn.Module, *_: object) -> None:
            self._running.pop((module, self._invoked[module]), None)

        return self._hooked(modules, keep, forget)

    def compared(self):
        def compare(key: tuple[nn.Module, int], args: tuple, kwargs: dict) -> None:
            tokens = self.found.get(key)
            if not isinstance(tokens, Tokens):
                return
            other = args[tokens.key] if isinstance(tokens.key, int) else kwargs[tokens.key]
            self.changes.setdefault(key, []).append(tokens.changes(other))

        return self._hooked(dict.fromkeys(module for module, _ in self.found), compare)

    def _hooked(
        self,
        modules: Iterable[nn.Module],
        function: Callable[[tuple[nn.Module, int], tuple, dict], None],
        after: After | None = None,
    ):
        self._invoked.clear()

        def hook(module: nn.Module, args: tuple, kwargs: dict) -> None:
            number = self._invoked[module] = self._invoked.get(module, -1) + 1
            function((module, number), args, kwargs)

        return hooks(modules, before=hook, after=after)


def one_map(output: object) -> Tensor | None:
    """A module's output as one tensor; the sum of a pair of equal shape, as Vim's block returns
    hidden state and residual; else None."""
    if isinstance(output, tuple | list) and len(output) == 2:
        a, b = output
        if isinstance(a, Tensor) and isinstance(b, Tensor) and a.shape == b.shape:
            return a + b
    return output if isinstance(output, Tensor) else None


def _find_paths(
    learned: list[Learned],
    calls: list[Call],
    around: dict[nn.Module, list[nn.Module]],
    inputs: _Inputs,
    names: dict[nn.Module, str],
    adapter: Adapter,
    size: tuple[int, int],
    tell: Callable[[str], None],
) -> None:
    """Fill in what is learned of each call; calls of one module on one input together."""
    together: dict[tuple[nn.Module, int], list[int]] = {}
    for i, call in enumerate(calls):
        together.setdefault((call.module, inputs.at[i].get(call.module, -1)), []).append(i)
    for (scanning, _), members in together.items():
        tell(f"scan {members[0] + 1} of {len(calls)}")
        kept = [i for i in members if not adapter.skip(learned[i].module, learned[i].number)]
        for i in members:
            learned[i].reason = None if i in kept else "the adapter says that it is not spatial"
        if not kept:
            continue
        reasons = []
        for module in around[scanning]:
            key = (module, inputs.at[members[0]].get(module, -1))
            reasons.append(_probed(learned, calls, members, key, inputs, names, adapter, size))
            if reasons[-1] in (None, SEVERAL):
                break
        if reasons[-1] is not None:
            for i in kept:
                learned[i].reason = SEVERAL if SEVERAL in reasons else reasons[0]
        for i in set(members) - set(kept):
            learned[i].grid = learned[i].orders = None


def _probed(
    learned: list[Learned],
    calls: list[Call],
    members: list[int],
    key: tuple[nn.Module, int],
    inputs: _Inputs,
    names: dict[nn.Module, str],
    adapter: Adapter,
    size: tuple[int, int],
) -> str | None:
    """Learn the paths of calls from one module's input; the reason when that fails."""
    module, tokens = key[0], inputs.found.get(key, "it is not called as a module")
    if isinstance(tokens, str):
        return tokens
    own = [calls[i] for i in members]
    if any(len(call.u) != 1 for call in own):
        return f"the batch axis of its scans holds {len(own[0].u)} windows of one image"
    name, shape = names[module], tuple(tokens.tensor.shape)
    said = adapter.grid(name, shape)
    declared = None if said is None else (int(np.prod(said[:-1])), int(said[-1]))
    found = cells_of(tokens.grid, inputs.changes.get(key, []), size[0] / size[1], declared)
    if isinstance(found, str):
        return found
    grid, cells = found
    orders = _declared(learned, members, grid, adapter)
    if orders is None:
        scans = tuple((call.groups, call.u.shape[-1]) for call in own)
        kind = (type(module), type(own[0].module), shape, scans)
        read = probe(module, tokens, own[0].module, own, inputs.read.get(kind))
        if isinstance(read, str):
            return read
        inputs.read[kind] = read
        table = torch.cat([cells, torch.tensor([PADDING])])  # the last entry for PAD, -1
        assert PAD == -1
        orders = [table[steps].numpy() for steps in read]
    for i, order in zip(members, orders, strict=True):
        call = learned[i]
        call.grid, call.orders, call.probed, call.cells = grid, order, name, cells
        call.shape, call.channels = shape, tokens.channels
    return None


def _declared(
    learned: list[Learned], members: list[int], grid: tuple[int, int], adapter: Adapter
) -> list[np.ndarray] | None:
    """The orders that the adapter gives; None unless it gives them all.

    Raises:
        ValueError: for an order of another length than the scan.
    """
    orders = []
    for i in members:
        call = learned[i]
        given = [adapter.paths(call.module, call.number, k, grid) for k in range(call.groups)]
        if any(order is None for order in given):
            return None
        rows = [np.asarray(order, dtype=np.int64) for order in given]
        if any(row.shape != (call.length,) for row in rows):
            raise ValueError(
                f"paths() of the adapter gives {rows[0].shape} for call {call.number} of "
                f"{call.module}, whose scans have {call.length} steps"
            )
        orders.append(np.where(np.stack(rows) < 0, PADDING, np.stack(rows)))
    return orders
