"""The recipe behind the shipped checkpoints: one plain schedule for any registered model.

Random crop and flip, label smoothing, AdamW, warm-up and cosine by steps, gradient clipping, an
exponential moving average of the weights. Data order and augmentation are functions of the seed
and the step alone, so a resumed run gives the numbers of an unbroken one.
"""

import csv
import dataclasses
import io
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor, nn

from workbench.images import Images, Preprocessing, preprocessing_for
from workbench.results import atomic_write, content_hash

_RANGES = {
    "size": (4, 4096),
    "load_size": (4, 4096),
    "epochs": (0, 1e6),
    "batch_size": (1, 1e6),
    "lr": (0, 1e3),
    "weight_decay": (0, 1e3),
    "warmup": (0, 1),
    "min_crop": (1e-4, 1),
    "label_smoothing": (0, 1),
    "cutmix": (0, 1),
    "clip": (0, 1e9),
    "ema": (0, 1),
    "seed": (0, 2**63 - 1),
}


@dataclass(frozen=True)
class TrainConfig:
    """A training run.

    Attributes:
        scan_paths: the directions of a model that is built with them (VMamba), in place of its own:
            the name of a set, such as hilbert, or names of paths; see `vssm paths`.
        size: side of the training images in pixels.
        load_size: side at which images are kept in memory; crops are cut from these.
        epochs: passes over the data.
        batch_size: images in a step.
        lr: peak learning rate.
        weight_decay: of matrices and convolutions; A, D, step biases, norms and biases have none.
        warmup: share of all steps in which the learning rate rises from zero.
        min_crop: smallest area of a random crop, as a share of the image.
        label_smoothing: share of the target given to all classes.
        cutmix: share of the batches in which a rectangle of every image comes from another image
            and the target is mixed by area (Yun et al. 2019, arXiv 1905.04899, alpha = 1).
        bfloat16: whether convolutions and matrix products run in bfloat16 (autocast; weights,
            scans, norms and the loss stay in float32): 1.3 to 2.1 times as fast on a CPU with
            AVX512-BF16.
        clip: largest gradient norm.
        ema: decay of the moving average of the weights.
        snapshots: epochs after which the averaged weights are kept, 0 for the start.
        seed: of initial weights, data order and augmentation.
    """

    scan_paths: tuple[str, ...] = ()
    size: int = 64
    load_size: int = 96
    epochs: float = 60
    batch_size: int = 64
    lr: float = 2e-3
    weight_decay: float = 0.05
    warmup: float = 0.05
    min_crop: float = 0.35
    label_smoothing: float = 0.1
    cutmix: float = 0.0
    bfloat16: bool = False
    clip: float = 1.0
    ema: float = 0.998
    snapshots: tuple[int, ...] = (0, 1, 3, 10)
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise ValueError for a value outside its range."""
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name} is {value}; give {low:g} to {high:g}")


@dataclass(frozen=True)
class Data:
    """Decoded training images: pixels (n, load_size, load_size, 3) uint8 and labels (n,) int64.

    `names` are those of the classes, where they are known.
    """

    pixels: Tensor
    labels: Tensor
    classes: int
    fingerprint: str
    names: Sequence[str] = ()


def read_data(images: Images, load_size: int, progress: Callable[[int, int], None] | None = None):
    """Decode labelled images once, short side to `load_size`, centre crop.

    Raises:
        ValueError: when the images carry no labels.
    """
    if images.labels is None:
        raise ValueError(
            f"{images.describe()} carries no labels; train on a pack or a folder of class folders"
        )
    cut = Preprocessing(size=(load_size, load_size), crop_pct=1.0)
    pixels = np.empty((len(images), load_size, load_size, 3), np.uint8)
    for i in range(len(images)):
        pixels[i] = cut.picture(images.load(i))
        if progress and (i + 1) % 500 == 0:
            progress(i + 1, len(images))
    labels = torch.tensor(images.labels)
    return Data(
        torch.from_numpy(pixels),
        labels,
        int(labels.max()) + 1,
        images.fingerprint,
        tuple(images.classes or ()),
    )


def _generator(*numbers: int) -> torch.Generator:
    """A generator that is a function of `numbers`."""
    return torch.Generator().manual_seed(int(content_hash(list(numbers)), 16))


def crops(pixels: Tensor, size: int, min_crop: float, generator: torch.Generator) -> Tensor:
    """Random square crops, flipped half of the time: (n, s, s, 3) uint8 -> (n, 3, size, size).

    A crop covers `min_crop` to all of the image's area. Values in [0, 1].
    """
    n = len(pixels)
    side = torch.empty(n).uniform_(min_crop, 1.0, generator=generator).sqrt()
    shift = (1 - side)[:, None] * (2 * torch.rand(n, 2, generator=generator) - 1)
    flip = torch.where(torch.rand(n, generator=generator) < 0.5, -1.0, 1.0)
    affine = torch.zeros(n, 2, 3)
    affine[:, 0, 0], affine[:, 1, 1] = side * flip, side
    affine[:, :, 2] = shift
    grid = F.affine_grid(affine, [n, 3, size, size], align_corners=False)
    x = pixels.permute(0, 3, 1, 2).float() / 255
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def cutmix(
    images: Tensor, share: float, generator: torch.Generator
) -> tuple[Tensor, Tensor, float]:
    """With probability `share` paste a rectangle of other images of the batch into each image.

    The rectangle has the image's aspect and, before it is cut at the edges, an area that is uniform
    in [0, 1] of the image's.

    Args:
        images: (b, 3, h, w).

    Returns:
        the images; the index (b,) of the image that each rectangle came from; the share of the
        area that is still the image's own, in [0, 1].

    Source: Yun et al., "CutMix", arXiv 1905.04899, section 3.1.
    """
    draw, area, y, x = torch.rand(4, generator=generator).tolist()
    partner = torch.randperm(len(images), generator=generator)
    if draw >= share:
        return images, partner, 1.0
    h, w = images.shape[-2:]
    half_h, half_w = h * math.sqrt(area) / 2, w * math.sqrt(area) / 2
    top, bottom = (round(min(max(y * h + s * half_h, 0), h)) for s in (-1, 1))
    left, right = (round(min(max(x * w + s * half_w, 0), w)) for s in (-1, 1))
    mixed = images.clone()
    mixed[..., top:bottom, left:right] = images[partner, :, top:bottom, left:right]
    return mixed, partner, 1 - (bottom - top) * (right - left) / (h * w)


def learning_rate(step: int, steps: int, config: TrainConfig) -> float:
    """Linear warm-up, then cosine to 1 % of the peak."""
    warm = max(1, round(config.warmup * steps))
    if step < warm:
        return config.lr * (step + 1) / warm
    done = (step - warm) / max(1, steps - warm)
    return config.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


def optimizer_of(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW with weight decay on weights of two or more dimensions, A, D and the like excepted."""
    exempt = set(model.no_weight_decay()) if hasattr(model, "no_weight_decay") else set()
    decayed, plain = [], []
    for name, parameter in model.named_parameters():
        (plain if parameter.ndim < 2 or name in exempt else decayed).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.99))


