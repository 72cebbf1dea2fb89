"""Every GPU kernel that is ever compiled: one list for the scan, its tests and its benchmarks.

What a call asks for (softplus, bias, D, the number of states, gradients, a path) is read at run
time, and so are sizes, strides and alignments. There are as many variants as there are different
machine codes: by the shape of a tile, and by the dtype of u, delta, B, C and what has their dtype.
"""

from dataclasses import dataclass
from typing import Any

import torch

from workbench.kernels.gpu import finish, scan_kernels, segments, softplus_kernels

__all__ = ["DTYPES", "GROUPS", "TALL", "WIDE", "Shape", "Variant", "of_group", "variants"]

DTYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


@dataclass(frozen=True)
class Shape:
    """A tile of [steps, channels], and what works on it."""

    steps: int
    channels: int
    warps: int
    registers: tuple[int, int]  # per thread at most, forward and backward


# One warp that walks on for itself, for many images. Without the limits the compiler would take
# more registers than help; with them 16 and 12 programs fit on a multiprocessor.
WIDE = Shape(steps=8, channels=32, warps=1, registers=(128, 168))
# Eight warps that take 128 steps at once, for few images: what counts is the way to the end.
TALL = Shape(steps=128, channels=8, warps=8, registers=(168, 255))
MATRIX = {"ROWS": 8, "COLUMNS": 128}  # what a program of the small kernels takes


@dataclass(frozen=True)
class Variant:
    """A kernel, what it is compiled for, and how it is launched."""

    name: str
    kernel: Any
    dtype: str  # of the tensors named in HALVES
    constants: tuple[tuple[str, int], ...]
    warps: int
    registers: int | None = None

    @property
    def signature(self) -> dict[str, str]:
        """Triton's type of each argument. Those that may pass 2^31 take 64 bits."""
        return {name: self._type_of(name) for name in self.kernel.arg_names}

    def _type_of(self, name: str) -> str:
        if name in dict(self.constants):
            return "constexpr"
        if name in HALVES:
            return "*" + self.dtype
        if name in FLOATS:
            return "*fp32"
        if name == "order":
            return "*i32"
        return "i64" if name in LONG or name.endswith(("_b", "_k")) else "i32"


HALVES = (
    "u", "delta", "B", "C", "y", "dy", "du", "ddelta", "dB", "dC", "source", "weights", "out",
    "x", "dx",
)  # fmt: skip
FLOATS = (
    "A", "D", "bias", "each", "last", "states", "dlast", "scratch", "ends", "sums", "start",
    "slots", "dA", "dD", "dbias", "shift",
)  # fmt: skip
LONG = (
    "at_each", "at_partial", "at_sums", "at_carried", "partial_block", "start_pair", "row_count",
)  # fmt: skip

GROUPS = {
    "tall": "scans of few images",
    "wide": "scans of many images",
    "segments": "long sequences",
    "softplus": "step sizes outside a scan",
}


def of_group(group: str, dtype: str) -> tuple[Variant, ...]:
    """The variants that one kind of call needs; which kinds there are say GROUPS."""

    def scan(kernel, shape: Shape, way: int, dtype: str = dtype) -> Variant:
        constants = (("STEPS", shape.steps), ("CHANNELS", shape.channels))
        name = f"{kernel.__name__}, {group}, {dtype}"
        return Variant(name, kernel, dtype, constants, shape.warps, shape.registers[way])

    def matrix(kernel, name: str) -> Variant:
        return Variant(f"{name}, {dtype}", kernel, dtype, tuple(MATRIX.items()), 4)

    if group == "softplus":
        return (
            matrix(softplus_kernels.forward, "softplus forward"),
            matrix(softplus_kernels.backward, "softplus backward"),
        )
    if group == "segments":
        return scan(segments.ends, WIDE, 0), scan(segments.carry, WIDE, 0, "fp32")
    shape = {"tall": TALL, "wide": WIDE}[group]
    both = scan(scan_kernels.forward, shape, 0), scan(scan_kernels.backward, shape, 1)
    return *both, matrix(finish.finish, "finish")


def variants(dtypes: tuple[str, ...] = ("fp32", "bf16")) -> dict[str, Variant]:
    """All of them by name. float16 makes as many again, and is compiled where it is met."""
    return {x.name: x for dtype in dtypes for group in GROUPS for x in of_group(group, dtype)}
