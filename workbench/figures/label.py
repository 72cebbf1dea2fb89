"""How a figure names what it shows."""

from collections import Counter
from collections.abc import Sequence

from workbench.results import Result


def label(result: Result, separator: str = ", ") -> str:
    """The model and its weights."""
    facts = result.meta.get("facts", {})
    model, weights = facts.get("model", "model"), facts.get("weights_label") or ""
    return separator.join(filter(None, (model, weights_beside(model, weights))))


def weights_beside(model: str, weights: str) -> str:
    """What weights are called beside the name of their model: their tag alone, where the file is
    named as timm names them; nothing where it is named as the model."""
    stem = weights.removesuffix(".safetensors")
    return "" if stem == model else stem.removeprefix(f"{model}.") if stem != weights else weights


def layer_titles(names: Sequence[str]) -> list[str]:
    """Layers as stage and block, counted from 1, where these are the numbers of the module paths
    and tell the layers apart; else the paths.
    """
    numbers = [[int(part) + 1 for part in name.split(".") if part.isdigit()] for name in names]
    words = {1: "block {}", 2: "stage {}, block {}"}
    titles = [
        words[len(found)].format(*found) if len(found) in words else name
        for name, found in zip(names, numbers, strict=True)
    ]
    count = Counter(titles)
    return [title if count[title] == 1 else name for name, title in zip(names, titles, strict=True)]
