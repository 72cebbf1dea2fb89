"""What the engine asks of a model, and the register of families.

A family is one file in this folder. Its networks are `Backbone`s: what is special about one stands
there as an attribute or a method, and the engine asks through `backbone_of(model)`, which answers
for every other module (timm's, the user's) with the defaults below. No other file knows a family.
"""

import math
import sys
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from timm.layers import resample_abs_pos_embed, trunc_normal_
from timm.models import build_model_with_cfg, checkpoint, get_pretrained_cfg, register_model
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from workbench.paths import CROSS

SHIPPED = Path(__file__).parents[2] / "samples" / "weights"
"""Folder of the weights that come with the project."""


# The contract


@dataclass(frozen=True)
class Adaptation:
    """How a model goes to another image size.

    Attributes:
        size: height and width of the images in pixels; None to leave it open.
        factor: `size` / the size that the model was trained at.
        positions: position embeddings, "class-aware" or "official" (as the published code does).
        windows: of layers that work in windows, "fixed" or "scaled" with the image.
        kernels: of continuous convolutions, "fixed" or "resampled" to the new pixel size.
    """

    size: int | None = None
    factor: float = 1.0
    positions: str = "class-aware"
    windows: str = "fixed"
    kernels: str = "fixed"


class Backbone:
    """What the engine asks of a network: a base beside `nn.Module`, with defaults for any module.

    Attributes:
        classifier_name: module path of the classifier, or several, or None.
        classifier_norm_name: path of a norm that a file without the classifier may lack as well.
        computed: beginnings of state-dict entries that a file may lack: the constructor makes them.
        sized: state-dict entries whose second axis follows the image size.
        layout: regular expression for a key that this family has, and no other, in a state dict of
            any age; None where names alone do not tell.
        licence: one sentence about the published weights.
        selective: whether it mixes tokens by selective scans.
        normed_last: whether published figures look at its last block behind the final norm.
    """

    classifier_name: str | Sequence[str] | None = "head"
    classifier_norm_name: str | None = None
    computed: tuple[str, ...] = ()
    sized: tuple[str, ...] = ()
    layout: str | None = None
    licence: str | None = None
    selective: bool = True
    normed_last: bool = False

    @staticmethod
    def checkpoint_filter_fn(
        state_dict: Mapping[str, Tensor], model: object = None
    ) -> dict[str, Tensor]:
        """A state dict of any published layout under the names and in the shapes of this network.

        Names that are right already stay; values never change. The form is timm's, `model` unused.
        """
        return dict(state_dict)

    def fit_positions(self, state: dict[str, Tensor], method: str) -> str | None:
        """Bring the position embedding in a state dict to the model's grid, in place.

        Args:
            method: see `Adaptation.positions`.

        Returns:
            How it was resized, in words, or None.

        Raises:
            ValueError: when the embedding in the file is of no square grid.
        """
        return None

    def adapt(self: Any, to: Adaptation) -> None:
        """Change the model, in place, for images of another size; the weights stay.

        By default by timm's `set_input_size`, where the model is built for one size.
        """
        if to.size is not None and hasattr(self, "set_input_size"):
            self.set_input_size(img_size=(to.size, to.size))

    def stage_entries(self) -> list[tuple[int, str]]:
        """(index for `forward_intermediates`, module path) of the stages 1, 2, ...

        A hierarchy's feature levels from reduction 4 on (4, 8, 16, 32) are its stages. A network of
        equal blocks is cut into four parts of equal depth, so that "stage 4" is the output of the
        last block in every family. Empty without timm's `feature_info`.
        """
        levels = self._levels()
        if self._is_flat():
            parts = min(4, len(levels))
            taken = [math.ceil(len(levels) * (i + 1) / parts) - 1 for i in range(parts)]
        else:
            taken = [i for i, level in enumerate(levels) if level["reduction"] >= 4][-4:]
        return [(i, levels[i]["module"]) for i in taken]

    def stage_of(self, module: str) -> int | None:
        """The stage (1, 2, ...) that a module path lies in; None where it lies in none."""
        for i, level in enumerate(self._levels()):
            if f"{module}.".startswith(f"{level['module']}."):
                for number, (end, _) in enumerate(self.stage_entries(), 1):
                    if i == end or (i < end and self._is_flat()):
                        return number
        return None

    def _levels(self) -> list[dict]:
        info: Any = getattr(self, "feature_info", None)
        if info is None or not hasattr(self, "forward_intermediates"):
            return []
        return [info[i] if isinstance(info, list) else info.info[i] for i in range(len(info))]

    def _is_flat(self) -> bool:
        return len({level["reduction"] for level in self._levels()}) == 1

    def stage_tap(self, stage: int | None = None) -> tuple[str, bool]:
        """The module that gives the map of a stage (None: the last that a class depends on).

        Returns:
            Its path, and whether the map is its input (else its output).
        """
        name = self.stage_entries()[-1 if stage is None else stage - 1][1]
        if stage is None and self.reads_class_token:
            # After the last block only the class token is read: no other token has a gradient.
            stem, _, number = name.rpartition(".")
            if number.isdecimal() and int(number) > 0:
                name = f"{stem}.{int(number) - 1}"
        return name, False

    @property
    def reads_class_token(self) -> bool:
        """Whether the classifier reads a class token alone."""
        return bool(getattr(self, "class_token", None)) or (
            getattr(self, "global_pool", None) == "token"
        )

    def block_output(self, module: str, output: Any) -> Any:
        """The features (a tensor) in what the module of that path returned."""
        return output

    def residual(self, output: Any) -> Tensor:
        """The residual stream in what a block returned, before its own part is added."""
        return output

    def window(self, layer: str) -> int | None:
        """Side of the windows, in cells, that a mixing layer works in; None for the whole image."""
        return None

    def turn(self, view: str) -> None:
        """Change the weights, in place, so that the model does to the image turned as `view`
        (transposition or rotation) what it did to the image.

        Raises:
            ValueError: where that cannot be done.
        """
        kind = type(self.model if isinstance(self, _Plain) else self).__name__
        raise ValueError(
            f"{kind} does not scan along {', '.join(CROSS)}, so its weights cannot be permuted to "
            "undo a turn of the image; give a model that does"
        )


