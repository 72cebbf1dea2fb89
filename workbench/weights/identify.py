"""Layouts of state dicts: the names in published files, and the models that have given shapes."""

import functools
import importlib
import inspect
import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from workbench.models import FAMILIES, MambaVision, Vim, VMamba, nano

__all__ = ["classifier_prefixes", "clean_keys", "variant_of"]

Shapes = dict[str, tuple[int, ...]]

_HEADS: dict[type, tuple[tuple[str, ...], tuple[str, ...]]] = {
    VMamba: (("classifier.head.",), ("classifier.norm.",)),
    Vim: (("head.",), ()),
    MambaVision: (("head.",), ("norm.",)),
}


def classifier_prefixes(model: object) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return how the names of the head begin, and of the final norm that comes and goes with it.

    Args:
        model: a module, one of our classes, or timm's configuration of a model.
    """
    for kind, prefixes in _HEADS.items():
        if model is kind or isinstance(model, kind):
            return prefixes
    config = getattr(model, "pretrained_cfg", model)
    get = config.get if isinstance(config, Mapping) else functools.partial(getattr, config)
    names = get("classifier", None) or ()
    return tuple(f"{name}." for name in ((names,) if isinstance(names, str) else names)), ()


_VMAMBA_NAMES = (  # the code of January 2024 (v0)
    (re.compile(r"^patch_embed\.proj\."), "patch_embed.0."),
    (re.compile(r"^patch_embed\.norm\."), "patch_embed.2."),
    (re.compile(r"\.ln_1\."), ".norm."),
    (re.compile(r"\.self_attention\."), ".op."),
    (re.compile(r"^norm\."), "classifier.norm."),
    (re.compile(r"^head\."), "classifier.head."),
)
_VMAMBA_LINEAR = re.compile(r"\.(in_proj|out_proj|fc1|fc2|reduction)\.weight$")


def clean_keys(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under the names and in the shapes of the released classification models.

    The prefixes of wrappers go (`module.`, `model.`, `backbone.`, `encoder.`; of a detector or a
    segmenter only the backbone stays), its extra norms `outnorm*` too. VMamba's older and newer
    layouts are renamed, and projections stored as 1x1 convolutions become matrices. Values are
    never changed, and names that are right already stay.
    """
    state = _without_prefixes(dict(state_dict))
    state = {key: value for key, value in state.items() if not re.match(r"outnorm\d*\.", key)}
    return _vmamba_names(state) if _family(state) == "vmamba" else state


def _without_prefixes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    while True:
        for prefix in ("module.", "model.", "backbone.", "encoder."):
            inner = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            if not inner:
                continue
            if prefix in ("module.", "model.") and len(inner) >= 0.9 * len(state):
                rest = {k: v for k, v in state.items() if not k.startswith(prefix)}
                rest.pop("n_averaged", None)  # the counter of torch's AveragedModel
                state = {**inner, **rest}
                break
            if any(".patch_embed." in f".{k}" for k in inner) and not any(
                k.startswith("patch_embed.") for k in state
            ):
                state = inner
                break
        else:
            return state


def _family(state: Iterable[str]) -> str | None:
    for key in state:
        if key.endswith(".A_logs"):
            return "vmamba"
        if key.endswith(".mixer.A_b_log"):
            return "vim"
        if key.startswith("levels."):
            return "mambavision"
    return None


def _vmamba_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    renamed = {}
    for key, value in state.items():
        for pattern, name in _VMAMBA_NAMES:
            key = pattern.sub(name, key)
        # The single file of 2025 numbers the parts of patch merging, which v2 and v3 have not at
        # 2, and joins the four directions of the projections.
        stage = key.partition("downsample.")[0]
        if f"{stage}downsample.2.weight" in state:
            key = key.replace("downsample.1.", "downsample.norm.")
            key = key.replace("downsample.2.", "downsample.reduction.")
        if key.endswith(".op.x_proj.weight"):
            key = key.replace("x_proj.weight", "x_proj_weight")
            value = value.reshape(4, -1, value.shape[1])
        elif key.endswith(".op.dt_projs.weight"):
            key = key.replace("dt_projs.weight", "dt_projs_weight")
            value = value.reshape(4, -1, value.shape[1])
        elif key.endswith(".op.dt_projs.bias"):
            key = key.replace("dt_projs.bias", "dt_projs_bias")
            value = value.reshape(4, -1)
        elif _VMAMBA_LINEAR.search(key) and value.shape[2:] == (1, 1):
            value = value.flatten(1)
        renamed[key] = value
    return renamed


