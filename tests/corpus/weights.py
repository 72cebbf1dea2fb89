"""Weight files: damaged, hostile, wrapped in every way, of other formats."""

import collections
import datetime
import functools
import gzip
import io
import os
import pathlib
import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from corpus.case import Case
from workbench.models import VMamba
from workbench.weights import load_into, read_state_dict

SMALL = {"dims": 16, "depths": (1, 2), "num_classes": 7}
PREFIXES = (
    *("", "module.", "model.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "net."),
    *("network.", "student.", "ema_model.", "_forward_module.", "_fsdp_wrapped_module.", "0."),
    *("vision_model.", "base_model.model.", "backbone.", "encoder.model.", "a.b.c.d.e.f."),
)
ENTRIES = ("model", "state_dict", "model_state_dict", "net", "ema", "params_ema", "weights", "m.s")


class Call:
    """Pickles as a call that would leave a mark."""

    def __init__(self, function: Callable, *arguments: Any) -> None:
        self.reduced = function, arguments

    def __reduce__(self) -> tuple:
        return self.reduced


def saved(content: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def deflated(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(data)) as stored,
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for entry in stored.infolist():
            archive.writestr(entry.filename, stored.read(entry))
    return buffer.getvalue()


def bomb(data: bytes) -> bytes:
    """The archive with a data.pkl that unpacks to gigabytes."""
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(data)) as stored,
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for entry in stored.infolist():
            if not entry.filename.endswith("data.pkl"):
                archive.writestr(entry.filename, stored.read(entry))
                continue
            with archive.open(entry.filename, "w", force_zip64=True) as member:
                for _ in range(600):
                    member.write(bytes(2**20))
    return buffer.getvalue()


def cases(folder: Path, seed: int, marker: Path) -> Iterator[Case]:
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    # exact in half precision too
    state = {
        k: torch.randn_like(v).bfloat16().float() for k, v in VMamba(**SMALL).state_dict().items()
    }
    whole = saved({"model": state})
    tensors = safetensors.torch.save(state)
    legacy = saved({"model": state}, _use_new_zipfile_serialization=False)

    def read(path: Path) -> bool:
        model = VMamba(**SMALL)
        load_into(model, read_state_dict(path)[0])
        return all(torch.equal(v, state[k].float()) for k, v in model.state_dict().items())

    def case(name: str, data: bytes, good: bool | None, suffix: str = ".pth") -> Case:
        path = folder / f"{name.replace('/', '-').replace('.', '_')}{suffix}"
        return Case(
            f"weights/{name}", lambda: path.write_bytes(data), functools.partial(read, path), good
        )

    for prefix in PREFIXES:
        inner = {prefix + k: v for k, v in state.items()}
        yield case(f"prefix {prefix}", saved({"state_dict": inner}), True)
        beside = {"criterion.weight": torch.ones(3), f"{prefix}total_ops": torch.zeros(1)}
        good = None if not prefix else True
        yield case(f"beside {prefix}", saved({**inner, **beside}), good)
    for entry in ENTRIES:
        content: Any = state
        for key in reversed(entry.split(".")):
            content = {key: content, "epoch": 3}
        yield case(f"entry {entry}", saved(content), True)
    objects = {
        "path": pathlib.Path("a"),
        "partial": functools.partial(dict, a=1),
        "date": datetime.datetime(2024, 1, 1),
        "defaultdict": collections.defaultdict(list, a=[1]),
        "loss": torch.nn.CrossEntropyLoss(),
        "slice": slice(1, 2),
        "counter": collections.Counter("aab"),
        "numpy": np.float64(1),
    }
    for name, value in objects.items():
        yield case(f"object {name}", saved({"state_dict": state, "hyper": {name: value}}), True)
    for name, function in {"system": os.system, "eval": eval, "exec": exec}.items():
        command = f"touch {marker}" if name == "system" else f"open({str(marker)!r}, 'w')"
        hostile = Call(function, command)
        yield case(f"hostile {name}", saved({"model": state, "x": hostile}), False)
        yield case(f"hostile alone {name}", pickle.dumps(hostile, 2), False)
        old = saved({"model": state, "x": hostile}, _use_new_zipfile_serialization=False)
        yield case(f"hostile old {name}", old, False)
    yield case("deflated", deflated(whole), True)
    yield case("bomb", bomb(whole), False)
    yield case("legacy", legacy, True)
    yield case("bfloat16", saved({k: v.bfloat16() for k, v in state.items()}), True)
    yield case("torch named safetensors", whole, True, ".safetensors")
    yield case("safetensors named bin", tensors, True, ".bin")
    yield case("safetensors", tensors, True, ".safetensors")
    others = {
        "pointer": b"version https://git-lfs.github.com/spec/v1\n",
        "page": b"<!doctype html><title>x</title>",
        "gzip": gzip.compress(whole[:1000]),
        "empty": b"",
        "text": b"hello",
        "lying header": (2**62).to_bytes(8, "little") + b"{",
        "zeros": bytes(4096),
        "module": saved(torch.nn.Linear(2, 2)),
        "list": saved([torch.ones(2)]),
        "no tensors": saved({"a": 1}),
    }
    for name, data in others.items():
        for suffix in (".pth", ".safetensors"):
            yield case(f"{name}{suffix}", data, False, suffix)
    key = "patch_embed.0.bias"
    value = state[key]
    wrong = {
        "nan": value.index_fill(0, torch.tensor([1]), float("nan")),
        "inf": value.index_fill(0, torch.tensor([0]), float("inf")),
        "int8": value.to(torch.int8),
        "complex": value.to(torch.complex64),
        "sparse": value.to_sparse(),
        "meta": value.to("meta"),
        "quantised": torch.quantize_per_tensor(value, 0.1, 0, torch.qint8),
        "shape": value[:3].clone(),
        "expanded": torch.zeros(1).expand(2**40),
    }
    for name, tensor in wrong.items():
        yield case(f"value {name}", saved({**state, key: tensor}), False)
    strange = {"esc": "a\x1b[31mb\x07", "long": "x" * 100_000, "dots": "a." * 5000}
    for name, text in strange.items():
        yield case(f"name {name}", saved({**state, text: torch.ones(3)}), False)
    yield case("another model", saved({f"layers.{i}.w": torch.ones(2, 2) for i in range(9)}), False)
    for number in range(24):
        data = bytearray((whole, deflated(whole))[number % 2])
        data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
        yield case(f"flipped {number}", bytes(data), None)
    for number in range(10):
        data = (whole, tensors, legacy)[number % 3]
        yield case(f"cut {number}", data[: int(rng.integers(len(data) - 100))], False)
