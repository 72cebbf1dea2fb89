"""Robustness: what predictions withstand of attacks, corruptions, lost and moved parts, and turns.

Every condition is measured on every image and kept, so that differences can be paired.
"""

from collections.abc import Sequence

from workbench.methods.method import Method
from workbench.methods.robustness.config import RobustnessConfig
from workbench.results import Robustness as Result


class Robustness(Method):
    name = "robustness"
    Config = RobustnessConfig

    def compare(self, results: Sequence[Result], baseline: str | None = None) -> list[Result]:
        """Corruption errors against a baseline, see `corruption_errors.compare`.

        Args:
            baseline: the model whose errors count as 100 %: one measured here, or a result file.
        """
        from workbench.methods.robustness.corruption_errors import compare

        return compare(results, baseline)


method = Robustness()
