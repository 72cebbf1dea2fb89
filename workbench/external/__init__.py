"""Other people's visual Mambas, unedited: modules that stand in for their CUDA extensions.

from workbench import external
model = external.load("path/to/their/repository")
result = workbench.run(workbench.erf, model, "samples", workbench.ErfConfig())

A repository's code runs with all rights of the user who loads it.
"""

from pathlib import Path

from workbench.external.adapter import check_adapter
from workbench.external.imports import check_folder, stand_in
from workbench.external.loading import load
from workbench.external.model import ExternalModel

__all__ = ["ExternalModel", "check", "load", "stand_in"]


def check(repo: str | Path, adapter: str | Path | None = None) -> None:
    """Raise ValueError for a repository's folder or an adapter that is not there."""
    check_folder(repo)
    if adapter is not None:
        check_adapter(adapter)
