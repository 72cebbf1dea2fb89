"""Every picture is right, or a sentence, whatever the network.

The networks begin with a convolution of 8 x 8 patches, so that a cell of what follows sees exactly
one known square of pixels, and every case reads its own output without the rule that is tested. The
image is 32 x 48 pixels and the maps have as many channels as columns, so that shapes mislead.
"""

import copy
import gc
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.convnext import CNBlockConfig

import workbench
from workbench.geometry import feature_map, grid_of
from workbench.images import preprocessing_for
from workbench.methods.erf.config import ErfConfig
from workbench.methods.erf.measure import gradient
from workbench.results import Result

SIZE, ROWS, COLUMNS, CHANNELS = (32, 48), 4, 6, 6


class Call(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable) -> None:
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Extra(nn.Module):
    """Tokens of no place in the image, before token `at` (b, l, c)."""

    def __init__(self, at: int, count: int = 1) -> None:
        super().__init__()
        self.at, self.tokens = at, nn.Parameter(torch.randn(1, count, CHANNELS))

    def forward(self, x: Tensor) -> Tensor:
        extra = self.tokens.expand(len(x), -1, -1)
        return torch.cat([x[:, : self.at], extra, x[:, self.at :]], dim=1)


class Net(nn.Module):
    def __init__(self, arrange: nn.Module, embed: nn.Module | None = None) -> None:
        super().__init__()
        self.embed = embed or nn.Conv2d(3, CHANNELS, 8, 8)
        self.arrange = arrange

    def forward(self, x: Tensor):
        return self.arrange(self.embed(x))


@dataclass(frozen=True)
class Case:
    """What follows the patches, how a cell (b, c) of it is read, and what its map is like.

    A cell is `side` pixels from the next, and sees a square of `sees` pixels.
    """

    arrange: Callable[[], nn.Module]
    read: Callable[..., Tensor]
    side: int = 8
    sees: int = 8
    embed: Callable[[], nn.Module | None] = field(default=lambda: None)
    stage: int | None = None


def tokens(z: Tensor) -> Tensor:
    return z.flatten(2).transpose(1, 2)


def patches(x: Tensor) -> Tensor:
    """(b, 3, h, w) -> (b, l, 192) without a module that is known for it."""
    x = x.unflatten(3, (-1, 8)).unflatten(2, (-1, 8))
    return x.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def merged(x: Tensor) -> Tensor:
    """Patch merging of channels-last maps."""
    return torch.cat([x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)], dim=-1)


