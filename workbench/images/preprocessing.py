"""How an image becomes a model's input, in the numbers of timm and torchvision."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from timm.data.config import resolve_model_data_config
from torch import Tensor, nn

from workbench.hooks import inputs, stop_before
from workbench.models import backbones_in, bare

_FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
}
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the model's input; the numbers equal timm's and torchvision's.

    size: (h, w) in pixels.
    crop_pct: in (0, 1], the part of the resized image that the crop keeps.
    crop_mode: "center" scales the image to cover size / crop_pct and keeps its proportions;
        "squash" scales it to exactly that, whatever its proportions; "border" fits the whole image
        in and fills up with the mean colour; "resize" is "center" with crop_pct 1.
    interpolation: "bicubic", "bilinear" or "lanczos".
    object_size: (h, w) that sets the scale of the image in place of `size`, so that things keep
        their size in pixels; `size` then cuts off, or shows more of the image and around it the
        mean colour. None for `size` itself.
    mean, std: per channel, of values in [0, 1].
    note: a remark for `describe`, of no influence.

    Raises `ValueError` for values outside these.
    """

    size: tuple[int, int]
    crop_pct: float = 0.875
    crop_mode: str = "center"
    interpolation: str = "bicubic"
    mean: tuple[float, float, float] = _MEAN
    std: tuple[float, float, float] = _STD
    note: str = field(default="", compare=False)
    object_size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.crop_mode == "resize":
            object.__setattr__(self, "crop_mode", "center")
            object.__setattr__(self, "crop_pct", 1.0)
        if self.crop_mode not in ("center", "squash", "border"):
            raise ValueError(
                f'crop_mode is "{self.crop_mode}"; use "center", "squash", "border" or "resize".'
            )
        if self.interpolation not in _FILTERS:
            raise ValueError(
                f'interpolation is "{self.interpolation}"; use "bicubic", "bilinear" or "lanczos".'
            )
        if not 0 < self.crop_pct <= 1:
            raise ValueError(f"crop_pct is {self.crop_pct}; it must be above 0 and at most 1.")
        for name, size in (("size", self.size), ("object_size", self.object_size or self.size)):
            if len(size) != 2 or not all(isinstance(x, int) and x > 0 for x in size):
                raise ValueError(f"{name} is {size}; give (height, width) in pixels, from 1 up.")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError("mean and std need three numbers each, those of std above 0.")

    def picture(self, image: Image.Image) -> np.ndarray:
        """(h, w, 3) uint8: the part of an RGB image that the model sees, before normalisation."""
        kept, extent, (left, top) = self._steps(image.size)
        image = image if kept == (0, 0, *image.size) else image.crop(kept)
        resized = image.resize(extent, _FILTERS[self.interpolation])
        fill = (0, 0, 0)
        if self.crop_mode == "border" or self.object_size:
            fill = tuple(round(255 * v) for v in self.mean)
        height, width = self.size
        seen = Image.new("RGB", (width, height), fill)
        seen.paste(resized, (-left, -top))
        return np.array(seen)

    def boxes(self, boxes: np.ndarray, extent: tuple[int, int]) -> np.ndarray:
        """What of boxes in an image the model sees: (k, 4) in pixels of the image -> (m, 4) in
        pixels of `picture`; left, top, right and bottom edges both times.

        extent: (width, height) of the image.
        """
        kept, (width, height), (left, top) = self._steps(extent)
        scale = width / (kept[2] - kept[0]), height / (kept[3] - kept[1])
        moved = (boxes - np.tile(kept[:2], 2)) * np.tile(scale, 2) - np.tile((left, top), 2)
        moved = moved.clip(0, np.tile(self.size[::-1], 2))
        return moved[(moved[:, 2:] > moved[:, :2]).all(axis=1)]

    def _steps(
        self, extent: tuple[int, int]
    ) -> tuple[tuple[int, int, int, int], tuple[int, int], tuple[int, int]]:
        """What is done to an image of (width, height): the part that is kept (left, top, right,
        bottom), the (width, height) that this is scaled to, and where in it the picture begins
        (left, top), below 0 where it is filled up.
        """
        h, w = self.object_size or self.size
        scaled = (math.floor(h / self.crop_pct), math.floor(w / self.crop_pct))
        kept = (0, 0, *extent)
        if self.crop_mode == "center":
            kept = _less_elongated(extent, self.size)
        resized = self._resized((kept[2] - kept[0], kept[3] - kept[1]), scaled)
        return kept, resized, _centre(resized, self.size)

    def _resized(self, extent: tuple[int, int], scaled: tuple[int, int]) -> tuple[int, int]:
        """(width, height) after scaling; `scaled` is the (height, width) to cover or to fit."""
        h, w = scaled
        if self.crop_mode == "squash":
            return w, h
        if self.crop_mode == "center" and h == w:
            # torchvision: the short side exact, the long side rounded down
            short = min(extent)
            width, height = (int(h * side / short) for side in extent)
            return (h, height) if extent[0] == short else (width, h)
        choose = max if self.crop_mode == "border" else min
        ratio = choose(extent[1] / h, extent[0] / w)
        return max(1, round(extent[0] / ratio)), max(1, round(extent[1] / ratio))

    def tensor(self, pictures: np.ndarray | Sequence[np.ndarray]) -> Tensor:
        """(n, 3, h, w) float32, normalised, from pictures (n, h, w, 3) uint8."""
        stacked = torch.from_numpy(np.stack(list(pictures))).permute(0, 3, 1, 2)
        mean, std = self._moments(torch.device("cpu"), torch.float32)
        return (stacked.contiguous().float() / 255).sub_(mean).div_(std)

    def denormalise(self, tensor: Tensor) -> Tensor:
        """The way back: (n, 3, h, w) normalised -> values that are in [0, 1] for real pictures.

        Differentiable, on the tensor's device and of its dtype; nothing is clipped.
        """
        mean, std = self._moments(tensor.device, tensor.dtype)
        return tensor * std + mean

    def _moments(self, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        mean, std = (torch.tensor(v, device=device, dtype=dtype) for v in (self.mean, self.std))
        return mean.view(3, 1, 1), std.view(3, 1, 1)

    def describe(self) -> str:
        """One line for captions and reports."""
        h, w = self.size
        shown = {
            "center": f"short side to size / {self.crop_pct:g}, centre crop",
            "squash": f"squashed to size / {self.crop_pct:g}, centre crop",
            "border": f"fitted into size / {self.crop_pct:g}, mean colour around",
        }[self.crop_mode]
        if self.crop_mode == "center" and self.crop_pct == 1:
            shown = "short side to size, centre crop"
        mean, std = (" ".join(f"{v:.3g}" for v in values) for values in (self.mean, self.std))
        if self.object_size:
            shown += f", scaled as for {self.object_size[0]} x {self.object_size[1]} px"
        text = f"{h} x {w} px, {shown}, {self.interpolation}, mean {mean}, std {std}"
        return f"{text} ({self.note})" if self.note else text

    def as_dict(self) -> dict[str, Any]:
        """What decides the numbers, for `meta` and hashes."""
        scale = {"object_size": list(self.object_size)} if self.object_size else {}
        return {
            **scale,
            "size": list(self.size),
            "crop_pct": self.crop_pct,
            "crop_mode": self.crop_mode,
            "interpolation": self.interpolation,
            "mean": list(self.mean),
            "std": list(self.std),
        }

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> "Preprocessing":
        """What `as_dict` told, as results keep it."""
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in stored.items()})


