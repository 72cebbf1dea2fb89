"""The backbone families; importing this package registers them with timm."""

from workbench.models import nano
from workbench.models.mambavision import MambaVision
from workbench.models.s4nd import S4ND, ConvNeXtS4ND, ViTS4ND
from workbench.models.vim import Vim
from workbench.models.vmamba import VMamba

# The families of selective scans; S4ND is here for comparison.
FAMILIES = {"vim": Vim, "vmamba": VMamba, "mambavision": MambaVision}

__all__ = [
    "FAMILIES",
    "S4ND",
    "ConvNeXtS4ND",
    "MambaVision",
    "VMamba",
    "ViTS4ND",
    "Vim",
    "nano",
]
