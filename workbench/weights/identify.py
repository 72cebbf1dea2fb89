"""What the names and shapes of a state dict mean: the wrapper it comes from, and the models it
fits."""

import functools
import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from workbench.models.family import REGISTERED, Backbone, networks, prefixes

__all__ = ["clean_keys", "variant_of"]

Shapes = dict[str, tuple[int, ...]]


def clean_keys(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under the names and in the shapes of the released classification models.

    The prefixes of wrappers go (`module.`, `model.`, `backbone.`, `encoder.`; of a detector or a
    segmenter only the backbone stays), its extra norms `outnorm*` too. Older and newer layouts of a
    family are renamed by its own filter. Values are never changed, and names that are right already
    stay.
    """
    return renamed(_without_prefixes(dict(state_dict)))


def renamed(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`clean_keys` of names without a prefix."""
    state = {k: v for k, v in state_dict.items() if not re.match(r"outnorm\d*\.", k)}
    network = _network(state)
    return state if network is None else network.checkpoint_filter_fn(state)


def _without_prefixes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    while True:
        for prefix in ("module.", "model.", "backbone.", "encoder."):
            inner = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            if not inner:
                continue
            if prefix in ("module.", "model.") and len(inner) >= 0.9 * len(state):
                rest = {k: v for k, v in state.items() if not k.startswith(prefix)}
                rest.pop("n_averaged", None)  # the counter of torch's AveragedModel
                state = {**inner, **rest}
                break
            if any(".patch_embed." in f".{k}" for k in inner) and not any(
                k.startswith("patch_embed.") for k in state
            ):
                state = inner
                break
        else:
            return state


def _network(state: Iterable[str]) -> type[Backbone] | None:
    """The class of networks that has such names."""
    known = [network for network in networks() if network.layout is not None]
    for key in state:
        for network in known:
            if re.search(network.layout or "", key):
                return network
    return None


@functools.cache
def _shapes_of(name: str) -> Shapes:
    variant = REGISTERED[name]
    with torch.device("meta"):
        model = variant.network(**variant.arguments)
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


def variant_of(state_dict: Mapping[str, Tensor]) -> list[str]:
    """Return the models of ours whose every name and shape the state dict has.

    The number of classes and the length of a position embedding may differ, the classifier may be
    absent. Models that differ in no shape are all returned, the plain one first. Only the shapes
    are read (meta tensors will do).
    """
    state = clean_keys(state_dict)
    network = _network(state)
    if network is None:
        return []
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    names = [
        name
        for name, variant in REGISTERED.items()
        if variant.network is network and _fits(network, shapes, name)
    ]
    # Models that differ in the stride of the patches alone differ in no weight; at the published
    # size the number of positions tells.
    exact = [
        name
        for name in names
        if all(_shapes_of(name)[k] == shapes[k] for k in network.sized if k in shapes)
    ]
    return exact or names


def _fits(network: type[Backbone], shapes: Shapes, name: str) -> bool:
    head, tail = prefixes(network.classifier_name), prefixes(network.classifier_norm_name)
    expected = _shapes_of(name)
    if not shapes.keys() <= expected.keys():
        return False
    headless = not any(key.startswith(head) for key in shapes)
    for key, shape in expected.items():
        found = shapes.get(key)
        if found is None:
            free = (*head, *tail) if headless else head
            if not key.endswith("num_batches_tracked") and not key.startswith(free):
                return False
        elif key.startswith(head):
            if found[1:] != shape[1:]:
                return False
        elif key in network.sized:
            if found[2:] != shape[2:]:
                return False
        elif found != shape:
            return False
    return True
