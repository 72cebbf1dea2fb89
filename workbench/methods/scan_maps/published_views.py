"""Maps as the analysis code of VMamba and of HiddenMambaAttn draws them, quirks included by name.

They are here so that published figures can be made again and compared with `hidden_attention`,
which is exact. `QUIRKS` says what each one does that a reader would not expect. Written from
measured behaviour; VMamba is arXiv 2401.10166, HiddenMambaAttn arXiv 2403.01590.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from workbench.hooks import outputs
from workbench.mixing.hidden_attention import LIMIT, hidden_attention
from workbench.models import backbone_of
from workbench.paths import CLASS_TOKEN, ScanPath
from workbench.trace import record, scans

MODES = {"CB": "QK", "CwBw": "QwKw", "ww": "w", "CwBdtw": "alpha"}
"""VMamba's names -> views of `hidden_attention`. Its `CBdt` cannot run as published."""

NORMALISATIONS = ("none", "minmax", "absmax")
"""None; (x - min) / (max - min) (`_norm`); |x| / max |x| (`_absnorm`): over the whole matrix."""

CLASS_MAPS = ("raw", "rollout", "attribution")

CLAMP = 1e-20

QUIRKS: dict[str, tuple[str, ...]] = {
    "mean": (
        "the mean over channels is signed, so channels can cancel",
        "the value u and the skip connection D are left out; all but CwBdtw leave out the step too",
    ),
    "minmax": (
        "taken over the whole matrix with its masked zeros, so no influence is grey, not black",
    ),
    "matrix as published": (
        f"CwBw and ww divide by a product clamped at {CLAMP:g}, which underflows on long sequences",
    ),
    "stage rollout as published": ("columns, not rows, are divided by the sums of the rows",),
    "raw as published": (
        "each layer is scaled by its extremes over all channels, without taking absolute values",
    ),
    "rollout as published": (
        "every token is given the class token's row",
        "entries are signed, so a row can sum to nearly zero",
    ),
    "attribution": (
        "negative entries are dropped",
        "the weight of a token is the gradient of the residual stream there, not of the attention",
    ),
    "attribution as published": ("every token is given the class token's row",),
    "class row as published": (
        "the class token's row leaves out the decay at the class token, and its own entry",
    ),
}


def quirks(*names: str) -> list[str]:
    """The entries of `QUIRKS` under these names, those that there are."""
    return [quirk for name in names for quirk in QUIRKS.get(name, ())]


def normalise(matrix: Tensor, how: str) -> Tensor:
    """Scale a matrix by its own extremes; see `NORMALISATIONS`.

    Raises:
        ValueError: for an unknown normalisation.
    """
    if how == "none":
        return matrix
    if how == "minmax":
        low, high = matrix.min(), matrix.max()
        return (matrix - low) / (high - low)
    if how == "absmax":
        return matrix.abs() / matrix.abs().max()
    raise ValueError(f"a normalisation is one of {', '.join(NORMALISATIONS)}, not {how!r}")


# The four directions of VMamba


def direction_matrix(
    tensors: Mapping[str, Tensor],
    mode: str,
    image: int = 0,
    as_published: bool = False,
    limit: int = LIMIT,
) -> Tensor:
    """VMamba's attention of one direction: (l, l) in scan order, rows are queries.

    Args:
        tensors: of one site, from `workbench.record`.
        mode: one of `MODES`. Summed over states, signed mean over channels.
        as_published: with the clamped quotient instead of the exact decay.

    Raises:
        ValueError: for an unknown mode, or a matrix of more than `limit` bytes.
    """
    if mode not in MODES:
        raise ValueError(
            f"VMamba's modes are {', '.join(MODES)}, not {mode!r} (CBdt cannot run as published)"
        )
    attention = hidden_attention(tensors, image, view=MODES[mode])
    if not as_published or mode == "CB":
        return attention.matrix("mean", limit=limit)
    delta, A = attention.delta, attention.A
    total = torch.zeros(delta.shape[1], delta.shape[1])
    for channel in range(len(delta)):
        w = (A[channel, :, None] * delta[channel].cumsum(0)).exp()  # (n, l)
        left, right = w, 1 / w.clamp(min=CLAMP)
        if mode != "ww":
            left, right = attention.C * left, attention.B * right
        if mode == "CwBdtw":
            right = right * delta[channel]
        total += left.T @ right
    return total.tril() / len(delta)


