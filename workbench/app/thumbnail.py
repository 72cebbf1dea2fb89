"""A stored result at a glance: its map, or its numbers as bars."""

import numpy as np

from workbench.figures import overlay
from workbench.methods.erf.figure import shown
from workbench.methods.sensitivity.figure import RANKED
from workbench.results import (
    Atlas,
    Attribution,
    Decomposition,
    Erf,
    Objects,
    Quantization,
    Resolution,
    Result,
    Robustness,
    ScanMaps,
    Sensitivity,
    State,
    Tokens,
)

SIDE = 96


def thumbnail(result: Result) -> str | None:
    """The `src` of a picture, or None for a kind that has none."""
    values = glance(result)
    if values is None or not values.size or not np.isfinite(values).any():
        return None
    if values.ndim == 1:
        return overlay.data_url(_bars(np.nan_to_num(values)))
    if not isinstance(result, Erf):
        values = np.abs(np.nan_to_num(values)) / max(float(np.nanmax(np.abs(values))), 1e-30)
        values = values**0.5
    rows, columns = values.shape
    size = round(SIDE * rows / max(rows, columns)), round(SIDE * columns / max(rows, columns))
    return overlay.data_url(overlay.enlarged(overlay.colours(values), size))


def glance(result: Result) -> np.ndarray | None:
    """A map (rows, columns), or shares (n,) in [0, 1]."""
    match result:
        case Erf():
            return shown(result)
        case ScanMaps() | State() | Decomposition():
            return result.map(result.meta["sites"][-1]["name"], result.meta["quantities"][0])
        case Tokens():
            return result.map(result.norms[0], -1)
        case Attribution() | Objects():
            return result.maps.reshape(-1, *result.maps.shape[-2:])[0]
        case Atlas():
            return result.similarity
        case Resolution():
            name = "agreement" if result.correct is None else "top1"
            return np.array([p["numbers"][name]["value"] for p in result.points], float) / 100
        case Robustness():
            return result.correct.mean(axis=1)
        case Quantization():
            return (result.predictions == result.predictions[0]).mean(axis=1)
        case Sensitivity() if "gradient" in result.meta["views"]:
            shares = result.meta["views"]["gradient"]["shares"]["margin, linf"]
            return np.array([shares[name]["value"] for name in RANKED], float) / 100
    return None


def _bars(shares: np.ndarray) -> np.ndarray:
    """(n,) in [0, 1] -> (SIDE, SIDE, 4) uint8, a bar for each on nothing."""
    share = shares[np.arange(SIDE) * len(shares) // SIDE]
    filled = np.arange(SIDE)[::-1, None] < np.round(SIDE * share)[None, :]
    return np.where(filled[..., None], np.array([139, 37, 130, 255]), 0).astype(np.uint8)
