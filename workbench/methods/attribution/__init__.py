"""Attribution: which pixels a prediction rests on, by captum's methods and by the maps of
HiddenMambaAttn, and how faithful such a map is.
"""

from workbench.methods.attribution.config import AttributionConfig
from workbench.methods.method import Method


class Attribution(Method):
    name = "attribution"
    Config = AttributionConfig


method = Attribution()
