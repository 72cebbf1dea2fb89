"""The kinds of results: what each analysis found, as arrays and `meta`."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from workbench.results.store import Result, listed


@dataclass(frozen=True, eq=False, kw_only=True)
class Erf(Result):
    """The effective receptive field: which input pixels move the centre of the output, and how
    much.

    Attributes:
        map: (h, w) float64, >= 0, sums to 1: the mean over the images.
        maps: (n, h, w) float32, one map per image, as measured (not normalised).
        splits: (k, h, w) float64, parts of the field, or None; their names are `meta["splits"]`.
        picture: (h, w, 3) uint8, the first image as the model saw it, for overlays, or None.

    Raises `ValueError` when a shape or the sum of `map` is wrong.
    """

    kind: ClassVar[str] = "erf"
    in_former_words: ClassVar[tuple[str, ...]] = ("config", "protocol")
    map: np.ndarray
    maps: np.ndarray
    splits: np.ndarray | None = None
    picture: np.ndarray | None = None

    def __post_init__(self) -> None:
        size = self.map.shape
        if self.map.ndim != 2 or self.maps.ndim != 3 or self.maps.shape[1:] != size:
            raise ValueError(
                f"map has the shape {size} and maps {self.maps.shape}; they must be (h, w) and "
                "(n, h, w) with the same h and w."
            )
        total = float(self.map.sum())
        if not (self.map >= 0).all() or not abs(total - 1) < 1e-6:
            raise ValueError(
                f"map has the sum {total:g} and the minimum {self.map.min():g}; "
                "it must be non-negative and sum to 1."
            )
        if self.splits is not None and (self.splits.ndim != 3 or self.splits.shape[1:] != size):
            raise ValueError(f"splits has the shape {self.splits.shape}; it must be (k, h, w).")
        if self.picture is not None and self.picture.shape != (*size, 3):
            raise ValueError(f"picture has the shape {self.picture.shape}; it must be (h, w, 3).")

    @property
    def numbers(self) -> dict[str, dict[str, Any]]:
        """Name -> {"value", "low", "high", "unit"}; low and high bound the interval."""
        return self.meta["numbers"]


class _OfSites:
    """Maps of sites, one after the other, each in image order: `meta["sites"]` says where."""

    meta: dict[str, Any]
    maps: np.ndarray
    mean: np.ndarray

    def __post_init__(self) -> None:
        total = sum(site["cells"][0] * site["cells"][1] for site in self.meta["sites"])
        size = (len(self.meta["quantities"]), total)
        if self.mean.shape != size or self.maps.ndim != 3 or self.maps.shape[1:] != size:
            raise ValueError(
                f"maps has the shape {self.maps.shape} and mean {self.mean.shape}; for these sites "
                f"they must be (n, {size[0]}, {size[1]}) and {size}."
            )

    def map(self, site: str, quantity: str = "row", image: int | None = None) -> np.ndarray:
        """(rows, columns) of a site by its name: the mean over images, or that of one image."""
        names = [entry["name"] for entry in self.meta["sites"]]
        if site not in names or quantity not in self.meta["quantities"]:
            raise ValueError(
                f"there is no {quantity} of {site}; sites are {listed(names)} and quantities "
                f"{listed(self.meta['quantities'])}."
            )
        entry = self.meta["sites"][names.index(site)]
        values = self.mean if image is None else self.maps[image]
        rows, columns = entry["cells"]
        begin = entry["start"]
        row = values[self.meta["quantities"].index(quantity)]
        return row[begin : begin + rows * columns].reshape(rows, columns)


@dataclass(frozen=True, eq=False, kw_only=True)
class ScanMaps(_OfSites, Result):
    """Which cells each scan direction carries to a query, and what the scans' coefficients say.

    A site is one direction of one layer, or the sum of a layer's directions. Sites have grids of
    their own, so their maps lie one after the other, each in image order; `map` picks one out.
    `meta["sites"]` lists the sites, `meta["quantities"]` the quantities.

    Attributes:
        maps: (n, quantities, total) float32, per image, of the first images only; nan where a site
            lacks a quantity.
        mean: (quantities, total) float64, the mean over all images.
        outside: (images, 2, sites) float32, what row and column give to the class token, or in
            sum to the padding of windows.
        picture: (h, w, 3) uint8, the first image as the model saw it, or None.

    Raises `ValueError` when shapes and sites do not fit together.
    """

    kind: ClassVar[str] = "scan-maps"
    maps: np.ndarray
    mean: np.ndarray
    outside: np.ndarray
    picture: np.ndarray | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class State(_OfSites, Result):
    """What the hidden state of every scan direction holds along its path.

    Sites are as in `ScanMaps`, "all" being a layer's directions together. `meta["quantities"]`
    lists what maps there are, `meta["sites"]` where the maps and channels of each site lie.

    Attributes:
        maps: (n, quantities, total) float32, per image, of the first images only.
        mean: (quantities, total) float64, the mean over all images.
        half_lives: (channels,) float64, half-life in steps of every channel, direction after
            direction: median over its states, and over images.
        picture: (h, w, 3) uint8, the first image as the model saw it, or None.

    Raises `ValueError` when shapes and sites do not fit together.
    """

    kind: ClassVar[str] = "state"
    maps: np.ndarray
    mean: np.ndarray
    half_lives: np.ndarray
    picture: np.ndarray | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        total = sum(site.get("dim", 0) for site in self.meta["sites"])
        if self.half_lives.shape != (total,):
            raise ValueError(f"half_lives has {self.half_lives.shape}; it must be ({total},).")


@dataclass(frozen=True, eq=False, kw_only=True)
class Decomposition(_OfSites, Result):
    """What every cell adds to the output of each layer at one token; a site is a layer.

    `meta["quantities"]` are along, the part's projection on the output over the output's length
    (signed; 1 in sum with what comes from no cell and from biases, see `meta["numbers"]`), and
    norm, its length over that of the output.

    Attributes:
        maps: (n, quantities, total) float32, per image, of the first images only.
        mean: (quantities, total) float64, the mean over all images.
        pictures: (n, h, w, 3) uint8, the first images as the model saw them.

    Raises `ValueError` when shapes and sites do not fit together.
    """

    kind: ClassVar[str] = "decompose"
    maps: np.ndarray
    mean: np.ndarray
    pictures: np.ndarray


@dataclass(frozen=True, eq=False, kw_only=True)
class Atlas(Result):
    """Where layers look around a query, and how alike their maps are.

    A site is one direction of one layer, or the sum of a layer's directions; `meta["sites"]` lists
    them, in the order of the network. Maps sum to 1 over the image.

    Attributes:
        offsets: (total,) float64, one map after the other as `map` picks them out: mean over
            queries and images of what a cell at so many rows and columns from the query gives
            to it; nan where no query has such a cell.
        similarity: (layers, layers) float64 in [0, 1], linear CKA of the maps of the sums; nan
            where those of a layer are all the same.
        places: (sites, queries, 2) float64, where each map lies among all, in two principal
            components whose shares of the variance are `meta["variance"]`.
        maps: (sites, queries, *meta["grid"]) float32, these maps: the mean over images of what each
            query is given, on cells that all sites share.

    Raises `ValueError` when shapes do not fit together.
    """

    kind: ClassVar[str] = "atlas"
    offsets: np.ndarray
    similarity: np.ndarray
    places: np.ndarray
    maps: np.ndarray

    def __post_init__(self) -> None:
        sites = self.meta["sites"]
        total = sum((2 * s["cells"][0] - 1) * (2 * s["cells"][1] - 1) for s in sites)
        arrays = (self.offsets, self.similarity, self.places, self.maps)
        shapes = tuple(array.shape for array in arrays)
        layers = len({site["layer"] for site in sites})
        each = (len(sites), len(sites[0]["queries"]))
        expected = ((total,), (layers, layers), (*each, 2), (*each, *self.meta["grid"]))
        if shapes != expected:
            raise ValueError(
                f"offsets, similarity, places and maps have the shapes {shapes}; for these sites "
                f"they must be {expected}."
            )

    def map(self, site: int) -> np.ndarray:
        """(2 rows - 1, 2 columns - 1) of a site, the query in the middle."""
        entry = self.meta["sites"][site]
        rows, columns = (2 * n - 1 for n in entry["cells"])
        start = entry["start"]
        return self.offsets[start : start + rows * columns].reshape(rows, columns)


@dataclass(frozen=True, eq=False, kw_only=True)
class Attribution(Result):
    """Which pixels predictions rest on, and how faithful the maps are.

    Attributes:
        maps: (n, h, w) float32, per image, of the first images only; signed where the method is.
        pictures: (n, h, w, 3) uint8, these images as the model saw them.
        deletion: (images, k, points) float32, the target's probability while pixels go, by the map
            and then by the maps of `meta["references"]`, or None.
        insertion: the same while pixels come.

    Raises `ValueError` when shapes do not fit together.
    """

    kind: ClassVar[str] = "attribution"
    maps: np.ndarray
    pictures: np.ndarray
    deletion: np.ndarray | None = None
    insertion: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.maps.ndim != 3 or self.pictures.shape != (*self.maps.shape, 3):
            raise ValueError(
                f"maps has the shape {self.maps.shape} and pictures {self.pictures.shape}; they "
                "must be (n, h, w) and (n, h, w, 3)."
            )


@dataclass(frozen=True, eq=False, kw_only=True)
class Tokens(Result):
    """Norms of tokens behind every block; `meta["blocks"]` says where the maps of a block lie.

    Attributes:
        norms: (n, total) float32, of the first images only, map after map, row by row.
        outliers: (n, total) bool, which of these are outliers.
        frequency: (total,) float64, in which part of all images a cell is one.
        quantiles: (blocks, k) float64, of `meta["quantiles"]`, mean over images.
        correlation: (blocks, blocks) float64 in [-1, 1], of the maps of two blocks, mean over
            images; nan where maps are even.
        others: (blocks, k) float64, norms of the tokens `meta["others"]`, mean over images; nan
            where a block has none.
        evidence: (n, cells) float32, logit of the predicted class from each token of the last map
            alone, or None where the head does not pool tokens.
        pictures: (n, h, w, 3) uint8, the first images as the model saw them.

    Raises `ValueError` when shapes do not fit together.
    """

    kind: ClassVar[str] = "tokens"
    norms: np.ndarray
    outliers: np.ndarray
    frequency: np.ndarray
    quantiles: np.ndarray
    correlation: np.ndarray
    others: np.ndarray
    pictures: np.ndarray
    evidence: np.ndarray | None = None

    def __post_init__(self) -> None:
        blocks = self.meta["blocks"]
        total = sum(block["cells"][0] * block["cells"][1] for block in blocks)
        expected = {
            "norms": (len(self.pictures), total),
            "outliers": (len(self.pictures), total),
            "frequency": (total,),
            "quantiles": (len(blocks), len(self.meta["quantiles"])),
            "correlation": (len(blocks), len(blocks)),
            "others": (len(blocks), len(self.meta["others"])),
        }
        for name, shape in expected.items():
            if getattr(self, name).shape != shape:
                raise ValueError(
                    f"{name} has the shape {getattr(self, name).shape}; for these blocks it must "
                    f"be {shape}."
                )

    def map(self, values: np.ndarray, block: int) -> np.ndarray:
        """(..., total) -> (..., rows, columns) of a block, counted from 0, negative from the end.

        Raises `IndexError` when there is none.
        """
        entry = self.meta["blocks"][block]
        rows, columns = entry["cells"]
        own = values[..., entry["start"] : entry["start"] + rows * columns]
        return own.reshape(*values.shape[:-1], rows, columns)


@dataclass(frozen=True, eq=False, kw_only=True)
class Objects(Result):
    """How well maps tell objects from what is around them.

    `meta["maps"]` names the maps, the controls `meta["controls"]` among them.

    Attributes:
        scores: (n, maps, 2) float64 in [0, 1], average precision and pointing game of every image;
            nan for images without a box that has pixels around it.
        maps: (k, maps, h, w) float32, >= 0, of the first images only.
        masks: (k, h, w) bool, which pixels of these lie in boxes.
        pictures: (k, h, w, 3) uint8, these as the model saw them.

    Raises `ValueError` when shapes do not fit together.
    """

    kind: ClassVar[str] = "objects"
    scores: np.ndarray
    maps: np.ndarray
    masks: np.ndarray
    pictures: np.ndarray

    def __post_init__(self) -> None:
        (k, h, w), count = self.masks.shape, len(self.meta["maps"])
        if (
            self.scores.ndim != 3
            or self.scores.shape[1:] != (count, 2)
            or self.maps.shape != (k, count, h, w)
            or self.pictures.shape != (k, h, w, 3)
        ):
            raise ValueError(
                f"scores, maps, masks and pictures have the shapes {self.scores.shape}, "
                f"{self.maps.shape}, {self.masks.shape} and {self.pictures.shape}, which do not "
                f"belong together with {count} maps."
            )

    @property
    def examples(self) -> list[int]:
        """Places in `maps` of the images that have a box with pixels around it."""
        return [i for i, mask in enumerate(self.masks) if mask.any() and not mask.all()]


@dataclass(frozen=True, eq=False, kw_only=True)
class ResolutionPoint(Result):
    """What a model says of images at one size, and what that costs; `meta["size"]` is the size.

    Attributes:
        logits: (n, k) float32, of the classes `meta["classes"]` where the head was restricted.
        features: (n, c) float32, what the head reads.
        labels: (n,) int64, columns of logits (-1: none of them), or None without labels.
        refit: (n,) int64, what a head fitted at this size to the other images says, or None.
        seconds: (n,) float64, of an image's share in its batch.
        latency: (p,) float64, wall time of one image alone.
        cpu_seconds: (p,) float64, processor time of all threads for it.
        waiting_seconds: (p,) float64, what these threads stood ready meanwhile without a processor;
            nan where the system does not say, None in results of older versions.
        horizons: (layers, 3) float64, quantiles 10, 50 and 90 % of the scans' memory in steps, mean
            over images.
        lengths: (layers,), the steps there are.

    Raises `ValueError` when shapes do not fit together.
    """

    kind: ClassVar[str] = "resolution-point"
    logits: np.ndarray
    features: np.ndarray
    seconds: np.ndarray
    latency: np.ndarray
    cpu_seconds: np.ndarray
    horizons: np.ndarray
    lengths: np.ndarray
    labels: np.ndarray | None = None
    refit: np.ndarray | None = None
    waiting_seconds: np.ndarray | None = None

    def __post_init__(self) -> None:
        n = len(self.logits)
        for name in ("features", "seconds", "labels", "refit"):
            value = getattr(self, name)
            if value is not None and len(value) != n:
                raise ValueError(f"logits has {n} images and {name} {len(value)}.")
        if self.horizons.shape != (len(self.lengths), 3):
            raise ValueError(
                f"horizons has the shape {self.horizons.shape} for {len(self.lengths)} layers."
            )


@dataclass(frozen=True, eq=False, kw_only=True)
class Resolution(Result):
    """One model over sizes: `points` holds the numbers of each size, `meta["missing"]` the sizes
    that could not be measured and why, `meta["exponents"]` how cost grows with pixels.

    Attributes:
        sizes: (k,) int64, rising.
        correct: (k, n) int8, per image: 1 right, 0 wrong, -1 no label; or None without labels.
        agrees: (k, n) int8, 1 where the prediction is that at the native size; or None without a
            point there.

    Raises `ValueError` when shapes do not fit together.
    """

    kind: ClassVar[str] = "resolution"
    sizes: np.ndarray
    correct: np.ndarray | None = None
    agrees: np.ndarray | None = None

    def __post_init__(self) -> None:
        sizes = [point["size"] for point in self.points]
        if list(self.sizes) != sizes or any(len(x) != len(sizes) for x in self._per_size()):
            raise ValueError(f"arrays and points do not belong to the same sizes {sizes}.")

    def _per_size(self) -> list[np.ndarray]:
        return [x for x in (self.correct, self.agrees) if x is not None]

    @property
    def points(self) -> list[dict[str, Any]]:
        """For each size {"size", "numbers", "layers"}; numbers as of `Erf`, by name."""
        return self.meta["points"]

    def number(self, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(value, low, high), each (k,) float64, of a number over the sizes; nan where missing."""
        entries = [point["numbers"].get(name, {}) for point in self.points]
        value, low, high = (
            np.array([np.nan if e.get(k) is None else e[k] for e in entries], dtype=np.float64)
            for k in ("value", "low", "high")
        )
        return value, low, high


