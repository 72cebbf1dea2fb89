"""State: what the hidden state of every scan direction holds along its path: how large it is, how
long each channel remembers, how many dimensions are in use, which tokens the last state still
holds, and what is left of a marked token (X-VMamba, arXiv 2511.12694).
"""

from workbench.methods.method import Method
from workbench.methods.state.config import StateConfig


class State(Method):
    """See the module."""

    name = "state"
    Config = StateConfig
    scans = True


method = State()
