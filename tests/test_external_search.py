"""A repository's models are found, built and run without an adapter; what fails is a sentence."""

import sys

import pytest
import torch
from torch import nn

import workbench
from workbench import external
from workbench.cli import main
from workbench.external import launches, learn, names
from workbench.weights import facts_of

NET = """
import torch
from mamba_ssm import Mamba

class Mixer(torch.nn.Module):
    def __init__(self, dim=8, **kwargs):
        super().__init__()
        self.mamba = Mamba(dim, d_state=2, **kwargs)

    def forward(self, x):
        return x + self.mamba(x)

class Net(torch.nn.Module):
    def __init__(self, in_chans=3, dim=8, img_size=32):
        super().__init__()
        self.img_size = img_size
        self.patches = torch.nn.Conv2d(in_chans, dim, 8, 8)
        self.blocks = torch.nn.Sequential(Mixer(dim), Mixer(dim))
        self.head = torch.nn.Linear(dim, 5)

    def forward(self, x):
        assert x.shape[-1] == self.img_size, f"made for {self.img_size}, given {x.shape[-1]}"
        return self.head(self.blocks(self.patches(x).flatten(2).transpose(1, 2)).mean(1))
"""


def repo(folder, files):
    for name, text in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder


def loaded(folder, files, **options):
    return external.load(repo(folder / "Repo", files), **options)


def note(model):
    return model.provenance.notes[0]


def test_a_class_with_defaults_deep_in_a_package(tmp_path):
    files = {
        "code/models/__init__.py": "from .net import Net",
        "code/models/net.py": NET.replace(
            "import Mamba\n", "import Mamba\nfrom lib.sizes import N\n"
        ),
        "code/lib/sizes.py": "N = 1",
        "setup.py": "raise SystemExit(1)",
    }
    model = loaded(tmp_path, files)
    assert [site.name.partition("/")[2] for site in workbench.scans(model, 32)] == ["row", "row"]
    assert "code.models.net:Net()" in note(model) and "32 x 32" in note(model)
    assert model(torch.randn(1, 3, 32, 32)).shape == (1, 5)
    assert not {"models", "lib"} & set(sys.modules)


FACTORY = """
from timm.models import register_model
{}
@register_model
def repo_{}(pretrained=False, **kwargs):
    return Net(dim={}, **kwargs)
"""


def test_factories_come_before_classes_the_smallest_first_and_are_told_the_size(tmp_path):
    files = {"net.py": NET, "big.py": FACTORY.format("from net import Net", "base", 32),
             "small.py": FACTORY.format("from net import Net", "tiny", 16)}  # fmt: skip
    model = loaded(tmp_path, files, size=64)
    assert "small:repo_tiny(img_size=64)" in note(model)
    assert "one of 3 models" in note(model) and "repo_base" in note(model)
    assert facts_of(model)["model"] == "repo_tiny" and model.model.head.in_features == 16
    other = loaded(tmp_path, files, model="net:Net", size=64)
    assert other.model.head.in_features == 8


def test_definitions_that_name_each_other_are_no_trap(tmp_path):
    loops = (
        "\ndef a():\n    return b()\ndef b():\n    return a()\nclass B(A): pass\nclass A(B): pass\n"
    )
    model = loaded(tmp_path, {"net.py": NET, "loops.py": f"from mamba_ssm import Mamba{loops}"})
    assert "net:Net()" in note(model)


def test_a_model_of_any_size_that_is_slow_is_looked_at_with_small_images(tmp_path, monkeypatch):
    monkeypatch.setattr(learn, "PATIENCE", 0.0)
    net = NET.replace(", img_size=32", "").replace("img_size = img_size", "img_size = 'any'")
    net = net.replace("assert x.shape[-1] == self.img_size", "assert True")
    assert loaded(tmp_path, {"net.py": net}).native_size == (64, 64)
    assert loaded(tmp_path, {"net.py": net}, size=128).native_size == (128, 128)


def test_of_several_models_the_first_that_takes_images_is_taken(tmp_path):
    video = NET.replace("class Net", "class Repo")
    video = video.replace("x.shape[-1] == self.img_size", "x.dim() == 5")
    files = {"repo.py": video, "other.py": NET}
    told = []
    model = loaded(tmp_path, files, tell=told.append)
    assert "other:Net()" in note(model)
    assert any("repo:Repo: Repo with images of 32 x 32 pixels failed at repo.py" in t for t in told)


