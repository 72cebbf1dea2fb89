"""Which modules are stood in, and what is in them."""

import re
from collections.abc import Callable
from typing import Any

import torch

from workbench.external import mamba, native, norms

Content = dict[str, Any]

_SCANS = {
    "selective_scan_fn": mamba.selective_scan_fn,
    "selective_scan_ref": mamba.selective_scan_ref,
    "mamba_inner_fn": mamba.mamba_inner_fn,
    "mamba_inner_ref": mamba.mamba_inner_fn,
    "mamba_inner_fn_no_out_proj": mamba.mamba_inner_fn_no_out_proj,
    "bimamba_inner_fn": mamba.bimamba_inner_fn,
}
_NORMS = {
    "RMSNorm": norms.RMSNorm,
    "layer_norm_fn": norms.layer_norm_fn,
    "rms_norm_fn": norms.rms_norm_fn,
}
_CONV = {"causal_conv1d_fn": native.conv1d_fn}

MODULES: dict[str, Content] = {
    "mamba_ssm": {"Mamba": mamba.Mamba, **_SCANS},
    "mamba_ssm.modules.mamba_simple": {"Mamba": mamba.Mamba},
    "mamba_ssm.ops.selective_scan_interface": _SCANS,
    "selective_scan": {
        "selective_scan_fn": mamba.selective_scan_without_gate,
        "selective_scan_ref": mamba.selective_scan_without_gate,
    },
    "selective_scan_cuda": {"fwd": native.scan_fwd, "bwd": native.scan_bwd},
    "selective_scan_cuda_core": {"fwd": native.core_fwd, "bwd": native.core_bwd},
    "selective_scan_cuda_oflex": {"fwd": native.oflex_fwd, "bwd": native.core_bwd},
    "causal_conv1d": _CONV,
    "causal_conv1d.causal_conv1d_interface": _CONV,
    "causal_conv1d_cuda": {
        "causal_conv1d_fwd": native.conv_fwd,
        "causal_conv1d_bwd": native.conv_bwd,
    },
}
"""Taken where the repository has no such module of its own."""

LEAVES: dict[str, Content | None] = {
    "mamba_ssm.ops.triton.layernorm": _NORMS,
    "mamba_ssm.ops.triton.layer_norm": _NORMS,
    "mamba_ssm.ops.triton.layernorm_gated": {**_NORMS, "RMSNorm": norms.GatedRMSNorm},
    "mamba_ssm.ops.triton.selective_state_update": None,
    "mamba_ssm.ops.triton.ssd_combined": None,
    "mamba_ssm.ops.triton.ssd_chunk_scan": None,
    "mamba_ssm.models.mixer_seq_simple": None,
    "mamba_ssm.modules.mamba2": None,
    "mamba_ssm.utils.generation": None,
    "mamba_ssm.utils.hf": None,
}
"""Taken from a fork too: they need Triton on a GPU, or transformers. None: any name is in it, and
is refused when it is used."""

COUNTERS: dict[str, Content | None] = {"fvcore.nn": None}
"""Only asked to count operations; taken where the package is not installed."""

_KNOWN = {**MODULES, **LEAVES, **COUNTERS}
_PARENTS = {name.rsplit(".", n)[0] for name in _KNOWN for n in range(1, name.count(".") + 1)}
_PACKAGE = re.compile(r"selective_scan_\w+")  # around a compiled module, as selective_scan_vmamba


def stands_in(name: str) -> bool:
    """Whether there is a stand-in called `name`, or one inside it.

    A name counts by its end, as forks are renamed: `dis_mamba.mamba_ssm.ops.triton.layernorm`.
    """
    known = any(tail in _KNOWN or tail in _PARENTS for tail in _tails(name))
    return known or _PACKAGE.fullmatch(name) is not None


def content(name: str) -> Content | None:
    """What is in that stand-in; None for any name, refused when it is used."""
    return next((_KNOWN[tail] for tail in _tails(name) if tail in _KNOWN), {})


def is_leaf(name: str) -> bool:
    """Whether a fork's own module of that name is replaced: where no GPU can run it."""
    return any(tail in LEAVES for tail in _tails(name)) and not torch.cuda.is_available()


def _tails(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[i:]) for i in range(len(parts))]


def refused(module: str) -> Callable[[str], type]:
    """The `__getattr__` of a module without content: classes that say so when they are called."""

    def found(name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)

        def refuse(self: object, *args: object, **kwargs: object) -> None:
            raise NotImplementedError(
                f"{module}.{name} has no stand-in, as models of images do not call it"
            )

        return type(name, (), {"__init__": refuse})

    return found
