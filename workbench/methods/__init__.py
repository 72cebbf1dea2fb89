"""The methods: one folder for each question that is asked of models, listed here once."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workbench.methods.method import Method

METHODS = {
    "erf": "Effective receptive field: which pixels one output unit depends on",
    "scan-maps": "Scan maps: which cells each scan direction carries to a place, layer by layer",
    "atlas": "Atlas: where every layer and direction looks, and which of them look alike",
    "state": "State: what the hidden states of scans hold, how long, and in how many dimensions",
    "decompose": "Decompose: what tokens add to the output of a layer, in parts that sum to it",
    "attribution": "Attribution: which pixels a prediction rests on, and how faithful that is",
    "tokens": "Tokens: which have outlying norms, where they lie and what they carry",
    "objects": "Objects: how well maps tell the pixels of an object from those around it",
    "resolution": "Resolution: what models predict at other image sizes, and what it costs",
    "robustness": "Robustness: what predictions withstand of attacks, corruptions and moved parts",
    "sensitivity": "Sensitivity: which of B, C and delta breaks under attack, asked in six ways",
    "quantize": "Quantisation: what predictions keep when scan tensors are rounded to few bits",
}
"""Name, as the command line spells it -> title and question. The folder has the same name, with
underscores. Nothing of a method is imported before it is asked for."""


_GROUPS = {
    "What it sees": ("erf", "scan-maps", "atlas"),
    "What is inside": ("state", "decompose", "tokens"),
    "Why": ("attribution", "objects"),
}
_REST = "What it withstands"


def groups() -> dict[str, list[str]]:
    """The methods by what is asked, for menus; those of no other group in the last."""
    grouped = {name for names in _GROUPS.values() for name in names}
    found = {group: [n for n in names if n in METHODS] for group, names in _GROUPS.items()}
    return {**found, _REST: [name for name in METHODS if name not in grouped]}


def folder(name: str) -> str:
    """The package of a method, such as `workbench.methods.scan_maps` of `scan-maps`."""
    return f"{__name__}.{name.replace('-', '_')}"


def get(name: str) -> "Method":
    """A method by its name, spelt with either `-` or `_`.

    Raises:
        ValueError: when there is none.
    """
    if name.replace("_", "-") not in METHODS:
        raise ValueError(f"there is no method {name!r}; there are {', '.join(METHODS)}")
    return import_module(folder(name)).method


def title(name: str) -> str:
    """Its name in words: what its line begins with, up to the colon."""
    return METHODS[name].partition(":")[0]
