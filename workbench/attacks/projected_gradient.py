"""Projected gradient ascent (Madry et al., arXiv 1706.06083) on perturbations of any tensors.

One core for pixels, patches, frequency bands and activations. One step from zero is FGSM
(Goodfellow et al., arXiv 1412.6572).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

NORMS = ("linf", "l2")

ALTERNATIONS = 3
"""How often a perturbation is projected by `within` and into the ball in turn. On a small network
1 % of its energy is outside a frequency band after one turn, 0.1 % after three."""


@dataclass(frozen=True)
class Ball:
    """Where a perturbation delta may lie.

    |delta| <= radius * scale elementwise (linf), or ||delta||_2 <= radius * ||scale||_2 over all
    axes but the first (l2), with scale broadcast to the shape in both.

    Attributes:
        shape: (b, ...) of the perturbation.
        radius: (b,), one for each image, or one number for all.
        scale: broadcastable to shape. 1 / sqrt(entries of an image) makes `radius` a plain l2 norm.
        norm: linf or l2.
        low, high: elementwise bounds of the perturbation, broadcastable to shape, with
            low <= 0 <= high; such as -x and 1 - x for pixels.
        within: a further linear projection of gradient and perturbation in every step, such as a
            mask or a frequency band. Ball and bounds come last and hold exactly; a projection that
            mixes entries then holds only nearly where they cut.

    The perturbation has device and dtype of the first tensor among scale, low, high and radius.

    Raises:
        ValueError: for an unknown norm, a negative radius, or bounds that leave zero out.
    """

    shape: tuple[int, ...]
    radius: Tensor | float
    scale: Tensor | float = 1.0
    norm: str = "linf"
    low: Tensor | float | None = None
    high: Tensor | float | None = None
    within: Callable[[Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise ValueError(f"norm must be one of {', '.join(NORMS)}, not {self.norm!r}")
        if not bool((torch.as_tensor(self.radius) >= 0).all()):
            raise ValueError("a radius is negative or not a number; give 0 or more")
        for name, bound, sign in (("low", self.low, 1), ("high", self.high, -1)):
            if bound is not None and not bool((torch.as_tensor(bound) * sign <= 0).all()):
                raise ValueError(
                    f"{name} leaves out a perturbation of zero; low must be at most 0 and high at "
                    "least 0"
                )

    def zero(self) -> Tensor:
        """No perturbation."""
        given = (self.scale, self.low, self.high, self.radius)
        like = next((value for value in given if isinstance(value, Tensor)), torch.zeros(()))
        return torch.zeros(self.shape, dtype=like.dtype, device=like.device)

    def project(self, delta: Tensor) -> Tensor:
        """Into the ball and between the bounds, and nearly `within`."""
        if self.within is None:
            return self._bounded(delta)
        for _ in range(ALTERNATIONS):
            delta = self._bounded(self.within(delta))
        return delta

    def fill(self, delta: Tensor) -> Tensor:
        """delta made as long as the radius allows, then projected."""
        if self.within is not None:
            delta = self.within(delta)
        return self.project(delta * _ratio(self._radius(delta), self._size(delta)))

    def step(self, gradient: Tensor, signs: bool) -> Tensor:
        """What a gradient asks for, at the full radius and not projected."""
        if self.within is not None:
            gradient = self.within(gradient)
        if self.norm == "linf":
            direction = gradient.sign() if signs else _ratio(gradient, _largest(gradient))
            return direction * self._radius(gradient) * self._scale(gradient)
        direction = _ratio(gradient, _largest(gradient))  # else squares of tiny values vanish
        return direction * _ratio(self._radius(gradient), self._size(direction))

    def uniform(self, generators: Sequence[torch.Generator]) -> Tensor:
        """A random point of the ball, uniform before it is projected; one generator an image."""
        if self.norm == "linf":
            delta = 2 * self._draw(torch.rand, generators) - 1
            return self.project(delta * self._radius(delta) * self._scale(delta))
        delta = self._draw(torch.randn, generators)
        share = torch.cat([torch.rand(1, generator=generator) for generator in generators])
        length = self._radius(delta) * _column(share.to(delta) ** (1 / delta[0].numel()), delta)
        return self.project(delta * _ratio(length, self._size(delta)))

    def extreme(self, generators: Sequence[torch.Generator]) -> Tensor:
        """Random signs (linf) or a random direction (l2), as long as the radius allows."""
        delta = self._draw(torch.randn, generators)
        return self.fill(delta.sign() * self._scale(delta) if self.norm == "linf" else delta)

    def _bounded(self, delta: Tensor) -> Tensor:
        if self.norm == "linf":
            limit = self._radius(delta) * self._scale(delta)
            delta = delta.clamp(-limit, limit)
        else:
            delta = delta * _ratio(self._radius(delta), self._size(delta)).clamp(max=1)
        if self.low is not None:
            delta = delta.maximum(torch.as_tensor(self.low).to(delta))
        if self.high is not None:
            delta = delta.minimum(torch.as_tensor(self.high).to(delta))
        return delta

    def _radius(self, like: Tensor) -> Tensor:
        return _column(torch.as_tensor(self.radius).to(like).expand(len(like)), like)

    def _scale(self, like: Tensor) -> Tensor:
        return torch.as_tensor(self.scale).to(like).expand_as(like)

    def _size(self, delta: Tensor) -> Tensor:
        """(b, 1, ...): the smallest radius that holds delta."""
        scale = self._scale(delta)
        if self.norm == "linf":
            return _largest(_ratio(delta, scale))
        return _ratio(_length(delta), _length(scale))

    def _draw(self, random: Callable[..., Tensor], generators: Sequence[torch.Generator]) -> Tensor:
        # on the CPU, so that every device starts from the same numbers
        drawn = [random(self.shape[1:], generator=generator) for generator in generators]
        return torch.stack(drawn).to(self.zero())


@dataclass(frozen=True)
class Ascent:
    """What `projected_gradient` found.

    Attributes:
        deltas: one perturbation for each ball, the best for every image over restarts and steps;
            zero for an image whose objective never was a finite number.
        values: (b,), the objective there.
        history: (restarts, steps + 1, b), the objective at every iterate, the start first; an
            objective that is not a finite number stands as -inf.
        zero_gradients: (b,), share of gradient entries that are exactly zero or not finite at the
            first step of the first restart.
    """

    deltas: tuple[Tensor, ...]
    values: Tensor
    history: Tensor
    zero_gradients: Tensor


def projected_gradient(
    objective: Callable[[tuple[Tensor, ...]], Tensor],
    balls: Sequence[Ball],
    *,
    steps: int = 20,
    step_size: float | None = None,
    restarts: int = 1,
    start: str = "random",
    seed: int | Sequence[int] = 0,
    signs: bool = True,
) -> Ascent:
    """Raise an objective of every image within its balls.

    Gradients count however small they are: steps depend on their direction only. In an l2 ball a
    step follows the gradient; in a linf ball its signs.

    Args:
        objective: from the perturbations, one for each ball, to (b,). Entry i must depend on
            image i alone.
        steps: gradient steps.
        step_size: length of every step relative to the radius. By default they shrink evenly from
            1 to 1 / steps, which finds more than the usual 2.5 / steps throughout.
        restarts: starts, from each of which all steps are taken.
        start: random (uniform in the ball) or zero.
        seed: of the random starts, one number or one for each image.
        signs: False follows the gradient, divided by its largest entry, in linf balls too.

    Raises:
        ValueError: for steps or restarts below 1, an unknown start, no balls, balls for different
            numbers of images, or an objective of another shape.
    """
    if len({ball.shape[0] for ball in balls}) != 1:
        raise ValueError("the balls must be at least one, and all for the same number of images")
    if steps < 1 or restarts < 1:
        raise ValueError(f"steps and restarts must be at least 1, not {steps} and {restarts}")
    if start not in ("random", "zero"):
        raise ValueError(f"start must be random or zero, not {start!r}")
    best = tuple(ball.zero() for ball in balls)
    values = best[0].new_full((len(best[0]),), -torch.inf)
    zero_gradients = torch.zeros_like(values)
    history = []
    for restart in range(restarts):
        deltas = tuple(ball.zero() for ball in balls)
        if start == "random":
            generators = _generators(seed, restart, len(values))
            deltas = tuple(ball.uniform(generators) for ball in balls)
        for step in range(steps + 1):
            found, gradients = _evaluate(objective, deltas, with_gradients=step < steps)
            found = torch.where(found.isfinite(), found, -torch.inf).to(values)
            history.append(found)
            better = found > values
            values = torch.where(better, found, values)
            best = tuple(
                torch.where(_column(better, delta), delta, old)
                for delta, old in zip(deltas, best, strict=True)
            )
            if step == steps:
                break
            if restart == step == 0:
                zero_gradients = _zero_share(gradients)
            size = 1 - step / steps if step_size is None else step_size
            deltas = tuple(
                ball.project(delta + size * ball.step(gradient.nan_to_num(0, 0, 0), signs))
                for ball, delta, gradient in zip(balls, deltas, gradients, strict=True)
            )
    stacked = torch.stack(history).unflatten(0, (restarts, steps + 1))
    return Ascent(best, values, stacked, zero_gradients)


def random_direction(balls: Sequence[Ball], seed: int | Sequence[int] = 0) -> tuple[Tensor, ...]:
    """Perturbations of the same budget that no gradient chose: random signs at the full radius
    (linf), or a random direction of full length (l2).

    Args:
        seed: one number, or one for each image.
    """
    generators = _generators(seed, 0, balls[0].shape[0])
    return tuple(ball.extreme(generators) for ball in balls)


def _generators(seed: int | Sequence[int], restart: int, count: int) -> list[torch.Generator]:
    """One for each image, so that its numbers do not depend on the rest of the batch."""
    entropies = [(seed, i) for i in range(count)] if isinstance(seed, int) else [(s,) for s in seed]
    if len(entropies) != count:
        raise ValueError(f"there are {len(entropies)} seeds for {count} images; give one for each")
    states = (np.random.SeedSequence((*entropy, restart)) for entropy in entropies)
    return [torch.Generator().manual_seed(int(state.generate_state(1)[0])) for state in states]


def _evaluate(
    objective: Callable[[tuple[Tensor, ...]], Tensor],
    deltas: tuple[Tensor, ...],
    with_gradients: bool,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The objective, (b,), and its gradients to the perturbations, or () without them."""
    deltas = tuple(delta.detach().requires_grad_(with_gradients) for delta in deltas)
    with torch.set_grad_enabled(with_gradients):
        found = objective(deltas)
        if found.shape != (len(deltas[0]),):
            raise ValueError(
                f"the objective returned shape {tuple(found.shape)}; it must return one value for "
                f"each of the {len(deltas[0])} images"
            )
    if not with_gradients:
        return found, ()
    slopes: Sequence[Tensor | None] = [None] * len(deltas)
    if found.requires_grad:  # not where the model cuts every way back
        slopes = torch.autograd.grad(found, deltas, torch.ones_like(found), allow_unused=True)
    return found.detach(), tuple(
        torch.zeros_like(delta) if slope is None else slope
        for slope, delta in zip(slopes, deltas, strict=True)
    )


def _zero_share(gradients: Sequence[Tensor]) -> Tensor:
    flat = torch.cat([gradient.flatten(1) for gradient in gradients], dim=1)
    return ((flat == 0) | ~flat.isfinite()).to(flat.dtype).mean(dim=1)


def _column(values: Tensor, like: Tensor) -> Tensor:
    """(b,) -> (b, 1, ...), to go with `like`."""
    return values.view(-1, *[1] * (like.ndim - 1))


def _largest(values: Tensor) -> Tensor:
    return _column(values.abs().flatten(1).amax(dim=1), values)


def _length(values: Tensor) -> Tensor:
    return _column(values.flatten(1).norm(dim=1), values)


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """0 where the denominator is 0."""
    return torch.where(denominator == 0, 0, numerator / denominator)
