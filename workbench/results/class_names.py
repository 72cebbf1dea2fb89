"""What the classes are called that a model of a result tells apart."""

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from timm.data.imagenet_info import ImageNetInfo


def class_name(known: Sequence[str] | str, number: int) -> str:
    """The name of a class, given all of them or the name of timm's list: "class 3" without."""
    if isinstance(known, str):
        return _listed(known).index_to_description(number).partition(",")[0]
    return known[number] if number < len(known) else f"class {number}"


@cache
def _listed(name: str) -> "ImageNetInfo":
    from timm.data.imagenet_info import ImageNetInfo  # slow, and needed for few figures

    return ImageNetInfo(name)
