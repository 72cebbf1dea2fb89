"""The GPU backend: Triton kernels that read float32 and half precision and keep float32 states."""

import torch
import triton

OLDEST = (3, 4)

if tuple(int(x) for x in triton.__version__.split(".")[:2]) < OLDEST:
    raise ImportError(f"the GPU scan needs Triton 3.4 or newer, but this is {triton.__version__}")
if torch.version.hip is not None:
    raise ImportError("the GPU scan is written for NVIDIA GPUs, but this PyTorch is for AMD ones")
try:
    from workbench.kernels.autograd import Backend
    from workbench.kernels.gpu import scan, softplus
except (AttributeError, TypeError) as error:  # a name that another Triton has no longer
    raise ImportError(
        f"the GPU scan does not know this Triton ({triton.__version__}): {error}"
    ) from error

__all__ = ["backend"]

backend = Backend("triton", scan, softplus)
