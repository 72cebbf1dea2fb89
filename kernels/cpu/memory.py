"""How the kernels see the memory of tensors: one array of numbers instead of fifty arguments.

Handing an array to a compiled function costs about a microsecond, and a scan has two dozen. So
addresses, strides and sizes go over as the elements of one array, and the kernel makes its arrays
from the addresses. Whoever calls keeps the tensors alive until the kernel returns.
"""

import numpy as np
from numba import carray, types
from numba.extending import intrinsic
from torch import Tensor

from workbench.kernels.cpu.compiling import compiled
from workbench.kernels.cpu.lanes import LANES

__all__ = ["addresses", "floats", "ints", "pack", "scratch"]

_ENDLESS = 1 << 48  # elements; the kernels stay within the sizes they are given


def addresses(*tensors: Tensor | None) -> list[int]:
    """Where the tensors begin; 0 for None and for a tensor without elements."""
    return [0 if x is None else x.data_ptr() for x in tensors]


def pack(*values: int) -> np.ndarray:
    """The array of numbers that a kernel takes."""
    return np.array(values, np.int64)


@intrinsic
def _pointer(typing_context, address):
    def codegen(context, builder, signature, args):
        return builder.inttoptr(args[0], context.get_value_type(types.voidptr))

    return types.voidptr(types.int64), codegen


@compiled
def floats(address):
    """The float32 memory from an address on, as a flat array."""
    return carray(_pointer(address), (_ENDLESS,), np.float32)


@compiled
def ints(address):
    """The int32 memory from an address on, as a flat array."""
    return carray(_pointer(address), (_ENDLESS,), np.int32)


@compiled
def scratch(size):
    """Uninitialised float32 memory that starts at a cache line."""
    memory = np.empty(size + LANES, np.float32)
    return memory[(-(memory.ctypes.data // 4)) % LANES :]
