"""How trainings become the checkpoints that ship: means of runs, and statistics of batch norms."""

import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from workbench import create_model, open_images, preprocessing_for

sys.path.insert(0, str(Path(__file__).parents[1] / "samples"))
import checkpoints


def test_the_mean_of_runs(tmp_path):
    x = torch.randn(3, 4)
    for i, (scale, count) in enumerate([(1.0, 5), (4.0, 7)]):
        save_file({"x": scale * x, "steps": torch.tensor(count)}, tmp_path / f"{i}.safetensors")
    found = checkpoints.mean([tmp_path / "0.safetensors", tmp_path / "1.safetensors"])
    torch.testing.assert_close(found["x"], 2.5 * x)
    assert found["steps"] == 7  # a count is of the last


def test_statistics_of_norms_are_those_of_whole_photographs():
    images, size = open_images("samples"), 32
    model = create_model("resnet_nano", "random", img_size=size).eval()
    weights = {key: x.clone() for key, x in model.state_dict().items()}
    assert checkpoints.measure_norms("resnet_nano", weights, "samples", size) == len(images)
    changed = {key for key, x in model.state_dict().items() if not torch.equal(x, weights[key])}
    assert changed and all(key.endswith(("running_mean", "running_var")) for key in changed)

    prepared = preprocessing_for(model, size)
    x = prepared.tensor(np.stack([prepared.picture(images.load(i)) for i in range(len(images))]))
    norms = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)
    }
    seen = {}
    for name, norm in norms.items():
        norm.train()  # so that what enters the next is of the same batch
        norm.register_forward_pre_hook(lambda _, args, name=name: seen.update({name: args[0]}))
    with torch.no_grad():
        model(x)
    assert len(norms) > 5
    for name, entering in seen.items():
        var, mean = torch.var_mean(entering, dim=(0, 2, 3))
        torch.testing.assert_close(weights[f"{name}.running_mean"], mean)
        torch.testing.assert_close(weights[f"{name}.running_var"], var)


def test_a_model_without_batch_norms_keeps_its_weights():
    weights = create_model("vit_nano", "random", img_size=32).state_dict()
    before = {key: x.clone() for key, x in weights.items()}
    assert checkpoints.measure_norms("vit_nano", weights, "samples", 32) == 0
    assert all(torch.equal(x, weights[key]) for key, x in before.items())
