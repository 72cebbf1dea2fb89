"""What a repository's user tells about a model, in a Python file; every part is optional but make.

make() -> the model; its imports are those of the repository.
inputs(image) -> the arguments of forward, as a tuple or a dict, for images (b, 3, h, w).
score(output) -> (b, classes) scores, or (b,) numbers to differentiate.
grid(module, shape) -> (rows, columns) of the tokens of the image in an input of that shape, or
    (frames, rows, columns), or None to have it learned.
paths(module, call, direction, grid) -> the cell read at each step, -1 for padding, or None.
skip(module, call) -> whether this scan does not go over the image.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

PARTS = ("make", "inputs", "score", "grid", "paths", "skip")


def _nothing(*_: Any) -> None:
    return None


def _the_image(image: Tensor) -> tuple[Tensor]:
    return (image,)


def class_scores(output: Any) -> Tensor:
    """(b, classes) of what a model returns: logits as they are, maps averaged over places, tokens
    (b, n, classes) over tokens; of several outputs the first.

    Raises:
        ValueError: for anything else.
    """
    if isinstance(output, Mapping):
        output = tuple(output.values())
    if isinstance(output, tuple | list) and output:
        return class_scores(output[0])
    if not isinstance(output, Tensor) or output.ndim not in (2, 3, 4):
        kind = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(
            f"the model returns {kind}, not logits or a map; say in the adapter what of it is to "
            "be differentiated: score(output) -> (b, classes)"
        )
    if output.ndim == 2:
        return output
    return output.mean(dim=1) if output.ndim == 3 else output.mean(dim=(2, 3))


@dataclass(frozen=True)
class Adapter:
    """The parts of an adapter; see above."""

    make: Callable[[], nn.Module]
    inputs: Callable[[Tensor], Any] = _the_image
    score: Callable[[Any], Tensor] = class_scores
    grid: Callable[[str, tuple[int, ...]], tuple[int, ...] | None] = _nothing
    paths: Callable[[str, int, int, tuple[int, int]], Any] = _nothing
    skip: Callable[[str, int], bool | None] = _nothing

    def arguments(self, image: Tensor) -> tuple[tuple, dict]:
        """Positional and keyword arguments of the model's forward."""
        given = self.inputs(image)
        if isinstance(given, dict):
            return (), given
        return tuple(given) if isinstance(given, tuple | list) else (given,), {}

    def scores(self, output: Any) -> Tensor:
        """(b, classes); a single number counts as the score of the second of two classes."""
        found = self.score(output)
        if found.ndim == 1:
            found = found[:, None]
        if found.shape[1] == 1:
            found = torch.cat([torch.zeros_like(found), found], dim=1)
        return found


def check_adapter(file: str | Path) -> None:
    """Raises ValueError when there is no such file."""
    if not Path(file).is_file():
        raise ValueError(f"there is no adapter {file}; give a Python file with make() in it")


def read_adapter(file: str | Path) -> Adapter:
    """Run an adapter file.

    Raises:
        ValueError: when there is no such file, or no `make` in it.
    """
    check_adapter(file)
    path = Path(file)
    names: dict[str, Any] = {"__name__": f"workbench_adapter_{path.stem}", "__file__": str(path)}
    exec(compile(path.read_text(), str(path), "exec"), names)
    parts = {part: names[part] for part in PARTS if callable(names.get(part))}
    if "make" not in parts:
        raise ValueError(f"{path.name} has no make(), the function that returns the model")
    return Adapter(**parts)
