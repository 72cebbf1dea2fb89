"""The GPU backend: Triton kernels that read float32 and half precision and keep float32 states."""

import triton

if tuple(int(x) for x in triton.__version__.split(".")[:2]) < (3, 4):
    raise ImportError(f"the GPU scan needs Triton 3.4 or newer, but this is {triton.__version__}")

from kernels.autograd import Backend
from kernels.gpu import scan, softplus

__all__ = ["backend"]

backend = Backend("triton", scan, softplus)