@dataclass(frozen=True, eq=False, kw_only=True)
class Robustness(Result):
    """What a model says of images under attack, corrupted, cut up and turned.

    `meta["conditions"]` describes the rows below: name, group, series, level and numbers of each;
    the first is the clean images.

    Attributes:
        predictions: (k, n) int64, the class of each image under each condition.
        margins: (k, n) float32, the label's logit minus the largest other one; nan without a label.
        labels: (n,) int64, -1 where unknown; `meta["labels"]` says where they come from.

    Raises `ValueError` when shapes do not fit together.
    """

    kind: ClassVar[str] = "robustness"
    predictions: np.ndarray
    margins: np.ndarray
    labels: np.ndarray

    def __post_init__(self) -> None:
        size = (len(self.meta["conditions"]), len(self.labels))
        if self.predictions.shape != size or self.margins.shape != size:
            raise ValueError(
                f"predictions has the shape {self.predictions.shape} and margins "
                f"{self.margins.shape}; for these conditions and labels both must be {size}."
            )

    @property
    def correct(self) -> np.ndarray:
        """(k, n) int8: 1 right, 0 wrong, -1 no label."""
        right = (self.predictions == self.labels).astype(np.int8)
        return np.where(self.labels < 0, np.int8(-1), right)

    def row(self, name: str) -> int:
        """The place of a condition by its name, such as attack/pgd/2."""
        names = [condition["name"] for condition in self.meta["conditions"]]
        if name not in names:
            raise ValueError(f"there is no condition {name}; there are {listed(names)}.")
        return names.index(name)


