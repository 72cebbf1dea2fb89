"""`create_model` is the door, and `load_into` what it does with a state dict."""

import difflib
import functools
import importlib
import importlib.util
import json
import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import timm
import torch
from torch import Tensor, nn

from workbench.files import printable
from workbench.models import REGISTERED, Adaptation, backbone_of, bare
from workbench.models.family import prefixes
from workbench.weights.files import (
    built_with,
    fetch_published,
    find_weights,
    known_classes,
    read_state_dict,
    sha256,
    trained_paths,
    trained_size,
)
from workbench.weights.identify import clean_keys, renamed, variant_of
from workbench.weights.matching import match, parts
from workbench.weights.provenance import Provenance
from workbench.weights.values import check_values

logger = logging.getLogger("workbench")


class WeightsMismatch(ValueError):
    """The names or shapes in a file are not those of the model."""


@dataclass
class Report:
    """What became of the entries of a state dict.

    `missing` is in the model only, `unexpected` in the file only, `wrong_shape` in both; after a
    successful load they hold what was tolerated, and `notes` says why. `resized` was made to fit.
    """

    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    wrong_shape: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def load_into(
    model: nn.Module, state_dict: Mapping[str, Tensor], *, pos_embed: str = "class-aware"
) -> Report:
    """Put a state dict of any known layout into `model`; every name and shape must fit.

    What may be absent: the counters of batch norms, computed rotary tables, and the classifier as
    a whole (backbones of detectors and segmenters have none; it keeps its initial values).

    Args:
        pos_embed: how a position embedding gets to the model's grid, "class-aware" or "official"
            (see `resize_pos_embed`), where a model knows both.

    Raises:
        WeightsMismatch: with the counts, the first names of each kind and the models that fit.
    """
    target, backbone = model.state_dict(), backbone_of(model)
    found = match(
        state_dict, target, lambda tensors: backbone.checkpoint_filter_fn(renamed(tensors))
    )
    state = found.state
    report = Report(unexpected=list(found.left_out), notes=list(found.notes))
    try:
        resized = backbone.fit_positions(state, pos_embed)
    except ValueError as error:
        raise WeightsMismatch(str(error)) from None
    if resized:
        report.resized.append("pos_embed")
        report.notes.append(f"position embedding resized {resized}")
    head = prefixes(backbone.classifier_name)
    if head and not any(key.startswith(head) for key in target):
        dropped = [key for key in state if key.startswith(head)]
        state = {key: value for key, value in state.items() if not key.startswith(head)}
        if dropped:
            report.unexpected += dropped
            report.notes.append("the model has no classifier: the one in the file is left out")
    _check(model, state, target, report)
    check_values(state, target)
    with torch.no_grad():
        model.load_state_dict({k: v for k, v in state.items() if k in target}, strict=False)
    return report


def _check(
    model: nn.Module, state: Mapping[str, Tensor], target: Mapping[str, Tensor], report: Report
) -> None:
    backbone = backbone_of(model)
    head, tail = prefixes(backbone.classifier_name), prefixes(backbone.classifier_norm_name)
    missing = [key for key in target if key not in state]
    unexpected = [key for key in state if key not in target]
    wrong = [k for k, v in state.items() if k in target and v.shape != target[k].shape]
    headless = bool(head) and not any(key.startswith(head) for key in state)
    tolerated = [
        key
        for key in missing
        if key.endswith("num_batches_tracked")
        or key.startswith(backbone.computed)
        or (headless and key.startswith((*head, *tail)))
    ]
    fatal = [key for key in missing if key not in set(tolerated)]
    if not fatal and not unexpected and not wrong:
        report.missing += tolerated
        if any(key.startswith(head) for key in tolerated if head):
            report.notes.append("no classifier in the file: the head keeps its initial values")
        return
    shapes = [f"{k} {_shape(state[k])}, not {_shape(target[k])}" for k in wrong]
    only_classes = wrong and all(
        key.startswith(head) and state[key].shape[1:] == target[key].shape[1:] for key in wrong
    )
    bare = head and fatal and all(key.startswith(head) for key in fatal)
    if bare and not unexpected and not wrong:
        raise WeightsMismatch(
            f"the classifier in the file has no {_first(fatal)}, which that of the model has"
        )
    if head and only_classes and (bare or not fatal) and not unexpected:
        there, here = (len(tensors[wrong[0]]) for tensors in (state, target))
        raise WeightsMismatch(
            f"the classifier in the file has {there} classes, the model {here}: "
            f"give num_classes={there}"
        )
    problems = ((fatal, "missing"), (unexpected, "unexpected"), (shapes, "of another shape"))
    parts = [f"{len(keys)} {word} ({_first(keys)})" for keys, word in problems if keys]
    fitting = [name for name in variant_of(state) if name != _title(model)]
    hint = f". These weights fit: {', '.join(fitting)}" if fitting else ""
    raise WeightsMismatch(f"the weights do not fit {_title(model)}: {', '.join(parts)}{hint}")


