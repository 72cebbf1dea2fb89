"""Read and replace what goes into and comes out of every selective scan of a model.

Built on PyTorch's own module hooks: nothing in a model is rewritten, and nothing is left behind.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from workbench.attention import Attention
from workbench.hooks import hooks, inputs
from workbench.models import backbone_of
from workbench.paths import ScanPath
from workbench.scan import SelectiveScan

TENSORS = ("u", "delta", "A", "B", "C", "D", "y")


@dataclass(frozen=True)
class Site:
    """One direction of one selective scan.

    Attributes:
        module: the scan's module path, such as `layers.2.blocks.1.op.scan`.
        direction: the direction's name, such as `column-reversed`.
        index: its place among the scan's directions.
        layer: the scan's place among all mixing layers of the model, from 0.
        stage: the stage it lies in, from 1 (see `workbench.geometry.stages`), or None.
        path: the way it takes over the grid of cells, from `scans(model, size)`; else None.
    """

    module: str
    direction: str
    index: int
    layer: int
    stage: int | None = None
    path: ScanPath | None = field(default=None, compare=False)

    @property
    def name(self) -> str:
        """`layers.2.blocks.1.op.scan/column-reversed`."""
        return f"{self.module}/{self.direction}"

    @property
    def grid(self) -> tuple[int, int] | None:
        """Rows and columns of cells (of one window, in a model that scans windows)."""
        return None if self.path is None else (self.path.height, self.path.width)


def mixing_layers(model: nn.Module) -> dict[str, SelectiveScan | Attention]:
    """The layers that mix tokens, scans and attention, by module path in the order of the network.

    Their places in it, from 0, are the numbers of layers everywhere.
    """
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, SelectiveScan | Attention)
    }


def scans(model: nn.Module, size: int | tuple[int, int] | None = None) -> list[Site]:
    """List every direction of every selective scan of `model`, in module order.

    Args:
        size: height and width of images in pixels (one number for squares). One blank image of
            that size then goes through the model, and the sites come with grid and path.
    """
    layers = list(enumerate(mixing_layers(model).items()))
    modules = {name: module for _, (name, module) in layers if isinstance(module, SelectiveScan)}
    paths = {} if size is None else _paths_at(model, modules, size)
    backbone = backbone_of(model)
    return [
        Site(
            name,
            direction,
            index,
            layer,
            backbone.stage_of(name),
            paths[name][index] if name in paths else None,
        )
        for layer, (name, module) in layers
        if isinstance(module, SelectiveScan)
        for index, direction in enumerate(module.directions)
    ]


def _paths_at(
    model: nn.Module, modules: dict[str, SelectiveScan], size: int | tuple[int, int]
) -> dict[str, Sequence[ScanPath]]:
    first = next(model.parameters())
    height, width = (size, size) if isinstance(size, int) else size
    with torch.no_grad(), inputs(modules) as found:
        model(torch.zeros(1, 3, height, width, device=first.device, dtype=first.dtype))
    return {name: tensors["paths"] for name, (_, tensors) in found.items() if tensors.get("paths")}


class Recording(dict[str, dict[str, Tensor]]):
    """Site name -> tensor name -> tensor of that direction in scan order.

    u, delta, y (b, d, l); A (d, n); B, C (b, n, l); D (d).

    Attributes:
        paths: site name -> the ScanPath that its sequence follows.
    """

    def __init__(self) -> None:
        super().__init__()
        self.paths: dict[str, ScanPath] = {}


def find_sites(model: nn.Module, sites: str | list[str]) -> list[Site]:
    """Return the sites whose names match one of the patterns (`*` and `?` as in a shell).

    Raises:
        ValueError: when a pattern matches nothing; the message lists the names nearest to it.
    """
    known = scans(model)
    names = [site.name for site in known]
    chosen: set[str] = set()
    for pattern in [sites] if isinstance(sites, str) else sites:
        fitting = {pattern} & set(names) or {name for name in names if fnmatchcase(name, pattern)}
        if not fitting:
            raise ValueError(_no_site(model, pattern, known))
        chosen |= fitting
    return [site for site in known if site.name in chosen]


def _no_site(model: nn.Module, pattern: str, known: list[Site]) -> str:
    from difflib import get_close_matches

    if not known:
        return f"{type(model).__name__} has no selective scan, so there is no site {pattern!r}"
    near = get_close_matches(pattern, [site.name for site in known], n=3, cutoff=0.3)
    return f"no scan site matches {pattern!r}; near are {', '.join(near or [known[0].name])}"


def _part(name: str, tensor: Tensor, index: int, directions: int) -> Tensor:
    """One direction's share: u, delta, y (b, d, l); A (d, n); B, C (b, n, l); D (d)."""
    if name in ("B", "C"):
        return tensor[:, index]
    return tensor.chunk(directions, dim=0 if name in ("A", "D") else 1)[index]


def _join(name: str, parts: list[Tensor]) -> Tensor:
    if name in ("B", "C"):
        return torch.stack(parts, dim=1)
    return torch.cat(parts, dim=0 if name in ("A", "D") else 1)


