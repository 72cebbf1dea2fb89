"""Effective receptive field: which pixels one output unit depends on (Luo et al., NIPS 2016).

A unit's map is the size of the gradient of its feature to every input pixel. What is summed, over
what and how it is averaged is in `ErfConfig`; `PRESETS` are the published protocols.
"""

from typing import TYPE_CHECKING

from workbench.methods.erf.config import ErfConfig, own_size, prepared
from workbench.methods.method import Method

if TYPE_CHECKING:
    from workbench.images import Preprocessing


class EffectiveReceptiveField(Method):
    name = "erf"
    Config = ErfConfig
    before_after = True

    def own_size(self, config: ErfConfig) -> int | None:
        return own_size(config)

    def prepared(self, preprocessing: "Preprocessing", config: ErfConfig) -> "Preprocessing":
        return prepared(preprocessing, config)


method = EffectiveReceptiveField()