def test_a_size_that_the_model_takes_is_found_and_used(tmp_path):
    net = NET.replace("img_size=32", "resolution=64").replace("= img_size", "= resolution")
    model = loaded(tmp_path, {"net.py": net})
    assert model.native_size == (64, 64)
    result = workbench.run(workbench.erf, model, "samples/images", workbench.ErfConfig(resamples=2))
    assert result.map.shape == (64, 64)
    with pytest.raises(ValueError, match="made for 64, given 128"):
        loaded(tmp_path, {"net.py": net}, size=128)


FORK = {
    "fork/mamba_ssm/__init__.py": "from mamba_ssm.modules.mamba_simple import Mamba",
    "fork/mamba_ssm/modules/__init__.py": "",
    "fork/mamba_ssm/modules/mamba_simple.py": """
import torch, selective_scan_cuda
try:
    from causal_conv1d import causal_conv1d_fn, causal_conv1d_update, something_of_tomorrow
except ImportError:
    causal_conv1d_fn, causal_conv1d_update = None

class Mamba(torch.nn.Module):
    def __init__(self, dim, d_state, both_ways):
        super().__init__()
        self.project = torch.nn.Linear(dim, dim)
        self.A = torch.nn.Parameter(-torch.ones(dim, d_state))

    def forward(self, x):
        u = self.project(x).transpose(1, 2)
        B = u[:, None, :2]
        run = lambda u, B: selective_scan_cuda.fwd(u, u, self.A, B, B, None, None, None, True)[0]
        return (run(u, B) + run(u.flip(-1), B.flip(-1)).flip(-1)).transpose(1, 2)
""",
}


def test_a_fork_of_mamba_ssm_in_the_clone_is_used(tmp_path):
    files = {**FORK, "deep/down/net.py": NET.replace("d_state=2", "d_state=2, both_ways=True")}
    model = loaded(tmp_path, files)
    directions = [site.direction for site in workbench.scans(model, 32)]
    assert directions == ["row", "row-reversed"] * 2


def test_a_script_around_the_model_is_not_run(tmp_path):
    script = """
import argparse
args = argparse.ArgumentParser().parse_args()
print("imported")
""" + NET + """
DIM = 8
for _ in range(3):
    open(__file__ + '.out', 'w').write('trained')
raise RuntimeError('no data')
"""  # fmt: skip
    model = loaded(tmp_path, {"train.py": script})
    assert "train:Net()" in note(model)
    assert not (tmp_path / "Repo" / "train.py.out").exists()


def test_a_constant_after_the_model_that_it_uses_is_kept(tmp_path):
    net = NET.replace("Linear(dim, 5)", "Linear(dim, CLASSES)") + "\nCLASSES = 7\n"
    assert loaded(tmp_path, {"net.py": net}).model.head.out_features == 7


def test_a_package_goes_on_without_what_it_imports_for_itself(tmp_path):
    files = {
        "models/__init__.py": "NAME = 1\nfrom .net import Net\nimport a_trainer_that_is_missing",
        "models/net.py": NET + "\nfrom models import NAME",
    }
    assert "models.net:Net()" in note(loaded(tmp_path, files))


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"net.py": "import mmcv_of_theirs\n" + NET}, "pip install mmcv_of_theirs$"),
        ({"p/__init__.py": "import gone_of_theirs\nX = 1", "p/net.py": "from p import X\n" + NET},
         "pip install gone_of_theirs$"),
        ({"net.py": "try:\n    from gone_of_theirs import f\nexcept: f = None\n"
          + NET.replace("return x +", "return f(x) +")},
         r"net.py:\d+: TypeError.* in vain for the package 'gone_of_theirs'.*pip install"),
        ({"net.py": "import their_kernel\n" + NET,
          "csrc/setup.py": "CUDAExtension('their_kernel', ['a.cu'])"}, "pip install Repo/csrc$"),
        ({"net.py": "import timm.of_old\n" + NET}, "installed timm has no timm.of_old: install"),
        ({"net.py": "import sys; sys.exit('no GPU')\n" + NET}, "ended the program at net.py:1"),
        ({"net.py": "input('go on? ')\n" + NET}, "net.py:1: EOFError"),
        ({"net.py": NET.replace("in_chans=3, dim=8, img", "in_chans, dim, img")},
         "net:Net has no default for in_chans, dim: write"),
        ({"net.py": "x = 1", "old.py": "print 'Python 2'", "nul.py": "\0"}, "no file in Repo"),
        ({}, "no file in Repo has a torch.nn.Module"),
        ({"net.py": NET.replace(".transpose(1, 2)", ".nothing()")}, "say so in an adapter"),
        ({"net.py": NET.replace("d_state=2,", "d_state=2, bimamba_type='v2',")}, "needs a fork"),
    ],
)  # fmt: skip
def test_what_is_missing_is_one_sentence(tmp_path, files, said):
    (tmp_path / "Repo").mkdir()
    with pytest.raises(ValueError, match=said) as caught:
        loaded(tmp_path, files)
    assert len(str(caught.value).splitlines()) == 1


