"""Where tensors can be."""

import torch


def usable(name: str | torch.device) -> torch.device:
    """A device by its name, such as cpu, cuda or cuda:1.

    Raises:
        ValueError: when there is no such device, or it cannot be used here.
    """
    try:
        device = torch.device(name)
        if device.type == "meta":
            raise ValueError("it holds no numbers")
        torch.empty(1, dtype=torch.float64, device=device)
    except Exception as error:  # of other types for every kind of device
        raise ValueError(
            f'device is "{name}", which cannot be used here; use "cpu", or "cuda" where there is a '
            "GPU (mps has no float64, in which maps are added up)."
        ) from error
    return device
