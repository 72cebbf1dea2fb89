"""A model of a repository with its default arguments, for images of a size that it takes."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from workbench.external.adapter import Adapter
from workbench.external.explain import explained, no_network
from workbench.external.learn import TooSlow
from workbench.external.model import ExternalModel
from workbench.external.theirs import TheirFiles

SIZES = tuple((side, side) for side in (224, 256, 512, 128, 64, 32))
"""Image sizes that are tried, in pixels, after the one that a model is made for."""

SMALL = (64, 64)
"""Taken where a model of any size is slow with the first of them."""

_SIZE_NAMES = ("img_size", "image_size", "input_resolution")
_CHANNEL_NAMES = ("in_chans", "in_channels", "in_ch", "input_channels", "in_channel", "n_channels")


def build(
    make: Callable[..., Any],
    name: str,
    parameters: dict[str, Any],
    size: tuple[int, int] | None,
    imported: Sequence[str],
    theirs: TheirFiles,
    tell: Callable[[str], None],
) -> tuple[ExternalModel, str]:
    """The model, and its call in words.

    Args:
        make: the class or factory, `name` what to call it, `parameters` its arguments and defaults.
        size: of the images; None tries the model's own, then `SIZES`.
        imported, tell: see `ExternalModel` and `load`; theirs: by which it was imported.

    Raises:
        ValueError: when it cannot be built, or does not take an image.
    """
    own = next((_as_size(parameters[n]) for n in _SIZE_NAMES if n in parameters), None)
    model = first = None
    arguments: dict[str, Any] = {}
    causes: set[str] = set()
    trials = list(dict.fromkeys((size,) if size else (own or SIZES[0], *SIZES)))
    while trials:
        trial = trials.pop(0)
        smaller = [SMALL] if trial > SMALL and not (size or own) else []
        if model is None or arguments != _arguments(parameters, trial):
            arguments = _arguments(parameters, trial)
            with explained(name, theirs), no_network():
                model = module_of(make(**arguments), name)
        try:
            found = look_at(model, Adapter(make), trial, imported, theirs, tell, bool(smaller))
        except TooSlow:
            tell(f"{name}: slow with such images, so smaller ones are taken")
            trials = smaller
            continue
        except ValueError as error:
            cause = str(error).partition(" failed at ")[2]
            first = first or error
            if cause in causes:  # so it is not the size
                break
            causes.add(cause)
            continue
        return found, f"{name}({', '.join(f'{k}={v!r}' for k, v in arguments.items())})"
    raise ValueError(
        f"{first}; if it takes other input than an image, say so in an adapter (docs/your-model.md)"
    )


def module_of(made: Any, what: str) -> nn.Module:
    """What was made, if it is a module.

    Raises:
        ValueError: when it is not.
    """
    if not isinstance(made, nn.Module):
        raise ValueError(f"{what} returned a {type(made).__name__}, not a torch.nn.Module")
    return made


def look_at(
    model: nn.Module,
    adapter: Adapter,
    size: tuple[int, int],
    imported: Sequence[str],
    theirs: TheirFiles,
    tell: Callable[[str], None],
    hurry: bool = False,
) -> ExternalModel:
    """The model, run on images of a size."""
    pixels = f"images of {size[0]} x {size[1]} pixels"
    name = type(model).__name__
    tell(f"{name}: learning its scan paths with {pixels}")
    with explained(f"{name} with {pixels}", theirs):
        return ExternalModel(
            model, adapter, size, imported, lambda far: tell(f"{name}: {far}"), hurry
        )


def _arguments(parameters: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    """What differs from the defaults: the size and the colours of images, and that no weights are
    wanted."""
    found: dict[str, Any] = {}
    for name, default in parameters.items():
        if name in _SIZE_NAMES and default != (given := _like(default, size)):
            found[name] = given
        elif name in _CHANNEL_NAMES and isinstance(default, int) and default != 3:
            found[name] = 3
        elif name == "pretrained" and default is True:
            found[name] = False
    return found


def _as_size(default: Any) -> tuple[int, int] | None:
    if isinstance(default, int) and default > 0:
        return default, default
    if isinstance(default, tuple | list) and [type(side) for side in default] == [int, int]:
        return default[0], default[1]
    return None


def _like(default: Any, size: tuple[int, int]) -> Any:
    """A size in the form of the default: a number where both sides are equal, else a pair."""
    if isinstance(default, tuple | list):
        return type(default)(size)
    return size[0] if size[0] == size[1] else size