class _Plain(Backbone):
    """The answers for a module that is no `Backbone`; everything else is the module's own."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    @property
    def classifier_name(self) -> str | Sequence[str] | None:
        config = getattr(self.model, "pretrained_cfg", None) or {}
        return (config if isinstance(config, Mapping) else vars(config)).get("classifier")

    def fit_positions(self, state: dict[str, Tensor], method: str) -> str | None:
        """For timm's ViT by timm's own resampling."""
        model, rows = self.model, state.get("pos_embed")
        if not isinstance(model, VisionTransformer) or model.pos_embed is None or rows is None:
            return None
        own = model.pos_embed
        prefix = 0 if model.no_embed_class else model.num_prefix_tokens
        side = math.isqrt(max(rows.shape[1] - prefix, 0)) if rows.ndim == 3 else 0
        if not side or rows.shape[1:] == own.shape[1:] or rows.shape[2] != own.shape[2]:
            return None
        if side * side != rows.shape[1] - prefix:
            return None  # of another kind: the shapes are told as they are
        grid = model.patch_embed.grid_size
        state["pos_embed"] = resample_abs_pos_embed(rows, list(grid), num_prefix_tokens=prefix)
        return f"from {side} x {side} to {grid[0]} x {grid[1]} cells (timm)"


def bare(model: nn.Module) -> nn.Module:
    """The model in wrappers that only say how it runs: of `torch.compile`, `nn.DataParallel` and
    the like."""
    while True:
        if isinstance(model, DataParallel | DistributedDataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model


def backbones_in(model: nn.Module) -> dict[str, nn.Module]:
    """Module path -> each network with stages in a model, the model itself by the path ""; none
    of those within another."""
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        inside = any(f"{name}.".startswith(f"{outer}.") or not outer for outer in found)
        if not inside and backbone_of(module).stage_entries():
            found[name] = module
    return found


def backbone_of(model: nn.Module) -> Backbone:
    """What answers the engine's questions about a model: itself, or the defaults around it."""
    return model if isinstance(model, Backbone) else _Plain(model)


