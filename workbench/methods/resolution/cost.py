"""What one forward pass costs: operations, memory and time."""

import math
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode


def count(model: nn.Module, x: Tensor) -> tuple[int, int]:
    """(floating-point operations, peak bytes) of `model(x)`.

    A multiply-add is two operations; papers often count it as one. Matrix products, convolutions,
    attention, FFTs and our scan count, elementwise operations do not. All work is counted as it
    runs, that on padding included.

    The peak is what tensors hold at once, beside weights and input: on a GPU by the allocator, on
    the CPU by the tensors themselves (the same on every machine; what a single operation uses
    inside is not seen).
    """
    flops = FlopCounterMode(display=False, custom_mapping=_UNCOUNTED)
    with torch.no_grad(), _peak_of(model, x) as peak, flops:
        model(x)
    return flops.get_total_flops(), peak()


class Times(NamedTuple):
    """Seconds of one forward pass.

    `cpu` is the processor time of all threads; `waiting` what these threads stood ready to run
    while other work had the processors, nan where the system does not say.
    """

    wall: float
    cpu: float
    waiting: float


def timed(model: nn.Module, x: Tensor) -> tuple[Tensor, Times]:
    """(`model(x)`, what it took)."""
    _wait(x)
    start = _clocks()
    with torch.no_grad():
        y = model(x)
    _wait(x)
    return y, Times(*(now - then for now, then in zip(_clocks(), start, strict=True)))


def _clocks() -> Times:
    return Times(time.perf_counter(), time.process_time(), _queued())


def _queued() -> float:
    """What this process's threads have waited for a processor so far, in seconds (Linux)."""
    try:
        files = [task / "schedstat" for task in Path("/proc/self/task").iterdir()]
        return sum(int(file.read_text().split()[1]) for file in files) / 1e9
    except (OSError, IndexError, ValueError):  # another system, or a thread that just ended
        return math.nan


def _wait(x: Tensor) -> None:
    if x.is_cuda:
        torch.cuda.synchronize(x.device)


def _fft_flops(real: bool, size_of_output: bool = False) -> Callable[..., int]:
    """5 n log2 n for a complex transform of n points (Cooley and Tukey), half for a real one."""

    def formula(
        shape: Sequence[int], dim: Sequence[int], *args: Any, out_shape: Any = None, **_: Any
    ) -> int:
        full = out_shape if size_of_output else shape
        points = math.prod(full[d] for d in dim)
        per_point = 5 * math.log2(points) if points > 1 else 0.0
        return round(math.prod(full) * per_point / (2 if real else 1))

    return formula


def _attention_flops(
    q: Sequence[int], k: Sequence[int], v: Sequence[int], *_: Any, **__: Any
) -> int:
    """Two batched matrix products: q k^T and the weights times v."""
    batch = math.prod(q[:-1]) * k[-2]
    return 2 * batch * q[-1] + 2 * batch * v[-1]


# what torch's counter does not know, or not in every version
_UNCOUNTED = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    torch.ops.aten._fft_c2c: _fft_flops(real=False),
    torch.ops.aten._fft_r2c: _fft_flops(real=True),
    torch.ops.aten._fft_c2r: _fft_flops(real=True, size_of_output=True),
}


@contextmanager
def _peak_of(model: nn.Module, x: Tensor) -> Iterator[Callable[[], int]]:
    if x.is_cuda:
        before = torch.cuda.memory_allocated(x.device)
        torch.cuda.reset_peak_memory_stats(x.device)
        yield lambda: torch.cuda.max_memory_allocated(x.device) - before
        return
    with _LiveTensors([x, *model.parameters(), *model.buffers()]) as live:
        yield lambda: live.peak


class _LiveTensors(TorchDispatchMode):
    """Follows how many bytes the tensors made inside the block hold at once."""

    def __init__(self, known: Sequence[Tensor]) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._seen: dict[int, weakref.ref] = {}
        for tensor in known:
            self._note(tensor, count=False)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._note(leaf)
        return out

    def _note(self, tensor: Tensor, count: bool = True) -> None:
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes() if count else 0
        if key in self._seen:
            return

        def freed(_: Any) -> None:
            self._seen.pop(key, None)
            self.live -= size

        self._seen[key] = weakref.ref(storage, freed)
        self.live += size
        self.peak = max(self.peak, self.live)
