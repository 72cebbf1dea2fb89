"""YAML files that people write by hand, read strictly and with the lines of their keys."""

import itertools
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml

from workbench.files import printable, regular

_LONGEST = 2**20
_MOST = 100_000
"""Bytes of a file, and values in it once its aliases are written out."""


class Lined(dict[str, Any]):
    """A mapping that knows the line of each of its keys, from 1."""

    lines: dict[Any, int]

    def __init__(self, *args: Any, lines: dict[Any, int] | None = None) -> None:
        super().__init__(*args)
        self.lines = lines or {}

    def renamed(self, names: Mapping[str, str]) -> "Lined":
        """The same under other names, for the keys that have one."""
        values = {names.get(key, key): value for key, value in self.items()}
        return Lined(values, lines={names.get(key, key): n for key, n in self.lines.items()})

    def over(self, other: "Lined") -> "Lined":
        """These values in place of, or beside, those of another mapping."""
        return Lined({**other, **self}, lines={**other.lines, **self.lines})


def line_of(mapping: Any, key: Any) -> str:
    """ ", line 3", or nothing where it is not known."""
    line = mapping.lines.get(key) if isinstance(mapping, Lined) else None
    return f", line {line}" if line else ""


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Lined:
        lines: dict[Hashable, int] = {}
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if not isinstance(key, str | int | float | bool):
                raise ValueError(f"line {line}: a key must be a word or a number")
            if key in lines:
                raise ValueError(
                    f"line {line}: {printable(key, 60)} is there twice, first in line {lines[key]}"
                )
            lines[key] = line
        self.flatten_mapping(node)
        values = {
            self.construct_object(key, deep=True): self.construct_object(value, deep=True)
            for key, value in node.value
        }
        return Lined(values, lines=lines)

    def construct_yaml_map(self, node: yaml.MappingNode) -> Any:
        yield self.construct_mapping(node)


_Loader.add_constructor("tag:yaml.org,2002:map", _Loader.construct_yaml_map)


def read_yaml(file: str | Path) -> Any:
    """What a YAML file says; mappings are `Lined`.

    Raises:
        ValueError: in a sentence with the line, for what is no YAML, keys that are there twice and
            aliases that write out to more than any file says.
        OSError: when the file cannot be read.
    """
    path = regular(file)
    if path.stat().st_size > _LONGEST:
        raise ValueError(f"{path} is longer than 1 MB, which no such file is")
    try:
        loader = _Loader(path.read_text(encoding="utf-8"))
        node = loader.get_single_node()
        if node is None:
            return None
        _check_size(node)
        return loader.construct_document(node)
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deeply") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f"line {mark.line + 1}: " if mark else ""
        raise ValueError(f"{path} is no YAML file: {line}{printable(error.problem)}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no YAML file: {printable(error)}") from error
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"{path}: {error}") from error


def _check_size(node: yaml.Node) -> None:
    """Refuse a document whose aliases stand for too much, or for themselves."""
    sizes: dict[int, int] = {}
    open_: set[int] = set()

    def size(node: yaml.Node) -> int:
        if isinstance(node, yaml.ScalarNode):
            return 1
        if id(node) in open_:
            raise ValueError(f"line {node.start_mark.line + 1}: an alias stands for itself")
        if id(node) not in sizes:
            open_.add(id(node))
            sequence = isinstance(node, yaml.SequenceNode)
            inner = node.value if sequence else itertools.chain.from_iterable(node.value)
            sizes[id(node)] = 1 + sum(size(child) for child in inner)
            open_.discard(id(node))
        if sizes[id(node)] > _MOST:
            raise ValueError(
                f"line {node.start_mark.line + 1}: written out, this is more than {_MOST:,} values"
            )
        return sizes[id(node)]

    size(node)
