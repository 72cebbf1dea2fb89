"""What a model can be put to, and the choice among it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from workbench.methods.method import IntervalConfig
from workbench.perturbations.corruptions import SEVERITIES, chosen

if TYPE_CHECKING:
    from workbench.attacks.pixels import AttackConfig

ATTACKS = ("fgsm", "pgd", "autoattack")
PERTURBATIONS = ("drop", "drop-scan", "information", "shuffle", "shift", "views", "scan")
ON_SCANS = ("drop-scan", "information", "scan")
"""The perturbations that follow the scans of a model."""


@dataclass(frozen=True)
class RobustnessConfig(IntervalConfig):
    """What a model is put to, and how it is counted.

    Attributes:
        attacks: of fgsm, pgd and autoattack; a random change of the same size goes with them.
        eps_255: distances of the attacks in units of 1/255.
        autoattack_eps_255: distances for autoattack, which may take a minute for an image that
            withstands it; the largest of eps_255 by default.
        norm: of the distance, linf (every pixel and colour) or l2 (the whole image).
        steps: of pgd.
        restarts: random starts of pgd; the worst for each image counts.
        targets: images that withstand pgd are driven to so many other classes, the likeliest first.
        corruptions: names, all of the 19, or none.
        severities: of the corruptions, 1 to 5.
        probes: drop (patches taken away at random, salient ones first, in rings from the centre and
            towards it), drop-scan (along each scan direction), information (pixels lost along the
            scan), shuffle (patches rearranged), shift (the image moved by some pixels, each in a
            direction of its own), views (transposed, rotated by 180 degrees or flipped), scan (the
            image as it is, scanned in random orders, and without states), all or none.
        grid: patches along a side that are taken away or lose pixels.
        dropped: shares of the patches that are taken away.
        lost: shares of the pixels that are lost, up to 0.5.
        grids: patches along a side that are shuffled; by default 2, 4, 7, 8, 14, 16 and 28, where
            they divide the image.
        shifts: pixels by which the image is moved.
        fill: what stands for what is gone: mean (colour of the training images), black or blur.
        chunk: images measured at a time.
    """

    attacks: tuple[Literal["fgsm", "pgd", "autoattack", "none"], ...] = ("fgsm", "pgd")
    eps_255: tuple[float, ...] = (0.5, 1, 2, 4)
    autoattack_eps_255: tuple[float, ...] | None = None
    norm: Literal["linf", "l2"] = "linf"
    steps: int = 20
    restarts: int = 1
    targets: int = 9
    corruptions: tuple[str, ...] = ("none",)
    severities: tuple[Literal[1, 2, 3, 4, 5], ...] = SEVERITIES
    probes: tuple[
        Literal[
            "drop", "drop-scan", "information", "shuffle", "shift", "views", "scan", "all", "none"
        ],
        ...,
    ] = ("all",)
    grid: int = 8
    dropped: tuple[float, ...] = (0.125, 0.25, 0.5, 0.75)
    lost: tuple[float, ...] = (0.125, 0.25, 0.5)
    grids: tuple[int, ...] | None = None
    shifts: tuple[int, ...] = (1, 2, 4, 8)
    fill: Literal["mean", "black", "blur"] = "mean"
    chunk: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        chosen(self.corruptions)
        for field, top in (("dropped", 1), ("lost", 0.5)):
            if not all(0 < value <= top for value in getattr(self, field)):
                raise ValueError(f"{field} must be shares above 0, up to {top}")
        if not all(pixels >= 1 for pixels in self.shifts):
            raise ValueError(f"shifts must be 1 pixel or more, not {min(self.shifts)}")
        self.at_least(steps=1, restarts=1, grid=1, chunk=1)
        if not self.eps_255:
            raise ValueError("eps_255 must be at least one distance, in units of 1/255")
        for eps in (*self.eps_255, *(self.autoattack_eps_255 or ())):
            if 0 < eps < 0.1:
                raise ValueError(
                    f"eps_255={eps:g} would change pixels by {eps:g}/255; if pixels in [0, 1] were "
                    f"meant, write eps_255={255 * eps:.3g}"
                )
            self.attack("pgd", eps)  # says what else is wrong with a distance

    def attack(self, kind: str, eps_255: float) -> "AttackConfig":
        """The settings of one of the attacks."""
        from workbench.attacks.pixels import AttackConfig

        return AttackConfig(
            kind=kind,
            eps_255=eps_255,
            norm=self.norm,
            steps=self.steps,
            restarts=self.restarts,
            targets=self.targets,
            seed=self.seed,
        )