class CheckpointedBlock(nn.Module):
    """A block of a network of ours.

    Attributes:
        grad_checkpointing: whether what is inside is computed again for the backward pass, and not
            kept until then (see timm's `set_grad_checkpointing`).
    """

    grad_checkpointing = False

    def __call__(self, *args):
        if self.grad_checkpointing and torch.is_grad_enabled():
            return checkpoint(super().__call__, *args)
        return super().__call__(*args)


@dataclass(frozen=True, eq=False)
class Readout:
    """What a mixer makes of the output y of its scan at some tokens, as weight @ (scale * y) + bias
    with what depends on the image held fixed: gates, slopes of activations (activation(x) / x), and
    the variance that a norm divides by.

    Attributes:
        weight: (dim, d), or (dim, d + d') with the channels that are joined to the scan's.
        scale: (..., d).
        centred: whether the mean of y over channels is taken off first, as LayerNorm does.
        bias: (..., dim), or None.
    """

    weight: Tensor
    scale: Tensor
    centred: bool = False
    bias: Tensor | None = None


class ScanMixer(nn.Module):
    """The module around a `SelectiveScan`, its attribute `scan`.

    Its `in_proj` gives x, which a depthwise convolution and SiLU turn into u of the scan, and where
    it is twice as wide z beside it.

    Attributes:
        gated: whether SiLU(z) multiplies the output of the scan directly.
        causal: whether the convolution runs along the scan and sees the steps before; else it is
            centred, over the image.
    """

    gated: bool = False
    causal: bool = False
    in_proj: nn.Module

    def convolution_before(self, direction: str) -> nn.Module:
        """The convolution before a direction; nn.Identity() for none."""
        return nn.Identity()

    def convolution_beside(self) -> nn.Module | None:
        """The convolution of z whose SiLU is joined to the output of the scan; None for none."""
        return None

    def readout(self, y: Tensor, z: Tensor) -> Readout | None:
        """How the output of the scan becomes that of the mixer; None where nobody said.

        Args:
            y: (..., d), the sum of the directions. z: (..., c), beside x.
        """
        return None


class Network(Backbone, nn.Module):
    """A network of a family of ours: what timm asks of every model and is the same in all.

    It has `forward_features` and `forward_head`, and `make_head` made its classifier.

    Attributes:
        num_features: channels before the classifier.
        undecayed: endings of the names of parameters that are trained without weight decay.
    """

    num_features: int
    undecayed: tuple[str, ...] = ()

    def make_head(self, num_classes: int) -> nn.Module:
        return nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def get_classifier(self) -> nn.Module:
        return self.get_submodule(str(self.classifier_name))

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        self.num_classes = num_classes
        parent, _, name = str(self.classifier_name).rpartition(".")
        setattr(self.get_submodule(parent), name, self.make_head(num_classes))

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        for module in self.modules():
            if isinstance(module, CheckpointedBlock):
                module.grad_checkpointing = enable

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        return {name for name, _ in self.named_parameters() if name.endswith(self.undecayed)}

    def forward(self, x: Tensor) -> Tensor:
        """(b, 3, h, w) -> (b, num_classes) logits."""
        return self.forward_head(self.forward_features(x))

    def load_pretrained(self, path: str | Path) -> None:
        """Load a published file; timm calls it where a configuration says `custom_load`.

        As timm does, it leaves out a classifier of other classes than the model has.
        """
        from workbench.weights import clean_keys, load_into, read_state_dict  # built on the models

        own = self.state_dict()
        state = self.checkpoint_filter_fn(clean_keys(read_state_dict(path)[0]))
        head = [key for key in state if key.startswith(prefixes(self.classifier_name))]
        if any(key in own and own[key].shape != state[key].shape for key in head):
            state = {key: value for key, value in state.items() if key not in head}
        load_into(self, state)


def init_linear(module: nn.Module) -> None:
    """Linear layers as transformers have them: normal weights (0.02, truncated), no bias."""
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def prefixes(modules: str | Sequence[str] | None) -> tuple[str, ...]:
    """How the state-dict entries of modules begin."""
    return tuple(f"{name}." for name in ((modules,) if isinstance(modules, str) else modules or ()))


# The register


@dataclass(frozen=True)
class Variant:
    """A registered model: its class and the arguments of the constructor."""

    network: type[nn.Module]
    arguments: Mapping[str, Any]