def preprocessing_for(model: nn.Module, size: int | tuple[int, int] | None = None) -> Preprocessing:
    """The preprocessing a model was trained for, at its own size or at another.

    A model that normalises by itself before the network in it whose configuration is known is
    given what makes that network's input right. Without a pretrained configuration: ImageNet mean
    and std, 224 px, crop_pct 0.875. A note says so in both cases.
    """
    model = bare(model)
    given = (size, size) if isinstance(size, int) else size
    given = given or getattr(model, "native_size", None)
    if (channels := _channels(model)) != 3:
        raise ValueError(
            f"{type(model).__name__} takes images of {channels} channels, and every image is read "
            "as RGB, of 3; wrap it in a module that makes its input from RGB."
        )
    if not getattr(model, "pretrained_cfg", None):
        if (inner := _before_inner(model, given)) is not None:
            return inner
        h, w = given or (224, 224)
        return Preprocessing(
            (h, w), note="ImageNet default, as the model has no pretrained configuration"
        )
    cfg: dict[str, Any] = resolve_model_data_config(model)
    h, w = given or cfg["input_size"][-2:]
    return Preprocessing(
        size=(h, w),
        crop_pct=cfg["crop_pct"],
        crop_mode=cfg["crop_mode"] or "center",
        interpolation=cfg["interpolation"],
        mean=tuple(cfg["mean"]),
        std=tuple(cfg["std"]),
    )


