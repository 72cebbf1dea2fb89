"""Weight files in every layout in use load onto the released names, and none of them runs code."""

import argparse
import collections
import datetime
import decimal
import functools
import gzip
import json
import logging
import os
import pathlib
import pickle
import re
import shutil
import sys
import types
import uuid
import zipfile

import golden
import huggingface_hub
import numpy as np
import pytest
import safetensors.torch
import timm
import torch

from workbench.models import REGISTERED, MambaVision, Vim, VMamba, networks
from workbench.models.family import source_of
from workbench.weights import (
    WeightsMismatch,
    clean_keys,
    create,
    create_model,
    find_weights,
    load_into,
    read_state_dict,
    resize_pos_embed,
    variant_of,
)
from workbench.weights import files as checkpoints

MANIFESTS = {
    "mambavision_tiny": "mambavision_manifest_T",
    "mambavision_tiny2": "mambavision_manifest_T2",
    "mambavision_small": "mambavision_manifest_S",
    "mambavision_base": "mambavision_manifest_B",
    "mambavision_large": "mambavision_manifest_L",
    "mambavision_large2": "mambavision_manifest_L2",
    "mambavision_large3_256_21k": "mambavision_manifest_L3_256_21k",
    "vim_tiny": "vim_manifest_tiny",
    "vim_tiny_plus": "vim_manifest_tiny_plus",
    "vim_small": "vim_manifest_small",
    "vim_small_plus": "vim_manifest_small_plus",
    "vim_base": "vim_manifest_base",
}
VMAMBA = golden.load("vmamba_manifests")["models"]
RELEASED = {
    network: [
        name
        for name, variant in REGISTERED.items()
        if variant.network is network and not name.endswith("_nano")
    ]
    for network in networks()
}
SMALL_VMAMBA = {"dims": 16, "depths": (1, 2), "num_classes": 7}
SMALL_VMAMBA_V0 = {
    **SMALL_VMAMBA,
    "stem": "v1",
    "downsample": "v1",
    "mlp_ratio": 0.0,
    "d_state": 4,
    "ssm_ratio": 2.0,
    "conv_bias": True,
    "gate": True,
}
SMALL_VIM = {"img_size": 64, "embed_dim": 32, "depth": 2, "num_classes": 7}
SMALL_MAMBAVISION = {
    "dim": 16,
    "in_dim": 8,
    "depths": (1, 1, 2, 2),
    "num_heads": (1, 1, 2, 2),
    "layer_scale": 1e-5,
    "num_classes": 7,
}
SMALL = [
    pytest.param(VMamba, SMALL_VMAMBA, id="vmamba"),
    pytest.param(VMamba, SMALL_VMAMBA_V0, id="vmamba-v0"),
    pytest.param(Vim, SMALL_VIM, id="vim"),
    pytest.param(MambaVision, SMALL_MAMBAVISION, id="mambavision"),
]


def vmamba_manifest(name):
    size = name.split("_")[1]
    return VMAMBA[f"vmamba_v0_{size}" if name.endswith("_v0") else name]


def meta(pairs):
    return {key: torch.empty(tuple(shape), device="meta") for key, shape in pairs}


def manifest(name):
    if name.startswith("vmamba_"):
        return meta(vmamba_manifest(name)["keys"])
    return meta(golden.load(MANIFESTS[name])["state_dict"])


def filled(family, arguments):
    """The state dict of a small model; every value differs from what the constructor draws."""
    return golden.fill_model(family(**arguments)).state_dict()


def assert_loads(path, family, arguments, expected):
    state, facts = read_state_dict(path)
    model = family(**arguments)
    load_into(model, state)
    loaded = model.state_dict()
    assert loaded.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(loaded[key], value), key
    return facts


class Attack:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments

    def __call__(self):
        raise AssertionError("only here so that pickle takes it for a function")


def v0_names(state):
    """The names that the code of January 2024 wrote."""
    named = {}
    for key, value in state.items():
        for now, then in (
            ("patch_embed.0.", "patch_embed.proj."),
            ("patch_embed.2.", "patch_embed.norm."),
            ("classifier.", ""),
        ):
            if key.startswith(now):
                key = then + key.removeprefix(now)
        if ".blocks." in key:
            key = key.replace(".norm.", ".ln_1.").replace(".op.", ".self_attention.")
        named[key] = value
    return named


def names_of_2025(state):
    """The single-file code: joined directions, numbered patch merging."""
    named = {}
    for key, value in state.items():
        if key.endswith("x_proj_weight") or key.endswith("dt_projs_weight"):
            key, value = key.replace("_weight", ".weight"), value.flatten(0, 1)
        key = key.replace("downsample.norm.", "downsample.1.")
        key = key.replace("downsample.reduction.", "downsample.2.")
        named[key] = value
    return named


def as_convolutions(state):
    ends = ("in_proj.weight", "out_proj.weight", "fc1.weight", "fc2.weight", "reduction.weight")
    return {k: v[..., None, None] if k.endswith(ends) else v for k, v in state.items()}


def prefixed(prefix, state):
    return {prefix + key: value for key, value in state.items()}