def in_image_order(matrix: Tensor, path: ScanPath) -> Tensor:
    """(l, l) along `path` -> (cells, cells) in row-major image order, both axes.

    Raises:
        ValueError: for a path that does not visit every cell exactly once.
    """
    if not path.covers:
        raise ValueError(f"the path {path.name!r} does not visit every cell of the grid once")
    order = torch.from_numpy(path.inverse.copy())
    return matrix[order][:, order]


def direction_panels(
    directions: Sequence[Mapping[str, Tensor]],
    paths: Sequence[ScanPath],
    mode: str,
    how: str = "none",
    image: int = 0,
    as_published: bool = False,
) -> dict[str, Tensor]:
    """The panels of VMamba's figures, by their published names.

    Args:
        directions: tensors of the directions of one layer, and their `paths`.
        how: see `NORMALISATIONS`.

    Returns:
        `ao0`, `ao1`, ... in scan order, (l, l); `a0`, `a1`, ... in image order, (cells, cells);
        `all`, the sum of the latter, normalised after the sum; `nall`, their mean, each normalised
        before. Reshape a row to the grid for the map of that query.
    """
    found = {}
    plain = []
    for k, (tensors, path) in enumerate(zip(directions, paths, strict=True)):
        matrix = direction_matrix(tensors, mode, image, as_published)
        found[f"ao{k}"] = normalise(matrix, how)
        plain.append(in_image_order(matrix, path))
        found[f"a{k}"] = normalise(plain[-1], how)
    found["all"] = normalise(torch.stack(plain).sum(dim=0), how)
    found["nall"] = torch.stack([found[f"a{k}"] for k in range(len(plain))]).mean(dim=0)
    return found


def stage_rollout(matrices: Sequence[Tensor], as_published: bool = False) -> Tensor:
    """Attention rollout over the blocks of a stage: the product of (matrix + 1) / 2, each row
    divided by its sum (as published: each column by the sum of the row of its number).
    """
    rolled = None
    for matrix in matrices:
        mixed = (matrix + torch.eye(len(matrix))) / 2
        sums = mixed.sum(dim=1)
        mixed = mixed / (sums if as_published else sums[:, None])
        rolled = mixed if rolled is None else mixed @ rolled
    if rolled is None:
        raise ValueError("a rollout needs the matrices of at least one block")
    return rolled


# The class token of Vim


def class_row(
    forward: Mapping[str, Tensor],
    backward: Mapping[str, Tensor],
    at: int,
    image: int = 0,
    as_published: bool = False,
) -> Tensor:
    """Influence of every token on the class token, channel by channel: (d, l) in image order.

    Args:
        forward, backward: tensors of the two directions of a layer, each in its scan order.
        at: place of the class token in image order.
    """
    length = forward["delta"].shape[-1]
    rows = []
    for tensors, query in ((forward, at), (backward, length - 1 - at)):
        row = hidden_attention(tensors, image).row(query, "channels")
        if as_published:
            row = _without_last_decay(tensors, query, image)
        rows.append(row)
    return rows[0] + rows[1].flip(1)


def _without_last_decay(tensors: Mapping[str, Tensor], query: int, image: int) -> Tensor:
    """The row of a query whose own decay is left out, and its own entry: the published slip."""
    delta = tensors["delta"].clone()
    delta[image, :, query] = 0  # no decay at the query, and nothing from itself
    return hidden_attention({**tensors, "delta": delta}, image).row(query, "channels")


def class_maps(
    model: Any,
    x: Tensor,
    name: str,
    start: int | None = None,
    target: Tensor | None = None,
    as_published: bool = False,
) -> Tensor:
    """HiddenMambaAttn's maps of the class token of a Vim, for any size and batch.

    Args:
        x: (b, 3, h, w).
        name: `raw` attention, `rollout`, or Mamba-`attribution`, the only one that depends on the
            class.
        start: the first layer taken; by default 5/8 of the depth, as published (15 of 24).
        target: (b) classes for `attribution`; the predicted ones by default.
        as_published: with the slips listed in `QUIRKS`. Otherwise rows are exact, a rollout takes
            the matrices of all tokens, and entries by absolute value where they are signed.

    Returns:
        (b, rows, columns), the class token's own entry left out.

    Raises:
        ValueError: for an unknown map, a model without a class token, or a wrong layer.
    """
    if name not in CLASS_MAPS:
        raise ValueError(f"the maps are {', '.join(CLASS_MAPS)}, not {name!r}")
    path = next((site.path for site in scans(model, (x.shape[-2], x.shape[-1]))), None)
    tokens = np.flatnonzero(path.order == CLASS_TOKEN) if path is not None else np.empty(0)
    if path is None or not len(tokens):
        raise ValueError(
            f"{type(model).__name__} has no class token in a scan; choose a query by position"
        )
    blocks = [level["module"] for level in model.feature_info]
    start = 5 * len(blocks) // 8 if start is None else start
    if not 0 <= start < len(blocks):
        raise ValueError(f"the first layer must be one of 0 to {len(blocks) - 1}, not {start}")
    at, blocks = int(tokens[0]), blocks[start:]
    weights: list[Tensor] = []
    with record(model, sites=[f"{block}.*" for block in blocks]) as sites:
        if name == "attribution":
            weights = _token_weights(model, x, blocks, target)
        else:
            with torch.no_grad():
                model(x)
    pairs = [_pair(sites, block) for block in blocks]
    maps = []
    for image in range(len(x)):
        own = [weight[image] for weight in weights]
        maps.append(_class_map(pairs, name, at, image, own, as_published))
    maps = torch.stack(maps)
    maps = torch.cat([maps[:, :at], maps[:, at + 1 :]], dim=1)
    return maps.unflatten(1, (path.height, path.width))


