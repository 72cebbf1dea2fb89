"""Kernels are compiled here, once for a kind of GPU, side by side, while somebody is told.

Triton's own launcher would find out at each call what to compile it for; here that is known, and a
call costs what handing over its arguments costs.
"""

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from workbench.kernels.gpu.variants import GROUPS, Variant, of_group, variants

__all__ = [
    "Unusable",
    "build",
    "build_all",
    "load",
    "on_progress",
    "ready",
    "runner",
    "target_of",
    "warm",
]

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
PATIENCE = 0.5  # seconds of waiting before anybody is told

_loaded: dict[tuple[Variant, int], Any] = {}
_ready: dict[tuple[str, str, int], "Unusable | None"] = {}
_loading = threading.Lock()


class Unusable(RuntimeError):
    """The kernels do not run here; the message says why."""


def _print(done: int, total: int) -> None:
    end = "\n" if done == total else ""
    line = f"\rCompiling the scan for this GPU, once: {done} of {total}"
    print(line, end=end, file=sys.stderr, flush=True)


_listener: Callable[[int, int], None] = _print


def on_progress(listener: Callable[[int, int], None] | None) -> None:
    """Call listener(done, total) while kernels compile; None prints a line to stderr again."""
    global _listener
    _listener = _print if listener is None else listener


def target_of(device: int) -> GPUTarget:
    """What Triton compiles for on this GPU."""
    major, minor = torch.cuda.get_device_capability(device)
    return GPUTarget("cuda", 10 * major + minor, 32)


def build(variant: Variant, target: GPUTarget):
    """Compile one variant, or take it from Triton's cache on the disk."""
    source = ASTSource(
        fn=variant.kernel, signature=variant.signature, constexprs=dict(variant.constants)
    )
    options = {"num_warps": variant.warps, "num_stages": 1, "enable_fp_fusion": False}
    if variant.registers is not None:
        options["maxnreg"] = variant.registers
    return triton.compile(source, target=target, options=options)


def build_all(wanted: Iterable[Variant], target: GPUTarget) -> list:
    """Compile side by side; who waits longer than PATIENCE is told how far it is."""
    wanted = list(wanted)
    workers = max(1, min(len(wanted), os.cpu_count() or 1))
    with ThreadPoolExecutor(workers, "compile the scan") as pool:
        jobs = [pool.submit(build, variant, target) for variant in wanted]
        waiting, told = set(jobs), False
        _, waiting = wait(waiting, timeout=PATIENCE)
        while waiting:
            told = True
            _listener(len(jobs) - len(waiting), len(jobs))
            _, waiting = wait(waiting, return_when=FIRST_COMPLETED)
        if told:
            _listener(len(jobs), len(jobs))
    return [job.result() for job in jobs]


def ready(group: str, dtype: str, device: torch.device) -> None:
    """Make sure that a kind of call can run on this GPU.

    Raises:
        Unusable: when the kernels do not compile or cannot be loaded.
    """
    if device.type != "cuda":
        if not INTERPRETED:
            raise Unusable("its kernels need tensors on a GPU")
        return
    key = (group, dtype, device.index)
    if key not in _ready:
        with _loading:
            if key not in _ready:
                _ready[key] = _make_ready(of_group(group, dtype), device.index)
    if (problem := _ready[key]) is not None:
        raise problem


def _make_ready(wanted: tuple[Variant, ...], device: int) -> Unusable | None:
    """Compile and load; what is in the way comes back, so that it is found only once."""
    try:
        with torch.cuda.device(device):
            load(wanted, device, build_all(wanted, target_of(device)))
    except Exception as error:  # a compiler may raise anything
        return Unusable(_sentence(error))
    return None


def load(wanted: Iterable[Variant], device: int, compiled: Iterable) -> None:
    """Keep compiled kernels for `runner`; loading tells whether they fit on the GPU."""
    for variant, kernel in zip(wanted, compiled, strict=True):
        kernel._init_handles()  # needs a C compiler; says when there is too little shared memory
        _loaded[variant, device] = kernel


def _sentence(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1]}" if lines else type(error).__name__


def runner(variant: Variant, device: torch.device, programs: tuple[int, int, int]) -> Callable:
    """A function of a kernel's arguments that runs it; its group has to be `ready`."""
    values = tuple(value for _, value in variant.constants)
    if INTERPRETED:
        return lambda *args: variant.kernel[programs](*args, **dict(variant.constants))
    start = _loaded[variant, device.index][programs]

    def run(*args) -> None:
        with _on(device.index):
            start(*args, *values)

    return run


def _on(device: int):
    """A context in which kernels go to this GPU."""
    if device == torch.cuda.current_device():
        return contextlib.nullcontext()
    return torch.cuda.device(device)


def warm(device: torch.device, dtypes: Iterable[str]) -> int:
    """Compile every variant of these dtypes ahead, and load it; returns how many there are.

    Raises:
        Unusable: when one of them does not run on this GPU.
    """
    if device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    dtypes = tuple(dtypes)
    made = list(variants(dtypes).values())
    build_all(made, target_of(device.index))
    for dtype in dtypes:
        for group in GROUPS:
            ready(group, dtype, device)  # from the disk
    return len(made)
