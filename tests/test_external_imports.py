"""Inside `stand_in` imports find the stand-ins; afterwards everything is as it was."""

import importlib
import importlib.util
import sys

import pytest
import timm
import timm.layers
import timm.models._registry as registry
import torch

from workbench.external import imports as external_imports
from workbench.external import mamba, native, norms, ssd, stand_in

NAMES = {
    "mamba_ssm": {"Mamba": mamba.Mamba},
    "mamba_ssm.modules.mamba_simple": {"Mamba": mamba.Mamba},
    "mamba_ssm.ops.selective_scan_interface": {
        "selective_scan_fn": mamba.selective_scan_fn,
        "selective_scan_ref": mamba.selective_scan_ref,
        "mamba_inner_fn": mamba.mamba_inner_fn,
        "bimamba_inner_fn": mamba.bimamba_inner_fn,
        "mamba_inner_fn_no_out_proj": mamba.mamba_inner_fn_no_out_proj,
    },
    "mamba_ssm.ops.triton.layernorm": {"RMSNorm": norms.RMSNorm},
    "mamba_ssm.ops.triton.layer_norm": {"layer_norm_fn": norms.layer_norm_fn},
    "mamba_ssm.ops.triton.layernorm_gated": {"RMSNorm": norms.GatedRMSNorm},
    "mamba_ssm.ops.triton.ssd_combined": {
        "mamba_chunk_scan_combined": ssd.mamba_chunk_scan_combined
    },
    "mamba_ssm.modules.mamba2_simple": {"Mamba2Simple": ssd.Mamba2Simple},
    "selective_scan_cuda_oflex_rh": {"fwd": native.states_fwd, "bwd": native.states_bwd},
    "selective_scan": {"selective_scan_fn": mamba.selective_scan_without_gate},
    "selective_scan_cuda": {"fwd": native.scan_fwd, "bwd": native.scan_bwd},
    "selective_scan_cuda_core": {"fwd": native.core_fwd, "bwd": native.core_bwd},
    "selective_scan_cuda_oflex": {"fwd": native.oflex_fwd, "bwd": native.core_bwd},
    "selective_scan_vmamba_pt202.selective_scan_cuda_core": {"fwd": native.core_fwd},
    "causal_conv1d": {"causal_conv1d_fn": native.conv1d_fn},
    "causal_conv1d_cuda": {"causal_conv1d_fwd": native.conv_fwd},
}


@pytest.mark.parametrize("name", NAMES)
def test_names(name):
    with stand_in() as found:
        assert importlib.util.find_spec(name) is not None
        module = importlib.import_module(name)
        for attribute, value in NAMES[name].items():
            assert getattr(module, attribute) is value
        assert name in found.imported
    assert name not in sys.modules
    with pytest.raises(ImportError):
        importlib.import_module(name)


def test_counters_and_leaves_import_and_refuse_calls():
    with stand_in():
        from fvcore.nn import FlopCountAnalysis, flop_count, flop_count_str, parameter_count
        from mamba_ssm.utils.generation import GenerationMixin

        class Model(GenerationMixin):
            def __init__(self):
                pass

        Model()
        for name in (FlopCountAnalysis, flop_count, flop_count_str, parameter_count):
            with pytest.raises(NotImplementedError, match="has no stand-in"):
                name(None)


def write(folder, files):
    for name, text in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder


def test_a_fork_stays_and_what_lies_below_it_is_replaced(tmp_path):
    fork = {
        "renamed/__init__.py": "",
        "renamed/mamba_ssm/__init__.py": "OWN = True",
        "renamed/mamba_ssm/ops/__init__.py": "",
        "renamed/mamba_ssm/ops/selective_scan_interface.py": "import selective_scan_cuda as below",
        "renamed/mamba_ssm/ops/triton/__init__.py": "",
        "renamed/mamba_ssm/ops/triton/layernorm.py": "raise ImportError('no GPU')",
    }
    with stand_in(write(tmp_path, fork)):
        import renamed.mamba_ssm
        from renamed.mamba_ssm.ops.selective_scan_interface import below
        from renamed.mamba_ssm.ops.triton.layernorm import RMSNorm

        assert renamed.mamba_ssm.OWN
        assert below.fwd is native.scan_fwd
        assert RMSNorm is norms.RMSNorm