def _pair(sites: Mapping[str, Mapping], block: str) -> tuple[Mapping, Mapping]:
    found = [tensors for name, tensors in sites.items() if name.startswith(f"{block}.")]
    return found[0], found[1]


def _token_weights(
    model: nn.Module, x: Tensor, blocks: Sequence[str], target: Tensor | None
) -> list[Tensor]:
    """Per layer (b, l): largest positive gradient of the logit over the channels of the residual
    stream, scaled to [0, 1] over the tokens.
    """
    modules = {block: model.get_submodule(block) for block in blocks}
    with torch.enable_grad(), outputs(modules) as seen:
        logits = model(x.detach().requires_grad_())
    classes = logits.argmax(dim=1) if target is None else target
    chosen = logits.gather(1, classes.to(logits.device)[:, None]).sum()
    gradients = torch.autograd.grad(chosen, [backbone_of(model).residual(seen[b]) for b in blocks])
    weights = []
    for gradient in gradients:
        weight = gradient.relu().amax(dim=2).cpu()
        low, high = weight.amin(dim=1, keepdim=True), weight.amax(dim=1, keepdim=True)
        weights.append((weight - low) / (high - low).clamp(min=torch.finfo(weight.dtype).tiny))
    return weights


def _class_map(
    pairs: Sequence[tuple[Mapping, Mapping]],
    name: str,
    at: int,
    image: int,
    weights: Sequence[Tensor],
    as_published: bool,
) -> Tensor:
    """(l): the map of one image, class token included."""
    if name == "raw" or as_published:
        rows = [class_row(*pair, at, image, as_published) for pair in pairs]
    else:
        rows = [_token_matrix(*pair, image, positive=name == "attribution") for pair in pairs]
    if name == "raw":
        if not as_published:
            rows = [row.abs() for row in rows]
        return torch.stack([normalise(row, "minmax").mean(dim=0) for row in rows]).mean(dim=0)
    if as_published and name == "rollout":
        rows = [row.mean(dim=0) for row in rows]
    elif as_published:
        rows = [normalise(row.clamp(min=0), "minmax").mean(dim=0) for row in rows]
    if name == "attribution":
        rows = [row * weight for row, weight in zip(rows, weights, strict=True)]
    length = rows[0].shape[-1]
    rolled = torch.eye(length)
    for row in rows:
        mixed = row.expand(length, length) + torch.eye(length)
        rolled = mixed / mixed.sum(dim=1, keepdim=True) @ rolled
    return rolled[at].clamp(min=0)


def _token_matrix(forward: Mapping, backward: Mapping, image: int, positive: bool) -> Tensor:
    """(l, l) in image order, both directions, over channels: mean of |.|, or of the positive part
    scaled by the largest entry of all channels.
    """
    total, count, largest = 0, 0, 0.0
    pair = [hidden_attention(tensors, image) for tensors in (forward, backward)]
    for channels in range(0, pair[0].dim, 32):
        part = slice(channels, channels + 32)
        matrix, other = (attention.matrix("channels", part) for attention in pair)
        matrix = matrix + other.flip(1, 2)
        matrix = matrix.clamp(min=0) if positive else matrix.abs()
        total, count = total + matrix.sum(dim=0), count + len(matrix)
        largest = max(largest, float(matrix.max()))
    total = torch.as_tensor(total) / count
    return total / largest if positive and largest > 0 else total