def _arguments(family: str) -> dict[str, dict]:
    """Name -> constructor arguments of a family's models: published ones first, then ours."""
    published = importlib.import_module(f"workbench.models.{family}").VARIANTS
    ours = {k: v for k, v in nano.VARIANTS.items() if k.startswith(f"{family}_")}
    return {**published, **ours}


def _variant_outline(family: str, arguments: dict) -> tuple:
    default = inspect.signature(FAMILIES[family]).parameters
    width, depths = {
        "vmamba": ("dims", "depths"),
        "vim": ("embed_dim", "depth"),
        "mambavision": ("dim", "depths"),
    }[family]
    first = arguments.get(width, default[width].default)
    depth = arguments.get(depths, default[depths].default)
    return (
        first if isinstance(first, int) else first[0],
        depth if isinstance(depth, int) else tuple(depth),
    )


def _outline(family: str, shapes: Shapes) -> tuple | None:
    """Width and depths by which the candidates among the released models are picked."""
    known, pattern = {
        "vmamba": ("layers.0.blocks.0.norm.weight", r"layers\.(\d+)\.blocks\.(\d+)\."),
        "vim": ("norm_f.weight", r"layers\.()(\d+)\."),
        "mambavision": ("patch_embed.conv_down.4.weight", r"levels\.(\d+)\.blocks\.(\d+)\."),
    }[family]
    blocks = {match.groups() for key in shapes if (match := re.match(pattern, key))}
    if known not in shapes or not blocks:
        return None
    if family == "vim":
        return shapes[known][0], len(blocks)
    stages = sorted({int(stage) for stage, _ in blocks})
    depths = tuple(sum(int(stage) == s for stage, _ in blocks) for s in stages)
    return shapes[known][0], depths


@functools.cache
def _variant_shapes(name: str) -> Shapes:
    family = name.split("_")[0]
    with torch.device("meta"):
        model = FAMILIES[family](**_arguments(family)[name])
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


def variant_of(state_dict: Mapping[str, Tensor]) -> list[str]:
    """Return the models of ours whose every name and shape the state dict has.

    The number of classes and the length of Vim's position embedding may differ, the classifier
    may be absent. Models that differ in no shape are all returned, the plain one first. Only the
    shapes are read (meta tensors will do).
    """
    state = clean_keys(state_dict)
    family = _family(state)
    if family is None:
        return []
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    outline = _outline(family, shapes)
    names = [
        name
        for name, arguments in _arguments(family).items()
        if _variant_outline(family, arguments) == outline and _fits(family, shapes, name)
    ]
    # The two Vims of one width differ in the stride of the patches, which no weight shows; at the
    # published size the number of positions does.
    rows = shapes.get("pos_embed", (1, 0))[1]
    exact = [name for name in names if family == "vim" and _variant_rows(name) == rows]
    return exact or names


def _variant_rows(name: str) -> int:
    return _variant_shapes(name)["pos_embed"][1]


def _fits(family: str, shapes: Shapes, name: str) -> bool:
    head, tail = classifier_prefixes(FAMILIES[family])
    free = (*head, *tail)
    expected = _variant_shapes(name)
    if not shapes.keys() <= expected.keys():
        return False
    for key, shape in expected.items():
        found = shapes.get(key)
        if found is None:
            absent = key.endswith("num_batches_tracked") or key.startswith(free)
            if not absent or (key.startswith(tail) and any(k.startswith(head) for k in shapes)):
                return False
        elif key.startswith(head):
            if found[1:] != shape[1:]:
                return False
        elif key == "pos_embed":
            if found[2:] != shape[2:]:
                return False
        elif found != shape:
            return False
    return True