def windowed(x: Tensor) -> Tensor:
    """Windows of 2 x 2 tokens in the batch axis, a layer, and back."""
    b, h, w, c = x.shape
    parts = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).transpose(2, 3).reshape(-1, 4, c)
    return (2 * parts).view(b, h // 2, w // 2, 2, 2, c).transpose(2, 3).reshape(b, h, w, c)


def last(z: Tensor) -> Tensor:
    return z.permute(0, 2, 3, 1)


def sequence(*steps: Callable) -> nn.Sequential:
    return nn.Sequential(*(s if isinstance(s, nn.Module) else Call(s) for s in steps))


def at_token(shift: int = 0, after: int = 0, by: int = 1) -> Callable[..., Tensor]:
    """Reads token r * columns + c, later by `by` from token `after` on."""

    def read(y: Tensor, r: int, c: int) -> Tensor:
        t = r * COLUMNS + c
        return y[:, t + (by if t >= after else 0) if shift else t]

    return read


def extra(at: int, count: int = 1) -> Case:
    return Case(
        lambda: sequence(tokens, Extra(at, count), nn.Linear(CHANNELS, 5)), at_token(1, at, count)
    )


NORM = nn.LayerNorm
CASES = {
    "channels first": Case(lambda: nn.Conv2d(6, 6, 1), lambda y, r, c: y[:, :, r, c]),
    "channels last": Case(
        lambda: sequence(last, nn.Linear(6, 6)), lambda y, r, c: y[:, r, c]
    ),
    "channels last, by a function": Case(lambda: Call(last), lambda y, r, c: y[:, r, c]),
    "columns before rows": Case(
        lambda: Call(lambda z: z.transpose(2, 3)), lambda y, r, c: y[:, :, c, r]
    ),
    "heads around the places": Case(
        lambda: Call(lambda z: z.unflatten(1, (2, 3)).movedim(2, 4)),
        lambda y, r, c: y[:, :, r, c].flatten(1),
    ),
    "one channel without an axis": Case(
        lambda: Call(lambda z: z.sum(1)), lambda y, r, c: y[:, r, c, None]
    ),
    "tokens": Case(lambda: sequence(tokens, nn.Linear(6, 24)), at_token()),
    "tokens last": Case(
        lambda: sequence(lambda z: z.flatten(2), nn.Conv1d(6, 5, 1)),
        lambda y, r, c: y[:, :, r * COLUMNS + c],
    ),
    "tokens before the batch": Case(
        lambda: sequence(lambda z: tokens(z).transpose(0, 1), nn.Linear(6, 5)),
        lambda y, r, c: y[r * COLUMNS + c],
    ),
    "tokens by columns": Case(
        lambda: sequence(lambda z: tokens(z.transpose(2, 3)), nn.Linear(6, 5)),
        lambda y, r, c: y[:, c * ROWS + r],
    ),
    "tokens with heads": Case(
        lambda: sequence(tokens, lambda x: x.unflatten(2, (2, 3)).transpose(1, 2)),
        lambda y, r, c: y[:, :, r * COLUMNS + c].flatten(1),
    ),
    "class token first": extra(0),
    "class token in the middle": extra(12),
    "class token last": extra(24),
    "registers": extra(0, 5),
    "patches by a function": Case(
        lambda: nn.Linear(192, 5), at_token(), embed=lambda: Call(patches)
    ),
    "patches by unfolding": Case(
        lambda: sequence(lambda z: z.transpose(1, 2), nn.Linear(192, 5)),
        at_token(),
        embed=lambda: nn.Unfold(8, stride=8),
    ),
    "a list of maps": Case(
        lambda: Call(lambda z: [z, F.avg_pool2d(z, 2)]),
        lambda y, r, c: y[1][:, :, r, c], 16, 16, stage=2,
    ),
    "a map in a dict": Case(
        lambda: Call(lambda z: {"scores": z.mean((2, 3)), "map": last(z)}),
        lambda y, r, c: y["map"][:, r, c],
    ),
    "tokens and their grid": Case(
        lambda: Call(lambda z: (tokens(z), z.shape[2], z.shape[3])),
        lambda y, r, c: y[0][:, r * COLUMNS + c],
    ),
    "merged channels last": Case(
        lambda: sequence(last, merged, nn.Linear(24, 3)), lambda y, r, c: y[:, r, c], 16, 16
    ),
    "merged tokens": Case(
        lambda: sequence(last, merged, lambda x: x.flatten(1, 2), nn.Linear(24, 3)),
        lambda y, r, c: y[:, r * 3 + c], 16, 16,
    ),
    "windows inside": Case(
        lambda: sequence(last, windowed), lambda y, r, c: y[:, r, c]
    ),
    "adaptive pool": Case(
        lambda: nn.AdaptiveAvgPool2d((2, 3)), lambda y, r, c: y[:, :, r, c], 16, 16
    ),
    "pooled by a function": Case(
        lambda: Call(lambda z: F.avg_pool2d(z, 2)), lambda y, r, c: y[:, :, r, c], 16, 16
    ),
    "pixel shuffle": Case(
        lambda: sequence(nn.Conv2d(6, 16, 1), nn.PixelShuffle(4)),
        lambda y, r, c: y[:, :, r, c], 2, 8,
    ),
    "larger than the image": Case(
        lambda: sequence(nn.Conv2d(6, 256, 1), nn.PixelShuffle(16)),
        lambda y, r, c: y[:, :, r, c], 0, 8,
    ),
    "upsampled": Case(
        lambda: nn.Upsample(scale_factor=2), lambda y, r, c: y[:, :, r, c], 4, 8
    ),
    "transposed convolution": Case(
        lambda: nn.ConvTranspose2d(6, 2, 2, 2), lambda y, r, c: y[:, :, r, c], 4, 8
    ),
}  # fmt: skip


class Fixed(nn.Module):
    """Takes images of one size only."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor):
        assert x.shape[-2:] == SIZE, "another size"
        return self.net(x)


FORMS: dict[str, tuple[Callable, str | None]] = {
    "by layer": (lambda net: net, "arrange"),
    "by itself": (lambda net: net, None),
    "of one size": (Fixed, "net.arrange"),
    "compiled": (torch.compile, None),
    "in parallel": (nn.DataParallel, "arrange"),
    "in-place first": (lambda net: sequence(nn.ReLU(inplace=True), net), "1.arrange"),
    "scaled inside": (lambda net: sequence(lambda x: x * 1.0, net), None),
}
WRAPPED = ("channels first", "channels last", "class token in the middle")
UNKNOWN = {  # what a model of one size leaves open is refused
    "of one size": (
        "heads around the places", "one channel without an axis", "tokens with heads",
        "columns before rows",
    ),
}  # fmt: skip


def made(case: Case, form: str) -> tuple[nn.Module, nn.Module, str | None]:
    torch.manual_seed(0)
    net = Net(case.arrange(), case.embed()).double().eval()
    wrap, layer = FORMS[form]
    return net, wrap(net).eval(), layer


@pytest.mark.parametrize(
    ("name", "form"),
    [(name, form) for i, form in enumerate(FORMS) for name in (CASES if i < 3 else WRAPPED)],
)
def test_a_cell_sees_its_square_and_its_gradient_is_that_of_differences(name, form) -> None:
    case = CASES[name]
    net, model, layer = made(case, form)
    x = torch.rand(2, 3, *SIZE, dtype=torch.float64) + 0.1  # positive, for the ReLU
    side = case.side or 0.5
    rows, columns = int(SIZE[0] / side), int(SIZE[1] / side)
    step = 1e-6
    for r, c in ((1, 2), (rows - 1, columns - 1)):
        config = ErfConfig(stage=case.stage, layer=layer, position=f"{r},{c}")
        if name in UNKNOWN.get(form, ()):
            with pytest.raises(ValueError, match=r"--layer|choose"):
                gradient(model, x, config)
            return
        g, place = gradient(model, x, config)
        assert tuple(place["cells"]) == (rows, columns)
        top, left = (int(i * side) // case.sees * case.sees for i in (r, c))
        seen = torch.zeros(SIZE, dtype=torch.bool)
        seen[top : top + case.sees, left : left + case.sees] = True
        assert torch.equal(g.abs().sum((0, 1)) > 0, seen)
        assert place["centre"] == ((r + 0.5) * side - 0.5, (c + 0.5) * side - 0.5)
        v = torch.randn_like(x)
        ends = [case.read(net(x + s * step * v), r, c).sum() for s in (1, -1)]
        expected = (ends[0] - ends[1]) / (2 * step)
        torch.testing.assert_close((g * v).sum(), expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", CASES)
def test_any_precision_has_the_field_of_double(name) -> None:
    net, model, layer = made(CASES[name], "by layer")
    x = torch.rand(1, 3, *SIZE, dtype=torch.float64)
    config = ErfConfig(stage=CASES[name].stage, layer=layer, position="1,1")
    expected, place = gradient(model, x, config)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        found, other = gradient(copy.deepcopy(net).to(dtype), x.to(dtype), config)
        assert found.dtype == dtype and other == place
        error = (found.double() - expected).abs().max() / expected.abs().max()
        assert error <= 8 * torch.finfo(dtype).eps


def test_what_one_size_and_one_shape_leave_open_is_asked_for() -> None:
    class Square(nn.Module):
        """16 x 16 pixels only, and as many channels as rows and columns."""

        def __init__(self) -> None:
            super().__init__()
            self.embed, self.arrange = nn.Conv2d(3, 4, 4, 4), Call(last)

        def forward(self, x: Tensor) -> Tensor:
            assert x.shape[-2:] == (16, 16), "another size"
            return self.arrange(self.embed(x))

    model, x = Square().eval(), torch.randn(1, 3, 16, 16)
    for layer in ("arrange", None):
        with pytest.raises(ValueError, match=r"--layer arrange:bhwc"):
            feature_map(model, x, layer=layer)
    assert torch.equal(feature_map(model, x, layer="arrange:bhwc"), model.embed(x))
    for wrong in ("arrange:bhw", "arrange:bhwcc", "arrange:blc", "arrange:nhwc"):
        with pytest.raises(ValueError, match="axes"):
            feature_map(model, x, layer=wrong)


def test_tokens_in_an_order_that_is_not_known_are_refused() -> None:
    shuffle = torch.randperm(ROWS * COLUMNS, generator=torch.Generator().manual_seed(0))
    x = torch.randn(1, 3, *SIZE)
    for steps in (
        (tokens, nn.Linear(6, 6), lambda t: t[:, shuffle]),
        (tokens, lambda t: t.flip(1)),
    ):
        model = Net(sequence(*steps)).eval()
        with pytest.raises(ValueError, match=r"order"):
            feature_map(model, x, layer="arrange")
    maps = {"two": Call(lambda z: {"out": z, "aux": 2 * z})}
    with pytest.raises(ValueError, match=r"--stage, from 1 to 2"):
        feature_map(Net(maps["two"]).eval(), x, layer="arrange")
    with pytest.raises(ValueError, match=r"several maps of one size.*--layer"):
        feature_map(Net(maps["two"]).eval(), x)


def convnext() -> nn.Module:
    blocks = [CNBlockConfig(8, 16, 1), CNBlockConfig(16, None, 1)]
    return torchvision.models.ConvNeXt(blocks)


def swin() -> nn.Module:
    return torchvision.models.SwinTransformer([4, 4], 8, [2, 2], [2, 2], [4, 4])


class UNet(nn.Module):
    """Down by patches of 2, up by repetition, joined with what was there before."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([nn.Conv2d(3, 4, 2, 2), nn.Conv2d(4, 4, 2, 2)])
        self.join = nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.down[0](x)
        return self.join(torch.cat([fine, F.interpolate(self.down[1](fine), scale_factor=2)], 1))


@pytest.mark.parametrize(
    ("make", "size", "stage", "cells", "offset"),
    [
        (convnext, 64, None, 8, 3.5),
        (swin, 64, 1, 16, 1.5),
        (swin, 64, None, 8, 3.5),
        (lambda: torchvision.models.VisionTransformer(64, 16, 3, 2, 24, 48), 64, None, 4, 7.5),
        (lambda: timm.create_model("resnet18", features_only=True), 64, 2, 8, 0.0),
        (lambda: timm.create_model("convnext_atto", features_only=True), 64, None, 2, 15.5),
        (lambda: timm.create_model("vmamba_nano", features_only=True), 64, 2, 8, 0.0),
        (UNet, 32, None, 16, 0.5),
    ],
)  # fmt: skip
def test_networks_of_others_have_the_maps_that_they_return(
    make, size, stage, cells, offset
) -> None:
    model, x = make().eval(), torch.randn(1, 3, size, size)
    features = feature_map(model, x, stage)
    grid = grid_of(model, features, (size, size))
    assert grid.cells == (cells, cells) and grid.stride == (size / cells,) * 2
    assert grid.offset == (offset, offset)
    out = model(x)
    if isinstance(out, list):
        assert any(torch.equal(features, found) for found in out)
    elif out.ndim == 4:
        assert torch.equal(features, out)


class Normalised(nn.Module):
    """Normalises in its forward; as Lightning modules do, it holds the network under a name."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))
        return self.network((x - mean) / std)


MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.mark.parametrize("wrap", [Normalised, nn.DataParallel, torch.compile])
def test_the_field_through_a_wrapper_is_that_of_the_model_inside(wrap) -> None:
    network = workbench.create_model("vim_nano", "official")
    model = wrap(network)
    own, preprocessing = preprocessing_for(network, 64), preprocessing_for(model, 64)
    pictures = torch.randint(0, 256, (1, 64, 64, 3), dtype=torch.uint8).numpy()
    inside, through = own.tensor(pictures), preprocessing.tensor(pictures)
    assert wrap is not Normalised or "normalises by itself" in preprocessing.describe()
    expected, place = gradient(network, inside, ErfConfig())
    found, other = gradient(model, through, ErfConfig())
    scale = torch.tensor(STD if wrap is Normalised else (1.0, 1.0, 1.0)).view(3, 1, 1)
    assert place == other
    torch.testing.assert_close(found * scale, expected, rtol=1e-3, atol=1e-5)


def measured(model: nn.Module, **config) -> Result:
    return workbench.run(
        workbench.erf, model, workbench.open_images("samples", 1),
        ErfConfig(resamples=2, **config), preprocessing=preprocessing_for(model, SIZE),
    )  # fmt: skip


def test_a_run_inside_inference_mode_measures_gradients() -> None:
    net = Net(Call(last)).eval()
    expected: Any = measured(net)
    with torch.inference_mode():
        found: Any = measured(net)
    assert (found.map == expected.map).all()


def no_grad(z: Tensor) -> Tensor:
    with torch.no_grad():
        return z * 1


def traced() -> Any:
    return torch.jit.trace(Net(nn.Identity()), torch.zeros(1, 3, *SIZE))


def in_inference_mode() -> nn.Module:
    with torch.inference_mode():
        return Net(nn.Identity())


def on_meta() -> nn.Module:
    with torch.device("meta"):
        return Net(nn.Identity())


class AlwaysTraining(nn.BatchNorm2d):
    def train(self, mode: bool = True) -> "AlwaysTraining":
        return super().train(True)


class Pair(Net):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:  # pyright: ignore
        return self.embed(x) - self.embed(y)


@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Net(Call(no_grad)), "torch.no_grad or inference_mode"),
        (lambda: Net(Call(lambda z: z.detach())), "without a gradient"),
        (traced, "TorchScript"),
        (lambda: nn.Sequential(traced()), "TorchScript"),
        (in_inference_mode, "build it outside"),
        (on_meta, "meta device"),
        (lambda: nn.Conv2d(1, 4, 8, 8), "images of 1 channels"),
        (lambda: nn.Conv2d(4, 4, 8, 8), "images of 4 channels"),
        (lambda: Net(AlwaysTraining(6)), "stays in training mode"),
        (lambda: Pair(nn.Identity()), r"inputs\(image\)"),
    ],
)
def test_what_cannot_be_measured_is_said_in_a_sentence(make, sentence) -> None:
    with pytest.raises(ValueError, match=sentence):
        measured(make().eval())


def test_what_is_known_of_a_model_does_not_keep_it() -> None:
    model = Net(Call(last)).eval()
    feature_map(model, torch.zeros(1, 3, *SIZE))
    feature_map(model, torch.zeros(1, 3, *SIZE), layer="arrange")
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