def _first(keys: list[str], count: int = 5) -> str:
    return ", ".join(printable(k, 120) for k in keys[:count]) + (
        ", ..." if len(keys) > count else ""
    )


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "scalar"


def _title(model: nn.Module) -> str:
    config = getattr(model, "pretrained_cfg", None)
    name = config.get("architecture") if isinstance(config, Mapping) else None
    return name or type(model).__name__


def create_model(
    name: str | None = None,
    weights: str | Path | None = None,
    *,
    pretrained: bool | None = None,
    seed: int = 0,
    num_classes: int | None = None,
    entry: str | None = None,
    pos_embed: str = "class-aware",
    img_size: int | tuple[int, int] | None = None,
    **kwargs,
) -> nn.Module:
    """Return a model in eval mode, with its `Provenance` as `model.provenance`.

    Args:
        name: one of our models or any other of timm's; "local-dir:path" or "hf-hub:owner/name", a
            folder or repository in timm's layout, with its weights; "module:factory" or
            "path/file.py:factory", a callable of yours that returns a module; None to tell the
            model from the weights.
        weights: see `weights_of`; by default random, as timm's, but for local-dir: and hf-hub:,
            which are their own weights.
        pretrained: True is weights="official" and False weights="random"; of a callable of yours,
            its own argument.
        num_classes: by default that of the weights, without weights that of the model.
        entry: the key of the checkpoint to use, such as "model_ema".
        pos_embed: "class-aware" or "official": how Vim goes to another image size.
        img_size: the size that the model is built for, where it is built for one.
        kwargs: further arguments of the model's constructor.

    Raises:
        ValueError: unknown name, unreadable weights, or (`WeightsMismatch`) weights that do not
            fit.
        OSError: no such file (`FileNotFoundError`) or no network (`ConnectionError`).
    """
    if pos_embed not in ("class-aware", "official"):
        raise ValueError(f"pos_embed must be 'class-aware' or 'official', not {pos_embed!r}")
    if name is None and weights in (None, "random", "official", "auto"):
        raise ValueError("give the name of a model, a weight file, or both")
    if name is not None:
        _check_name(name)
    if pretrained is not None and _is_factory(name):
        kwargs["pretrained"], pretrained = pretrained, None
    weights = weights_of(name, weights, pretrained)
    notes: list[str] = []
    path, pretrained = _locate(name, weights)
    state, facts = None, {}
    if path and pretrained:
        kwargs["pretrained_cfg_overlay"] = {"file": str(path)}
        facts = {"file": path.name, "sha256": sha256(path)}
    elif path:
        state, facts = read_state_dict(path, entry)
    if name is None:
        assert path is not None and state is not None
        name = _infer(path, state, notes)
    if state is not None and num_classes is None:
        num_classes = _classes(name, state)
    if num_classes is not None:
        kwargs["num_classes"] = num_classes
    if path and ":" not in name:
        if size := trained_size(path):
            kwargs.setdefault("pretrained_cfg_overlay", {})["input_size"] = (3, size, size)
        kwargs = {**built_with(trained_paths(path)), **kwargs}
    model = _build(name, pretrained, seed, img_size, kwargs, notes)
    published = getattr(model, "pretrained_cfg", None) or {}
    if pretrained and num_classes and published.get("num_classes") != num_classes:
        notes.append("the published weights have other classes: the classifier is random")
    backbone_of(model).adapt(Adaptation(positions=pos_embed))
    if state is not None:
        notes += load_into(model, state, pos_embed=pos_embed).notes

    random = state is None and not pretrained
    if random and weights is None and weights_of(name, "auto") is not None:
        _say_random(name)
    source = "random" if random else str(weights or name)
    licence = None if random else _licence(model)
    read = {key: facts.get(key) for key in ("file", "sha256", "entry")}
    classes = getattr(model, "num_classes", None)
    names = [] if random else known_classes(path, classes)
    model.provenance = Provenance(  # pyright: ignore[reportAttributeAccessIssue]
        name,
        source,
        **read,
        licence=licence,
        seed=seed,
        classes=classes,
        class_names=names,
        notes=notes,
    )
    for line in (f"{name}, weights: {facts.get('file') or source}", licence, *notes):
        if line:
            logger.info(line)
    return model.eval()


