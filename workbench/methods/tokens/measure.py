"""Norms of tokens behind every block, and what single tokens say of the class."""

from dataclasses import asdict, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workbench.hooks import inputs, outputs
from workbench.images import Batch
from workbench.layout import Layout, blocks, layout_of, layouts_of, watched_maps
from workbench.layout.axes import tensors
from workbench.methods.method import Partial
from workbench.methods.tokens import metrics
from workbench.methods.tokens.config import TokensConfig
from workbench.mixing.layers import cells_and_places
from workbench.models import backbone_of, bare
from workbench.paths import scan_path
from workbench.results import Tokens
from workbench.scan import SelectiveScan
from workbench.statistics import FEWEST_HEAVY, FEWEST_SKEWED, NEVER, Sample


def maps_behind(
    model: nn.Module, x: Tensor, layer: tuple[str, ...] = ()
) -> dict[str, list[Layout]]:
    """Module path -> layouts of the maps that it returns, in the order of the forward pass.

    Several maps of one shape are parts of a sum: blocks may give their output and the stream that
    it is added to apart, as Vim's published ones do.

    Args:
        layer: as in `TokensConfig`.

    Raises:
        ValueError: for a pattern that names no module, a named module that returns no map of the
            image, and a model whose blocks return none.
    """
    known = blocks(model)
    every = {name for name, _ in model.named_modules() if name}
    found: dict[str, list[Layout]] = {}
    for pattern, _, axes in (entry.partition(":") for entry in layer):
        fitting = [name for name in known if fnmatchcase(name, pattern)]
        if pattern in every:
            fitting = [pattern]
        if not fitting:
            raise ValueError(
                f"{type(model).__name__} has no module or block {pattern!r}; near are "
                f"{', '.join(get_close_matches(pattern, every, n=3, cutoff=0.3) or known[:3])}"
            )
        own = {} if axes else _layouts(model, [name for name in fitting if name in known], x)
        for name in fitting:
            found[name] = own.get(name) or [layout_of(model, name, x, axes or None)]
    if not layer:
        found = _layouts(model, known, x)
        found = found or {name: [layout] for name, layout in watched_maps(model, x)}
    same = {
        name: layouts
        for name, layouts in found.items()
        if len({(layout.shape, layout.grid) for layout in layouts}) == 1
    }
    if not same:
        raise ValueError(
            f"no block of {type(model).__name__} returns a map of the image that is known; name "
            "modules with --layer, with their axes if need be, as in blocks.3:blc"
        )
    return same


def _layouts(model: nn.Module, known: list[str], x: Tensor) -> dict[str, list[Layout]]:
    """The layouts of blocks; those that work in windows have the windows of the mixing in them."""
    backbone: Any = backbone_of(model)
    sides = {name: backbone.window(name) for name in known}
    whole = [name for name, side in sides.items() if side is None]
    found = layouts_of(model, whole, x) if whole else {}
    for name, side in sides.items():
        if side is not None:
            path = scan_path("row", side, side)
            grid, places = cells_and_places(model, name, path, (x.shape[-2], x.shape[-1]))
            cells = torch.from_numpy(places.ravel().argsort(kind="stable")[-grid[0] * grid[1] :])
            channels = next(
                entry["num_chs"]
                for entry in backbone.feature_info
                if name.startswith(entry["module"])
            )
            shape = (len(places), side * side, channels)
            found[name] = [Layout(0, shape, 0, (1,), grid, cells, len(places))]
    return {name: found[name] for name in known if name in found}


def measure(model: nn.Module, batch: Batch, config: TokensConfig) -> Partial:
    """Norms and class evidence of a batch.

    Returns:
        norms: (n, total) float32, L2 norms over channels, one map after the other as
            `constants["blocks"]` says; contrast: the same shape, the standard deviation of the
            image's grey values, 0 to 255, in each cell's share of the image; others: (n, blocks,
            k) norms of the tokens of no cell, nan where a block has none; read: (n, k), whether
            the scores depend on these behind the last block that has them; evidence: (n, cells)
            float32 of the last map, see `evidence_of`, nan where the head does not pool tokens;
            pictures.
    """
    model, x = bare(model), batch.tensor
    found = maps_behind(model, x[:1], config.layer)
    with torch.no_grad(), outputs({name: model.get_submodule(name) for name in found}) as seen:
        scores = model(x)
    maps, others = {}, {}
    for name, layouts in found.items():
        output = backbone_of(model).block_output(name, seen[name])
        if not all(layout.fits(output) for layout in layouts):
            raise ValueError(
                f"{name} of {type(model).__name__} gives other shapes for other images; name other "
                "modules with --layer"
            )
        maps[name] = torch.stack([layout.map_of(output).float() for layout in layouts]).sum(dim=0)
        others[name] = torch.stack([layout.others_of(output).float() for layout in layouts]).sum(0)
    grids = {name: tuple(features.shape[-2:]) for name, features in maps.items()}
    contrast = {grid: _contrast(batch.pictures, grid) for grid in set(grids.values())}
    most = max(tokens.shape[-1] for tokens in others.values())
    beside = [
        F.pad(tokens.norm(dim=1), (0, most - tokens.shape[-1]), value=np.nan)
        for tokens in others.values()
    ]
    last = next((name for name in reversed(others) if others[name].shape[-1] == most), None)
    classifier = _classifier(model, x[:1])
    read = np.zeros((len(x), most), bool)
    if most and last is not None:
        read[:] = _read(model, x[:1], last, found[last], classifier)
    evidence = evidence_of(model, x, scores, grids[list(found)[-1]], classifier)
    starts = np.cumsum([0, *(rows * columns for rows, columns in grids.values())])
    return Partial(
        {
            "norms": torch.cat([m.norm(dim=1).flatten(1) for m in maps.values()], 1).cpu().numpy(),
            "contrast": np.concatenate([contrast[grid] for grid in grids.values()], axis=1),
            "others": torch.stack(beside, dim=1).cpu().numpy(),
            "read": read,
            "evidence": evidence,
            "pictures": batch.pictures,
        },
        {
            "blocks": [
                {"name": name, "cells": list(grid), "start": int(start)}
                for (name, grid), start in zip(grids.items(), starts[:-1], strict=True)
            ],
            "left_out": [name for name in blocks(model) if name not in found and not config.layer],
        },
    )


