"""`vssm warm`: compile the scan for this GPU ahead, so that the first map does not wait for it."""

import time

from jsonargparse import ArgumentParser, Namespace

DTYPES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}


def parser() -> ArgumentParser:
    """Its options. No model is among them: the same kernels serve all of them."""
    made = ArgumentParser(description="Compile the scan for this GPU ahead, once.")
    made.add_argument("--dtypes", type=str, default="float32,bfloat16", help="float16 too, if used")
    made.add_argument("--device", type=str, default="cuda", help="such as cuda:1")
    return made


def command(args: Namespace) -> int:
    """Compile, and say how many kernels are ready."""
    import torch

    wanted = args.dtypes.split(",")
    if unknown := [name for name in wanted if name not in DTYPES]:
        raise ValueError(f"dtype {unknown[0]!r} is not one of {', '.join(DTYPES)}")
    device = torch.device(args.device)
    if device.type != "cuda":
        raise ValueError(f"--device {args.device}: only scans on a GPU are compiled by this")
    if not torch.cuda.is_available():
        raise ValueError("no GPU is usable here, so there is nothing to compile for")
    from workbench.kernels.gpu import compiling

    start = time.perf_counter()
    try:
        count = compiling.warm(device, [DTYPES[name] for name in wanted])
    except compiling.Unusable as problem:
        raise ValueError(f"the GPU scan cannot run here ({problem})") from None
    name = torch.cuda.get_device_name(device)
    print(f"{count} kernels are ready for {name}, after {time.perf_counter() - start:.0f} s")
    return 0
