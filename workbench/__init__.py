"""See what a visual state-space model looks at.

import workbench
model = workbench.create_model("vmamba_tiny_s1l8")
result = workbench.run(workbench.erf, model, "samples", workbench.ErfConfig())
"""

import os

# OpenMP threads that go on spinning after each operation take the cores from everything else on a
# busy machine (a browser is enough); a short wait costs an idle one little. Read when torch loads,
# without effect when torch is there already.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

from workbench import standin
from workbench.images import open_images, preprocessing_for
from workbench.methods import attribution, erf, resolution, robustness, scan_maps, sensitivity
from workbench.methods.attribution import AttributionConfig
from workbench.methods.erf import ErfConfig
from workbench.methods.resolution import ResolutionConfig
from workbench.methods.robustness import RobustnessConfig
from workbench.methods.scan_maps import ScanMapsConfig
from workbench.methods.sensitivity import SensitivityConfig
from workbench.results import load
from workbench.runner import run
from workbench.trace import patch, record, scans
from workbench.weights import create_model

__all__ = [
    "AttributionConfig",
    "ErfConfig",
    "ResolutionConfig",
    "RobustnessConfig",
    "ScanMapsConfig",
    "SensitivityConfig",
    "attribution",
    "create_model",
    "erf",
    "load",
    "open_images",
    "patch",
    "preprocessing_for",
    "record",
    "resolution",
    "robustness",
    "run",
    "scan_maps",
    "scans",
    "sensitivity",
    "standin",
]