def _contrast(pictures: np.ndarray, grid: tuple[int, ...]) -> np.ndarray:
    grey = pictures.mean(axis=3)
    square = metrics.pooled(grey**2, grid) - metrics.pooled(grey, grid) ** 2
    return np.sqrt(square.clip(min=0)).reshape(len(pictures), -1).astype(np.float32)


def _read(
    model: nn.Module, x: Tensor, name: str, layouts: list[Layout], classifier: str | None
) -> np.ndarray:
    """(k,) whether what the classifier is given, or else the scores, have a gradient at the tokens
    of no cell behind a module.
    """
    head = {name: model.get_submodule(name) for name in (classifier,) if name is not None}
    with torch.enable_grad(), outputs({name: model.get_submodule(name)}) as seen, inputs(head) as v:
        scores = model(x.detach().clone().requires_grad_())
    if classifier is not None:  # one without weights reads what it is given all the same
        scores = v[classifier][0][0]
    parts = tensors(seen[name])
    weights = torch.arange(1, scores[0].numel() + 1).to(scores).view_as(scores[0])
    gradients = torch.autograd.grad((scores * weights).sum(), parts, allow_unused=True)
    layout = replace(layouts[0], leaf=0)
    fitting = [g for g in gradients if g is not None and layout.fits(g)]
    norms = [layout.others_of(g)[0].norm(dim=0).cpu().numpy() for g in fitting]
    return np.sum(norms, axis=0) > 0


# Class evidence


def evidence_of(
    model: nn.Module, x: Tensor, scores: Tensor, grid: tuple[int, ...], classifier: str | None
) -> np.ndarray:
    """The logit of the predicted class from each token alone: (n, cells) float32.

    Where the classifier, a linear layer W v + b, reads the mean v of a map's tokens t, the logits
    are the mean of W t + b, which is what a token says by itself. Whether it does is seen in the
    numbers: the last `nn.Linear` gives the scores and is given the mean of a map of this grid. nan
    where it is not, as where a class token is read or the mean is normalised after.

    Args:
        x: (n, c, h, w). scores: (n, classes), what the model says of x. grid: of the last block.
        classifier: see `_classifier`.
    """
    nothing = np.full((len(x), grid[0] * grid[1]), np.nan, np.float32)
    if classifier is None or scores.ndim != 2:
        return nothing
    head, readout = model.get_submodule(classifier), _readout(model, x[:1], grid, classifier)
    if readout is None:
        return nothing
    name, layout = readout
    with torch.no_grad(), outputs({name: model.get_submodule(name)}) as seen:
        model(x)
        logits = head(layout.map_of(seen[name]).flatten(2).transpose(1, 2))
    predicted = scores.argmax(dim=1).view(-1, 1, 1).expand(-1, logits.shape[1], 1)
    return logits.gather(2, predicted)[..., 0].float().cpu().numpy()


def _watched(model: nn.Module) -> dict[str, nn.Module]:
    return {n: m for n, m in model.named_modules() if not isinstance(m, SelectiveScan)}


def _classifier(model: nn.Module, x: Tensor) -> str | None:
    """The path of the last `nn.Linear` that gives the scores, None where none does."""
    linear = {name: m for name, m in _watched(model).items() if isinstance(m, nn.Linear)}
    with torch.no_grad(), outputs(linear) as seen:
        scores = model(x)
    found = [name for name, output in seen.items() if torch.equal(output, scores)]
    return found[-1] if found else None


