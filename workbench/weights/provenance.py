"""Where a model comes from, and what results say of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Provenance:
    """Where a model comes from: its attribute `provenance`.

    Attributes:
        model: the name by which it was asked for.
        source: what was asked for as weights: a place, "official", "from make()", or "random".
        file, sha256: name and hash of the weight file, where one was read.
        entry: the key of the checkpoint that was used.
        licence: of the weights, a sentence.
        seed: of random weights.
        classes: their number, where it is known.
        class_names: the classes that the weights tell apart, or the name of timm's list of them,
            such as "imagenet-1k"; nothing where they are not known.
        notes: what became of the weights on the way.
    """

    model: str
    source: str
    file: str | None = None
    sha256: str | None = None
    entry: str | None = None
    licence: str | None = None
    seed: int = 0
    classes: int | None = None
    class_names: Sequence[str] | str = ()
    notes: Sequence[str] = ()

    @property
    def random(self) -> bool:
        """Whether the weights are those of an initialisation."""
        return self.source == "random"

    @property
    def weights(self) -> str:
        """The name of the weights: "random", or that of their file."""
        return self.file or Path(self.source).name

    def facts(self) -> dict[str, Any]:
        """The same words in every result, from scripts and app."""
        return {
            "model": self.model,
            "weights": self.weights,
            "weights_sha256": self.sha256,
            "weights_label": f"random weights (seed {self.seed})" if self.random else self.weights,
            "licence": self.licence,
            "seed": self.seed,
            "training": "before training" if self.random else "after training",
            **({"class_names": self.class_names} if self.class_names else {}),
            # of one file, each entry is another model
            **({"entry": self.entry} if self.entry else {}),
        }


def facts_of(model: nn.Module) -> dict[str, Any]:
    """What results say of a model from `create_model` or `external.load`."""
    provenance: Any = model.provenance
    return provenance.facts()
