"""Other people's visual Mambas, unedited: modules that stand in for their CUDA extensions.

from workbench import external
model = external.load("path/to/their/repository")
result = workbench.run(workbench.erf, model, "samples", workbench.ErfConfig())

A repository's code runs with all rights of the user who loads it.
"""

from collections.abc import Sequence
from pathlib import Path

from workbench.external.adapter import check_adapter
from workbench.external.imports import check_folder, stand_in
from workbench.external.loading import load
from workbench.external.model import ExternalModel
from workbench.external.search import Repository

__all__ = ["ExternalModel", "check", "load", "stand_in"]


def check(repo: str | Path, adapter: str | Path | None = None, models: Sequence[str] = ()) -> None:
    """Raise ValueError for a repository's folder, an adapter or a model in it that is not there."""
    check_folder(repo)
    if adapter is not None:
        check_adapter(adapter)
    if models:
        repository = Repository(Path(repo))
        for name in models:
            repository.named(name)
