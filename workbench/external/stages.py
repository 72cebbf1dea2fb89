"""The stages of an external model: runs of scans on one grid, and whose output their map is."""

import re
from dataclasses import dataclass

from workbench.external.learn import Facts, Learned


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        module: the part of the model that it is, such as `model.layers.2`.
        output: the module whose output is the map after its last scan and what follows in the
            block.
        call: that scan; `place` is its number among all calls.
        width: channels of the map.
        reduction: pixels from one cell to the next.
    """

    module: str
    output: str
    call: Learned
    place: int
    width: int
    reduction: float


def stages_of(facts: Facts, size: tuple[int, int]) -> list[Stage]:
    """The stages in the order of the forward pass, for images of `size`."""
    runs: list[tuple[tuple, list[int]]] = []
    spatial = [i for i, call in enumerate(facts.calls) if call.grid not in (None, (1, 1))]
    levels = len({facts.calls[i].grid for i in spatial}) > 1
    for place in spatial:
        call = facts.calls[place]
        part = _part(call.module)
        # blocks of equal size are stages each, unless there are levels: then these are
        key = (part.rpartition(".")[0] or part if levels else part, call.grid)
        if not runs or runs[-1][0] != key:
            runs.append((key, []))
        runs[-1][1].append(place)
    found = []
    for (part, grid), places in runs:
        last = facts.calls[places[-1]]
        output = _output(facts, last, places)
        if output is not None:
            if sum(key[0] == part for key, _ in runs) > 1:
                part = _part(last.module)
            width = facts.maps[output][last.channels]
            module, output = (".".join(filter(None, ("model", n))) for n in (part, output))
            found.append(Stage(module, output, last, places[-1], width, size[0] / grid[0]))
    return found


def _part(module: str) -> str:
    """The name up to the first number in it: `layers.2` of `layers.2.blocks.0.mixer`."""
    numbered = re.match(r"(?:.*?\.)?\d+(?=\.|$)", module)
    return numbered[0] if numbered else module


def _output(facts: Facts, last: Learned, places: list[int]) -> str | None:
    """The outermost module around the last scan that has no other scans in it than those of the
    stage, and returns a map of the same places in the same layout."""

    def places_of(shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape[: last.channels] + shape[last.channels + 1 :]

    own, found = {facts.calls[place].module for place in places}, None
    parts = last.module.split(".")
    for n in range(len(parts), 0, -1):
        name = ".".join(parts[:n])
        inside = {c.module for c in facts.calls if f"{c.module}.".startswith(f"{name}.")}
        if not inside <= own:
            break
        if places_of(facts.maps.get(name, ())) == places_of(last.shape):
            found = name
    return found
