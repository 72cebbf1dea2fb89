"""The CPU backend: numba kernels, float32."""

from workbench.kernels.autograd import Backend
from workbench.kernels.cpu import scan, softplus
from workbench.kernels.cpu.compiling import warm_up

__all__ = ["backend", "warm_up"]

backend = Backend("cpu", scan, softplus, device="cpu")
