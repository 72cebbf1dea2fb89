raise ImportError("these kernels need a GPU")