@dataclass(frozen=True, eq=False, kw_only=True)
class Sensitivity(Result):
    """What an attack does through B, C, delta and u of the scans, image by image.

    `meta["rows"]` names what the middle axes hold, `meta["views"]` has the numbers with intervals,
    `meta["claims"]` the verdicts. Margins are the label's logit minus the largest other one; below
    0 the model errs. Arrays of views that were not taken are None.

    Attributes:
        clean: (n,) margins.
        adversarial: (n,) margins.
        gradient: (n, losses, sites, tensors, measures).
        perturbed: (n, rows, 2) margins after one and after all steps.
        random: (n, wide rows, draws) margins.
        flipping: (n, 3) smallest budgets of B, C, delta, infinite where none was found.
        cut: (n, rows, seeds) margins, nan where not run.
        alignment: (n, rows, 2).
        patching: (n, rows, 4) margins.
        bounds: (n, sites, 3, 3).
        horizon: (n, 2, sites, 2).

    Raises `ValueError` when arrays do not belong to the same images.
    """

    kind: ClassVar[str] = "sensitivity"
    in_former_words: ClassVar[tuple[str, ...]] = ("config", "used", "rows", "views", "claims")
    clean: np.ndarray
    adversarial: np.ndarray | None = None
    gradient: np.ndarray | None = None
    perturbed: np.ndarray | None = None
    random: np.ndarray | None = None
    flipping: np.ndarray | None = None
    cut: np.ndarray | None = None
    alignment: np.ndarray | None = None
    patching: np.ndarray | None = None
    bounds: np.ndarray | None = None
    horizon: np.ndarray | None = None

    def __post_init__(self) -> None:
        for name, value in self.arrays().items():
            if len(value) != len(self.clean):
                raise ValueError(f"clean has {len(self.clean)} images and {name} {len(value)}.")


