"""Other people's visual Mambas, unedited: modules that stand in for their CUDA extensions.

from workbench import standin
model = standin.load("path/to/their/repository", "adapter.py")
result = workbench.run(workbench.erf, model, "samples", workbench.ErfConfig())

A repository's code runs with all rights of the user who loads it.
"""

from workbench.standin.imports import standin
from workbench.standin.loading import load
from workbench.standin.model import StoodIn

__all__ = ["StoodIn", "load", "standin"]
