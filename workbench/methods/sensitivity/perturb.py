"""Bounded perturbations of B, C, delta and u inside the model, the image as it is.

A budget eps is relative: every entry may move by eps times the RMS of its row, taken from the clean
run. delta is perturbed after softplus and kept at least zero.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from workbench.attacks.projected_gradient import Ascent, Ball, projected_gradient, random_direction
from workbench.methods.sensitivity.config import SensitivityConfig
from workbench.methods.sensitivity.subject import PARAMETERS, RANKED, Case, Subject, row_rms
from workbench.trace import patch

HIGHEST = 1.0
"""Where the search for the smallest budget ends."""
Row = tuple[str, str, float]
"""Tensor, scope, budget."""


@contextmanager
def shifted(subject: Subject, name: str, deltas: Mapping[str, Tensor]) -> Iterator[None]:
    """Add to tensor `name` of each site, inside the block; `deltas` by site name and image."""

    def add(delta: Tensor):
        if name == "delta":
            return lambda tensor: (tensor + delta.view_as(tensor)).clamp(min=0)
        return lambda tensor: tensor + delta.view_as(tensor)

    changes = {site: add(delta) for site, delta in deltas.items()}
    with patch(subject.model, list(deltas), **{name: changes}):
        yield


@dataclass(frozen=True)
class Inside:
    """One tensor of a case at some sites, to be moved within a relative budget."""

    case: Case
    name: str
    sites: tuple[str, ...]

    def balls(self, eps: Tensor | float) -> list[Ball]:
        """One for each site; eps: (b,) or one number for all images."""
        tensors = [self.case.clean[site][self.name] for site in self.sites]
        return [Ball(tuple(t.shape), eps, row_rms(self.name, t)) for t in tensors]

    def margins(self, deltas: Sequence[Tensor]) -> Tensor:
        """(b,) with one perturbation for each site."""
        case = self.case
        with shifted(case.subject, self.name, dict(zip(self.sites, deltas, strict=True))):
            return case.subject.margins(case.x, case.labels)

    def attacked(self, eps: Tensor | float, steps: int, restarts: int = 1) -> Ascent:
        """The lowest margin that gradient steps from a random start find."""
        return projected_gradient(
            lambda deltas: -self.margins(deltas),
            self.balls(eps),
            steps=steps,
            restarts=restarts,
            seed=self.case.seeds(),
        )

    def one_step(self, eps: float) -> list[Tensor]:
        """What the signs of the margin's gradient ask for at the full budget (FGSM)."""
        slopes = [self.case.slopes[site][self.name] for site in self.sites]
        balls = self.balls(eps)
        steps = [ball.step(-slope, signs=True) for ball, slope in zip(balls, slopes, strict=True)]
        return [ball.project(step) for ball, step in zip(balls, steps, strict=True)]

    def at_random(self, eps: Sequence[float], draws: int) -> Tensor:
        """Margins (b, budgets, draws) under random signs at the full budgets: the control."""
        balls = self.balls(1.0)
        found = []
        for draw in range(draws):
            directions = random_direction(balls, self.case.seeds(draw))
            with torch.no_grad():
                found += [self.margins([e * direction for direction in directions]) for e in eps]
        return torch.stack(found, dim=1).unflatten(1, (draws, len(eps))).transpose(1, 2)

    def flipping_eps(self, highest: float, halvings: int, steps: int) -> Tensor:
        """(b,) the smallest budget found at which the prediction leaves the label.

        Bisection of the logarithm from `highest` / 1024 to `highest`; 0 for an image that is wrong
        without any, infinite for one that `highest` does not flip.
        """
        wrong = self.case.margins() < 0
        high = torch.full_like(self.case.x[:, 0, 0, 0], highest)
        low = high / 1024
        found = torch.where(self.attacked(high, steps).values > 0, high, torch.inf)
        for _ in range(halvings):
            middle = (low * high).sqrt()
            flipped = self.attacked(middle, steps).values > 0
            found = torch.where(flipped, middle.minimum(found), found)
            low, high = torch.where(flipped, low, middle), torch.where(flipped, middle, high)
        return torch.where(wrong, 0.0, found)


def rows(subject: Subject, config: SensitivityConfig) -> list[Row]:
    """What is perturbed: every tensor everywhere at all budgets, then layers and directions."""
    found = [(name, "all", eps) for name in PARAMETERS for eps in config.eps]
    if config.narrow:
        scopes = subject.narrow_scopes()
        found += [(name, scope, config.narrow_eps) for scope in scopes for name in RANKED]
    return found


def measure(case: Case) -> dict[str, Tensor]:
    """`perturbed` (b, rows, 2) margins after one step and after all; `random` (b, rows, draws) of
    the rows everywhere; `flipping` (b, 3) smallest budgets of B, C and delta everywhere."""
    subject, config = case.subject, case.config
    scopes = subject.scopes("all") | subject.narrow_scopes()
    fewer = max(1, config.steps // 2)
    everywhere = scopes["all"]
    clean = case.margins()
    perturbed = []
    for name, scope, eps in rows(subject, config):
        inside = Inside(case, name, scopes[scope])
        steps = config.steps if scope == "all" else fewer
        with torch.no_grad():
            single = inside.margins(inside.one_step(eps)).minimum(clean)
        # one step is the first of many: what is found later is never worse
        many = -inside.attacked(eps, steps, config.restarts).values
        perturbed.append(torch.stack([single, many.minimum(single)], dim=1))
    random = [
        Inside(case, name, everywhere).at_random(config.eps, config.draws) for name in PARAMETERS
    ]
    flipping = [
        Inside(case, name, everywhere).flipping_eps(HIGHEST, config.halvings, fewer)
        for name in RANKED
    ]
    return {
        "perturbed": torch.stack(perturbed, dim=1),
        "random": torch.cat(random, dim=1),
        "flipping": torch.stack(flipping, dim=1),
    }
