"""The blocks of a network, found by how its modules stand in lists."""

from collections import Counter
from collections.abc import Container

from torch import nn

from workbench.models import backbone_of, bare
from workbench.scan import SelectiveScan

_LISTS = (nn.Sequential, nn.ModuleList)


def blocks(model: nn.Module) -> list[str]:
    """Module paths of the blocks of any network, in the order of its modules.

    They are the items of its innermost lists in which a class with parts of its own is repeated;
    a list in some of these items only is part of a block. Known stages without such lists, and what
    is numbered on beside them, are blocks too. Empty where there are none.
    """
    model = bare(model)
    return _below(model, "", {name for _, name in backbone_of(model).stage_entries()})


def _below(module: nn.Module, path: str, stages: Container[str]) -> list[str]:
    items = {
        f"{path}.{name}" if path else name: item
        for name, item in module.named_children()
        if not isinstance(item, SelectiveScan)
    }
    below = {place: _below(item, place, stages) for place, item in items.items()}
    alike = len({type(item) for item in items.values()}) == 1
    if (alike and all(place[-1].isdecimal() for place in items)) or isinstance(module, _LISTS):
        kind, own = _repeated(items)
        nested = [bool(below[place]) for place in own]
        # lists in lists are stages, and what stands beside stages is between them
        inner = any(nested) if kind and issubclass(kind, _LISTS) else all(nested)
        if not inner and not any(below[place] for place in items.keys() - own):
            return [
                place
                for place, item in items.items()
                if place in own or (any(item.children()) and not isinstance(item, _LISTS))
            ]
    numbered = all(place.rpartition(".")[2].isdecimal() for place in items)
    listed = numbered and any(place in stages for place in items) and not any(below.values())
    return [
        block
        for place, inner in below.items()
        for block in inner or ([place] if listed or place in stages else [])
    ]


def _repeated(items: dict[str, nn.Module]) -> tuple[type | None, set[str]]:
    """The class of most items, of those with parts, and the items of it; it may be a list where
    all are, and an item may be alone.
    """
    kinds = Counter(type(item) for item in items.values() if any(item.children()))
    if len({type(item) for item in items.values()}) > 1:
        kinds = Counter({k: n for k, n in kinds.items() if n > 1 and not issubclass(k, _LISTS)})
    kind = max(kinds, key=lambda kind: kinds[kind], default=None)
    return kind, {place for place, item in items.items() if type(item) is kind}
