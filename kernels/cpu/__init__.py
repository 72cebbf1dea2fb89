"""The CPU backend: numba kernels, float32."""

from kernels.autograd import Backend
from kernels.cpu import scan, softplus
from kernels.cpu.compiling import warm_up

__all__ = ["backend", "warm_up"]

backend = Backend("cpu", scan, softplus, device="cpu")
