"""The backbone families; importing this package registers the models of every file in it."""

from importlib import import_module
from pkgutil import iter_modules

# In the order in which they are offered.
# isort: off
from workbench.models.family import (
    REGISTERED,
    Adaptation,
    Backbone,
    Network,
    Readout,
    ScanMixer,
    backbone_of,
    backbones_in,
    bare,
    networks,
    register,
)
from workbench.models.vmamba import VMamba
from workbench.models.vim import Vim, resize_pos_embed
from workbench.models.mambavision import MambaVision
from workbench.models.s4nd import S4ND, ConvNeXtS4ND, ViTS4ND
# isort: on

__all__ = [
    "REGISTERED",
    "S4ND",
    "Adaptation",
    "Backbone",
    "ConvNeXtS4ND",
    "MambaVision",
    "Network",
    "Readout",
    "ScanMixer",
    "VMamba",
    "ViTS4ND",
    "Vim",
    "backbone_of",
    "backbones_in",
    "bare",
    "networks",
    "register",
    "resize_pos_embed",
]

for _file in iter_modules(__path__, f"{__name__}."):
    import_module(_file.name)
