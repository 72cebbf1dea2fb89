"""Sensitivity: which of B, C and delta breaks under attack, asked in six different ways.

A single number for "the sensitivity of B" is not a result: by bilinearity some numbers are equal
for B and C, others change with a rescaling that changes no output, and the remaining ones answer
different questions. The views stand side by side, each with its control, and a published claim is a
hypothesis that `claims` calls supported, not supported or undecided.

gradient: relative first-order sensitivity (`sensitivity.gradient`).
perturb: bounded perturbations inside the model (`sensitivity.perturb`).
cut: attacks on the image without the gradient of a path (`sensitivity.cut`).
patching: tensors moved between clean and adversarial runs (`sensitivity.patching`).
bounds: what one scan's output can do at most (`sensitivity.bounds`).
horizon: memory and decay of the scans under attack (`sensitivity.horizon`).
"""

from collections.abc import Sequence

from workbench.methods.method import Method
from workbench.methods.sensitivity.config import SensitivityConfig
from workbench.results import Sensitivity as Result


class Sensitivity(Method):
    name = "sensitivity"
    Config = SensitivityConfig
    scans = True

    def compare(self, results: Sequence[Result]) -> list[Result]:
        """Holm over all models, and the claim on size across a family, see `sizes.compare`."""
        from workbench.methods.sensitivity.sizes import compare

        return compare(results)


method = Sensitivity()
