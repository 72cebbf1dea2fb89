"""Without a GPU, code that moves things to one goes on where they are."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class _OnCPU(TorchFunctionMode):
    """`.cuda()`, `.to("cuda")` and `device="cuda"` mean the CPU."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.cuda:
            return args[0]
        if func is Tensor.to:
            args = tuple("cpu" if _is_cuda(value) else value for value in args)
        if _is_cuda(kwargs.get("device")):
            kwargs = {**kwargs, "device": "cpu"}
        return func(*args, **kwargs)


def _is_cuda(value: Any) -> bool:
    if isinstance(value, torch.device):
        return value.type == "cuda"
    return isinstance(value, str) and value.startswith("cuda")


def _nothing(*args: Any, **kwargs: Any) -> None:
    pass


def _no_device(*args: Any, **kwargs: Any) -> nullcontext:
    return nullcontext()


@contextmanager
def redirected() -> Iterator[None]:
    """Inside the block GPU statements are harmless; no effect on a machine with a GPU."""
    if torch.cuda.is_available():
        yield
        return
    with ExitStack() as stack:
        stack.enter_context(_OnCPU())
        stack.enter_context(patch.object(torch.cuda, "device", _no_device))
        for name in ("set_device", "synchronize"):
            stack.enter_context(patch.object(torch.cuda, name, _nothing))
        yield
