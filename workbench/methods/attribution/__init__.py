"""Attribution: which pixels a prediction rests on, by captum's methods and by the maps of
HiddenMambaAttn, and how faithful such a map is.
"""

from workbench.methods.attribution.config import AttributionConfig
from workbench.methods.attribution.measure import combine, measure
from workbench.methods.method import Method


class Attribution(Method):
    """See the module."""

    name = "attribution"
    Config = AttributionConfig
    measure = staticmethod(measure)
    combine = staticmethod(combine)


method = Attribution()