@dataclass(frozen=True, eq=False, kw_only=True)
class QuantizationRanges(Result):
    """How large the scan tensors of a model get on calibration images.

    `meta["layout"]` lists site, tensor, windows w, channels d and tokens l of each tensor.

    Attributes:
        reach: (total,) float64, >= 0: for each tensor max |x| of its d channels, then of its w * l
            tokens, over all images.

    Raises `ValueError` when array and layout do not fit together.
    """

    kind: ClassVar[str] = "quantize-ranges"
    reach: np.ndarray

    def __post_init__(self) -> None:
        total = sum(d + w * length for _, _, w, d, length in self.meta["layout"])
        if self.reach.shape != (total,):
            raise ValueError(f"reach has the shape {self.reach.shape}; it must be ({total},).")

    def of(self, site: str, tensor: str, granularity: str) -> np.ndarray:
        """(1, 1, 1) of a tensor, (1, d, 1) of its channels or (w, 1, l) of its tokens."""
        start = 0
        for *place, w, d, length in self.meta["layout"]:
            if place == [site, tensor]:
                channels = self.reach[start : start + d].reshape(1, d, 1)
                if granularity == "token":
                    end = start + d + w * length
                    return self.reach[start + d : end].reshape(w, 1, length)
                return channels if granularity == "channel" else channels.max(keepdims=True)
            start += d + w * length
        raise ValueError(f"there is no {tensor} of {site} among the calibrated tensors.")