WRAPPERS = {
    "bare": lambda s: s,
    "under model, with arguments": lambda s: {
        "model": s,
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 1e-3}]},
        "epoch": 299,
        "args": argparse.Namespace(lr=1e-3, model="vim", nested=argparse.Namespace(a=(1, None))),
    },
    "accuracy as a NumPy scalar": lambda s: {
        "model": s,
        "max_accuracy": np.float64(82.6),
        "best": np.float32(1),
        "curve": np.arange(3.0),
    },
    "under state_dict, module.": lambda s: {"state_dict": prefixed("module.", s), "epoch": 3},
    "module.model.": lambda s: {"model": prefixed("module.model.", s)},
    "averaged": lambda s: {"model_ema": {**prefixed("module.", s), "n_averaged": torch.tensor(5)}},
    "parameters": lambda s: {
        "model": collections.OrderedDict(
            (k, torch.nn.Parameter(v, requires_grad=False)) for k, v in s.items()
        )
    },
}


@pytest.mark.parametrize(("family", "arguments"), SMALL)
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_every_wrapper_loads_bit_exactly(wrapper, family, arguments, tmp_path):
    state = filled(family, arguments)
    path = tmp_path / "weights.pth.tar"
    torch.save(WRAPPERS[wrapper](state), path)
    facts = assert_loads(path, family, arguments, state)
    assert facts["format"] == "torch"
    assert facts["file"] == "weights.pth.tar" and len(facts["sha256"]) == 64


@pytest.mark.parametrize(("family", "arguments"), SMALL)
def test_files_before_the_zip_format_load(family, arguments, tmp_path):
    state = filled(family, arguments)
    path = tmp_path / "weights.pth"
    content = {"model": state, "args": argparse.Namespace(lr=1.0), "best": np.float64(1)}
    torch.save(content, path, _use_new_zipfile_serialization=False)
    assert assert_loads(path, family, arguments, state)["format"] == "torch (before 1.6)"


@pytest.mark.parametrize("first", [0x80, 0x50, 0x00])
def test_safetensors_are_known_whatever_the_length_of_their_header(first, tmp_path):
    """The length comes first: its lowest byte may be that with which a pickle or a zip begins."""
    file = tmp_path / "weights.safetensors"
    for padding in range(0, 512, 8):
        safetensors.torch.save_file({"w": torch.ones(2)}, file, {"a": "x" * padding})
        if file.read_bytes()[0] == first:
            break
    assert file.read_bytes()[0] == first
    assert checkpoints.read_state_dict(file)[0]["w"].tolist() == [1, 1]


@pytest.mark.parametrize("prefix", ["", "model.", "module."])
@pytest.mark.parametrize(("family", "arguments"), SMALL)
def test_safetensors_load(family, arguments, prefix, tmp_path):
    state = filled(family, arguments)
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(prefixed(prefix, state), path)
    facts = assert_loads(path, family, arguments, state)
    assert facts["format"] == "safetensors" and facts["entry"] is None


@pytest.mark.parametrize(
    ("layout", "arguments"),
    [
        pytest.param(v0_names, SMALL_VMAMBA_V0, id="january 2024"),
        pytest.param(as_convolutions, SMALL_VMAMBA, id="1x1 convolutions"),
        pytest.param(as_convolutions, SMALL_VMAMBA_V0, id="1x1 convolutions, v0"),
        pytest.param(names_of_2025, SMALL_VMAMBA, id="2025"),
        pytest.param(names_of_2025, SMALL_VMAMBA_V0, id="2025, patch merging"),
    ],
)
def test_every_vmamba_layout_loads_bit_exactly(layout, arguments, tmp_path):
    state = filled(VMamba, arguments)
    stored = layout(state)
    assert {k: v.shape for k, v in stored.items()} != {k: v.shape for k, v in state.items()}
    path = tmp_path / "weights.pth"
    torch.save({"model": stored}, path)
    assert_loads(path, VMamba, arguments, state)


@pytest.mark.parametrize("name", ["vmamba_tiny_v0", "vmamba_small_v0", "vmamba_base_v0"])
def test_the_names_of_january_2024_become_the_released_ones(name):
    record = vmamba_manifest(name)
    shapes = [shape for _, shape in record["keys"]]
    old = meta(zip(record["release_keys_2024_01"], shapes, strict=True))
    assert {k: list(v.shape) for k, v in clean_keys(old).items()} == dict(record["keys"])
    assert variant_of(old) == [name]


@pytest.mark.parametrize(("family", "arguments"), SMALL)
def test_a_detector_gives_its_backbone_and_no_classifier(family, arguments, tmp_path):
    state = filled(family, arguments)
    head = ("head.", "norm.", "classifier.")
    backbone = {k: v for k, v in state.items() if not k.startswith(head)}
    extra = {"outnorm0.weight": torch.ones(16), "outnorm0.bias": torch.ones(16)}
    detector = {
        **prefixed("backbone.", {**backbone, **extra}),
        "neck.lateral.weight": torch.ones(3, 3),
        "roi_head.bbox_head.fc_cls.weight": torch.ones(3, 3),
    }
    path = tmp_path / "epoch_12.pth"
    torch.save({"meta": {"epoch": 12}, "state_dict": detector}, path)
    stored, _ = read_state_dict(path)
    model = family(**arguments)
    before = model.get_classifier().weight.clone()
    report = load_into(model, stored)
    assert "no classifier" in report.notes[-1]
    assert set(report.missing) == state.keys() - backbone.keys()
    assert torch.equal(model.get_classifier().weight, before)
    for key, value in backbone.items():
        assert torch.equal(model.state_dict()[key], value), key