REGISTERED: dict[str, Variant] = {}
"""Name -> variant of every model of this project, in the order of registration."""


def networks() -> list[type[Backbone]]:
    """The classes of all registered families."""
    classes = dict.fromkeys(variant.network for variant in REGISTERED.values())
    return [network for network in classes if issubclass(network, Backbone)]


def register(
    module: str,
    network: type[nn.Module],
    variants: Mapping[str, Mapping[str, Any]],
    out_indices: int | Sequence[int] = (0, 1, 2, 3),
) -> None:
    """Register models with timm, and with the workbench.

    Args:
        module: `__name__` of the calling file, whose `default_cfgs` has each variant's
            configuration in timm's form.
        network: the class; a `Backbone`, or any that fits the defaults.
        variants: name -> arguments of the constructor.
        out_indices: what `features_only=True` gives by default, see timm.
    """
    for name, arguments in variants.items():
        REGISTERED[name] = Variant(network, arguments)
        entry = _entry(name, network, arguments, out_indices)
        entry.__name__, entry.__qualname__, entry.__module__ = name, name, module
        setattr(sys.modules[module], name, entry)
        register_model(entry)


def _entry(name: str, network: Any, arguments: Mapping, out_indices: int | Sequence[int]):
    def entry(pretrained: bool = False, **kwargs) -> nn.Module:
        try:
            return build_model_with_cfg(
                network,
                name,
                pretrained,
                pretrained_filter_fn=getattr(network, "checkpoint_filter_fn", None),
                feature_cfg={"out_indices": out_indices, "feature_cls": "getter"},
                **{**arguments, **kwargs},
            )
        except OSError as error:
            if not pretrained or kwargs.get("pretrained_cfg_overlay"):
                raise
            raise unreachable(*source_of(get_pretrained_cfg(name))) from error

    return entry


# Configurations in timm's form

_IMAGENET = {
    "interpolation": "bicubic",
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
}


def imagenet_cfg(**kwargs) -> dict:
    """timm's configuration of a model trained on ImageNet-1k at 224 px."""
    own = {"num_classes": 1000, "input_size": (3, 224, 224), "crop_pct": 0.875}
    return {**own, **_IMAGENET, **kwargs}


def nano_cfgs(name: str, **kwargs) -> dict[str, dict]:
    """The configurations of a small model with weights among the samples, by name and tag: trained
    on Imagenette at 128 px and at 64 px. The first is what the plain name means.
    """
    files = {size: SHIPPED / f"{name}.imagenette{size}.safetensors" for size in (128, 64)}
    return {
        f"{name}.imagenette{size}": {
            "file": str(file) if file.is_file() else None,
            "num_classes": 10,
            "input_size": (3, size, size),
            "crop_pct": 1.0,
            "license": "apache-2.0",
            **_IMAGENET,
            **kwargs,
        }
        for size, file in files.items()
    }


def on_hub(repository: str, file: str) -> dict:
    """Where a published file is, for a configuration: in a repository of the Hugging Face hub."""
    return {"hf_hub_id": repository, "hf_hub_filename": file, "custom_load": "hf"}


def on_github(repository: str, tag: str, file: str) -> dict:
    """The same for an asset of a GitHub release; a tag may hold any character, such as `#`."""
    tag = urllib.parse.quote(tag, safe="")
    url = f"https://github.com/{repository}/releases/download/{tag}/{file}"
    return {"url": url, "custom_load": True}


def source_of(config: Any) -> tuple[str, str]:
    """(file, place in words) of the published file of a configuration with hub id or URL."""
    if config.hf_hub_id:
        return config.hf_hub_filename, f"the hub repository {config.hf_hub_id}"
    owner, name, *_, tag, file = urllib.parse.urlsplit(config.url).path.strip("/").split("/")
    return file, f"the release {urllib.parse.unquote(tag)} of {owner}/{name} on GitHub"


def unreachable(file: str, place: str) -> ConnectionError:
    """The error for a published file that cannot be fetched."""
    return ConnectionError(
        f"{file} could not be fetched from {place}: fetch it where there is a network, "
        "put it anywhere and give weights=PATH"
    )