def _readout(
    model: nn.Module, x: Tensor, grid: tuple[int, ...], classifier: str
) -> tuple[str, Layout] | None:
    """The module whose map the classifier reads the mean of, with its layout."""
    head = {classifier: model.get_submodule(classifier)}
    with torch.no_grad(), outputs(_watched(model)) as seen, inputs(head) as given:
        model(x)
    pooled = given[classifier][0][0]
    maps = [
        name
        for name, output in seen.items()
        if any(
            part.ndim in (3, 4) and pooled.shape[-1] in part.shape[1:] for part in tensors(output)
        )
    ]
    for name, layouts in reversed(layouts_of(model, maps[-_LATE:], x).items()):
        found = layouts[0].map_of(backbone_of(model).block_output(name, seen[name]))
        if found.shape[-2:] == grid and found.shape[1] == pooled.shape[-1]:
            near = 1e-4 if found.dtype in (torch.float32, torch.float64) else 1e-2
            if (found.mean(dim=(2, 3)) - pooled).abs().max() <= near * pooled.abs().max():
                return name, layouts[0]
    return None


_LATE = 12
"""Modules with maps that are looked at, from the end: a block and the norm behind it have fewer."""


# The result


def combine(measured: Partial, config: TokensConfig, meta: dict) -> Tokens:
    """One `Tokens` of all images."""
    entries = measured.constants["blocks"]
    norms = measured["norms"].astype(np.float64)
    places = [slice(e["start"], e["start"] + e["cells"][0] * e["cells"][1]) for e in entries]
    outlying = np.concatenate([metrics.outliers(norms[:, at], config.mad) for at in places], axis=1)
    others, names = measured["others"].astype(np.float64), _names(measured["read"])
    maps = [norms[:, at].reshape(-1, *e["cells"]) for e, at in zip(entries, places, strict=True)]
    alike = np.array([[_mean(metrics.correlation(a, b)) for b in maps] for a in maps])
    sample, numbers = Sample(config.confidence), {}

    def told(name: str, values: np.ndarray, unit: str, fewest: int = FEWEST_SKEWED) -> None:
        numbers[name] = sample.mean(values[np.isfinite(values)], unit, fewest)

    for i, (entry, at) in enumerate(zip(entries, places, strict=True)):
        name, own, out = entry["name"], norms[:, at], outlying[:, at]
        median = np.median(own, axis=1)
        told(f"median/{name}", median, "")
        largest = own.max(axis=1) / np.where(median > 0, median, np.nan)
        told(f"largest/{name}", largest, "medians", NEVER)
        told(f"outliers/{name}", 100 * out.mean(axis=1), "%", NEVER)
        if config.cut is not None:
            above = 100 * (own > config.cut).mean(axis=1)
            told(f"above {config.cut:g}/{name}", above, "%", NEVER)
        away = metrics.eccentricity(*entry["cells"])
        told(f"distance/{name}", metrics.mean_over(away - away.mean(), out), "half diagonals")
        level = metrics.flat(measured["contrast"][:, at])
        told(f"flat/{name}", 100 * metrics.mean_over(level, out), "%")
        if i:
            found = metrics.correlation(maps[i - 1], maps[i])
            told(f"correlation/{name}", found, "with the last", NEVER)
        for k, other in enumerate(names):
            size = others[:, i, k] / np.where(median > 0, median, np.nan)
            told(f"{other}/{name}", size, "medians", FEWEST_HEAVY)
    evidence = measured["evidence"].astype(np.float64)
    has_evidence = bool(np.isfinite(evidence).all())
    if has_evidence:
        out = outlying[:, places[-1]]
        of, rest = (metrics.mean_over(evidence, chosen) for chosen in (out, ~out))
        told("evidence/all", evidence.mean(axis=1), "logit")
        told("evidence/outliers", of, "logit")
        told("evidence/outliers - others", of - rest, "logit")
    quantiles = [np.quantile(norms[:, at], metrics.QUANTILES, axis=1) for at in places]
    kept = slice(config.keep)
    return Tokens(
        meta={
            **meta,
            **measured.constants,
            "config": asdict(config),
            "others": names,
            "quantiles": list(metrics.QUANTILES),
            "intervals_from": FEWEST_SKEWED,
            "numbers": {k: v for k, v in numbers.items() if v["value"] is not None},
        },
        norms=measured["norms"][kept],
        outliers=outlying[kept],
        frequency=outlying.mean(axis=0),
        quantiles=np.array([q.mean(axis=1) for q in quantiles]),
        correlation=alike,
        others=others.mean(axis=0),
        evidence=measured["evidence"][kept] if has_evidence else None,
        pictures=measured["pictures"][kept],
    )


def _mean(values: np.ndarray) -> float:
    """Mean of what is defined; nan of nothing."""
    found = values[np.isfinite(values)]
    return float(found.mean()) if len(found) else np.nan


def _names(read: np.ndarray) -> list[str]:
    """Tokens of no cell by what the head does: it reads one class token, or several tokens."""
    used = [bool(own.any()) for own in read.T]
    kinds = ["register" if not own else "class token" if sum(used) == 1 else "read token"
             for own in used]  # fmt: skip
    return [
        kind if kinds.count(kind) == 1 else f"{kind} {kinds[: k + 1].count(kind)}"
        for k, kind in enumerate(kinds)
    ]
