"""Keep the gradient of one route through the scans: a direction, or one of the scan's inputs.

The forward values never change; only gradients are stopped (`Tensor.detach`).
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from torch import Tensor, nn

from workbench.hooks import hooks
from workbench.scan import Gate, SelectiveScan
from workbench.trace import find_sites, patch, scans

ROUTES = ("B", "C", "delta", "u", "convolution", "gate", "residual")


def routes(model: nn.Module) -> list[str]:
    """The routes that a model has: all of `ROUTES`, the gate only where there is one.

    Raises:
        ValueError: for a model without a selective scan.
    """
    directions(model)
    gated = any(isinstance(module, Gate) for module in model.modules())
    return [route for route in ROUTES if route != "gate" or gated]


def directions(model: nn.Module) -> list[str]:
    """Names of the scan directions of a model, each once.

    Raises:
        ValueError: for a model without a selective scan.
    """
    names = list(dict.fromkeys(site.direction for site in scans(model)))
    if not names:
        raise ValueError(
            f"{type(model).__name__} has no selective scan, so its receptive field cannot be "
            "split by direction or route"
        )
    return names


@contextmanager
def only_direction(model: nn.Module, direction: str | None, layer: str = "*") -> Iterator[None]:
    """Stop the gradient of every direction but one at the scans of `layer` (None: of all)."""
    closed = [s.name for s in find_sites(model, f"{layer}/*") if s.direction != direction]
    if not closed:
        yield
        return
    with patch(model, closed, y=Tensor.detach):
        yield


@contextmanager
def only_route(model: nn.Module, route: str, layer: str = "*") -> Iterator[None]:
    """Stop every gradient through the scans of `layer` but one.

    Args:
        route: "B", "C" or "delta": how the scan's coefficients depend on the image; "u": the
            sequence through the state; "convolution": the sequence past the state, through D,
            which leaves the depthwise convolution before the scan; "gate": the factor that
            multiplies the scan's output (Vim, VMamba v0); "residual": none of them, what remains
            are the residual stream, the MLPs and the layers between stages.
    """
    if route not in ROUTES:
        raise ValueError(f"a route is one of {', '.join(ROUTES)}, not {route!r}")
    modules = {
        site.module: model.get_submodule(site.module) for site in find_sites(model, f"{layer}/*")
    }
    with ExitStack() as stack:
        for name, module in modules.items():
            stack.enter_context(_scan_route(module, route))
            parent = model.get_submodule(name.rpartition(".")[0])
            gate = getattr(parent, "gate", None)
            if isinstance(gate, Gate) and route != "gate":
                stack.enter_context(hooks([gate], before=_closed))
        yield


@contextmanager
def _scan_route(module: SelectiveScan, route: str) -> Iterator[None]:
    saved: dict[str, Tensor] = {}

    def before(module: nn.Module, args: tuple, tensors: dict) -> tuple[tuple, dict]:
        saved.update(u=tensors["u"], D=tensors["D"])
        cut = {
            name: value.detach() if isinstance(value, Tensor) and name != route else value
            for name, value in tensors.items()
        }
        return args, cut

    def after(module: nn.Module, args: tuple, tensors: dict, y: Tensor) -> Tensor:
        u, D = saved["u"], saved["D"]
        if D is None or route not in ("u", "convolution"):
            return y
        skip = D.detach()[:, None] * (u - u.detach())  # zero in value, the skip's gradient
        return y - skip if route == "u" else y + skip

    with hooks([module], before, after):
        yield


def _closed(module: nn.Module, args: tuple, tensors: dict) -> tuple[tuple, dict]:
    return args, {**tensors, "z": tensors["z"].detach()}
