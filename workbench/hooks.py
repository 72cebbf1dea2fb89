"""The one place that registers hooks on modules: they go when the block ends, after errors too."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, NoReturn, TypeVar

from torch import nn

Before = Callable[[nn.Module, tuple, dict], tuple[tuple, dict] | None]
"""What a module is called with: module, args, kwargs -> others in their place, or None."""

After = Callable[[nn.Module, tuple, dict, Any], Any]
"""What a module gives: module, args, kwargs, output -> another in its place, or None."""

Name = TypeVar("Name", bound=Hashable)


class _Stop(Exception):
    """Ends a forward pass."""


@contextmanager
def hooks(
    modules: Iterable[nn.Module], before: Before | None = None, after: After | None = None
) -> Iterator[None]:
    """Call `before` and `after` around every call of the modules inside the block."""
    with ExitStack() as stack:
        for module in modules:
            if before is not None:
                handle = module.register_forward_pre_hook(before, with_kwargs=True)
                stack.callback(handle.remove)
            if after is not None:
                handle = module.register_forward_hook(after, with_kwargs=True)
                stack.callback(handle.remove)
        yield


@contextmanager
def inputs(modules: Mapping[Name, nn.Module]) -> Iterator[dict[Name, tuple[tuple, dict]]]:
    """The last args and kwargs of each module inside the block, by its name."""
    found: dict[Name, tuple[tuple, dict]] = {}
    with ExitStack() as stack:
        for name, module in modules.items():

            def keep(module: nn.Module, args: tuple, kwargs: dict, name: Name = name) -> None:
                found[name] = args, kwargs

            stack.enter_context(hooks([module], before=keep))
        yield found


@contextmanager
def outputs(modules: Mapping[Name, nn.Module]) -> Iterator[dict[Name, Any]]:
    """The last output of each module inside the block, by its name."""
    found: dict[Name, Any] = {}
    with ExitStack() as stack:
        for name, module in modules.items():

            def keep(
                module: nn.Module, args: tuple, kwargs: dict, output: Any, name: Name = name
            ) -> None:
                found[name] = output

            stack.enter_context(hooks([module], after=keep))
        yield found


@contextmanager
def stopping() -> Iterator[Callable[[], NoReturn]]:
    """A function that ends the block at once, from inside a forward pass too."""
    own = _Stop()

    def stop() -> NoReturn:
        raise own

    try:
        yield stop
    except _Stop as raised:
        if raised is not own:
            raise


@contextmanager
def stop_before(modules: Iterable[nn.Module]) -> Iterator[None]:
    """End the block when one of the modules is called, after the hooks that it has already."""
    with stopping() as stop, hooks(modules, before=lambda *_: stop()):
        yield


@contextmanager
def stop_after(modules: Iterable[nn.Module]) -> Iterator[None]:
    """End the block when all modules, and the hooks that they have already, are done."""
    left = set(modules)
    with stopping() as stop:

        def done(module: nn.Module, *_: Any) -> None:
            left.discard(module)
            if not left:
                stop()

        with hooks(set(left), after=done):
            yield