def test_a_configuration_and_a_training_log_are_read_over(tmp_path, monkeypatch):
    """Classes of packages that are not installed are never needed."""

    class CfgNode(dict):
        def __init__(self, **items):
            super().__init__(items)
            self.__dict__["__immutable__"] = False
            self.__dict__["__deprecated_keys__"] = set()

    class HistoryBuffer:
        def __init__(self):
            self.log, self.methods = np.arange(4.0), {"mean": HistoryBuffer.mean}

        def mean(self):
            return 0.0

    for name, kind in {
        "yacs.config": CfgNode,
        "mmengine.logging.history_buffer": HistoryBuffer,
    }.items():
        module = types.ModuleType(name)
        setattr(module, kind.__name__, kind)
        kind.__module__, kind.__qualname__ = name, kind.__name__
        parts = name.split(".")
        for i in range(1, len(parts)):
            monkeypatch.setitem(sys.modules, ".".join(parts[:i]), types.ModuleType("package"))
        monkeypatch.setitem(sys.modules, name, module)
    HistoryBuffer.mean.__module__ = HistoryBuffer.__module__
    HistoryBuffer.mean.__qualname__ = "HistoryBuffer.mean"

    state = filled(VMamba, SMALL_VMAMBA)
    content = {
        "model": state,
        "config": CfgNode(MODEL=CfgNode(DIMS=[96], NAME="vssm")),
        "message_hub": {"log": HistoryBuffer()},
    }
    allowed = set(torch.serialization.get_safe_globals())
    zipped, legacy = tmp_path / "zipped.pth", tmp_path / "legacy.pth"
    torch.save(content, zipped)
    torch.save(content, legacy, _use_new_zipfile_serialization=False)
    for name in [name for name in sys.modules if name.split(".")[0] in ("yacs", "mmengine")]:
        monkeypatch.delitem(sys.modules, name)
    for path in (zipped, legacy):
        assert_loads(path, VMamba, SMALL_VMAMBA, state)
    assert set(torch.serialization.get_safe_globals()) == allowed


def test_entries_are_chosen_or_named(tmp_path):
    path = tmp_path / "checkpoint.pth"
    torch.save({"model_ema": {"a": torch.ones(1)}, "model": {"a": torch.zeros(1)}, "n": 3}, path)
    state, facts = read_state_dict(path)
    assert facts["entry"] == "model" and facts["entries"] == ["model_ema", "model"]
    assert state["a"] == 0
    assert read_state_dict(path, "model_ema")[0]["a"] == 1
    with pytest.raises(ValueError, match=r"no weights under 'ema': it has model_ema, model"):
        read_state_dict(path, "ema")
    one, two = {"a": torch.ones(1)}, {"a": torch.zeros(1)}
    torch.save({"student": one, "optimizer": {"lr": 1.0}}, path)
    assert read_state_dict(path)[1]["entry"] == "student"
    torch.save({"student": one, "teacher": two}, path)
    with pytest.raises(ValueError, match=r"it has student, teacher, name one with entry="):
        read_state_dict(path)
    assert read_state_dict(path, "teacher")[0]["a"] == 0
    torch.save({"net": {"inner": {"state_dict": one}}, "loss": {"scale": 1}}, path)
    assert read_state_dict(path)[1]["entry"] == "net.inner.state_dict"
    torch.save({"student.a": torch.ones(1), "teacher.a": torch.zeros(1)}, path)
    assert read_state_dict(path, "teacher")[0] == {"teacher.a": 0}


ATTACKS = {
    "os.system": (os.system, "system"),
    "eval": (eval, "builtins.eval"),
    "exec": (exec, "builtins.exec"),
}