@dataclass(frozen=True, eq=False, kw_only=True)
class Quantization(Result):
    """What a model says with scan tensors quantised, image by image.

    `meta["conditions"]` has name, tensor, granularity, range, bits and numbers of each condition.

    Attributes:
        predictions: (1 + k, n) int64, without quantisation and under each of k conditions.
        margins: (1 + k, n) float32, the label's logit minus the largest other one; of the
            unquantised prediction where no label is known.
        divergences: (k, n) float32, >= 0, KL from the unquantised prediction in nats.
        labels: (n,) int64, -1 where unknown.
        tails: (n, sites, tensors, 3) float32 of the unquantised tensors, in the order of
            `meta["sites"]`, `meta["tensors"]` and `meta["tails"]`; nan where there is none.

    Raises `ValueError` when shapes do not fit together.
    """

    kind: ClassVar[str] = "quantize"
    predictions: np.ndarray
    margins: np.ndarray
    divergences: np.ndarray
    labels: np.ndarray
    tails: np.ndarray

    def __post_init__(self) -> None:
        meta, k, n = self.meta, len(self.meta["conditions"]), len(self.labels)
        sizes = {
            "predictions": (1 + k, n),
            "margins": (1 + k, n),
            "divergences": (k, n),
            "tails": (n, len(meta["sites"]), len(meta["tensors"]), len(meta["tails"])),
        }
        for name, size in sizes.items():
            if getattr(self, name).shape != size:
                found = getattr(self, name).shape
                raise ValueError(f"{name} has the shape {found}; it must be {size}.")
