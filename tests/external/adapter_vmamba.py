"""The adapter of the small VMamba."""


def make():
    from models.vmamba import VSSM

    return VSSM()
