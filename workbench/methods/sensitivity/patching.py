"""Activation patching between the run of a clean image and that of its adversarial twin.

Recovery: run the adversarial image with B (C, delta, u ...) taken from the clean run. Induction:
run the clean image with it taken from the adversarial run. The two are not symmetric: one asks
whether the tensor suffices to undo the harm, the other whether it suffices to do it (Zhang & Nanda,
arXiv 2309.16042). The ceiling patches the scan's whole output, the floor the same changes with
random signs.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from workbench.methods.sensitivity.config import SensitivityConfig
from workbench.methods.sensitivity.subject import PARAMETERS, RANKED, Case, Run, Subject
from workbench.trace import patch

WAYS = ("recovered", "recovered, random", "induced", "induced, random")
CEILING = ("y",)
SETS = (
    *((name,) for name in PARAMETERS),
    ("B", "C"), ("B", "delta"), ("C", "delta"), RANKED, CEILING,
)  # fmt: skip
NARROW = (*((name,) for name in RANKED), RANKED, CEILING)
"""What is patched in all scans at once, and in one layer or one direction."""


@dataclass(frozen=True)
class Patch:
    """Tensors to take from the other run, at the sites of a scope."""

    tensors: tuple[str, ...]
    scope: str
    sites: tuple[str, ...]

    @property
    def name(self) -> str:
        return "scan output" if self.tensors == CEILING else " + ".join(self.tensors)


def rows(subject: Subject, config: SensitivityConfig) -> list[Patch]:
    """`SETS` everywhere, then, where narrow scopes are asked for, `NARROW` in each."""
    scopes = subject.scopes("all").items()
    found = [Patch(tensors, scope, sites) for scope, sites in scopes for tensors in SETS]
    narrow = subject.narrow_scopes() if config.narrow else {}
    return found + [
        Patch(tensors, scope, sites) for scope, sites in narrow.items() for tensors in NARROW
    ]


def measure(case: Case) -> dict[str, Tensor]:
    """`patching` (b, rows, 4): margins in the order of `WAYS`."""
    found = []
    for row in rows(case.subject, case.config):
        margins = [
            margins_with(case, row, x, own, other, at_random)
            for x, own, other in (
                (case.twin, case.attacked, case.clean),
                (case.x, case.clean, case.attacked),
            )
            for at_random in (False, True)
        ]
        found.append(torch.stack(margins, dim=1))
    return {"patching": torch.stack(found, dim=1)}


def margins_with(
    case: Case,
    row: Patch,
    x: Tensor,
    own: Run,
    other: Run,
    at_random: bool = False,
) -> Tensor:
    """(b,) on x with the tensors of the run `other`, or `at_random` moved as far with random
    signs."""
    changes = {}
    for name in row.tensors:
        changes[name] = {}
        for number, site in enumerate(row.sites):
            given = other[site][name]
            if at_random:
                signs = case.signs(given, number)
                given = own[site][name] + signs * (given - own[site][name])
                given = given.clamp(min=0) if name == "delta" else given
            changes[name][site] = lambda tensor, given=given: given.view_as(tensor)
    with patch(case.subject.model, list(row.sites), **changes):
        return case.margins(x)
