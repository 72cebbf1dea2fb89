"""The contract of a method: everything that the runner, a study, the command line, the YAML files
and the pages ask of one.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Literal,
    Protocol,
    get_args,
    get_origin,
    get_type_hints,
)

import numpy as np

from workbench.former import CHOICES
from workbench.position import read_position
from workbench.results import Result

if TYPE_CHECKING:  # the command line reads contract and options, and torch takes seconds
    from torch import nn

    from workbench.images import Batch, Images, Preprocessing

Run = Callable[..., Result]
"""`run(method, model, images, config, *, preprocessing=None, facts=None, folder=None)`: one run
over images, resumable, stored in `folder` below the place of all results."""


@dataclass(frozen=True)
class Partial:
    """What a method measured on some images.

    Attributes:
        arrays: by name, arrays whose first axis is the images, or empty; in no order.
        constants: by name, what is the same for all images, such as the names of an array's other
            axes: numbers, texts, lists and dicts, in their order.
    """

    arrays: Mapping[str, np.ndarray]
    constants: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]

    def __contains__(self, name: str) -> bool:
        return name in self.arrays

    @classmethod
    def joined(cls, parts: Sequence[Partial]) -> Partial:
        """What was measured on the images of all parts.

        Raises:
            ValueError: when parts have different arrays, or a constant differs between them.
        """
        first = parts[0]
        for part in parts[1:]:
            if part.arrays.keys() != first.arrays.keys():
                raise ValueError("different arrays were measured on different images")
            for name in {**first.constants, **part.constants}:
                a, b = (json.dumps(of.constants.get(name)) for of in (first, part))
                if a != b:
                    raise ValueError(
                        f'the constant "{name}" is {a:.80} on some images and {b:.80} on others; '
                        "what depends on the images belongs to the arrays"
                    )
        arrays = {name: np.concatenate([part[name] for part in parts]) for name in first.arrays}
        return cls(arrays, first.constants)


class Config:
    """Base of the methods' configurations: frozen dataclasses whose choices are `Literal`s.

    A subclass with further conditions checks them in `__post_init__`, after `super()`'s.

    Raises:
        ValueError: for a value that is none of a field's choices.
    """

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self)).items():
            object.__setattr__(self, name, chosen(name, getattr(self, name), hint))

    def at_least(self, **lowest: int) -> None:
        """Raise ValueError for a field below its lowest value; None is a default and passes."""
        for name, least in lowest.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}, not {value}")


@dataclass(frozen=True)
class IntervalConfig(Config):
    """A configuration with intervals over images.

    Attributes:
        resamples: groups of images, at most, that the jackknife leaves out in turn (of receptive
            fields and corruption errors); below 2 these have no intervals.
        confidence: level of the intervals.
        seed: of every random draw.

    Raises:
        ValueError: for a confidence that is not between 0 and 1.
    """

    resamples: int = 200
    confidence: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(resamples=0)
        if not 0 < self.confidence < 1:
            raise ValueError(f"confidence must be between 0 and 1, not {self.confidence}")


@dataclass(frozen=True)
class QueryConfig(IntervalConfig):
    """A configuration of layers that are asked about one token.

    Attributes:
        layer: a layer's number counted from 0 (-1 is the last), a module path or its beginning
            such as layers.2.blocks.1, or a pattern; all layers by default.
        query: the cell asked about: centre, a cell such as 3,3, fractions of the image such as
            0.5,0.5, or class for the class token.
        keep: images whose own maps are kept; the mean is over all.
        chunk: images measured at a time.
    """

    layer: str = "*"
    query: str = "centre"
    keep: int = 8
    chunk: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(chunk=1, keep=1)
        if self.query != "class":
            read_position(self.query)


def choices(hint: Any) -> tuple:
    """The values that a type such as `Literal["a", "b"] | None` or `tuple[Literal[1, 2], ...]`
    allows, None among them; empty when it allows more than its `Literal`s.
    """
    if get_origin(hint) is Literal:
        return get_args(hint)
    if hint is type(None):
        return (None,)
    inner = [choices(part) for part in get_args(hint) if part is not Ellipsis]
    if not any(part != (None,) for part in inner) or not all(inner):
        return ()
    return tuple(value for part in inner for value in part)


def chosen(name: str, value: Any, hint: Any) -> Any:
    """A value, or several, of a type's choices, those of earlier versions in the words of today.
    Numbers stand for texts: a place (0.3, 0.6) is "0.3,0.6".

    Raises:
        ValueError: for one that is none of them.
    """
    allowed = choices(hint)
    if hint in (str, str | None) and isinstance(value, tuple | list | int | float):
        return ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
    if isinstance(value, tuple | list):
        return type(value)(chosen(name, one, hint) for one in value)
    if not allowed or value in allowed:
        return value
    if isinstance(value, str) and CHOICES.get(value) in allowed:
        return CHOICES[value]
    listed = ", ".join(str(option) for option in allowed if option is not None)
    raise ValueError(f"{name} must be one of {listed}, not {value!r}")


class Method(Protocol):
    """One question asked of any model on any images.

    A subclass gives `name` and `Config`; what else it says of itself has the answer that fits most
    methods. An object of it is `method` of `workbench.methods.<name>`, listed in
    `workbench.methods.METHODS`; `measure.py` beside it has `measure` and `combine`, and `figure.py`
    draws the results.

    Attributes:
        name: as the command line spells it, such as `scan-maps`.
        Config: its configuration, a frozen dataclass; a field `chunk`, if any, sets the images that
            are measured at a time.
        before_after: whether the command line measures trained models before training too.
        scans: whether it asks about selective scans, which not every model has.
    """

    name: ClassVar[str]
    Config: ClassVar[type]
    before_after: ClassVar[bool] = False
    scans: ClassVar[bool] = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if not cls.__doc__:  # then the module says what is asked
            cls.__doc__ = getattr(sys.modules.get(cls.__module__), "__doc__", None)

    def __call__(
        self,
        model: nn.Module | str,
        /,
        images: Any = "samples",
        config: Any = None,
        **options: Any,
    ) -> Result:
        """Measure one model: `workbench.run` with a progress bar. Fields of `Config` and arguments
        of `run`, such as `weights`, `size` and `limit`, are keywords.
        """
        # the runner stands above the methods, which know nothing of it but its name
        run = import_module("workbench.runner").run
        return run(self, model, images, config, **{"progress": True, **options})

    def measure(self, model: nn.Module, batch: Batch, config: Any) -> Partial:
        """What is measured on some images: tensors in, arrays out."""
        return self._file("measure").measure(model, batch, config)

    def combine(self, measured: Partial, config: Any, meta: dict[str, Any]) -> Result:
        """The result of all images, from what was measured on them chunk by chunk."""
        return self._file("measure").combine(measured, config, meta)

    def _file(self, name: str) -> Any:
        """A module of the method's folder, imported when it is needed."""
        return import_module(f"{type(self).__module__}.{name}")

    def own_size(self, config: Any) -> int | None:
        """Side of the images in pixels that a published protocol asks for; None for the model's."""
        return None

    def prepared(self, preprocessing: Preprocessing, config: Any) -> Preprocessing:
        """How images are brought to size, given how the model has it."""
        return preprocessing

    def variants(self, config: Any) -> Sequence[Any]:
        """The configurations that one stands for, each measured on its own."""
        return (config,)

    def parts(
        self,
        run: Run,
        model: nn.Module,
        images: Images,
        config: Any,
        preprocessing: Preprocessing,
        labelled: bool = False,
    ) -> Iterator[Any]:
        """Everything that belongs to one result, yielded as it is measured.

        What can be wrong with the input is looked for at the call, before the first part.

        Args:
            labelled: count right answers; else the images may have labels, but none are asked for.
        """
        yield run(self, model, images, config, preprocessing=preprocessing)

    def told(self, parts: Sequence[Any], config: Any) -> str | None:
        """A line about the last of `parts`, for those who wait; None for nothing to say."""
        return None

    def join(self, parts: Sequence[Any], config: Any) -> Result:
        """The result of all parts."""
        (result,) = parts
        return result

    def file_name(self, result: Result) -> str | None:
        """The file that a joined result is stored in; None where a part is the result itself."""
        return None

    def compare(self, results: Sequence[Any]) -> list[Any]:
        """What results of several models say of each other. A subclass may take further arguments
        with defaults: they become options of the command line.
        """
        return list(results)