@pytest.mark.parametrize("old", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("nested", [False, True], ids=["alone", "among tensors"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_a_file_that_would_run_code_is_refused_and_nothing_runs(attack, nested, old, tmp_path):
    function, name = ATTACKS[attack]
    marker = tmp_path / "marker"
    command = f"touch {marker}" if attack == "os.system" else f"open({str(marker)!r}, 'w')"
    call = Attack(function, command)
    tensors = filled(VMamba, SMALL_VMAMBA)
    content = {"model": {**tensors, "extra": call}, "epoch": 1} if nested else call
    path = tmp_path / "weights.pth"
    torch.save(content, path, _use_new_zipfile_serialization=not old)
    assert not marker.exists()
    with pytest.raises(ValueError, match="which weights never need; nothing in it was run") as e:
        read_state_dict(path)
    assert name in str(e.value)
    assert not marker.exists()
    # The same file does run its code when it is read without care.
    torch.load(path, weights_only=False)
    assert marker.exists()


@pytest.mark.parametrize("old", [False, True], ids=["zip", "legacy"])
def test_objects_beside_the_tensors_are_read_over_and_none_of_them_runs(old, tmp_path):
    marker, path = tmp_path / "marker", tmp_path / "last.ckpt"
    weight = torch.nn.Parameter(torch.ones(2))
    beside = {
        "hyper_parameters": {
            "path": pathlib.Path("a/b"),
            "make": functools.partial(dict, a=1),
            "when": datetime.datetime(2024, 1, 2),
            "counts": collections.defaultdict(list, {"a": [1]}),
            "id": uuid.uuid4(),
            "cut": slice(1, 2),
            "price": decimal.Decimal("1.5"),
        },
        # the old format has a way of its own for modules
        **({} if old else {"loss": torch.nn.CrossEntropyLoss()}),
        "optimizer": torch.optim.SGD([weight], 0.1),
        "call": Attack(shutil.copy, __file__, str(marker)),
    }
    torch.save(
        {"state_dict": {"model.a": torch.ones(3)}, **beside},
        path,
        _use_new_zipfile_serialization=not old,
    )
    assert read_state_dict(path)[0].keys() == {"model.a"}
    assert not marker.exists()
    torch.save(torch.nn.Linear(2, 2), path, _use_new_zipfile_serialization=not old)
    with pytest.raises(ValueError, match=r"holds .* as Python objects"):
        read_state_dict(path)


@pytest.mark.parametrize(
    "prefix",
    [
        *("_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "_orig_mod.backbone."),
        *("net.", "network.", "student.", "teacher.", "ema_model.", "_forward_module."),
        *("_fsdp_wrapped_module.", "vision_model.", "base_model.model.", "0.", "any.thing.else."),
    ],
)
@pytest.mark.parametrize(("family", "arguments"), SMALL)
def test_every_prefix_is_found_from_the_names_of_the_model(prefix, family, arguments, tmp_path):
    state = filled(family, arguments)
    path = tmp_path / "weights.pth"
    beside = {
        "criterion.weight": torch.ones(7),
        "val_acc.total": torch.tensor(3),
        "decode_head.conv.weight": torch.ones(4, 4),
        f"{prefix}total_ops": torch.zeros(1),
    }
    torch.save({"state_dict": {**prefixed(prefix, state), **beside}}, path)
    assert_loads(path, family, arguments, state)
    model = family(**arguments)
    report = load_into(model, read_state_dict(path)[0])
    assert report.notes[0].startswith("4 tensors beside the model's are left out (criterion.weight")
    assert report.unexpected == [*list(beside)[:3], "total_ops"]


def test_wrappers_inside_the_names_go(tmp_path):
    state = filled(VMamba, SMALL_VMAMBA)
    inside = {
        k.replace("blocks.", "_fsdp_wrapped_module.blocks._orig_mod."): v for k, v in state.items()
    }
    path = tmp_path / "weights.pth"
    torch.save(inside, path)
    assert_loads(path, VMamba, SMALL_VMAMBA, state)


def test_a_deeper_model_is_not_taken_for_a_part():
    """Left out is what lies beside the model, never a part of it."""
    state = filled(VMamba, {**SMALL_VMAMBA, "depths": (1, 3)})
    with pytest.raises(WeightsMismatch, match="unexpected"):
        load_into(VMamba(**SMALL_VMAMBA), prefixed("net.", state))


def test_of_two_sets_of_weights_the_first_is_taken_and_both_are_named():
    one, two = filled(VMamba, SMALL_VMAMBA), VMamba(**SMALL_VMAMBA).state_dict()
    model = VMamba(**SMALL_VMAMBA)
    report = load_into(model, {**prefixed("student.", one), **prefixed("teacher.", two)})
    assert "several times (student, teacher): the first is taken" in report.notes[0]
    assert all(torch.equal(model.state_dict()[k], v) for k, v in one.items())


@pytest.mark.parametrize("compressed", [False, True])
def test_every_flipped_bit_of_the_tensors_is_noticed(compressed, tmp_path):
    """torch checks no CRC, and maps compressed entries as if they were numbers."""
    state, whole = filled(VMamba, SMALL_VMAMBA), tmp_path / "whole.pth"
    torch.save({"model": state}, whole)
    if compressed:
        stored = zipfile.ZipFile(whole)
        whole = tmp_path / "deflated.pth"
        with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
            for entry in stored.infolist():
                archive.writestr(entry.filename, stored.read(entry))
    assert_loads(whole, VMamba, SMALL_VMAMBA, state)
    data = whole.read_bytes()
    entries = [e for e in zipfile.ZipFile(whole).infolist() if e.file_size > 64]
    damaged = tmp_path / "damaged.pth"
    rng = np.random.default_rng(0)
    for entry in rng.choice(np.array(entries, dtype=object), 12):
        begin = entry.header_offset + 30 + len(entry.filename)
        # the place in the local header's extra field is not known: look behind the name
        extra = int.from_bytes(data[entry.header_offset + 28 : entry.header_offset + 30], "little")
        at = begin + extra + int(rng.integers(entry.compress_size))
        damaged.write_bytes(data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :])
        with pytest.raises(ValueError, match=r"damaged\.pth is damaged"):
            read_state_dict(damaged)


WRONG = {
    "NaN or infinity in 1 of": lambda v: v.index_fill(0, torch.tensor([0]), float("nan")),
    "holds int8 numbers": lambda v: v.to(torch.int8),
    "is sparse": lambda v: v.to_sparse(),
    "is without numbers": lambda v: v.to("meta"),
    "is quantised": lambda v: torch.quantize_per_tensor(v, 0.1, 0, torch.qint8),
    "holds complex64 numbers": lambda v: v.to(torch.complex64),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("words", WRONG)
def test_values_that_are_no_weights_are_named_by_their_key(words, tmp_path):
    state, path = filled(VMamba, SMALL_VMAMBA), tmp_path / "weights.pth"
    key = "patch_embed.0.bias"
    torch.save({**state, key: WRONG[words](state[key].float())}, path)
    with pytest.raises(ValueError, match=f"{re.escape(key)} .*{words}|{re.escape(key)} {words}"):
        load_into(VMamba(**SMALL_VMAMBA), read_state_dict(path)[0])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        (b"\n<!DOCTYPE html><html>", "a web page"),
        (gzip.compress(b"x" * 99, mtime=0), "a gzip archive"),
    ],
)
def test_what_is_no_checkpoint_is_named(content, words, tmp_path):
    for suffix in (".pth", ".safetensors", ".bin"):
        path = tmp_path / f"weights{suffix}"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=words):
            read_state_dict(path)


def test_the_content_decides_the_format(tmp_path):
    state = filled(VMamba, SMALL_VMAMBA)
    torch.save(state, tmp_path / "a.safetensors")
    safetensors.torch.save_file(state, tmp_path / "b.bin")
    assert (
        assert_loads(tmp_path / "a.safetensors", VMamba, SMALL_VMAMBA, state)["format"] == "torch"
    )
    facts = assert_loads(tmp_path / "b.bin", VMamba, SMALL_VMAMBA, state)
    assert facts["format"] == "safetensors"


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_plain_pickle_runs_nothing_in_any_protocol(protocol, tmp_path):
    marker = tmp_path / "marker"
    path = tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps(Attack(os.system, f"touch {marker}"), protocol))
    with pytest.raises(ValueError, match=r"weights\.pkl .*nothing in it was run"):
        read_state_dict(path)
    assert not marker.exists()