def _before_inner(model: nn.Module, given: tuple[int, int] | None) -> Preprocessing | None:
    """The preprocessing for a model around a network whose own is known; None without one, and
    where what is done to the image before is more than scale and shift of its colours.
    """
    named = backbones_in(model)
    network = next(iter(named.values()), None)
    if len(named) != 1 or not getattr(network, "pretrained_cfg", None):
        return None
    own = preprocessing_for(network, given)
    parameter = next(model.parameters(), torch.zeros(()))
    noise = torch.rand(1, 3, *own.size, generator=torch.Generator().manual_seed(0))
    seen: list[Tensor] = []
    for image in (torch.zeros_like(noise), torch.ones_like(noise), noise):
        with torch.no_grad(), inputs(named) as found, stop_before(named.values()):
            model(image.to(parameter))
        args = next(iter(found.values()), ((), {}))[0]
        if not args or not isinstance(args[0], Tensor) or args[0].shape != noise.shape:
            return None
        seen.append(args[0].float().cpu())
    shift = seen[0].mean(dim=(0, 2, 3))
    scale = (seen[1] - seen[0]).mean(dim=(0, 2, 3))
    expected = noise * scale.view(3, 1, 1) + shift.view(3, 1, 1)
    if not torch.allclose(seen[2], expected, rtol=1e-2, atol=1e-2) or min(scale) <= 0:
        return None
    mean, std = (torch.tensor(values) for values in (own.mean, own.std))
    numbers = ((mean + shift * std).tolist(), (scale * std).tolist())
    mean, std = (tuple(round(v, 4) + 0.0 for v in values) for values in numbers)
    note = "" if torch.equal(seen[2], noise) else _INSIDE
    return replace(own, mean=mean, std=std, note=note)


_INSIDE = "the model normalises by itself, and gradients are those to its own input"


def normalisation_of(model: nn.Module | str) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and std of a model, or of one by its name; ImageNet's where it says none."""
    model = bare(model) if isinstance(model, nn.Module) else model
    cfg: Any = getattr(model, "pretrained_cfg", None)
    if isinstance(model, str) and timm.is_model(model):
        cfg = timm.models.get_pretrained_cfg(model, allow_unregistered=True)
        cfg = cfg and cfg.to_dict()
    return (cfg.get("mean", _MEAN), cfg.get("std", _STD)) if cfg else (_MEAN, _STD)


def _channels(model: nn.Module) -> int:
    """Of the input: as the first convolution takes them where these are fewer or more than RGB and
    too few for features, otherwise as the pretrained configuration says.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            if module.in_channels in (1, 2, 4):
                return module.in_channels
            break
    config = getattr(model, "pretrained_cfg", None)
    return config["input_size"][0] if config and config.get("input_size") else 3


def _less_elongated(extent: tuple[int, int], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """An image without the far ends of a strip that the centre crop drops anyway.

    Scaling up a strip of 10 x 1,000,000 pixels would need gigabytes.
    """
    keep = math.ceil(16 * min(extent) * max(size) / min(size))
    if max(extent) <= keep:
        return (0, 0, *extent)
    w, h = (min(side, keep) for side in extent)
    left, top = (extent[0] - w) // 2, (extent[1] - h) // 2
    return left, top, left + w, top + h


def _centre(extent: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """Where (h, w) around the centre of an image begin (left, top), by torchvision's rounding."""
    left, top = (
        round((side - n) / 2) if side >= n else -((n - side) // 2)
        for side, n in zip(extent, reversed(size), strict=True)
    )
    return left, top
