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


def _measurable(model: nn.Module) -> nn.Module:
    """The model without the wrappers that only say how it runs.

    Raises:
        ValueError: for one that cannot be looked into, or that has no weights.
    """
    model = bare(model)
    kind = type(model).__name__
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise ValueError(
            f"{kind} holds TorchScript, whose layers cannot be looked into: give the "
            "torch.nn.Module that it was made from"
        )
    try:
        inspect.signature(model.forward).bind(None)
    except TypeError:
        raise ValueError(
            f"{kind} takes something else than one batch of images: wrap it in a module that makes "
            "its arguments of one, or say how by inputs(image) in an adapter (docs/your-model.md)"
        ) from None
    tensors = (*model.parameters(), *model.buffers())
    if any(tensor.is_meta for tensor in tensors):
        raise ValueError(
            f"{kind} has parameters without values (on the meta device): build it on a device, or "
            "give it weights first"
        )
    if any(tensor.is_inference() for tensor in tensors):
        raise ValueError(
            f"{kind} was built or loaded in torch.inference_mode, so that no gradient can pass its "
            "parameters: build it outside"
        )
    return model


def home_of(model: nn.Module) -> torch.Tensor:
    """A floating-point tensor of the model, for its device and dtype."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            return tensor
    return torch.zeros(0)
