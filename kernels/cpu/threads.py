"""How the work of a kernel is spread over threads.

Work runs on the very threads that torch uses. Threads of our own would fight with torch's, which go
on spinning for a while after each of its operations; numba's own thread pool is not safe to call
from several threads at once.
"""

import ctypes
import functools
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise, starmap
from pathlib import Path

import numpy as np
import torch

from workbench.kernels.cpu.compiling import warm_up

__all__ = ["run"]

SMALL = 1 << 15  # state updates or elements below which a second thread does not pay


@functools.lru_cache(maxsize=1)
def _helpers(process: int, count: int) -> ThreadPoolExecutor:
    """The threads beside the caller's; `process` makes a forked child start its own."""
    return ThreadPoolExecutor(count, thread_name_prefix="scan")


_CALLBACK = ctypes.CFUNCTYPE(None)  # libgomp's pointer to data stays unread
_STARTED_IN = os.getpid()


@functools.cache
def _torch_team() -> Callable | None:
    """libgomp's entry to the very threads that torch uses; None where torch has another runtime."""
    for library in sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*")):
        try:
            team = ctypes.CDLL(str(library)).GOMP_parallel
        except (OSError, AttributeError):
            continue
        team.argtypes = [_CALLBACK, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        team.restype = None
        return team
    return None


def run(kernel: Callable, items: int, work: int, *args) -> None:
    """Call kernel(first, stop, *args) over all items, on torch.get_num_threads() threads.

    Args:
        work: state updates or elements in all; below `SMALL` one thread does it.
    """
    warm_up()
    threads = min(torch.get_num_threads(), items)
    if threads < 2 or work < SMALL:
        kernel(0, items, *args)
        return

    # Twice as many shares as threads, so that a thread held up elsewhere can be helped out.
    bounds = np.linspace(0, items, min(items, 2 * threads) + 1).astype(int).tolist()
    calls = [(first, stop, *args) for first, stop in pairwise(bounds)]
    done: deque = deque()
    # No line of Python in it: what Ctrl-C raises there, ctypes would print and drop.
    take_shares = functools.partial(done.extend, starmap(kernel, iter(calls)))

    # libgomp's threads do not survive a fork, so a child goes on with threads of its own.
    team = _torch_team() if os.getpid() == _STARTED_IN else None
    if team is not None:
        team(_CALLBACK(take_shares), None, threads, 0)
    else:
        pool = _helpers(os.getpid(), threads - 1)
        others = [pool.submit(take_shares) for _ in range(threads - 1)]
        take_shares()
        # A helper that has not started has nothing left to do; the others must finish.
        for other in [other for other in others if not other.cancel()]:
            other.result()
    if len(done) < len(calls):
        raise RuntimeError("a thread of the scan failed; what it said stands above")