UNKNOWN = """
import no_triton as triton
import no_triton.language as tl
from mamba_ssm.modules.mamba9 import Mamba9
from no_triton import language
from timm.models.layers.helpers import to_2tuple

assert to_2tuple(3) == (3, 3)

N = tl.constexpr(8)

@triton.autotune(configs=[triton.Config({"N": 1}, num_warps=4)], key=["n"])
@triton.jit
def double(x, n: tl.constexpr, dtype=language.float32):
    tl.store(x, 2 * tl.load(x))
"""
TRIED = """
try:
    import no_triton as triton
    from mamba_ssm.modules.mamba9 import (
        Mamba9,
    )
except ImportError:
    triton = Mamba9 = None
"""


def test_what_nobody_has_is_refused_when_it_is_used_and_left_to_try(tmp_path, monkeypatch):
    monkeypatch.setitem(names.LAST, "no_triton", launches.TRITON)
    monkeypatch.setitem(names.LAST, "no_triton.language", names.LAST["triton.language"])
    assert len(list(workbench.scans(loaded(tmp_path / "named", {"net.py": UNKNOWN + NET})))) == 2
    tried = f"{TRIED}{NET}\nassert triton is Mamba9 is None"
    assert not loaded(tmp_path / "tried", {"net.py": tried}).provenance.notes[1:]
    for used, said in (
        ("double[(1,)](x)", "the Triton kernel double needs a GPU"),
        ("Mamba9(8)", "mamba9.Mamba9 has no stand-in"),
    ):
        net = UNKNOWN + NET.replace("        assert x", f"        {used}\n        assert x")
        with pytest.raises(ValueError, match=said):
            loaded(tmp_path / used[:6], {"net.py": net})


def test_a_name_is_found_with_its_module_or_without_and_the_nearest_is_said(tmp_path):
    files = {"a/net.py": NET, "b/net.py": NET.replace("dim=8, img", "dim=16, img")}
    for name, dim in (("b/net.py:Net", 16), ("b.net:Net", 16), ("a.net:Net", 8), ("Net", 8)):
        assert loaded(tmp_path, files, model=name).model.head.in_features == dim
    with pytest.raises(ValueError, match="no class or function 'Nett'; there are Net"):
        loaded(tmp_path, files, model="Nett")
    files = {"net.py": NET.replace("in_chans=3, dim=8, img", "in_chans, dim, img")}
    with pytest.raises(ValueError, match="net:Net has no default for in_chans, dim:"):
        external.load(repo(tmp_path / "Other", files), model="Net")


def test_one_command_gives_a_field_also_without_scans(tmp_path, capsys):
    net = NET.replace("return x + self.mamba(x)", "return 2 * x").replace(
        ".flatten(2).transpose(1, 2)", ""
    )
    net = net.replace("self.head(self.blocks(self.patches(x)).mean(1))",
                      "self.head(self.blocks(self.patches(x)).mean((2, 3)))")  # fmt: skip
    folder = repo(tmp_path / "Repo", {"net.py": net})
    few = ["--images", "samples/images", "--limit", "1", "--out", str(tmp_path / "out")]
    assert main(["erf", "--repo", str(folder), *few, "--json"]) == 0
    seen = capsys.readouterr()
    assert "Net calls no selective scan" in seen.err and "net:Net()" in seen.err
    assert main(["scan-maps", "--repo", str(folder), *few]) == 2
    assert "no selective scan" in capsys.readouterr().err


def test_colours_and_weights_are_as_the_workbench_needs_them(tmp_path):
    net = NET.replace("in_chans=3", "in_chans=1, pretrained=True")
    net = net.replace("self.img_size = img_size", "self.img_size = img_size; assert not pretrained")
    model = loaded(tmp_path, {"net.py": net})
    assert "Net(in_chans=3, pretrained=False)" in note(model)


def test_our_modules_are_not_hidden_by_theirs(tmp_path):
    import workbench

    model = loaded(tmp_path, {"kernels/setup.py": "", "workbench/x.py": "", "net.py": NET})
    assert isinstance(model, nn.Module) and sys.modules["workbench"] is workbench