def test_an_allowed_name_calls_nothing_real(tmp_path):
    """getattr and NumPy's constructors are stand-ins; what they return cannot be called."""
    path = tmp_path / "weights.pth"
    reached = Attack(getattr, argparse.Namespace, "__init__")
    torch.save({"model": {"a": torch.ones(1)}, "x": reached}, path)
    assert read_state_dict(path)[0].keys() == {"a"}
    torch.save({"model": {"a": torch.ones(1)}, "x": Attack(reached, 1)}, path)
    with pytest.raises(ValueError, match=r"weights\.pth is damaged"):
        read_state_dict(path)


def test_damaged_files_are_named_in_one_sentence(tmp_path):
    whole = tmp_path / "whole.pth"
    torch.save({"model": filled(VMamba, SMALL_VMAMBA)}, whole)
    data = whole.read_bytes()
    legacy = tmp_path / "old.pth"
    torch.save({"model": {"a": torch.ones(999)}}, legacy, _use_new_zipfile_serialization=False)
    tensors = tmp_path / "whole.safetensors"
    safetensors.torch.save_file({"a": torch.ones(999)}, tensors)
    broken = {
        "half.pth": data[: len(data) // 2],
        "tail.pth": data[len(data) // 2 :],
        "empty.pth": b"",
        "text.pth": b"config\nmodel: vim\n",
        "page.bin": b"<!doctype html>",
        "old_half.pth": legacy.read_bytes()[:1500],
        "half.safetensors": tensors.read_bytes()[:500],
        "empty.safetensors": b"",
    }
    for name, content in broken.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(ValueError, match=name) as error:
            read_state_dict(path)
        assert "\n" not in str(error.value)
    for name, content in {"list.pth": [torch.ones(1)], "numbers.pth": {"a": 1}}.items():
        torch.save(content, tmp_path / name)
        with pytest.raises(ValueError, match=name):
            read_state_dict(tmp_path / name)


@pytest.mark.parametrize("name", [*MANIFESTS, *RELEASED[VMamba]])
def test_every_manifest_is_told_from_its_shapes(name):
    found = variant_of(manifest(name))
    assert found[0] == name
    alike = {
        "mambavision_base": "mambavision_base_21k",
        "mambavision_large": "mambavision_large_21k",
        "mambavision_large2": "mambavision_large2_512_21k",
        "mambavision_large3_256_21k": "mambavision_large3_512_21k",
    }
    assert found[1:] == ([alike[name]] if name in alike else [])


def test_a_variant_is_told_without_classifier_with_other_classes_and_at_another_size():
    state = manifest("vim_tiny")
    state["head.weight"] = torch.empty(21841, 192, device="meta")
    state["head.bias"] = torch.empty(21841, device="meta")
    assert variant_of(state) == ["vim_tiny"]
    state["pos_embed"] = torch.empty(1, 577, 192, device="meta")
    assert variant_of(state) == ["vim_tiny", "vim_tiny_plus"]
    state = manifest("vmamba_tiny_s1l8")
    bare = {k: v for k, v in state.items() if not k.startswith("classifier.")}
    assert variant_of(prefixed("backbone.", bare)) == ["vmamba_tiny_s1l8"]
    del state["layers.2.blocks.3.mlp.fc1.bias"]
    assert variant_of(state) == []
    assert variant_of({"conv1.weight": torch.empty(1)}) == []


def test_each_released_model_has_one_published_file():
    names = [name for kind in (Vim, VMamba, MambaVision) for name in RELEASED[kind]]
    places = {source_of(timm.get_pretrained_cfg(name)) for name in names}
    assert len(places) == len(names) == 25
    assert set(names) <= set(timm.list_models(pretrained=True))
    assert timm.get_pretrained_cfg("vmamba_tiny_s1l8").url == (
        "https://github.com/MzeroMiko/VMamba/releases/download/"
        "%23v2cls/vssm1_tiny_0230s_ckpt_epoch_264.pth"
    )


@pytest.mark.parametrize("method", ["official", "class-aware"])
def test_position_embedding_is_resized_as_published_and_as_meant(method):
    record = golden.load("vim_mini_p16_interp_64_to_96")
    expected = {
        "official": record["pos_embed_interpolation"]["resulting_pos_embed"],
        "class-aware": record["class_aware_interpolation_not_official"]["resulting_pos_embed"],
    }[method]
    rows = torch.from_numpy(golden.fill("pos_embed", (1, 17, 48)))
    result = resize_pos_embed(rows, (4, 4), (6, 6), method)
    assert list(result.shape) == expected["shape"]
    # Seven digits are recorded.
    assert result.mean().item() == pytest.approx(expected["mean"], abs=1e-8)
    assert result.std(correction=0).item() == pytest.approx(expected["std"], abs=1e-7)
    assert result.flatten()[:8].tolist() == pytest.approx(expected["first8"], abs=1e-7)

    state = filled(Vim, {**SMALL_VIM, "embed_dim": 48})
    state["pos_embed"] = rows
    model = Vim(**{**SMALL_VIM, "embed_dim": 48, "img_size": 96})
    report = load_into(model, state, pos_embed=method)
    assert torch.equal(model.pos_embed, result)
    assert report.resized == ["pos_embed"]
    assert report.notes == [f"position embedding resized from 4 x 4 to 6 x 6 cells ({method})"]


def test_positions_of_a_grid_that_is_not_square_need_the_same_grid():
    arguments = {**SMALL_VIM, "img_size": (48, 80)}
    state = filled(Vim, arguments)
    load_into(Vim(**arguments), state)
    with pytest.raises(WeightsMismatch, match="15 cells, which is not a square grid"):
        load_into(Vim(**SMALL_VIM), state)


def test_a_mismatch_counts_names_and_says_what_fits():
    state = manifest("mambavision_tiny2")
    model = meta_model("mambavision_tiny")
    with pytest.raises(WeightsMismatch) as error:
        load_into(model, state)
    text = str(error.value)
    assert "the weights do not fit mambavision_tiny: " in text
    assert "8 missing (levels.2.blocks.4.mixer.qkv.weight, " in text
    assert " unexpected (" in text and text.count("levels.") == 10
    assert text.endswith("These weights fit: mambavision_tiny2")
    assert "\n" not in text and len(text) < 1500


def meta_model(name):
    with torch.device("meta"):
        return timm.create_model(name)


def test_one_wrong_name_or_shape_is_an_error():
    state = filled(VMamba, SMALL_VMAMBA)
    with pytest.raises(WeightsMismatch, match=r"1 missing \(layers\.0\.blocks\.0\.op\.Ds\)"):
        key = "layers.0.blocks.0.op.Ds"
        load_into(VMamba(**SMALL_VMAMBA), {k: v for k, v in state.items() if k != key})
    with pytest.raises(WeightsMismatch, match=r"1 unexpected \(surprise\)"):
        load_into(VMamba(**SMALL_VMAMBA), {**state, "surprise": torch.ones(2)})
    with pytest.raises(WeightsMismatch, match=r"patch_embed\.0\.bias 3, not 8"):
        load_into(VMamba(**SMALL_VMAMBA), {**state, "patch_embed.0.bias": torch.ones(3)})
    # Half of a classifier is not "no classifier".
    with pytest.raises(WeightsMismatch, match=r"in the file has no classifier\.head\.bias"):
        load_into(
            VMamba(**SMALL_VMAMBA), {k: v for k, v in state.items() if k != "classifier.head.bias"}
        )


def test_another_number_of_classes_is_an_error_that_says_what_to_do():
    state = filled(Vim, SMALL_VIM)
    with pytest.raises(WeightsMismatch, match=r"has 7 classes, the model 10: give num_classes=7"):
        load_into(Vim(**{**SMALL_VIM, "num_classes": 10}), state)
    report = load_into(Vim(**{**SMALL_VIM, "num_classes": 0}), state)
    assert report.unexpected == ["head.weight", "head.bias"]


def test_counters_of_batch_norms_may_be_absent():
    state = filled(MambaVision, SMALL_MAMBAVISION)
    bare = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    assert len(load_into(MambaVision(**SMALL_MAMBAVISION), bare).missing) == len(state) - len(bare)


def test_weights_are_found_in_a_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="has no weight file"):
        find_weights(tmp_path)
    for name in ("b.pth", "a.pth"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=r"several weight files, name one: a\.pth, b\.pth"):
        find_weights(tmp_path)
    for name in ("x.safetensors", "model.safetensors"):
        (tmp_path / name).touch()
        assert find_weights(tmp_path).name == name
    assert find_weights(str(tmp_path / "a.pth")) == tmp_path / "a.pth"
    with pytest.raises(FileNotFoundError, match=r"near it: x\.safetensors"):
        find_weights(tmp_path / "y.safetensors")
    with pytest.raises(FileNotFoundError, match="no folder"):
        find_weights(tmp_path / "nowhere" / "a.pth")


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    def refuse(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    monkeypatch.setattr(checkpoints.urllib.request, "urlopen", refuse)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))


