"""What can be wrong with a repository is said in one sentence; what was changed is put back."""

import json
import random
import sys

import pytest
import torch
from external_models import load

import workbench
from workbench import external
from workbench import load as load_result
from workbench.cli import main
from workbench.weights import facts_of

GOOD = """
import torch
from mamba_ssm import Mamba

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.patches = torch.nn.Conv2d(3, 8, 8, 8)
        self.mamba = Mamba(8, d_state=4)
        self.head = torch.nn.Linear(8, 5)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        return self.head((x + self.mamba(x)).mean(1))
"""
MAKE = "def make():\n    from net import Net\n    return Net()\n"


def loaded(folder, net=GOOD, adapter=MAKE, **options):
    (folder / "repo").mkdir(exist_ok=True)
    (folder / "repo" / "net.py").write_text(net)
    (folder / "adapter.py").write_text(adapter)
    return external.load(folder / "repo", folder / "adapter.py", size=32, **options)


def test_a_repository_on_mamba_ssm_loads_and_runs(tmp_path):
    model = loaded(tmp_path)
    assert [site.name for site in workbench.scans(model)] == ["model.mamba.scans.0/row"]
    assert model.stand_ins == ("mamba_inner_fn_no_out_proj",)
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 5)
    facts = facts_of(model)
    assert (facts["model"], facts["weights"], facts["training"]) == (
        "Net", "random", "before training",
    )  # fmt: skip


def test_seed_decides_and_leaves_the_global_state_alone(tmp_path):
    state, python = torch.get_rng_state(), random.getstate()
    a, b, c = (loaded(tmp_path, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(state, torch.get_rng_state())
    assert python == random.getstate()
    assert torch.equal(a.model.head.weight, b.model.head.weight)
    assert not torch.equal(a.model.head.weight, c.model.head.weight)


def test_weights(tmp_path):
    first = loaded(tmp_path, seed=1)
    torch.save({"model": first.model.state_dict()}, tmp_path / "weights.pth")
    second = loaded(tmp_path, seed=2, weights=tmp_path / "weights.pth")
    assert torch.equal(first.model.head.weight, second.model.head.weight)
    assert facts_of(second)["weights"] == "weights.pth"
    assert facts_of(second)["weights_sha256"]
    with pytest.raises(ValueError, match="do not fit"):
        other = GOOD.replace("Linear(8, 5)", "Linear(8, 5, bias=False)")
        loaded(tmp_path, other, weights=tmp_path / "weights.pth")


def test_weights_that_make_loads_are_not_called_random(tmp_path):
    adapter = MAKE.replace(
        "return Net()", "net = Net(); net.load_state_dict(net.state_dict()); return net"
    )
    assert facts_of(loaded(tmp_path, adapter=adapter))["weights"] == "from make()"


@pytest.mark.parametrize(
    ("net", "adapter", "said"),
    [
        ("import mmcv_of_theirs.runner", MAKE, "pip install mmcv_of_theirs$"),
        ("import skimage_of_theirs", MAKE, "needs the package 'skimage_of_theirs'"),
        ("from mamba_ssm.ops.triton.nothing import x; x()", MAKE, "nothing.x has no stand-in"),
        (GOOD, "x = 1", "has no make()"),
        (GOOD, "def make():\n    return 1", "returned a int"),
        (GOOD, MAKE + "    +", "SyntaxError"),
        (GOOD, "def make():\n    from net import Other", "ImportError"),
        ("class Net:\n    def __init__(self):\n        raise KeyError('width')", MAKE,
         r"adapter.py failed at net.py:3: KeyError: 'width'"),
        (GOOD.replace("Mamba(8, d_state=4)", "Mamba(8, bimamba_type='v2')"), MAKE,
         "no argument 'bimamba_type'"),
        (GOOD.replace("8, 8, 8)", "8, 64, 64)"), MAKE, "Net with images of 32 x 32 pixels failed"),
    ],
)  # fmt: skip
def test_bad_input(tmp_path, net, adapter, said):
    before = set(sys.modules)
    with pytest.raises(ValueError, match=said) as caught:
        loaded(tmp_path, net, adapter)
    assert len(str(caught.value).splitlines()) == 1
    assert "net" not in set(sys.modules) - before


@pytest.mark.parametrize(
    "download",
    [
        "torch.hub.load_state_dict_from_url('https://models.invalid/x.pth', model_dir=FOLDER)",
        "__import__('urllib.request').request.urlopen('https://models.invalid/x.pth')",
        "__import__('huggingface_hub').hf_hub_download('a/b', 'x.bin', cache_dir=FOLDER)",
    ],
)
def test_a_download_in_the_constructor_is_said(tmp_path, download):
    folder = repr(str(tmp_path / "cache"))
    net = GOOD + f"\nFOLDER = {folder}\nclass Down(Net):\n    def __init__(self):\n"
    net += f"        super().__init__()\n        {download}\n"
    with pytest.raises(ValueError, match="wants to download from"):
        loaded(tmp_path, net, MAKE.replace("Net", "Down"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_moving_to_a_gpu_at_import_is_harmless(tmp_path):
    net = GOOD + "\nNet().cuda()(torch.randn(1, 3, 32, 32).to('cuda'))\n"
    assert loaded(tmp_path, net)(torch.randn(1, 3, 32, 32)).shape == (1, 5)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_what_cannot_do_without_a_gpu_is_said_with_its_place(tmp_path):
    net = GOOD + "\ntorch.cuda.get_device_properties(0)\n"
    with pytest.raises(ValueError, match=r"net.py:\d+ needs a GPU"):
        loaded(tmp_path, net)


def test_missing_files(tmp_path):
    with pytest.raises(ValueError, match="clone the repository"):
        external.load(tmp_path / "nowhere", tmp_path / "adapter.py")
    with pytest.raises(ValueError, match="no adapter"):
        external.load(tmp_path, tmp_path / "adapter.py")


def test_two_repositories_with_modules_of_one_name(tmp_path):
    vmamba, vim = load("vmamba"), load("vim")
    x = torch.randn(1, 3, 64, 64)
    assert vmamba(x).shape == vim(x).shape == (1, 10)
    assert "models" not in sys.modules


def test_the_command_runs_a_repository_and_says_what_is_missing(tmp_path, capsys):
    loaded(tmp_path)
    given = ["--repo", str(tmp_path / "repo"), "--adapter", str(tmp_path / "adapter.py")]
    few = ["--images", "samples", "--limit", "2", "--size", "32", "--out", str(tmp_path / "out")]
    assert main(["scan-maps", *given, *few, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["model"] == "Net" and row["images_used"] == 2
    assert row["sites"][0]["direction"] == "row"
    assert load_result(tmp_path / "out" / row["result"]).maps.shape[0] == 2
    for wrong, words in (
        (given[2:], "--adapter makes the model of a repository"),
        ([], "give models by --model"),
        ([*given, "--model", "vim_nano"], "no --model"),
        ([*given[:2], "--model", "Vim"], "repo has no class or function 'Vim'"),
        ([*given, "--weights", "/nowhere.pth"], "/nowhere.pth"),
    ):
        assert main(["scan-maps", *wrong, *few]) == 2
        error = capsys.readouterr().err
        assert words in error and "Traceback" not in error
