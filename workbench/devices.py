"""Where models and tensors are while they are measured."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


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


@contextmanager
def frozen_eval(model: nn.Module, device: torch.device) -> Iterator[None]:
    """The model on `device`, in eval mode, parameters without gradient; afterwards as before."""
    home = home_of(model).device
    training = {module: module.training for module in model.modules()}
    gradient = {parameter: parameter.requires_grad for parameter in model.parameters()}
    try:
        model.to(device)
        model.eval()
        _check_eval(model)
        model.requires_grad_(False)
        yield
    finally:
        for parameter, wanted in gradient.items():
            parameter.requires_grad_(wanted)
        for module, mode in training.items():
            module.training = mode
        model.to(home)


def _check_eval(model: nn.Module) -> None:
    """Raises ValueError for a model that stays in training mode."""
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training:
            raise ValueError(
                f"{name} of {type(model).__name__} stays in training mode after eval(), where the "
                "images of a batch change each other: let eval() reach it"
            )


def home_of(model: nn.Module) -> torch.Tensor:
    """A floating-point tensor of the model, for its device and dtype."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            return tensor
    return torch.zeros(0)
