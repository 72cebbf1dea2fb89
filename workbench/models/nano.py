"""Two networks to compare the small models of the families with: a ResNet and a ViT.

Like those (see the end of each family's file) they have about a million parameters, and
`pretrained=True` reads weights that ship with the project, trained on Imagenette (10 classes) by
the recipe in `workbench.train`.
"""

from timm.models import generate_default_cfgs
from timm.models.resnet import BasicBlock, ResNet
from timm.models.vision_transformer import VisionTransformer

from workbench.models.family import nano_cfgs, register

RESNET = {
    "resnet_nano": {  # ResNet-D: three narrow convolutions first, strides by averaging
        "block": BasicBlock,
        "layers": (2, 2, 2, 2),
        "channels": (32, 64, 96, 128),
        "stem_type": "deep",
        "stem_width": 16,
        "avg_down": True,
    }
}
VIT = {
    "vit_nano": {
        "patch_size": 8,
        "embed_dim": 128,
        "depth": 6,
        "num_heads": 4,
        "mlp_ratio": 3.0,
        "dynamic_img_size": True,
    }
}
default_cfgs = generate_default_cfgs(
    {
        **nano_cfgs("resnet_nano", first_conv="conv1.0", classifier="fc"),
        **nano_cfgs(
            "vit_nano", first_conv="patch_embed.proj", classifier="head", fixed_input_size=True
        ),
    }
)
register(__name__, ResNet, RESNET, out_indices=(0, 1, 2))
register(__name__, VisionTransformer, VIT, out_indices=(0, 1, 2))