@contextmanager
def _hooked(
    model: nn.Module,
    sites: list[Site],
    before: Callable[[SelectiveScan, list[Site], dict], dict | None],
    after: Callable[[SelectiveScan, list[Site], dict, Tensor], Tensor | None],
) -> Iterator[None]:
    """Run `before` and `after` around the scans of `sites`, in this thread only."""
    owner = threading.get_ident()
    by_module: dict[str, list[Site]] = {}
    for site in sites:
        by_module.setdefault(site.module, []).append(site)
    modules = {model.get_submodule(name): members for name, members in by_module.items()}

    def pre(module, args, kwargs):
        if threading.get_ident() == owner:
            changed = before(module, modules[module], kwargs)
            return None if changed is None else (args, changed)
        return None

    def post(module, args, kwargs, y):
        if threading.get_ident() == owner:
            return after(module, modules[module], kwargs, y)
        return None

    with hooks(modules, pre, post):
        yield


@contextmanager
def record(
    model: nn.Module, *names: str, sites: str | list[str] = "*", keep: str = "cpu"
) -> Iterator[Recording]:
    """Keep the scan tensors of a forward pass. The pass gives the same bits as a plain one.

    Args:
        names: of `u`, `delta`, `A`, `B`, `C`, `D`, `y`; none for all of them.
        sites: patterns of site names.
        keep: "cpu" keeps detached copies on the CPU. "graph" keeps the very tensors that the scan
            reads and writes, so that gradients with respect to them can be taken, also in a model
            without any other gradient.

    Yields:
        A `Recording`, filled by the forward pass.

    Raises:
        ValueError: for an unknown tensor name or a pattern that matches no site.
    """
    wanted = names or TENSORS
    _check_names(wanted)
    if keep not in ("cpu", "graph"):
        raise ValueError(f"keep must be 'cpu' or 'graph', not {keep!r}")
    found = find_sites(model, sites)
    kept = Recording()

    def parts_of(module: SelectiveScan, name: str, tensor: Tensor) -> list[Tensor]:
        count = len(module.directions)
        return [_part(name, tensor, i, count) for i in range(count)]

    def in_graph(module: SelectiveScan, members: list[Site], name: str, tensor: Tensor) -> Tensor:
        parts = parts_of(module, name, tensor)
        if torch.is_grad_enabled() and not tensor.requires_grad:
            parts = [part.detach().requires_grad_() for part in parts]
        for site in members:
            kept.setdefault(site.name, {})[name] = parts[site.index]
        return _join(name, parts)  # of the parts, so that gradients pass through them

    def before(module: SelectiveScan, members: list[Site], tensors: dict) -> dict | None:
        for site in members:
            if tensors.get("paths"):
                kept.paths[site.name] = tensors["paths"][site.index]
        if keep == "cpu":
            return None
        changed = {
            name: in_graph(module, members, name, tensors[name])
            for name in wanted
            if name != "y" and tensors.get(name) is not None
        }
        return {**tensors, **changed}

    def after(
        module: SelectiveScan, members: list[Site], tensors: dict, y: Tensor
    ) -> Tensor | None:
        if keep == "graph":
            return in_graph(module, members, "y", y) if "y" in wanted else None
        tensors = {**tensors, "y": y}
        for name in wanted:
            if tensors.get(name) is None:
                continue
            parts = parts_of(module, name, tensors[name])
            for site in members:
                copy = parts[site.index].detach().cpu().clone()
                kept.setdefault(site.name, {})[name] = copy
        return None

    with _hooked(model, found, before, after):
        yield kept


@contextmanager
def patch(
    model: nn.Module,
    sites: str | list[str] = "*",
    **functions: Callable[[Tensor], Tensor] | Mapping[str, Callable[[Tensor], Tensor]],
) -> Iterator[None]:
    """Replace scan tensors during the forward passes inside the block.

    Args:
        sites: patterns of site names.
        functions: tensor name (`u`, `delta`, `A`, `B`, `C`, `D` or `y`) -> function from that
            direction's tensor to a tensor of the same shape, or a function for each site by its
            name (a site without one is left as it is). Gradients flow through it.

    Raises:
        ValueError: for an unknown tensor name, a pattern that matches no site, or a function that
            returns another shape.
    """
    _check_names(functions)
    found = find_sites(model, sites)
    given = {name for f in functions.values() if isinstance(f, Mapping) for name in f}
    for name in given - {site.name for site in found}:  # it would change nothing and say nothing
        raise ValueError(_no_site(model, name, found))

    def replaced(module: SelectiveScan, members: list[Site], name: str, tensor: Tensor) -> Tensor:
        count = len(module.directions)
        parts = [_part(name, tensor, i, count) for i in range(count)]
        change = functions[name]
        for site in members:
            function = change.get(site.name) if isinstance(change, Mapping) else change
            if function is None:
                continue
            new = function(parts[site.index])
            if new.shape != parts[site.index].shape:
                raise ValueError(
                    f"the function for {name} returned shape {tuple(new.shape)} at {site.name}, "
                    f"where {tuple(parts[site.index].shape)} is needed"
                )
            parts[site.index] = new
        return _join(name, parts)

    def before(module: SelectiveScan, members: list[Site], tensors: dict) -> dict | None:
        changed = {
            name: replaced(module, members, name, tensors[name])
            for name in functions
            if name != "y" and tensors.get(name) is not None
        }
        return {**tensors, **changed} if changed else None

    def after(
        module: SelectiveScan, members: list[Site], tensors: dict, y: Tensor
    ) -> Tensor | None:
        return replaced(module, members, "y", y) if "y" in functions else None

    with _hooked(model, found, before, after):
        yield


def _check_names(names) -> None:
    unknown = [name for name in names if name not in TENSORS]
    if unknown:
        raise ValueError(f"a scan has no tensor {unknown[0]!r}; it has {', '.join(TENSORS)}")
