"""Small models for 64 px images, one of each family and three for comparison.

They are the families' own classes at 0.7 to 1.1 million parameters, so every analysis runs the same
code as on the big models. `pretrained=True` reads the weights that ship with the project, trained
on Imagenette (10 classes) by the recipe in `workbench.train`.
"""

from pathlib import Path

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, ResNet
from timm.models.vision_transformer import VisionTransformer

from workbench.models.mambavision import MambaVision
from workbench.models.s4nd import ConvNeXtS4ND
from workbench.models.vim import Vim
from workbench.models.vmamba import VMamba

WEIGHTS = Path(__file__).parents[2] / "samples" / "weights"

VARIANTS: dict[str, dict] = {
    "vmamba_nano": {"dims": (48, 96, 192), "depths": (2, 2, 2), "mlp_ratio": 2.0},
    "vim_nano": {"img_size": 64, "patch_size": 8, "embed_dim": 128, "depth": 6, "d_state": 8},
    "mambavision_nano": {
        "dim": 32,
        "in_dim": 32,
        "depths": (2, 4, 4),
        "num_heads": (2, 4, 8),
        "window_size": (8, 8, 4),
        "conv_stages": 1,
    },
    "resnet_nano": {  # ResNet-D: three narrow convolutions first, strides by averaging
        "block": BasicBlock,
        "layers": (2, 2, 2, 2),
        "channels": (32, 64, 96, 128),
        "stem_type": "deep",
        "stem_width": 16,
        "avg_down": True,
    },
    "vit_nano": {
        "img_size": 64,
        "patch_size": 8,
        "embed_dim": 128,
        "depth": 6,
        "num_heads": 4,
        "mlp_ratio": 3.0,
        "dynamic_img_size": True,
    },
    # Half of the bandwidth, so that kernels sampled twice as coarsely (at 32 px) do not alias.
    "s4nd_nano": {
        "train_size": 64,
        "dims": (48, 96, 192),
        "depths": (2, 2, 2),
        "stem_width": 16,
        "layer_scale": None,
        "d_state": 16,
        "mode": "diag",
        "bandlimit": 0.5,
    },
}
_CLASSES = {
    "vmamba_nano": VMamba,
    "vim_nano": Vim,
    "mambavision_nano": MambaVision,
    "resnet_nano": ResNet,
    "vit_nano": VisionTransformer,
    "s4nd_nano": ConvNeXtS4ND,
}
_HEADS = {
    "vmamba_nano": ("patch_embed.0", "classifier.head"),
    "vim_nano": ("patch_embed.proj", "head"),
    "mambavision_nano": ("patch_embed.conv_down.0", "head"),
    "resnet_nano": ("conv1.0", "fc"),
    "vit_nano": ("patch_embed.proj", "head"),
    "s4nd_nano": (None, "head"),  # it begins without a convolution
}


def _cfg(name: str) -> dict:
    first_conv, classifier = _HEADS[name]
    file = WEIGHTS / f"{name}.safetensors"
    return {
        "file": str(file) if file.is_file() else None,
        "num_classes": 10,
        "input_size": (3, 64, 64),
        "fixed_input_size": False,
        "crop_pct": 1.0,
        "interpolation": "bicubic",
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "first_conv": first_conv,
        "classifier": classifier,
        "license": "apache-2.0",
    }


default_cfgs = generate_default_cfgs({name: _cfg(name) for name in VARIANTS})


def _create(variant: str, pretrained: bool, **kwargs):
    return build_model_with_cfg(
        _CLASSES[variant],
        variant,
        pretrained,
        feature_cfg={"out_indices": (0, 1, 2), "feature_cls": "getter"},
        **{"num_classes": 10, **VARIANTS[variant], **kwargs},
    )


@register_model
def vmamba_nano(pretrained: bool = False, **kwargs) -> VMamba:
    return _create("vmamba_nano", pretrained, **kwargs)


@register_model
def vim_nano(pretrained: bool = False, **kwargs) -> Vim:
    return _create("vim_nano", pretrained, **kwargs)


@register_model
def mambavision_nano(pretrained: bool = False, **kwargs) -> MambaVision:
    return _create("mambavision_nano", pretrained, **kwargs)


@register_model
def resnet_nano(pretrained: bool = False, **kwargs) -> ResNet:
    return _create("resnet_nano", pretrained, **kwargs)


@register_model
def vit_nano(pretrained: bool = False, **kwargs) -> VisionTransformer:
    return _create("vit_nano", pretrained, **kwargs)


@register_model
def s4nd_nano(pretrained: bool = False, **kwargs) -> ConvNeXtS4ND:
    return _create("s4nd_nano", pretrained, **kwargs)
