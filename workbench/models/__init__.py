"""The backbone families; importing this package registers them with timm."""

from workbench.models import nano
from workbench.models.mambavision import MambaVision
from workbench.models.vim import Vim
from workbench.models.vmamba import VMamba

FAMILIES = {"vim": Vim, "vmamba": VMamba, "mambavision": MambaVision}

__all__ = ["FAMILIES", "MambaVision", "VMamba", "Vim", "nano"]
