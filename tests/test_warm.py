"""`vssm warm` compiles the list of variants, and says in a sentence when it cannot."""

import time

import pytest
import torch

from workbench.cli import warm

compiling = pytest.importorskip("workbench.kernels.gpu.compiling")


def run(*arguments):
    return warm.command(warm.parser().parse_args(list(arguments)))


def test_without_a_gpu_it_says_so(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="no GPU is usable here"):
        run()
    with pytest.raises(ValueError, match="'int8' is not one of float32, bfloat16, float16"):
        run("--dtypes=float32,int8")
    with pytest.raises(ValueError, match="--device cpu"):
        run("--device=cpu")


@pytest.fixture
def gpu(monkeypatch):
    """A GPU that is not there: what is built is recorded."""
    built = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    monkeypatch.setattr(compiling, "target_of", lambda device: None)
    monkeypatch.setattr(compiling, "build", lambda variant, target: built.append(variant))
    monkeypatch.setattr(compiling, "_ready", {})
    return built


def test_every_variant_is_compiled_and_loaded(gpu, monkeypatch, capsys):
    loaded = []
    monkeypatch.setattr(compiling, "ready", lambda *key: loaded.append(key))
    assert run() == 0
    assert set(gpu) == set(compiling.variants().values())
    assert {key[:2] for key in loaded} == {
        (group, dtype) for group in compiling.GROUPS for dtype in ("fp32", "bf16")
    }
    assert capsys.readouterr().out.startswith(f"{len(gpu)} kernels are ready for a GPU")


def test_what_is_in_the_way_is_one_sentence(gpu, monkeypatch):
    def ready(*key):
        raise compiling.Unusable("no C compiler")

    monkeypatch.setattr(compiling, "ready", ready)
    with pytest.raises(ValueError, match=r"the GPU scan cannot run here \(no C compiler\)"):
        run()


def test_the_page_tells_while_kernels_compile(gpu, monkeypatch):
    """The bar moves; on a machine without a GPU nothing is drawn."""
    from workbench.app import session

    said = []

    class Bar:
        def progress(self, share, text):
            said.append((share, text))

        def empty(self):
            said.append("gone")

    monkeypatch.setattr(session.st, "empty", Bar)
    monkeypatch.setattr(compiling, "ready", lambda *key: None)
    monkeypatch.setattr(compiling, "PATIENCE", 0.0)
    monkeypatch.setattr(compiling, "build", lambda variant, target: time.sleep(0.01))
    monkeypatch.setenv("VSSM_DEVICE", "cpu")
    session.warm_up()
    assert said == []
    monkeypatch.delenv("VSSM_DEVICE")
    try:
        session.warm_up()
    finally:
        session._warm_gpu.clear()
    total = len(compiling.variants(["fp32"]))
    told = f"Compiling the scan for this GPU, once: {total} of {total}"
    assert said[-2:] == [(1.0, told), "gone"]
    assert len(said) > 3
    assert compiling._listener is compiling._print
