"""The blocks of a network, found by how its modules stand in lists."""

from collections.abc import Container

from torch import nn

from workbench.models import backbone_of, bare
from workbench.scan import SelectiveScan


def blocks(model: nn.Module) -> list[str]:
    """Module paths of the blocks of any network, in the order of its modules.

    They are the items of its innermost lists whose items are of one class and have parts of their
    own, or stand beside a known stage, and stages without such lists. Empty where there are none.
    """
    model = bare(model)
    return _below(model, "", {name for _, name in backbone_of(model).stage_entries()})


def _below(module: nn.Module, path: str, stages: Container[str]) -> list[str]:
    items = {
        f"{path}.{name}" if path else name: item
        for name, item in module.named_children()
        if not isinstance(item, SelectiveScan)
    }
    numbered = all(name.rpartition(".")[2].isdecimal() for name in items)
    alike = len({type(item) for item in items.values()}) == 1
    listed = isinstance(module, nn.Sequential | nn.ModuleList) and (
        (alike and all(any(item.children()) for item in items.values()))
        or (numbered and any(place in stages for place in items))
    )
    below = {place: _below(item, place, stages) for place, item in items.items()}
    listed = listed and not any(below.values())  # what stands beside stages is between them
    return [
        block
        for place, inner in below.items()
        for block in inner or ([place] if listed or place in stages else [])
    ]