@functools.cache
def _say_random(name: str) -> None:
    logger.warning("%s has random weights; with pretrained=True it has its trained ones.", name)


def weights_of(
    name: str | None, weights: str | Path | None = None, pretrained: bool | None = None
) -> str | Path | None:
    """The rule for weights: "random" is an initialisation from the seed, which leaves the global
    random state alone; "official" what was trained for this name (the file that ships with the
    project, or the published one); "auto" the file that ships, else None, which is random but where
    the name itself is a place of weights; all else is what `find_weights` takes.

    Raises:
        ValueError: for both `weights` and `pretrained`.
    """
    if pretrained is not None:
        if weights is not None:
            raise ValueError("give weights or pretrained, not both")
        return "official" if pretrained else "random"
    if weights != "auto":
        return weights
    config = timm.get_pretrained_cfg(name) if name and timm.is_model(name) else None
    return "official" if config is not None and config.file else None


def _is_factory(name: str | None) -> bool:
    return name is not None and ":" in name and not name.startswith(("hf-hub:", "local-dir:"))


def _locate(name: str | None, weights: str | Path | None) -> tuple[Path | None, bool]:
    """The weight file, if one is known, and whether reading it is left to timm."""
    if name is not None and weights in (None, "official"):
        if name.startswith("local-dir:"):
            return find_weights(name.removeprefix("local-dir:")), False
        if name.startswith("hf-hub:"):
            return None, True
        if weights == "official":
            return _published(name)
    if weights is None or weights == "random":
        return None, False
    return find_weights(weights), False


def _published(name: str) -> tuple[Path | None, bool]:
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        raise ValueError(f"no published weights are known for {name}: give weights=PATH")
    if config.file:
        return Path(config.file), False
    if name in REGISTERED:
        return fetch_published(config), False
    if config.hf_hub_id and not config.custom_load:
        file = config.hf_hub_filename or "model.safetensors"
        return find_weights(f"hf-hub:{config.hf_hub_id}/{file}"), True
    return None, True


def _check_name(name: str) -> None:
    if ":" in name:
        return
    if timm.is_model(name):
        try:
            timm.get_pretrained_cfg(name)
        except RuntimeError as error:  # it knows the model, but not the tag after the dot
            raise ValueError(str(error)) from None
        return
    known = timm.list_models()
    near = difflib.get_close_matches(name, known, n=5)
    near += [other for other in known if name and name in other and other not in near]
    hint = f"near it: {', '.join(near[:5])}" if near else "timm.list_models() lists the names"
    raise ValueError(f"there is no model {name!r}; {hint}")


def _timm_folder(folder: Path) -> dict:
    """The content of config.json when timm wrote it, else nothing."""
    try:
        content = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return {}
    name = content.get("architecture") if isinstance(content, dict) else None
    return content if isinstance(name, str) and timm.is_model(name) else {}


