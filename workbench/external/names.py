"""Which modules are stood in, and what is in them."""

import re
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch

from workbench.external import launches, mamba, native, norms, ssd

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
_SSD = {
    "mamba_chunk_scan_combined": ssd.mamba_chunk_scan_combined,
    "mamba_split_conv1d_scan_combined": ssd.mamba_split_conv1d_scan_combined,
}
_CONV = {"causal_conv1d_fn": native.conv1d_fn}

MODULES: dict[str, Content] = {
    "mamba_ssm": {"Mamba": mamba.Mamba, "Mamba2": ssd.Mamba2, **_SCANS},
    "mamba_ssm.modules.block": {"Block": mamba.Block},
    "mamba_ssm.modules.mamba2": {"Mamba2": ssd.Mamba2},
    "mamba_ssm.modules.mamba2_simple": {"Mamba2Simple": ssd.Mamba2Simple},
    "mamba_ssm.modules.mamba_simple": {"Block": mamba.BlockOfOneNorm, "Mamba": mamba.Mamba},
    "mamba_ssm.modules.mlp": {"GatedMLP": mamba.GatedMLP},
    "mamba_ssm.ops.selective_scan_interface": _SCANS,
    "selective_scan": {
        "selective_scan_fn": mamba.selective_scan_without_gate,
        "selective_scan_ref": mamba.selective_scan_without_gate,
    },
    "selective_scan_cuda": {"fwd": native.scan_fwd, "bwd": native.scan_bwd},
    "selective_scan_cuda_core": {"fwd": native.core_fwd, "bwd": native.core_bwd},
    "selective_scan_cuda_oflex": {"fwd": native.oflex_fwd, "bwd": native.core_bwd},
    "selective_scan_cuda_oflex_rh": {"fwd": native.states_fwd, "bwd": native.states_bwd},
    "dwconv2d": {
        "dwconv2d_fp32": native.depthwise,
        "dwconv2dbias_fp32": native.depthwise,
        "dwconv2d_fp32_dgrad": native.depthwise,
        "dwconv2d_fp32_wgrad": native.depthwise_wgrad,
        "dwconv2d_fp32_bgrad": native.depthwise_bgrad,
    },
    "causal_conv1d": _CONV,
    "causal_conv1d.causal_conv1d_interface": _CONV,
    "causal_conv1d_cuda": {
        "causal_conv1d_fwd": native.conv_fwd,
        "causal_conv1d_bwd": native.conv_bwd,
    },
}
"""Taken where the repository has no such module of its own. A name that is not in one is refused
when it is used, not when it is imported."""

LEAVES: dict[str, Content] = {
    "mamba_ssm.ops.triton.layernorm": _NORMS,
    "mamba_ssm.ops.triton.layer_norm": _NORMS,
    "mamba_ssm.ops.triton.layernorm_gated": {**_NORMS, "RMSNorm": norms.GatedRMSNorm},
    "mamba_ssm.ops.triton.selective_state_update": {},
    "mamba_ssm.ops.triton.ssd_combined": _SSD,
    "mamba_ssm.ops.triton.ssd_chunk_scan": {},
    "mamba_ssm.models.mixer_seq_simple": {},
    "mamba_ssm.utils.generation": {},
    "mamba_ssm.utils.hf": {},
}
"""Taken from a fork too: they need Triton on a GPU, or transformers."""

COUNTERS: dict[str, Content] = {"fvcore.nn": {}}
"""Only asked to count operations; taken where the package is not installed."""

LAST: dict[str, Content] = {
    "triton": launches.TRITON,
    "triton.language": {"__getattr__": launches.LANGUAGE.__getattr__},
}
"""Taken where the package is not installed and the repository cannot do without it."""

_MOVED = "timm.models.layers."
"""Where timm had, until its version 1, what is in `timm.layers` now."""

_KNOWN = {**MODULES, **LEAVES, **COUNTERS}
_PARENTS = {name.rsplit(".", n)[0] for name in _KNOWN for n in range(1, name.count(".") + 1)}
_PACKAGE = re.compile(r"selective_scan_\w+")  # around a compiled module, as selective_scan_vmamba


def stands_in(name: str) -> bool:
    """Whether there is a stand-in called `name`, or one inside it.

    A name counts by its end, as forks are renamed: `dis_mamba.mamba_ssm.ops.triton.layernorm`.
    """
    known = any(tail in _KNOWN or tail in _PARENTS for tail in _tails(name))
    return known or _PACKAGE.fullmatch(name) is not None


def content(name: str) -> Content:
    """What is in that stand-in."""
    if name.startswith(_MOVED):
        now = vars(import_module(name.replace(_MOVED, "timm.layers.")))
        return {key: value for key, value in now.items() if not key.startswith("__")}
    return next((_KNOWN[tail] for tail in _tails(name) if tail in _KNOWN), LAST.get(name, {}))


def on_demand(name: str) -> bool:
    """Whether a module that nobody has is stood in where the repository cannot do without it."""
    top = name.partition(".")[0]
    return stands_in(top) or top in LAST or name.startswith(_MOVED)


def is_leaf(name: str) -> bool:
    """Whether a fork's own module of that name is replaced: where no GPU can run it."""
    return any(tail in LEAVES for tail in _tails(name)) and not torch.cuda.is_available()


def _tails(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[i:]) for i in range(len(parts))]


def refused(module: str) -> Callable[[str], Any]:
    """The `__getattr__` of a stand-in: classes for all other names, that say so when they are used.

    An import inside `try` would otherwise take away names that are there with the one that is not.
    """

    def found(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        inner = f"{module}.{name}"
        if stands_in(inner):
            return import_module(inner)

        def refuse(*args: object, **kwargs: object) -> None:
            raise NotImplementedError(
                f"{inner} has no stand-in: name a model that does not use it with --model, or put "
                "a function in its place in make() of an adapter"
            )

        return type(name, (), {"__init__": refuse, "apply": staticmethod(refuse)})

    return found
