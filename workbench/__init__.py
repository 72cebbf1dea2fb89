"""See what a visual state-space model looks at.

import workbench
field = workbench.erf("vmamba_nano", "samples", position="0.3,0.6")
field.plot().savefig("field.pdf")

A name is imported when it is first used, so that importing the package costs nothing.
"""

import re
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workbench import external
    from workbench.images import open_images, preprocessing_for
    from workbench.methods.atlas import AtlasConfig
    from workbench.methods.atlas import method as atlas
    from workbench.methods.attribution import AttributionConfig
    from workbench.methods.attribution import method as attribution
    from workbench.methods.decompose import DecomposeConfig
    from workbench.methods.decompose import method as decompose
    from workbench.methods.erf import ErfConfig
    from workbench.methods.erf import method as erf
    from workbench.methods.objects import ObjectsConfig
    from workbench.methods.objects import method as objects
    from workbench.methods.quantize import QuantizeConfig
    from workbench.methods.quantize import method as quantize
    from workbench.methods.resolution import ResolutionConfig
    from workbench.methods.resolution import method as resolution
    from workbench.methods.robustness import RobustnessConfig
    from workbench.methods.robustness import method as robustness
    from workbench.methods.scan_maps import ScanMapsConfig
    from workbench.methods.scan_maps import method as scan_maps
    from workbench.methods.sensitivity import SensitivityConfig
    from workbench.methods.sensitivity import method as sensitivity
    from workbench.methods.state import StateConfig
    from workbench.methods.state import method as state
    from workbench.methods.tokens import TokensConfig
    from workbench.methods.tokens import method as tokens
    from workbench.results import load
    from workbench.runner import run
    from workbench.study import Study
    from workbench.trace import patch, record, scans
    from workbench.weights import create_model

__all__ = [
    "AtlasConfig",
    "AttributionConfig",
    "DecomposeConfig",
    "ErfConfig",
    "ObjectsConfig",
    "QuantizeConfig",
    "ResolutionConfig",
    "RobustnessConfig",
    "ScanMapsConfig",
    "SensitivityConfig",
    "StateConfig",
    "Study",
    "TokensConfig",
    "atlas",
    "attribution",
    "create_model",
    "decompose",
    "erf",
    "external",
    "load",
    "objects",
    "open_images",
    "patch",
    "preprocessing_for",
    "quantize",
    "record",
    "resolution",
    "robustness",
    "run",
    "scan_maps",
    "scans",
    "sensitivity",
    "state",
    "tokens",
]

_PLACES = {
    "Study": "study",
    "create_model": "weights",
    "load": "results",
    "open_images": "images",
    "patch": "trace",
    "preprocessing_for": "images",
    "record": "trace",
    "run": "runner",
    "scans": "trace",
}


if not Path(__file__).with_name("kernels").is_dir():
    # In a checkout workbench/kernels is a link to the folder beside; where links are not kept:
    __path__.append(str(Path(__file__).parents[1]))


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    methods = import_module(f"{__name__}.methods")
    if name in _PLACES:
        found = getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
    elif name == "external":
        found = import_module(f"{__name__}.external")
    elif name.endswith("Config"):  # ScanMapsConfig is of scan-maps
        found = methods.get(re.sub(r"\B(?=[A-Z])", "-", name.removesuffix("Config")).lower()).Config
    else:
        found = methods.get(name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
