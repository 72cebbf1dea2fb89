"""The adapter of the small Vim."""


def make():
    from models_mamba import VisionMamba

    return VisionMamba()
