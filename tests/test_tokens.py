"""Token norms against hooks by hand, outliers put there, and class evidence in closed form."""

from typing import Any

import numpy as np
import pytest
import torch
from external_models import pair
from test_attribution import batch
from torch import Tensor, nn

from workbench import create_model, figures, load, tokens
from workbench.cli import main
from workbench.hooks import outputs
from workbench.layout import blocks
from workbench.methods.tokens import metrics
from workbench.methods.tokens.config import TokensConfig
from workbench.methods.tokens.measure import measure


def result_of(model: nn.Module, x: Tensor, **settings):
    config = TokensConfig(**settings)
    return tokens.combine(tokens.measure(model.eval(), batch(x), config), config, {})


class Block(nn.Module):
    """Adds to every token (b, l, c) a function of it, then multiplies token `at` by `factor`."""

    def __init__(self, dim: int, at: int, factor: float) -> None:
        super().__init__()
        self.inner, self.at, self.factor = nn.Linear(dim, dim), at, factor

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.ones(x.shape[1], 1)
        scale[self.at] = self.factor
        return (x + 0.1 * self.inner(x).tanh()) * scale


class TokenNet(nn.Module):
    """Patches of 8 px as tokens behind a class token, with a register after half of them; the
    scores are of the class token, or of the mean of the patches.
    """

    def __init__(self, read: str, factors: tuple[float, ...], at: int, dim: int = 16) -> None:
        super().__init__()
        self.read = read
        self.patches = nn.Conv2d(3, dim, 8, 8)
        self.extra = nn.Parameter(torch.randn(2, dim))
        self.layers = nn.ModuleList(Block(dim, at, factor) for factor in factors)
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = x / x.norm(dim=2, keepdim=True)
        half = x.shape[1] // 2
        first, register = self.extra.expand(len(x), -1, -1).split(1, dim=1)
        x = torch.cat([first, x[:, :half], register, x[:, half:]], dim=1)
        for layer in self.layers:
            x = layer(x)
        x = self.norm(x)
        if self.read == "class":
            return self.head(x[:, 0])
        return self.head(torch.cat([x[:, 1 : half + 1], x[:, half + 2 :]], dim=1).mean(dim=1))


# One block of each, and what its output is as (b, rows, columns, c), by hand.
BY_HAND = {
    "vmamba_nano": ("layers.1.blocks.0", lambda y: y),
    "mambavision_nano": ("levels.0.blocks.1", lambda y: y.permute(0, 2, 3, 1)),
    "vim_nano": (
        "layers.3",  # 32 patches, the class token, 32 patches; output and stream apart
        lambda y: torch.cat([(y[0] + y[1])[:, :32], (y[0] + y[1])[:, 33:]], 1).unflatten(1, (8, 8)),
    ),
    "resnet_nano": ("layer2.0", lambda y: y.permute(0, 2, 3, 1)),
    "vit_nano": ("blocks.2", lambda y: y[:, 1:].unflatten(1, (8, 8))),
}
COUNTS = {"vmamba_nano": 6, "mambavision_nano": 10, "vim_nano": 6, "resnet_nano": 8, "vit_nano": 6}


@pytest.mark.parametrize("name", BY_HAND)
def test_norms_are_those_of_a_hook_by_hand(name: str) -> None:
    model, x = create_model(name, "auto").eval(), torch.randn(2, 3, 64, 64)
    block, cells = BY_HAND[name]
    with outputs({block: model.get_submodule(block)}) as seen, torch.no_grad():
        model(x)
    expected = np.sqrt((cells(seen[block]).double().numpy() ** 2).sum(axis=-1))
    result = result_of(model, x)
    names = [entry["name"] for entry in result.meta["blocks"]]
    assert len(names) == COUNTS[name] == len(blocks(model))
    at = names.index(block)
    np.testing.assert_allclose(result.map(result.norms, at), expected, rtol=1e-5)
    number = result.meta["numbers"][f"median/{block}"]["value"]
    assert number == pytest.approx(np.median(expected, axis=(1, 2)).mean(), rel=1e-5)
    assert result.meta["others"] == (["class token"] if name in ("vim_nano", "vit_nano") else [])


def test_the_class_token_of_vim_has_the_norm_of_its_place_in_the_middle() -> None:
    model, x = create_model("vim_nano", "auto").eval(), torch.randn(2, 3, 64, 64)
    with outputs({"": model.get_submodule("layers.5")}) as seen, torch.no_grad():
        model(x)
    expected = torch.add(*seen[""])[:, 32].norm(dim=1).mean()
    assert result_of(model, x).others[5, 0] == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("name", ["vim", "vmamba"])
def test_a_repository_has_the_norms_of_our_network_with_its_weights(name: str) -> None:
    external, own = pair(name)
    x = torch.randn(2, 3, 64, 64)
    theirs, ours = result_of(external, x), result_of(own, x)
    np.testing.assert_allclose(theirs.norms, ours.norms, rtol=1e-4)
    assert theirs.meta["others"] == ours.meta["others"]