def test_without_a_network_one_sentence_says_what_to_fetch(no_network):
    with pytest.raises(ConnectionError) as error:
        create_model("mambavision_tiny", "official")
    assert str(error.value) == (
        "mambavision_tiny_1k.pth.tar could not be fetched from the hub repository "
        "nvidia/MambaVision-T-1K: fetch it where there is a network, put it anywhere and give "
        "weights=PATH"
    )
    with pytest.raises(ConnectionError, match=r"the release #v2cls of MzeroMiko/VMamba on GitHub"):
        create_model("vmamba_tiny_s1l8", "official")
    with pytest.raises(ConnectionError, match="hub repository a/b"):
        find_weights("hf-hub:a/b")
    with pytest.raises(ValueError, match="hf-hub:owner/name/file"):
        find_weights("hf-hub:a")


def test_a_hub_file_at_hand_needs_no_network(monkeypatch, tmp_path):
    file = tmp_path / "model.safetensors"
    file.touch()

    def at_hand(repo_id, filename=None, revision=None, local_files_only=False, **more):
        assert local_files_only and repo_id == "a/b" and revision in (None, "v1")
        return str(tmp_path / filename) if filename else str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", at_hand)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", at_hand)
    assert find_weights("hf-hub:a/b/model.safetensors") == file
    assert find_weights("hf-hub:a/b@v1/model.safetensors") == file
    assert find_weights("hf-hub:a/b") == file


