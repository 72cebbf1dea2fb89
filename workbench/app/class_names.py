"""Names of the classes that a model tells apart, where its weights say which they are."""

import streamlit as st
from timm.data.imagenet_info import ImageNetInfo

from workbench.app.session import Spec
from workbench.weights.files import recipe_of

IMAGENETTE = (0, 217, 482, 491, 497, 566, 569, 571, 574, 701)
"""The ImageNet-1k numbers of Imagenette's ten classes, in their order."""


@st.cache_data(max_entries=100, show_spinner=False)
def class_names(spec: Spec, count: int) -> list[str]:
    """A name for each of `count` classes: ImageNet's or Imagenette's, else "class 3"."""
    numbers = ()
    if count == 1000 and not spec.random:
        numbers = range(1000)
    elif count == len(IMAGENETTE) and str(recipe_of(spec.source).get("data")).startswith(
        "imagenette"
    ):
        numbers = IMAGENETTE
    if not numbers:
        return [f"class {i}" for i in range(count)]
    known = ImageNetInfo("imagenet-1k")
    return [known.index_to_description(number).partition(",")[0] for number in numbers]
