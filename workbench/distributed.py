"""Several processes of one run, started by torchrun: each takes a share, and all get the whole.

Only finished results travel between processes, and those lie in main memory, so gloo serves GPUs
too. Without torchrun everything here is what one process does.
"""

import atexit
import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
from torch import distributed as dist

# A process may wait for another for days; when one dies, torchrun stops them all.
_PATIENCE = timedelta(days=7)

Part = TypeVar("Part")
Whole = TypeVar("Whole")
Value = TypeVar("Value")


def join() -> None:
    """Join the other processes that torchrun started; does nothing in a single one."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not dist.is_initialized():
        dist.init_process_group("gloo", timeout=_PATIENCE)


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def count() -> int:
    """How many processes share the work."""
    return dist.get_world_size() if dist.is_initialized() else 1


def device() -> str:
    """Where this process computes: a GPU of its own when there are some, else the CPU."""
    if not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{int(os.environ.get('LOCAL_RANK', 0)) % torch.cuda.device_count()}"


def gather_broadcast(part: Callable[[], Part], whole: Callable[[list[Part]], Whole]) -> Whole:
    """`whole` of what `part` gives in every process, by rank; the same in all processes.

    An error in one process is raised in all of them, so that none waits for another.
    """
    if count() == 1:
        return whole([part()])
    mine = _outcome(part)
    parts: list[Any] = [None] * count()
    # A group that still stands at exit aborts now and then a process that had finished its work;
    # one that an error interrupted would, when destroyed, wait for what never comes.
    atexit.unregister(_leave)
    dist.gather_object(mine, parts if rank() == 0 else None)
    outcome: list[Any] = [None]
    if rank() == 0:
        errors = [found for found in parts if isinstance(found, Exception)]
        outcome[0] = errors[0] if errors else _outcome(lambda: whole(parts))
    dist.broadcast_object_list(outcome)
    atexit.register(_leave)
    if isinstance(outcome[0], Exception):
        raise outcome[0]
    return outcome[0]


def broadcast(value: Callable[[], Value]) -> Value:
    """What `value` gives in the first process, in all of them."""
    return gather_broadcast(
        lambda: value() if rank() == 0 else None, lambda parts: cast(Value, parts[0])
    )


def _leave() -> None:
    if dist.is_initialized():  # a script may have left its group itself
        dist.destroy_process_group()


def _outcome(function: Callable[[], Any]) -> Any:
    try:
        return function()
    except Exception as error:
        return error
