"""VM-UNet (github.com/JCruan519/VM-UNet): the folder to give is the clone itself.

git clone https://github.com/JCruan519/VM-UNet
pip install einops
vssm erf --repo VM-UNet --adapter examples/vm_unet.py --images samples --out out
"""


def make():
    from models.vmunet.vmunet import VMUNet

    # as in its configs/config_setting.py
    return VMUNet(num_classes=1, depths=[2, 2, 2, 2], depths_decoder=[2, 2, 2, 1])


def score(output):
    """The log odds of "lesion", averaged over the image, from the probability of each pixel."""
    return output.logit(eps=1e-6).mean(dim=(1, 2, 3))
