"""What is asked of the scans, and how strong the attacks are."""

from dataclasses import dataclass, replace
from typing import Literal

from workbench.methods.method import IntervalConfig

VIEWS = ("gradient", "perturb", "cut", "patching", "bounds", "horizon")


@dataclass(frozen=True)
class SensitivityConfig(IntervalConfig):
    """What is asked of the scans, and how strong the attacks are.

    Attributes:
        views: any of gradient, perturb, cut, patching, bounds, horizon; or all.
        eps: budgets of perturbations inside the model, relative to the RMS of each row.
        narrow_eps: the budget where one layer or one direction alone is perturbed, and of the
            bounds.
        steps: gradient steps inside the model; half as many in one layer or direction, and in the
            search for the smallest budget.
        restarts: random starts of these.
        draws: random perturbations of the same size, the control.
        halvings: of the search for the smallest budget that flips an image.
        cut_eps_255: l_inf budget in 1/255 of attacks on the image with gradients cut.
        patching_eps_255: the same for the adversarial images of patching and horizons.
        attack_steps: steps of attacks on the image.
        attack_seeds: random starts of the attacks with gradients cut; a number is the mean over
            them, and what a model withstands the minimum.
        narrow: ask for every layer and direction alone too.
        raw_norms: keep ||dJ/dtheta|| too. It changes when rows of the projection are rescaled,
            which changes no output, so it says nothing about the model.
        quick: a first look: one budget, few steps and draws, no narrow scopes.
        chunk: images measured at a time.
    """

    views: tuple[
        Literal["gradient", "perturb", "cut", "patching", "bounds", "horizon", "all"], ...
    ] = VIEWS
    eps: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3)
    narrow_eps: float = 0.1
    steps: int = 10
    restarts: int = 1
    draws: int = 20
    halvings: int = 6
    cut_eps_255: float = 1.0
    patching_eps_255: float = 4.0
    attack_steps: int = 10
    attack_seeds: int = 3
    narrow: bool = True
    raw_norms: bool = False
    quick: bool = False
    chunk: int = 25

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.views:
            raise ValueError(f"views must be some of {', '.join(VIEWS)}, not none")
        budgets = (*self.eps, self.narrow_eps)
        if not self.eps or min(budgets) <= 0:
            raise ValueError("eps must be positive: a budget relative to the RMS of each row")
        if max(budgets) > 2:
            raise ValueError(
                f"eps {max(budgets):g} is more than twice the RMS of a row; budgets inside the "
                "model are relative, those of images are cut_eps_255 and patching_eps_255"
            )
        for field in ("cut_eps_255", "patching_eps_255"):
            value = getattr(self, field)
            if not 0 < value <= 255:
                raise ValueError(f"{field} counts in 1/255 and must lie in (0, 255], not {value:g}")
        self.at_least(steps=1, restarts=1, draws=1, attack_steps=1, attack_seeds=1)
        self.at_least(chunk=1, halvings=0)


def settled(config: SensitivityConfig) -> SensitivityConfig:
    """The configuration with `quick` and all views spelt out."""
    if "all" in config.views:
        config = replace(config, views=VIEWS)
    if not config.quick:
        return config
    return replace(
        config,
        eps=(config.narrow_eps,),
        steps=min(config.steps, 3),
        draws=min(config.draws, 4),
        halvings=min(config.halvings, 2),
        attack_steps=min(config.attack_steps, 3),
        attack_seeds=1,
        narrow=False,
    )