@pytest.fixture
def site_packages(tmp_path, monkeypatch):
    """A folder whose packages count as installed."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(
        external_imports, "is_installed", lambda file: str(file).startswith(str(tmp_path))
    )
    return tmp_path


def test_installed_packages_come_first_where_they_work(site_packages, monkeypatch):
    write(site_packages, {"mamba_ssm/__init__.py": "REAL = True"})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with stand_in():
        import mamba_ssm

        assert mamba_ssm.REAL
    with stand_in(installed=False):
        import mamba_ssm

        assert mamba_ssm.Mamba is mamba.Mamba


@pytest.mark.parametrize("gpu", [True, False])
def test_installed_packages_that_do_not_work_are_stood_in(site_packages, monkeypatch, gpu):
    text = "import a_compiled_library_that_is_missing" if gpu else ""
    write(site_packages, {"mamba_ssm/__init__.py": text})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    with stand_in():
        from mamba_ssm import Mamba

        assert Mamba is mamba.Mamba


def state():
    return (
        dict(sys.modules),
        list(sys.path),
        list(sys.meta_path),
        {name: dict(vars(registry)[name]) for name in ("_model_entrypoints", "_model_to_module")},
        {name: set(models) for name, models in registry._module_to_models.items()},
        dict(vars(timm.layers.DropPath)),
        (torch.cuda.device, torch.cuda.set_device, torch.nn.Module.load_state_dict),
        torch.backends.cudnn.benchmark,
    )


@pytest.mark.parametrize("fails", [True, False])
def test_everything_is_restored(tmp_path, fails):
    write(tmp_path, {
        "helpers.py": "WHOSE = 'theirs'",
        "changes.py": """
import helpers, sys, timm, torch, selective_scan_cuda
from timm.layers import DropPath
from timm.models import register_model
DropPath.__repr__ = lambda self: ""
torch.backends.cudnn.benchmark = True
sys.path.insert(0, "somewhere")
@register_model
def a_model_that_is_not_ours(**kwargs):
    return torch.nn.Identity()
""",
    })  # fmt: skip
    own = type(sys)("helpers")
    own.__file__ = "/elsewhere/helpers.py"
    sys.modules["helpers"] = own
    try:
        before = state()
        try:
            with stand_in(tmp_path):
                import changes

                assert changes.helpers.WHOSE == "theirs"
                assert timm.is_model("a_model_that_is_not_ours")
                if fails:
                    raise RuntimeError
        except RuntimeError:
            assert fails
        after = state()
        assert before[1:] == after[1:]
        assert before[0] == {name: m for name, m in after[0].items() if name in before[0]}
        assert not {"changes", "selective_scan_cuda"} & set(after[0])
        assert not timm.is_model("a_model_that_is_not_ours")
    finally:
        del sys.modules["helpers"]


def test_a_missing_folder_is_said(tmp_path):
    with pytest.raises(ValueError, match="clone the repository"), stand_in(tmp_path / "nowhere"):
        pass


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpu_statements_are_harmless_without_one():
    with stand_in():
        x = torch.ones(2).cuda()
        assert x.to("cuda:0", torch.float64).dtype == torch.float64
        assert x.to(device=torch.device("cuda")).device.type == "cpu"
        assert torch.zeros(2, device="cuda").device.type == "cpu"
        assert torch.nn.Linear(2, 2).cuda().to("cuda").weight.device.type == "cpu"
        torch.cuda.synchronize()
        with torch.cuda.device(x.device):
            pass
    with pytest.raises((RuntimeError, AssertionError)):
        torch.ones(2).cuda()
