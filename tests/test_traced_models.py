"""Whole models under every transform and trace of PyTorch, at sizes that nothing ran at before.

Sizes are taken once in a process, so that no table of an earlier pass can help.
"""

from itertools import count

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from workbench.models import Vim, VMamba
from workbench.models.mambavision import MambaVision

SIZES = count(33, 2)
MAKE = {
    "vmamba": lambda: VMamba(dims=8, depths=(1, 1), d_state=2, num_classes=3),
    "vim": lambda: Vim(img_size=32, patch_size=8, depth=2, embed_dim=16, d_state=2, num_classes=3),
    "mambavision": lambda: MambaVision(
        dim=8, in_dim=4, depths=(1, 1, 2), num_heads=(1, 1, 2), window_size=(8, 8, 3), num_classes=3
    ),
}


@pytest.fixture(params=MAKE)
def model(request) -> nn.Module:
    torch.manual_seed(0)
    return MAKE[request.param]().eval()


def new_image(batch: int = 1) -> Tensor:
    return torch.randn(batch, 3, next(SIZES), 2 * next(SIZES))


def works_with_gradients(model: nn.Module, x: Tensor) -> None:
    y = model(x.requires_grad_())
    assert type(y) is Tensor
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert gradient.abs().sum() > 0


def test_no_mode_of_an_earlier_pass_is_left(model) -> None:
    x = new_image()
    with torch.inference_mode():
        model(x)
    works_with_gradients(model, x)
    x = new_image()
    with FakeTensorMode(allow_non_fake_inputs=True):
        model(x)
    works_with_gradients(model, x)
    x = new_image()
    torch.func.grad(lambda x: model(x).sum())(x)
    works_with_gradients(model, x)


def test_a_model_compiles_whole_at_a_new_size() -> None:
    model = VMamba(dims=8, depths=(1,), d_state=2, num_classes=3).eval()
    x = new_image()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), model(x))
    works_with_gradients(model, x)


def test_a_model_exports_for_any_batch_at_a_new_size(model) -> None:
    x = new_image(2)
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(model, (x,), dynamic_shapes=({0: batch},)).module()
    others = torch.cat([x, x.flip(3), x.flip(2)])[:5]
    torch.testing.assert_close(exported(others), model(others))
    works_with_gradients(model, x)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:`torch.jit.trace")
def test_a_jit_trace_has_the_same_logits_and_gradients(model) -> None:
    x = new_image()
    traced = torch.jit.trace(model, x)
    x = torch.randn_like(x).requires_grad_()
    y, expected = traced(x), model(x)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(*(torch.autograd.grad(z.sum(), x)[0] for z in (y, expected)))


def test_forward_mode_and_second_derivatives_are_those_of_differences(model) -> None:
    x = torch.randn(1, 3, 32, 32)
    v = torch.randn_like(x)

    def gradient(x: Tensor) -> Tensor:
        return torch.func.grad(lambda x: model(x).sin().sum())(x)

    tangent = torch.func.jvp(model, (x,), (v,))[1]
    curved = torch.func.jvp(gradient, (x,), (v,))[1]
    leaf = x.clone().requires_grad_()
    (first,) = torch.autograd.grad(model(leaf).sin().sum(), leaf, create_graph=True)
    (twice,) = torch.autograd.grad(first, leaf, v)
    model.double()
    x, v, step = x.double(), v.double(), 1e-5
    for found, of in ((tangent, model), (curved, gradient), (twice, gradient)):
        expected = (of(x + step * v) - of(x - step * v)) / (2 * step)
        assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_gradients_of_single_images_are_those_of_the_images_alone(model) -> None:
    x = torch.randn(2, 3, 32, 32)
    parameters = dict(model.named_parameters())

    def loss(parameters: dict[str, Tensor], image: Tensor) -> Tensor:
        return torch.func.functional_call(model, parameters, (image[None],)).square().sum()

    each = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, x)
    for i, image in enumerate(x):
        alone = torch.autograd.grad(loss(parameters, image), list(parameters.values()))
        for found, expected in zip(each.values(), alone, strict=True):
            scale = expected.abs().max().clamp(min=1e-6)
            assert (found[i] - expected).abs().max() <= 1e-4 * scale


def test_checkpointing_keeps_less_and_changes_no_gradient(model) -> None:
    x = torch.randn(2, 3, 32, 32, requires_grad=True)
    kept, gradients = [], []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, sizes=sizes: (sizes.append(t.numel()), t)[1], lambda t: t
        ):
            y = model(x).sin().sum()
        gradients.append(torch.autograd.grad(y, [x, *model.parameters()], allow_unused=True))
        kept.append(sum(sizes))
    assert kept[1] < kept[0] / 2
    for found, expected in zip(*gradients, strict=True):
        assert found is expected is None or torch.equal(found, expected)