def run_identity(options: Mapping, fingerprint: str, start: str | None = None) -> str:
    """What tells one run from another: its configuration, its images, the weights it starts from.

    Args:
        options: field of `TrainConfig` -> value.
        fingerprint: of the training images.
        start: SHA-256 of the file of the first weights; None for an initialisation.
    """
    return content_hash([options, fingerprint, *([start] if start else [])])


def outline(model: nn.Module) -> str:
    """What tells one model from another: the hash of its class, and of names and shapes."""
    shapes = {name: list(value.shape) for name, value in model.state_dict().items()}
    return content_hash([type(model).__name__, shapes])


def _in_order(file: bytes) -> bytes:
    """A safetensors file with its metadata sorted: the library writes it in a random order."""
    length = int.from_bytes(file[:8], "little")
    header = json.loads(file[8 : 8 + length])
    if "__metadata__" in header:
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # as the format asks, so that numbers begin at whole words
    return len(text).to_bytes(8, "little") + text + file[8 + length :]


class Trainer:
    """Trains a model step by step and keeps everything needed to go on in `out`.

    `start` is the SHA-256 of the file that the model's weights came from, None for a model that was
    just initialised.

    Files: `checkpoint.pt` (state), `curve.csv` (step, epoch, loss, lr, seconds),
    `snapshots/epoch-N.safetensors` and, at the end, `weights.safetensors` (averaged weights).
    """

    def __init__(
        self,
        model: nn.Module,
        data: Data,
        config: TrainConfig,
        out: Path,
        device: str = "cpu",
        start: str | None = None,
    ) -> None:
        self.config, self.data, self.out, self.start = config, data, out, start
        self.device = torch.device(device)
        # channels-last convolutions train 1.3 to 1.4 times as fast on a CPU
        model = model.to(self.device, memory_format=torch.channels_last)
        self.model = model.train().requires_grad_(True)
        self.optimizer = optimizer_of(model, config)
        self.per_epoch = len(data.labels) // config.batch_size
        if not self.per_epoch:
            raise ValueError(
                f"a batch of {config.batch_size} is more than the {len(data.labels)} images; "
                "choose a smaller batch_size"
            )
        self.steps = max(1, round(config.epochs * self.per_epoch))
        self.step = 0
        self.seconds = 0.0
        self.average = {k: v.detach().clone() for k, v in model.state_dict().items()}
        self.curve: list[list[float]] = []
        norm = preprocessing_for(model, config.size)
        self.mean = torch.tensor(norm.mean, device=self.device)[:, None, None]
        self.std = torch.tensor(norm.std, device=self.device)[:, None, None]
        self.identity = run_identity(dataclasses.asdict(config), data.fingerprint, start)
        out.mkdir(parents=True, exist_ok=True)
        if self.checkpoint.is_file():
            self._resume()
        elif 0 in config.snapshots:
            self.save_weights(out / "snapshots" / "epoch-0.safetensors")

    @property
    def checkpoint(self) -> Path:
        return self.out / "checkpoint.pt"

    def _resume(self) -> None:
        try:
            state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
            identity, known = state["identity"], state.get("outline", outline(self.model))
        except Exception as error:  # a damaged file raises nearly anything
            raise ValueError(
                f"{self.checkpoint} is damaged ({type(error).__name__}); remove it to begin anew"
            ) from error
        if known != outline(self.model):
            raise ValueError(
                f"{self.checkpoint} belongs to another model; choose another --out or remove it"
            )
        if identity != self.identity:
            raise ValueError(
                f"{self.checkpoint} belongs to another configuration or data set; "
                "choose another --out or remove it"
            )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average, self.step = state["average"], state["step"]
        self.seconds, self.curve = state["seconds"], state["curve"]

    def save(self) -> None:
        """Write the checkpoint and the curve, each complete or not at all."""
        state = {
            "identity": self.identity,
            "outline": outline(self.model),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
            "step": self.step,
            "seconds": self.seconds,
            "curve": self.curve,
        }
        with atomic_write(self.checkpoint) as unfinished:
            torch.save(state, unfinished)
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["step", "epoch", "loss", "lr", "seconds"])
        writer.writerows(self.curve)
        with atomic_write(self.out / "curve.csv") as unfinished:
            unfinished.write_text(text.getvalue(), newline="")

    def save_weights(self, path: Path) -> Path:
        """Write the averaged weights as safetensors, with how they were made in the metadata."""
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {k: v.cpu().contiguous() for k, v in self.average.items()}
        metadata = {
            "recipe": json.dumps({**dataclasses.asdict(self.config), "classes": self.data.names}),
            "steps": str(self.step),
            "data": self.data.fingerprint,
            **({"start_sha256": self.start} if self.start else {}),
        }
        with atomic_write(path) as unfinished:
            unfinished.write_bytes(_in_order(save(tensors, metadata)))
        return path

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Images (b, 3, size, size), normalised, and labels of a step."""
        epoch, place = divmod(step, self.per_epoch)
        order = torch.randperm(
            len(self.data.labels), generator=_generator(self.config.seed, 1, epoch)
        )
        chosen = order[place * self.config.batch_size : (place + 1) * self.config.batch_size]
        augment = _generator(self.config.seed, 2, step)
        x = crops(self.data.pixels[chosen], self.config.size, self.config.min_crop, augment)
        x = ((x.to(self.device) - self.mean) / self.std).to(memory_format=torch.channels_last)
        return x, self.data.labels[chosen].to(self.device)

    def train_step(self) -> float:
        """One step; returns its loss."""
        x, labels = self.batch(self.step)
        rate = learning_rate(self.step, self.steps, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        torch.manual_seed(int(content_hash([self.config.seed, 3, self.step]), 16))  # drop path
        draws = _generator(self.config.seed, 4, self.step)
        x, partner, kept = cutmix(x, self.config.cutmix, draws)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.bfloat16):
            logits = self.model(x).float()
        smooth = self.config.label_smoothing
        loss = F.cross_entropy(logits, labels, label_smoothing=smooth)
        if kept < 1:
            other = F.cross_entropy(logits, labels[partner], label_smoothing=smooth)
            loss = kept * loss + (1 - kept) * other
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        self.optimizer.step()
        self.step += 1
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for key, value in self.model.state_dict().items():
                if value.is_floating_point():
                    self.average[key].lerp_(value, 1 - decay)
                else:
                    self.average[key].copy_(value)
        return loss.item()

    def run(
        self,
        progress: Callable[[int, int, float], None] | None = None,
        save_every: float = 120.0,
        stop_at: int | None = None,
    ) -> None:
        """Train to the end (or to step `stop_at`), saving every `save_every` seconds.

        Args:
            progress: called after every step with (step, steps, loss).
        """
        saved = time.monotonic()
        marks = {epoch * self.per_epoch: epoch for epoch in self.config.snapshots if epoch}
        last = self.steps if stop_at is None else min(stop_at, self.steps)
        while self.step < last:
            start = time.monotonic()
            loss = self.train_step()
            if not math.isfinite(loss):
                raise ValueError(
                    f"the loss is {loss} at step {self.step}; lower the learning rate "
                    f"(lr={self.config.lr})"
                )
            self.seconds += time.monotonic() - start
            if self.step % 20 == 0 or self.step == self.steps:
                rate = self.optimizer.param_groups[0]["lr"]
                epoch = self.step / self.per_epoch
                self.curve.append([self.step, round(epoch, 4), loss, rate, round(self.seconds, 2)])
            if self.step in marks:
                name = f"epoch-{marks[self.step]}.safetensors"
                self.save_weights(self.out / "snapshots" / name)
            if progress:
                progress(self.step, self.steps, loss)
            if time.monotonic() - saved > save_every:
                self.save()
                saved = time.monotonic()
        self.save()
        if self.step == self.steps:
            self.save_weights(self.out / "weights.safetensors")


@torch.no_grad()
def accuracy(
    model: nn.Module,
    images: Images,
    preprocessing: Preprocessing,
    batch_size: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[int, int]:
    """Count the images whose largest logit is their label: (correct, all); one crop each. Images
    of classes that the model does not have are left out.

    Raises:
        ValueError: when the images carry no labels, or of other classes than the model's.
    """
    labels = images.targets_of(model) or []
    known = [i for i, label in enumerate(labels) if label >= 0]
    if not known:
        of = "" if images.labels is None else " of the classes that the model tells apart"
        raise ValueError(f"{images.describe()} carries no labels{of}, so accuracy has no meaning")
    model.eval()
    device = next(model.parameters()).device
    correct = 0
    for start in range(0, len(known), batch_size):
        indices = known[start : start + batch_size]
        pictures = np.stack([preprocessing.picture(images.load(i)) for i in indices])
        found = model(preprocessing.tensor(pictures).to(device)).argmax(dim=1).cpu()
        correct += int((found == torch.tensor([labels[i] for i in indices])).sum())
        if progress:
            progress(indices[-1] + 1, len(images))
    return correct, len(known)
