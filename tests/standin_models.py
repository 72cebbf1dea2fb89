"""The small foreign models of the tests, stood in for, and the same weights in our families."""

from functools import cache
from pathlib import Path

from torch import nn

from workbench import standin
from workbench.models import Vim, VMamba

FOREIGN = Path(__file__).parent / "foreign"


def load(name: str, **options) -> standin.StoodIn:
    """`vmamba` or `vim`."""
    return standin.load(FOREIGN / name, FOREIGN / f"adapter_{name}.py", size=64, **options)


@cache
def pair(name: str) -> tuple[standin.StoodIn, nn.Module]:
    """A foreign model and ours with the same weights."""
    foreign = load(name)
    if name == "vmamba":
        own: nn.Module = VMamba(
            dims=(16, 32), depths=(1, 1), stem="v1", downsample="v2", d_state=2, mlp_ratio=2.0,
            num_classes=10,
        )  # fmt: skip
    else:
        own = Vim(img_size=64, embed_dim=16, depth=4, d_state=4, num_classes=10)
    own.load_state_dict(foreign.model.state_dict())
    return foreign, own.eval()
