"""Hooks come and go with their block, and a pass ends where it is told to."""

import pytest
import torch
from torch import nn

from workbench.hooks import hooks, inputs, outputs, stop_after, stopping


class Doubled(nn.Module):
    """(b, 2) -> (b, 2): first, twice scaled by a keyword, then last."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        return self.last(scale * self.first(x))


X = torch.ones(1, 2)


def registered(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_what_goes_in_and_comes_out_can_be_seen_and_replaced() -> None:
    model = Doubled()
    with inputs({"all": model}) as given, outputs(dict(model.named_children())) as seen:
        y = model(X, scale=3.0)
    assert given == {"all": ((X,), {"scale": 3.0})}
    assert torch.equal(seen["last"], y) and torch.equal(model.last(3 * seen["first"]), y)
    with hooks([model], before=lambda m, args, kwargs: (args, {"scale": 3.0})):
        assert torch.equal(model(X), y)
    with hooks([model.last], after=lambda m, args, kwargs, out: -out):
        assert torch.equal(model(X, scale=3.0), -y)


def test_a_pass_stops_when_all_are_done_and_the_hooks_before_have_run() -> None:
    model, reached = Doubled(), []
    with hooks([model.last], before=lambda *_: reached.append("last")):
        with outputs({"first": model.first}) as seen, stop_after([model.first]):
            model(X)
        assert "first" in seen and not reached
        with stop_after([model.first, model.last]):
            model(X)
        assert reached == ["last"]
        with stop_after(()):
            reached.append(model(X))
    assert len(reached) == 3


def test_an_outer_stop_passes_through_an_inner_one() -> None:
    reached = []
    with stopping() as outer:
        with stopping() as inner:
            inner()
        with stopping():
            outer()
        reached.append("after the inner block")
    assert not reached


def test_nothing_is_left_behind_after_errors_and_stops() -> None:
    model = Doubled()
    with pytest.raises(RuntimeError), outputs({0: model.first}), hooks([model], print, print):
        model(torch.ones(1, 5))
    with stop_after([model.first]):
        model(X)
    assert registered(model) == 0