@pytest.mark.parametrize(
    ("cell", "at"), [((1, 5), 14), ((6, 2), 52)]
)  # either side of the register
def test_a_token_that_was_scaled_is_the_outlier(cell: tuple[int, int], at: int) -> None:
    x = torch.randn(3, 3, 64, 64)
    result = result_of(TokenNet("mean", (1, 10, 1), at), x, cut=5)
    expected = np.zeros((8, 8))
    expected[cell] = 1
    assert not result.map(result.frequency, 0).any()
    for block in (1, 2):
        assert (result.map(result.frequency, block) == expected).all()
        numbers = result.meta["numbers"]
        assert numbers[f"outliers/layers.{block}"]["value"] == pytest.approx(100 / 64)
        assert numbers[f"above 5/layers.{block}"]["value"] == pytest.approx(100 / 64)
        largest = numbers[f"largest/layers.{block}"]["value"]
        assert largest == pytest.approx(10, rel=0.2)
        away = np.hypot(*(np.array(cell) - 3.5)) / np.hypot(4, 4)
        mean = np.hypot(*(np.indices((8, 8)) - 3.5)).mean() / np.hypot(4, 4)
        assert numbers[f"distance/layers.{block}"]["value"] == pytest.approx(away - mean)


def test_tokens_beside_the_image_are_told_apart_by_what_the_head_reads() -> None:
    x = torch.randn(2, 3, 64, 64)
    net = TokenNet("class", (1, 7), 33)  # the register becomes larger
    result = result_of(net, x)
    assert result.meta["others"] == ["class token", "register"] and result.evidence is None
    register = net.extra[1] + 0.1 * net.layers[0].inner(net.extra[1]).tanh()
    assert result.others[0, 1] == pytest.approx(register.norm().item(), rel=1e-5)
    assert not result.outliers.any() and result.others[1, 1] > 5 * result.others[0, 1]
    assert result_of(TokenNet("mean", (1, 1), 0), x).meta["others"] == ["register 1", "register 2"]


@pytest.mark.parametrize("name", ["vmamba_nano", "mambavision_nano", "resnet_nano", "tokens"])
def test_the_mean_of_what_tokens_say_is_what_the_model_says(name: str) -> None:
    model: Any = TokenNet("mean", (1, 10), 7) if name == "tokens" else create_model(name, "auto")
    x = torch.randn(2, 3, 64, 64)
    evidence = measure(model.eval(), batch(x), TokensConfig())["evidence"]
    with torch.no_grad():
        expected = model(x).amax(dim=1).numpy()
    np.testing.assert_allclose(evidence.mean(axis=1), expected, rtol=1e-4, atol=1e-5)
    if name == "tokens":  # one token by hand
        with outputs({"": model.layers[1]}) as seen, torch.no_grad():
            top = model(x).argmax(dim=1)
            alone = model.head(model.norm(seen[""][:, 7]))
        np.testing.assert_allclose(evidence[:, 6], alone[[0, 1], top].numpy(), rtol=1e-4)


@pytest.mark.parametrize("name", ["vim_nano", "vit_nano", "s4nd_nano"])
def test_a_head_that_does_not_pool_tokens_gives_them_no_logits(name: str) -> None:
    """A class token is read, or the mean is normalised after."""
    assert result_of(create_model(name, "auto"), torch.randn(1, 3, 64, 64)).evidence is None


def test_metrics_in_closed_form() -> None:
    norms = np.array([[1.0, 2, 3, 4, 5, 6, 7, 30], [2, 2, 2, 2, 2, 2, 2, 2 + 1e-9]])
    # median 4.5, deviation 2: above 14.5
    expected = np.zeros((2, 8), bool)
    expected[0, 7] = True
    assert (metrics.outliers(norms, 5) == expected).all()
    assert (metrics.outliers(1e3 * norms, 5) == expected).all()
    assert metrics.outliers(norms, 0)[0].sum() == 4
    assert metrics.flat(np.array([3.0, 1, 1, 9])).tolist() == [0, 1, 1, 0]
    assert metrics.flat(np.zeros(5)).tolist() == [0.5] * 5
    maps = np.random.default_rng(0).normal(size=(3, 6, 8))
    whole = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(maps), (3, 4)).numpy()
    np.testing.assert_allclose(metrics.pooled(maps, (3, 4)), whole)
    np.testing.assert_allclose(metrics.pooled(maps, (4, 5)).mean((1, 2)), maps.mean((1, 2)))
    np.testing.assert_allclose(metrics.correlation(maps, 3 - 2 * whole), -1)
    assert np.isnan(metrics.correlation(maps, np.ones((3, 2, 2)))).all()


def test_blocks_are_found_in_networks_of_any_make() -> None:
    stages = nn.ModuleList(nn.Sequential(Block(4, 0, 1), Block(4, 0, 1)) for _ in range(2))
    hybrid = nn.ModuleDict({"stem": nn.Conv2d(3, 4, 4, 4), "stages": stages})
    assert blocks(hybrid) == [f"stages.{i}.{j}" for i in (0, 1) for j in (0, 1)]
    uneven = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()),
        Block(4, 0, 1),
        nn.MaxPool2d(2),
        Block(4, 0, 1),
    )
    assert blocks(uneven) == ["1", "3"]
    uneven[3].branches = nn.ModuleList([Block(4, 0, 1), Block(4, 0, 1)])
    assert blocks(uneven) == ["1", "3"]
    assert blocks(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())) == []


def test_a_result_is_drawn_and_told_and_wrong_words_are_refused(tmp_path, capsys) -> None:
    result = tokens("vim_nano", limit=1, size=64)
    assert result.norms.shape == (1, 6 * 64) and len(result.plot().axes) >= 2 * 7 + 4
    again = load(result.save(tmp_path / "tokens.npz"))
    assert "layers.5" in figures.of("tokens").report(again)
    for wrong, words in (
        (["--layer", "layer.3"], "near are layers.3"),
        (["--layer", "head"], "head"),
        (["--mad", "-1"], "mad must be at least 0"),
    ):
        assert main(["tokens", "--model", "vim_nano", "--limit", "1", *wrong]) == 2
        assert words in capsys.readouterr().err
