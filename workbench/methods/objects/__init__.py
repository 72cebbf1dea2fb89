"""Maps against objects: how well what a model looks at tells the pixels of an object from those
around it (RNN as Linear Transformer, arXiv 2511.18380; The Hidden Attention of Mamba Models, arXiv
2403.01590).
"""

from collections.abc import Iterator
from typing import Any

from workbench.methods.method import Method
from workbench.methods.objects.config import ObjectsConfig


class Objects(Method):
    """See the module."""

    name = "objects"
    Config = ObjectsConfig

    def parts(
        self,
        run: Any,
        model: Any,
        images: Any,
        config: Any,
        preprocessing: Any,
        labelled: bool = False,
    ) -> Iterator[Any]:
        """As of `Method`; images without boxes are refused before anything is measured."""
        if images.boxes is None:
            raise ValueError(
                f"{images.title} has no boxes around objects: put a boxes.csv with the columns "
                "file, left, top, right, bottom beside the images, or an array box (images, 4) "
                "into the pack"
            )
        return super().parts(run, model, images, config, preprocessing, labelled)


method = Objects()