TINY = {"dims": 16, "depths": (1, 1)}


def test_random_weights_come_from_the_seed_alone():
    state = torch.random.get_rng_state()
    first = create_model("vmamba_tiny_s1l8", seed=3, num_classes=5, **TINY)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(3)
    second = create_model("vmamba_tiny_s1l8", "random", seed=3, num_classes=5, **TINY)
    third = create_model("vmamba_tiny_s1l8", seed=4, num_classes=5, **TINY)
    same = [torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)]
    assert all(same) and not first.training
    assert not torch.equal(first.classifier.head.weight, third.classifier.head.weight)
    assert first.provenance.source == "random" and first.provenance.seed == 3
    assert first.provenance.classes == 5 and first.provenance.licence is None


def test_a_file_gives_classes_hash_licence_and_log(tmp_path, caplog):
    arguments = {"embed_dim": 32, "depth": 2}
    state = filled(Vim, {**arguments, "num_classes": 7, "img_size": 64})
    path = tmp_path / "vim.pth"
    torch.save({"model": state, "model_ema": state}, path)
    with caplog.at_level(logging.INFO, "workbench"):
        model = create_model("vim_tiny", path, entry="model_ema", img_size=(64, 96), **arguments)
    provenance = model.provenance
    assert provenance.classes == 7 and model.head.weight.equal(state["head.weight"])
    assert model.grid_size == (4, 6)
    assert provenance.notes == [
        "position embedding resized from 4 x 4 to 4 x 6 cells (class-aware)"
    ]
    assert provenance.entry == "model_ema" and provenance.source == str(path)
    assert provenance.sha256 == read_state_dict(path)[1]["sha256"]
    assert "Apache-2.0" in provenance.licence and "Apache-2.0" in caplog.text
    json.dumps(provenance.facts())
    plain = create_model("vim_tiny", path, img_size=96, pos_embed="official", **arguments)
    assert plain.pos_embed_resize == "official"


def test_non_commercial_weights_say_so(tmp_path):
    path = tmp_path / "mambavision.pth"
    torch.save(filled(MambaVision, SMALL_MAMBAVISION), path)
    arguments = {k: v for k, v in SMALL_MAMBAVISION.items() if k != "num_classes"}
    model = create_model("mambavision_base", path, **arguments)
    assert "non-commercial" in model.provenance.licence


@pytest.mark.parametrize("name", ["vmamba_nano", "vim_nano", "mambavision_nano"])
def test_our_small_models_are_told_from_their_weights(name, tmp_path):
    model = create_model(name, seed=5)
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(model.state_dict(), path)
    found = create_model(weights=path)
    assert found.provenance.model == name and found.provenance.classes == 10
    for key, value in model.state_dict().items():
        assert torch.equal(found.state_dict()[key], value), key


