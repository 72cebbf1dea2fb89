"""The small external models of the tests, stood in for, and the same weights in our families."""

from functools import cache
from pathlib import Path

from torch import nn

from workbench import external
from workbench.models import Vim, VMamba

FOLDER = Path(__file__).parent / "external"


def load(name: str, **options) -> external.ExternalModel:
    """`vmamba` or `vim`."""
    return external.load(FOLDER / name, FOLDER / f"adapter_{name}.py", size=64, **options)


@cache
def pair(name: str) -> tuple[external.ExternalModel, nn.Module]:
    """An external model and ours with the same weights."""
    external_model = load(name)
    if name == "vmamba":
        own: nn.Module = VMamba(
            dims=(16, 32), depths=(1, 1), stem="v1", downsample="v2", d_state=2, mlp_ratio=2.0,
            num_classes=10,
        )  # fmt: skip
    else:
        own = Vim(img_size=64, embed_dim=16, depth=4, d_state=4, num_classes=10)
    own.load_state_dict(external_model.model.state_dict())
    return external_model, own.eval()
