"""What the page about scan maps shows, against what is measured for a click."""

import numpy as np
import pytest

from workbench import scan_maps
from workbench.app import scan_maps_measure
from workbench.app.session import Spec
from workbench.figures.label import layer_titles, weights_beside
from workbench.images import open_images
from workbench.methods.scan_maps import ScanMapsConfig
from workbench.weights import create_model


@pytest.mark.parametrize(
    ("model", "layer", "way", "aggregate", "with_D"),
    [
        ("vmamba_nano", 4, "row", "abs", False),
        ("vmamba_nano", 4, "column", "mean", True),
        ("vim_nano", 2, "row", "norm", False),
        ("mambavision_nano", 0, "column", "abs", False),  # windows
        ("mambavision_nano", 2, "row", "mean", False),  # attention
    ],
)
def test_maps_under_the_mouse_are_those_of_a_click(model, layer, way, aggregate, with_D):
    spec, images = Spec(model, "random", 0, 64), open_images("samples", 1)
    network = create_model(model, "random", img_size=64)
    name = scan_maps_measure.layers(spec)[layer]
    config = ScanMapsConfig(
        layer=str(layer), aggregate=aggregate, with_D=with_D, resamples=0, query="0,0"
    )
    cells = [(0, 0), (2, 3)]
    hovered = scan_maps_measure.maps_of(spec, images, config, name, way, cells)
    for cell, stack, units in zip(cells, hovered.maps, hovered.units, strict=True):
        clicked = ScanMapsConfig(**{**config.__dict__, "query": f"{cell[0]},{cell[1]}"})
        result = scan_maps(network, images, clicked, size=64, progress=False)
        *alone, whole = (result.map(site["name"], way) for site in result.meta["sites"])
        tops = [np.abs(whole).max(), max((np.abs(x).max() for x in alone), default=0)]
        assert len(stack) == 1 + len(alone)
        assert [float(text.split("/ ")[1]) for text in units] == pytest.approx(
            tops[: len(units)], rel=0.006
        )
        for i, (found, values) in enumerate(zip(stack, [whole, *alone], strict=True)):
            shown = found / 255 if aggregate != "mean" else found / 127.5 - 1
            exact = np.sign(values) * (np.abs(values) / tops[min(i, 1)]) ** 0.25
            # half of a step of 8 bits
            assert np.abs(shown - exact).max() <= (1 if aggregate == "mean" else 0.5) / 255 + 1e-4


def test_layers_are_named_by_stage_and_block():
    assert layer_titles(["layers.1.blocks.0.op.scan", "layers.11.blocks.2.op.scan"]) == [
        "stage 2, block 1",
        "stage 12, block 3",
    ]
    assert layer_titles(["layers.0.mixer.scan", "layers.3.mixer.scan"]) == ["block 1", "block 4"]
    twice = ["down.0.blocks.1.scan", "up.0.blocks.1.scan", "down.0.blocks.0.scan", "scan"]
    assert layer_titles(twice) == [*twice[:2], "stage 1, block 1", "scan"]


@pytest.mark.parametrize(
    ("weights", "told"),
    [
        ("vim_nano.imagenette64.safetensors", "imagenette64"),
        ("vim_nano.safetensors", ""),
        ("random weights (seed 0)", "random weights (seed 0)"),
        ("vim_t_midclstok_76p1acc.pth", "vim_t_midclstok_76p1acc.pth"),
        ("mine.safetensors", "mine"),
        ("", ""),
    ],
)
def test_weights_are_named_beside_their_model(weights: str, told: str) -> None:
    assert weights_beside("vim_nano", weights) == told
