"""AutoAttack (Croce & Hein, ICML 2020, arXiv 2003.01690) by the package pyautoattack."""

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from workbench.attacks.in_pixels import InPixels


def autoattack(
    model: InPixels,
    x: Tensor,
    labels: Tensor,
    eps: float,
    norm: str = "linf",
    seed: int = 0,
    attacks: Sequence[str] | None = None,
    queries: int = 5000,
) -> tuple[Tensor, tuple[str, ...]]:
    """The standard ensemble of four attacks, or some of them.

    Targeted attacks aim at 9 classes, or at all others where there are fewer. Up to three classes
    have no targeted DLR loss; APGD on cross-entropy, FAB and Square then stand for the ensemble.

    Args:
        x: (b, 3, h, w) in [0, 1].
        eps: in units of x.
        attacks: of apgd-ce, apgd-dlr, apgd-t, fab, fab-t and square; None for the ensemble.
        queries: forward passes of Square for an image.

    Returns:
        x as found, (b, 3, h, w), unchanged where no attack succeeds, and what the package warns of.

    Raises:
        ImportError: when pyautoattack is not installed.
    """
    try:
        from pyautoattack import AutoAttack
    except ImportError as error:
        raise ImportError(
            'AutoAttack needs the package pyautoattack: pip install -e ".[robust]"'
        ) from error
    with torch.no_grad():
        classes = model(x[:1]).shape[1]
    few = ["apgd-ce", "fab", "square"]
    ensemble = few if classes < 4 else ["apgd-ce", "apgd-t", "fab-t", "square"]
    with _quiet() as warnings, torch.random.fork_rng():
        attack = AutoAttack(
            model,
            attacks=list(attacks or ensemble),
            norm={"linf": "Linf", "l2": "L2"}[norm],
            eps=eps,
            seed=seed,
            version="custom",
            device=x.device,
        )
        # as in the standard version, which takes no shorter list
        attack.apgd.n_restarts = attack.fab.n_restarts = attack.apgd_targeted.n_restarts = 1
        targets = min(9, classes - 1)
        attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = targets
        attack.square.n_queries = queries
        # the package flattens images as they lie in memory
        found, _ = attack.run_standard_evaluation(x.contiguous(), labels, batch_size=len(x))
    return found.detach(), tuple(warnings)


@contextmanager
def _quiet() -> Iterator[list[str]]:
    """Collect the package's warnings; put back the trace function that it drops."""
    found: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record.getMessage())

    logger, handler, trace = logging.getLogger("auto-attack"), Collect(), sys.gettrace()
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield found
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate
        sys.settrace(trace)