def test_official_weights_of_other_models_are_timms(monkeypatch, tmp_path, no_network):
    with pytest.raises(ConnectionError, match=r"model\.safetensors .* timm/resnet10t\.c3_in1k:"):
        create_model("resnet10t", "official")
    with pytest.raises(ValueError, match="Invalid pretrained tag"):
        create_model("resnet10t.nonsense", "official")
    path = tmp_path / "model.safetensors"
    published = timm.create_model("resnet10t")
    safetensors.torch.save_file(published.state_dict(), path)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda **where: str(path))
    model = create_model("resnet10t", "official")
    assert torch.equal(model.fc.weight, published.fc.weight)
    assert model.provenance.sha256 == checkpoints.sha256(path)
    assert model.provenance.licence == "Published weights: apache-2.0."
    model = create_model("resnet10t", "official", num_classes=3)
    assert torch.equal(model.conv1[0].weight, published.conv1[0].weight)
    assert "the classifier is random" in model.provenance.notes[0]

    def refuse(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", refuse)
    with pytest.raises(ConnectionError, match=r"hf-hub:a/b could not be fetched \(OSError\)"):
        create_model("hf-hub:a/b")
    with pytest.raises(ValueError, match="no published weights are known for resnet10t_x"):
        monkeypatch.setattr(timm, "is_model", lambda name: True)
        create_model("resnet10t_x", "official")


def test_a_model_is_told_from_its_weights(tmp_path, monkeypatch):
    """The released ones by their shapes, others by timm's config.json beside the file."""
    shapes = manifest("vim_tiny")
    state = {key: torch.zeros(value.shape) for key, value in shapes.items()}
    path = tmp_path / "weights.pth"
    torch.save(state, path)
    model = create_model(weights=path)
    assert model.provenance.model == "vim_tiny" and model.provenance.notes == []

    monkeypatch.setattr(create, "variant_of", lambda state: ["vim_tiny", "vim_tiny_plus"])
    assert "fit vim_tiny, vim_tiny_plus alike" in create_model(weights=path).provenance.notes[0]
    monkeypatch.undo()

    small = filled(VMamba, {**TINY, "num_classes": 5})
    folder = tmp_path / "small"
    folder.mkdir()
    safetensors.torch.save_file(small, folder / "model.safetensors")
    with pytest.raises(ValueError, match="no released model has the names and shapes"):
        create_model(weights=folder)
    config = {
        "architecture": "vmamba_tiny_s1l8",
        "num_classes": 5,
        "model_args": TINY,
        "pretrained_cfg": {"input_size": [3, 64, 64], "num_classes": 5},
    }
    (folder / "config.json").write_text(json.dumps(config))
    for model in (create_model(weights=folder), create_model(f"local-dir:{folder}")):
        assert torch.equal(model.classifier.head.weight, small["classifier.head.weight"])
        assert tuple(model.pretrained_cfg["input_size"]) == (3, 64, 64)
        assert model.provenance.sha256
    random = create_model(f"local-dir:{folder}", "random")
    assert not torch.equal(random.classifier.head.weight, small["classifier.head.weight"])
    with pytest.raises(ValueError, match="give the name of a model"):
        create_model()


def test_any_model_of_timm_loads_strictly(tmp_path):
    model = timm.create_model("resnet10t", num_classes=3)
    path = tmp_path / "resnet.pth"
    torch.save({"state_dict": prefixed("module.", model.state_dict())}, path)
    loaded = create_model("resnet10t", path, img_size=64)
    assert torch.equal(loaded.fc.weight, model.fc.weight)
    assert loaded.provenance.classes == 3
    assert "not built for one image size" in loaded.provenance.notes[0]
    with pytest.raises(WeightsMismatch, match="give num_classes=3"):
        create_model("resnet10t", path, num_classes=4)
    with pytest.raises(WeightsMismatch, match="the weights do not fit resnet18"):
        create_model("resnet18", path)
    with pytest.raises(ValueError, match="resnet10t cannot be built"):
        create_model("resnet10t", flavour="sweet")


def test_an_unknown_name_suggests_near_ones():
    with pytest.raises(ValueError, match=r"no model 'vmamba_tiny'; near it: .*vmamba_tiny_v0"):
        create_model("vmamba_tiny")
    with pytest.raises(ValueError, match="vim_small"):
        create_model("vim_smal")
    with pytest.raises(ValueError, match=r"timm\.list_models\(\)"):
        create_model("")
    with pytest.raises(ValueError, match="pos_embed must be"):
        create_model("vim_tiny", pos_embed="bilinear")


def test_a_factory_of_the_users(tmp_path):
    file = tmp_path / "mine.py"
    (tmp_path / "my_neighbour.py").write_text("width = 3\n")
    file.write_text(
        "import torch\nfrom my_neighbour import width\n"
        "def net(classes=2):\n    return torch.nn.Sequential(torch.nn.Linear(width, classes))\n"
        "def wrong():\n    return 3\n"
        "def fails():\n    raise KeyError('oh')\n"
        "constant = 5\n"
    )
    before = list(sys.path)
    model = create_model(f"{file}:net", classes=4)
    assert model[0].weight.shape == (4, 3) and not model.training and sys.path == before
    path = tmp_path / "mine.pth"
    torch.save({"state_dict": prefixed("module.", model.state_dict())}, path)
    again = create_model(f"{file}:net", path, seed=1, classes=4)
    assert torch.equal(again[0].weight, model[0].weight)
    assert again.provenance.licence is None
    assert isinstance(create_model("torch.nn:Identity"), torch.nn.Identity)
    for name, sentence in {
        f"{file}:wrong": "returned a int, not a torch.nn.Module",
        f"{file}:fails": "failed: KeyError: 'oh'",
        f"{file}:constant": "no callable 'constant'",
        f"{file}:absent": "no callable 'absent'",
        f"{tmp_path}/absent.py:net": "there is no file",
        "absent_module:net": "cannot be imported: ModuleNotFoundError",
    }.items():
        with pytest.raises(ValueError, match=sentence):
            create_model(name)


def test_a_part_named_like_a_wrapper_keeps_its_name(tmp_path):
    model = torch.nn.ModuleDict({"model": torch.nn.Linear(2, 2), "encoder": torch.nn.Linear(2, 2)})
    state = {key: value + 1 for key, value in model.state_dict().items()}
    load_into(model, state)
    assert torch.equal(model["encoder"].weight, state["encoder.weight"])


def test_a_vit_takes_weights_of_another_size_as_timm_does(tmp_path):
    native = create_model("vit_nano", "random", seed=3)
    file = tmp_path / "vit_nano.safetensors"
    safetensors.torch.save_file(native.state_dict(), file)
    loaded = create_model("vit_nano", str(file), img_size=96)
    native.set_input_size(img_size=(96, 96))
    x = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(loaded(x), native.eval()(x))
