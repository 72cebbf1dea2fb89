"""The tokens that enter a module: which argument they are, and on which axis their channels lie."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class Tokens:
    """The tokens of one image as an argument of a module's `forward`.

    Attributes:
        args, kwargs: the whole call.
        key: place or name of the argument.
        channels: its channel axis: 1, or 2 or 3 for the last.
    """

    args: tuple
    kwargs: dict
    key: int | str
    channels: int

    @property
    def tensor(self) -> Tensor:
        return self.args[self.key] if isinstance(self.key, int) else self.kwargs[self.key]

    @property
    def grid(self) -> tuple[int, ...]:
        """The axes of places: (rows, columns), or (length,)."""
        return tuple(
            n for axis, n in enumerate(self.tensor.shape) if axis not in (0, self.channels)
        )

    @property
    def count(self) -> int:
        return self.tensor.numel() // self.tensor.shape[self.channels]

    def changes(self, other: Tensor) -> Tensor:
        """(count,): how far each token is from its counterpart."""
        return (other - self.tensor).movedim(self.channels, -1).norm(dim=-1).flatten()

    @cached_property
    def _noise(self) -> Tensor:
        noise = torch.randn(self.tensor.shape, generator=torch.Generator().manual_seed(0))
        return noise.to(self.tensor) * self.tensor.std()

    def with_noise(self, chosen: Tensor) -> tuple[tuple, dict]:
        """The call with noise added to the tokens where `chosen` (count,)."""
        mask = chosen.view(1, *self.grid).unsqueeze(self.channels)
        moved = self.tensor + self._noise * mask
        if isinstance(self.key, int):
            return (*self.args[: self.key], moved, *self.args[self.key + 1 :]), self.kwargs
        return self.args, {**self.kwargs, self.key: moved}


def find_tokens(module: nn.Module, args: tuple, kwargs: dict) -> Tokens | str:
    """The tokens among the arguments of `module` for one image, or why there are none."""
    for key, value in (*enumerate(args), *kwargs.items()):
        if not isinstance(value, Tensor) or not value.is_floating_point():
            continue
        if value.ndim not in (3, 4):
            return f"its input {tuple(value.shape)} is neither an image nor a sequence of tokens"
        if len(value) != 1:
            return f"its batch axis holds {len(value)} windows of one image"
        channels = _channel_axis(module, value)
        if channels is None:
            return f"no axis of its input {tuple(value.shape)} fits the width of a layer in it"
        return Tokens(args, kwargs, key, channels)
    return "it is given no tensor"


def _channel_axis(module: nn.Module, value: Tensor) -> int | None:
    """The axis that fits the first linear layer or convolution in the module; 1 for a linear layer
    of maps, as VMamba has it, where no other fits."""
    linear = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
    for layer in module.modules():
        if isinstance(layer, nn.Linear) and value.shape[-1] == layer.in_features:
            return value.ndim - 1
        if isinstance(layer, nn.Conv1d | nn.Conv2d) and value.shape[1] == layer.in_channels:
            return 1
    maps = value.ndim == 4 and any(value.shape[1] == layer.in_features for layer in linear)
    return 1 if maps else None
