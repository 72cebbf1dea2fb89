"""Maps of images with boxes, and how well they tell objects from what is around them."""

from dataclasses import asdict

import numpy as np
from torch import nn

from workbench.images import Batch
from workbench.methods.method import Partial
from workbench.methods.objects import metrics
from workbench.methods.objects.config import USUAL, ObjectsConfig
from workbench.methods.objects.maps import CONTROLS, controls, map_of
from workbench.models import bare
from workbench.results import Objects
from workbench.statistics import Sample

SCORES = ("average precision", "pointing")


def measure(model: nn.Module, batch: Batch, config: ObjectsConfig) -> Partial:
    """Scores of a batch.

    Returns:
        scores: (n, maps, 2) float64 in [0, 1], `SCORES` of the maps and then of the controls, nan
            for an image without a box, or without a pixel around it; share: (n,) of the pixels that
            lie in boxes; of the first `keep` images maps: (k, maps, h, w) float32, masks: (k, h, w)
            bool, and pictures.

    Raises:
        ValueError: for a map by name that the model does not have, or none at all.
    """
    if batch.boxes is None:
        raise ValueError("these images have no boxes around objects")
    model = bare(model)
    found, missing = {}, {}
    for name in config.maps or USUAL:
        try:
            found[name] = map_of(name, model, batch, config)
        except ValueError as error:
            if config.maps:
                raise ValueError(
                    f"there is no map {name} of this model, whose method says: {error}"
                ) from error
            missing[name] = str(error)
    if not found:
        raise ValueError(
            f"none of the maps is one of this model: {'; '.join(dict.fromkeys(missing.values()))}"
        )
    maps = np.concatenate([np.stack([*found.values()], axis=1), controls(batch, config.seed)], 1)
    size = batch.pictures.shape[1:3]
    masks = np.stack([metrics.mask_of(boxes, size) for boxes in batch.boxes])
    scores = np.full((len(batch), maps.shape[1], len(SCORES)), np.nan)
    for image, mask in enumerate(masks):
        if mask.any() and not mask.all():
            for k, values in enumerate(maps[image]):
                if np.isfinite(values).all():
                    scores[image, k] = (
                        metrics.average_precision(values, mask),
                        metrics.pointing(values, mask),
                    )
    kept = [k for k in range(len(batch)) if batch.indices[k] < config.keep]
    arrays = {
        "scores": scores,
        "share": masks.mean(axis=(1, 2)),
        "maps": maps[kept].astype(np.float32),
        "masks": masks[kept],
        "pictures": batch.pictures[kept],
    }
    return Partial(arrays, {"maps": [*found, *CONTROLS], "missing": missing})


def combine(measured: Partial, config: ObjectsConfig, meta: dict) -> Objects:
    """One `Objects` of all images.

    Raises:
        ValueError: when no image has a box with pixels around it.
    """
    scores, names = measured["scores"], measured.constants["maps"]
    good = np.isfinite(scores).all(axis=(1, 2))
    if not good.any():
        raise ValueError(
            f"none of the {len(scores)} images has a box that the model sees with pixels around it"
        )
    sample, numbers = Sample(config.confidence), {}
    numbers["object"] = sample.mean(100 * measured["share"][good], "% of pixels")
    for k, name in enumerate(names):
        precision, hits = scores[good, k].T
        numbers[f"{SCORES[0]}/{name}"] = sample.mean(100 * precision, "%")
        numbers[f"{SCORES[1]}/{name}"] = _hits(sample, hits)
        if name not in CONTROLS:
            over = precision - scores[good, names.index("centre"), 0]
            numbers[f"{SCORES[0]} - centre/{name}"] = sample.mean(100 * over, "points")
    return Objects(
        meta={
            **meta,
            **measured.constants,
            "config": asdict(config),
            "controls": list(CONTROLS),
            "scored": int(good.sum()),
            "unscored": int((~good).sum()),
            "numbers": numbers,
        },
        scores=scores,
        maps=measured["maps"],
        masks=measured["masks"],
        pictures=measured["pictures"],
    )


def _hits(sample: Sample, hits: np.ndarray) -> dict:
    """How often a map points at objects; a mean where images have several largest values."""
    if np.isin(hits, (0, 1)).all():
        return sample.share(hits)
    number = sample.mean(100 * hits, "%")
    bounds = {
        k: None if number[k] is None else min(max(number[k], 0), 100) for k in ("low", "high")
    }
    return {**number, **bounds}
