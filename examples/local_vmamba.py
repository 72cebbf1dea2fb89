"""LocalVMamba (github.com/hunto/LocalMamba): the folder to give is `classification` in the clone.

git clone https://github.com/hunto/LocalMamba
pip install einops
vssm erf --repo LocalMamba/classification --adapter examples/local_vmamba.py --images samples
"""


def make():
    from lib.models.local_vmamba import VSSM

    return VSSM(depths=[1, 1, 1, 1], dims=96)