def _infer(path: Path, state: Mapping[str, Tensor], notes: list[str]) -> str:
    if _timm_folder(path.parent):
        return f"local-dir:{path.parent}"
    candidates = (variant_of(part) for _, part in parts(state, len(state) // 4))
    fitting = next(filter(None, candidates), [])
    if not fitting:
        raise ValueError(
            f"no released model has the names and shapes in {path.name}: name the model as well"
        )
    if len(fitting) > 1:
        notes.append(f"the weights fit {', '.join(fitting)} alike: taken as {fitting[0]}")
    return fitting[0]


def _classes(name: str, state: Mapping[str, Tensor]) -> int | None:
    """The number of rows of the classifier in the weights of the model `name`."""
    if name.startswith("local-dir:"):
        name = _timm_folder(Path(name.removeprefix("local-dir:"))).get("architecture", name)
    if ":" in name:
        return None
    config = timm.get_pretrained_cfg(name)
    heads = prefixes(config.classifier if config else None)
    for _, inner in parts(state, len(state) // 4):
        for tensors in (inner, clean_keys(inner)):
            for head in heads:
                if f"{head}weight" in tensors:
                    return len(tensors[f"{head}weight"])
    return None


def _build(
    name: str,
    pretrained: bool,
    seed: int,
    img_size: int | tuple[int, int] | None,
    kwargs: dict,
    notes: list[str],
) -> nn.Module:
    sized = kwargs if img_size is None else {**kwargs, "img_size": img_size}
    # The CPU's generator alone: nothing is made on another device, whose state stays as it is.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        try:
            return _call(name, pretrained, sized)
        except TypeError as error:
            if img_size is None or "img_size" not in str(error):
                raise ValueError(f"{name} cannot be built: {error}") from error
        torch.default_generator.manual_seed(seed)
        notes.append(f"{name} is not built for one image size: img_size has no effect")
        try:
            return _call(name, pretrained, kwargs)
        except TypeError as error:
            raise ValueError(f"{name} cannot be built: {error}") from error


def _call(name: str, pretrained: bool, kwargs: dict) -> nn.Module:
    if _is_factory(name):
        return _from_factory(name, kwargs)
    try:
        return timm.create_model(name, pretrained=pretrained, **kwargs)
    except Exception as error:
        if isinstance(error, TypeError) or not (pretrained or name.startswith("hf-hub:")):
            raise
        # timm and the hub's client let errors of several libraries through.
        raise ConnectionError(
            f"the pretrained weights of {name} could not be fetched ({type(error).__name__}): "
            "fetch them where there is a network and give weights=PATH"
        ) from error


def _from_factory(name: str, kwargs: dict) -> nn.Module:
    place, _, attribute = name.rpartition(":")
    factory = getattr(_user_module(place), attribute, None)
    if not callable(factory):
        raise ValueError(f"{place} has no callable {attribute!r}")
    try:
        model = factory(**kwargs)
    except TypeError:
        raise
    except Exception as error:
        raise ValueError(f"{name} failed: {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise ValueError(f"{name} returned a {type(model).__name__}, not a torch.nn.Module")
    return bare(model)


def _user_module(place: str) -> ModuleType:
    path = Path(place).expanduser()
    if path.suffix == ".py" and not path.is_file():
        raise ValueError(f"there is no file {place}")
    try:
        return _run_file(path) if path.suffix == ".py" else importlib.import_module(place)
    except Exception as error:
        raise ValueError(f"{place} cannot be imported: {type(error).__name__}: {error}") from error


def _run_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"workbench_user_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)  # as if the file were run: it may import its neighbours
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(folder)
    return module


def _licence(model: nn.Module) -> str | None:
    config = getattr(model, "pretrained_cfg", None)
    config = config if isinstance(config, Mapping) else {}
    own = backbone_of(model).licence
    if own and (config.get("hf_hub_id") or config.get("url")):
        return own
    licence = config.get("license")
    return f"Published weights: {licence}." if licence else None
