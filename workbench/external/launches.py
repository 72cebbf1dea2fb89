"""What files with Triton kernels name when they are imported, where Triton is not installed."""

from collections.abc import Callable
from typing import Any, NoReturn


class Kernel:
    """A kernel, which is refused when it is launched."""

    def __init__(self, function: Callable) -> None:
        self.name = function.__name__

    def __getitem__(self, grid: object) -> NoReturn:
        raise NotImplementedError(
            f"the Triton kernel {self.name} needs a GPU and pip install triton: name a model that "
            "does not use it with --model, or put a function in its place in make() of an adapter"
        )


def jit(function: Callable | None = None, **_: Any) -> Any:
    """`triton.jit`, with or without arguments."""
    return Kernel if function is None else Kernel(function)


def around(*_: Any, **__: Any) -> Callable[[Kernel], Kernel]:
    """`triton.autotune` and `triton.heuristics`."""
    return lambda kernel: kernel


class Named:
    """`triton.language` and all that is in it; called as `tl.constexpr(8)`, what it is given."""

    def __getattr__(self, name: str) -> "Named":
        if name.startswith("__"):
            raise AttributeError(name)
        return Named()

    def __call__(self, value: Any = None, *_: Any) -> Any:
        return value


LANGUAGE = Named()
TRITON = {
    "__version__": "3.0.0",
    "Config": dict,
    "autotune": around,
    "cdiv": lambda a, b: -(-a // b),
    "heuristics": around,
    "jit": jit,
    "language": LANGUAGE,
    "next_power_of_2": lambda n: 1 << (n - 1).bit_length(),
}
