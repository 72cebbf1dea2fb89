"""Run a method over images: chunks, progress, resume, and less at once when memory runs out."""

import dataclasses
import difflib
import hashlib
import inspect
import json
import shutil
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, get_type_hints

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm

from workbench import distributed, methods
from workbench.devices import frozen_eval, home_of, usable
from workbench.fields import checked, read_size
from workbench.images import (
    BadImage,
    Batch,
    Images,
    Preprocessing,
    normalisation_of,
    open_images,
    preprocessing_for,
)
from workbench.memory import out_of_memory
from workbench.methods.method import Method, Partial
from workbench.models import bare
from workbench.paths import BIDIRECTIONAL, CROSS
from workbench.results import (
    Result,
    ResultError,
    canonical_json,
    content_hash,
    file_name,
    load,
    load_arrays,
    provenance,
    save_arrays,
)
from workbench.trace import scans
from workbench.weights import Provenance, create_model, facts_of

CHUNK = 8
"""Images in a chunk when the config has no `chunk`."""

_LOCKS: weakref.WeakKeyDictionary[nn.Module, threading.RLock] = weakref.WeakKeyDictionary()
_LOCKS_LOCK = threading.Lock()

Progress = Callable[[int, int, str | None], None]
"""Called with the images done, their total, and a note or None."""


@dataclass(frozen=True)
class _Chunk:
    """One finished unit of work.

    partial: None when no image of the chunk could be used.
    names: of the images in `partial`.
    skipped: name -> reason.
    batch: images measured at once, None for all of them.
    """

    partial: Partial | None
    names: list[str]
    skipped: dict[str, str]
    notes: list[str]
    batch: int | None


@dataclass(frozen=True)
class _Read:
    """Pictures of one chunk; `skipped` are images that cannot be used, name -> reason."""

    pictures: list[np.ndarray]
    indices: list[int]
    skipped: dict[str, str]
    notes: list[str]
    boxes: list[np.ndarray]


def run(
    method: Method | str,
    model: nn.Module | str,
    /,
    images: Images | Any = "samples",
    config: Any = None,
    *,
    weights: str | PurePath | None = None,
    pretrained: bool | None = None,
    size: int | tuple[int, int] | None = None,
    limit: int | None = None,
    values: str | None = None,
    preprocessing: Preprocessing | None = None,
    out: str | PurePath | None = None,
    device: str | torch.device | None = None,
    progress: Progress | bool | None = None,
    facts: Mapping[str, Any] | None = None,
    force: bool = False,
    labelled: bool = False,
    **fields: Any,
) -> Result:
    """Measure `images` chunk by chunk and combine what was found, in the order of the images.

    method: an object such as `workbench.erf`, or its name.
    model: any module that takes images (b, 3, h, w), or a name as of `create_model`.
    images: an `Images`, or anything that `open_images` takes.
    config: the method's frozen dataclass, its defaults without one; its field `chunk`, if any, sets
        the images in a chunk.
    weights, pretrained: of a model by its name, see `create_model`; by default "auto", as on the
        command line.
    size: of the images in pixels, by default the model's own, or that of tensors.
    limit, values: as of `open_images`.
    preprocessing: by default the model's own, or what the method's protocol asks for.
    out: a folder. Finished chunks are kept below it until the run is complete, so that an
        interrupted run goes on where it stopped; the result is written to
        `<method>-<model>-<hash8>.npz`, and an existing file of that name is returned without
        measuring.
    device: where to run, by default where the model is.
    progress: called as it goes on; True for a bar.
    facts: what the caller knows of the model ("model", "weights_sha256", "backend" ...): part of
        `meta` and of hash8. Without "weights_sha256" the parameters themselves are hashed.
    force: measure again whatever is stored.
    labelled: count right answers, where a method would otherwise ask for no labels.
    fields: of the config.

    Processes that torchrun started (`workbench.distributed.join`) share the chunks and all return
    the same result; its bits do not depend on how many they are.

    Images that cannot be used are left out and listed in `meta["skipped"]`. Raises `ValueError`
    when none is left or something does not fit, `TypeError` for an unknown keyword, `ResultError`
    when `out` cannot be written, `MemoryError` when not even one image at a time fits in memory.
    The model comes back as it was, in mode, gradients and device.
    """
    method = methods.get(method) if isinstance(method, str) else method
    config = configured(method, config, fields)
    size = None if size is None else read_size(size)
    if device is not None:
        device = usable(device)
    if not isinstance(images, Images):
        images = open_images(images, limit, values=values, normalisation=normalisation_of(model))
    elif limit is not None:
        images = open_images(images, limit)
    if isinstance(model, str):
        seed = getattr(config, "seed", 0)
        built_for = size or method.own_size(config) or images.size
        weights = "auto" if weights is None and pretrained is None else weights
        model = create_model(model, weights, pretrained=pretrained, seed=seed, img_size=built_for)
        known = facts_of(model)
    elif not isinstance(model, nn.Module):
        raise ValueError(
            f"a model is a module or the name of one, not {type(model).__name__}; several models "
            "are a workbench.Study(model=[...])"
        )
    elif weights is not None or pretrained is not None:
        raise ValueError("weights go with the name of a model; this module has its own")
    else:  # it may have been trained since it was made, so that its file says too little
        made = isinstance(getattr(model, "provenance", None), Provenance)
        known = {**facts_of(model), "state_sha256": _state_hash(model)} if made else {}
    bar = Bar(method.name)
    with closing(bar):
        found = list(
            parts(
                method, model, images, config, size=size, preprocessing=preprocessing, out=out,
                device=device, progress=bar if progress is True else progress or None,
                facts=known if facts is None else facts, force=force, labelled=labelled,
            )
        )  # fmt: skip
    return joined(method, found, config, out)


def configured(method: Method, config: Any, fields: Mapping[str, Any]) -> Any:
    """A method's configuration with these fields.

    Raises:
        TypeError: for a field that it has not, naming the nearest.
        ValueError: for a value that a field cannot have.
    """
    config = method.Config() if config is None else config
    hints = get_type_hints(method.Config) if fields else {}
    for name in fields:
        if name not in hints:
            own = [*inspect.signature(run).parameters][2:-1]
            near = difflib.get_close_matches(name, [*hints, *own], 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(hints)}"
            raise TypeError(f"{method.name} has no option {name!r}; {hint}")
    changes = {name: checked(name, value, hints[name]) for name, value in fields.items()}
    return dataclasses.replace(config, **changes) if changes else config


def prepared_for(
    method: Method,
    model: nn.Module,
    images: Images,
    config: Any,
    size: int | tuple[int, int] | None = None,
) -> Preprocessing:
    """How images are brought to a size, the model's by default; tensors are as the model takes
    them, unless another size than theirs is asked for.
    """
    found = preprocessing_for(model, size or method.own_size(config) or images.size)
    if images.size == found.size:
        found = dataclasses.replace(found, crop_pct=1.0, crop_mode="center")
    return method.prepared(found, config)


def parts(
    method: Method,
    model: nn.Module,
    images: Images | Any,
    config: Any,
    *,
    size: int | tuple[int, int] | None = None,
    preprocessing: Preprocessing | None = None,
    out: str | PurePath | None = None,
    labelled: bool = False,
    facts: Mapping[str, Any] | None = None,
    **options: Any,
) -> Iterator[Any]:
    """What a run is made of, part by part as it is measured; arguments as of `run`.

    Raises:
        ValueError: at the call, when something of the input does not fit.
    """
    images = images if isinstance(images, Images) else open_images(images)
    model = _measurable(model)
    if preprocessing is None:
        preprocessing = prepared_for(method, model, images, config, size)

    def run_over(
        method: Method,
        model: nn.Module,
        images: Images,
        config: Any,
        *,
        preprocessing: Preprocessing | None = None,
        facts: Mapping[str, Any] | None = None,
        folder: str | None = None,
    ) -> Result:
        place = out if out is None or folder is None else Path(out) / folder
        told = {**known, **(facts or {})}
        return _run(
            method, model, images, config, preprocessing or preprocessing_for(model), place,
            facts=told, **options,
        )  # fmt: skip

    known = dict(facts or {})
    return method.parts(run_over, model, images, config, preprocessing, labelled)


def joined(
    method: Method, found: Sequence[Any], config: Any, out: str | PurePath | None = None
) -> Result:
    """The result of all parts, stored in `out` where the parts are not the result themselves."""
    result = method.join(found, config).as_stored()
    name = method.file_name(result)
    if out is not None and name is not None and distributed.rank() == 0:
        result.save(Path(out) / name)
    return result


def _run(
    method: Method,
    model: nn.Module,
    images: Images,
    config: Any,
    preprocessing: Preprocessing,
    out: str | PurePath | None = None,
    device: str | torch.device | None = None,
    progress: Progress | None = None,
    facts: Mapping[str, Any] | None = None,
    force: bool = False,
) -> Result:
    """One run over images."""
    home = home_of(model)
    where = usable(device) if device is not None else home.device
    facts = _complete(facts, model)
    identity = {
        "method": method.name,
        "config": config,
        "chunk": _chunk_size(config),
        "facts": facts,
        "images": images.fingerprint,
        "labels": images.targets_of(model),
        "preprocessing": preprocessing.as_dict(),
        "dtype": str(home.dtype).removeprefix("torch."),
        "device": where.type,
    }
    hash8 = content_hash(identity)
    report = progress if progress and distributed.rank() == 0 else _silent
    store = file = None
    if out is not None:
        file = Path(out) / file_name(method.name, str(facts["model"]), hash8)
        store = Path(out) / ".chunks" / hash8
    stored = distributed.broadcast(lambda: _begin(file, store, force))
    if stored is not None:
        assert file is not None
        report(len(images), len(images), f"Read from {file.name}, where it was stored.")
        return stored

    work = _Work(method, model, images, config, preprocessing, where, home.dtype)
    parts = _chunks(len(images), _chunk_size(config))

    def share() -> dict[int, _Chunk]:
        try:
            with torch.inference_mode(False), _alone(model), frozen_eval(model, where):
                return _measure(work, parts, store, report)
        finally:
            if store:
                _remove_empty(store)

    def whole(shares: list[dict[int, _Chunk]]) -> Result:
        chunks = dict(sorted(item for found in shares for item in found.items())).values()
        skipped = {name: reason for chunk in chunks for name, reason in chunk.skipped.items()}
        partials = [chunk.partial for chunk in chunks if chunk.partial is not None]
        if not partials:
            if store:
                _discard(store)
            first = "; ".join(f"{name} {reason}" for name, reason in list(skipped.items())[:3])
            raise ValueError(f"None of the {len(images)} images can be used: {first}.")
        notes = dict.fromkeys(note for chunk in chunks for note in chunk.notes)
        names = [name for chunk in chunks for name in chunk.names]
        found = {**meta, "skipped": skipped, "notes": list(notes), "images_used": len(names)}
        found["images"] = {**meta["images"], "names": names}
        # as JSON gives it back, so that a new and a stored result have the same meta
        measured = Partial.joined(partials)
        try:
            result = method.combine(measured, config, json.loads(canonical_json(found)))
            result = result.as_stored()
        except ValueError:
            if store:
                _discard(store)
            raise
        if file and store:
            result.save(file)
            _discard(store)
        return result

    meta = {
        "method": method.name,
        "model": facts["model"],
        "facts": facts,
        "config": _as_dict(config),
        "chunk": _chunk_size(config),
        "preprocessing": preprocessing.as_dict(),
        "images": {
            "source": images.describe(),
            "count": len(images),
            "fingerprint": images.fingerprint,
        },
        "dtype": identity["dtype"],
        "device": _device_name(where),
        "hash": hash8,
        "provenance": provenance(),
    }
    return distributed.gather_broadcast(share, whole)


def _begin(file: Path | None, store: Path | None, force: bool) -> Result | None:
    """The stored result, or None when it has to be measured and there is a place to write it."""
    if file is None or store is None:
        return None
    if not force and (result := _stored(file)) is not None:
        _discard(store)  # a run that was killed just after it wrote the result left its chunks
        return result
    if force:
        shutil.rmtree(store, ignore_errors=True)
    _check_writable(store, file)
    return None


def _measure(
    work: "_Work", parts: Sequence[range], store: Path | None, report: Progress
) -> dict[int, _Chunk]:
    """This process's share of the chunks, by number; in the first process stored ones too."""
    places = {number: store / f"{number:05d}.npz" for number in range(len(parts)) if store}
    chunks: dict[int, _Chunk] = {}
    done, total = 0, parts[-1].stop
    if distributed.rank() == 0:
        for number, place in places.items():
            chunk = _read_chunk(place)
            if chunk is not None:
                work.keep_small(chunk.batch)
                chunks[number] = chunk
                done += len(parts[number])
    report(done, total, f"{done} of {total} images are from an earlier run." if done else None)
    missing = distributed.broadcast(lambda: [n for n in range(len(parts)) if n not in chunks])
    mine = missing[distributed.rank() :: distributed.count()]
    for number, pictures in zip(mine, _prefetch(work.read, [parts[n] for n in mine]), strict=True):
        chunk = chunks[number] = work.measure(pictures)
        if store:
            _write_chunk(places[number], chunk)
        done += len(parts[number]) * distributed.count()
        report(min(done, total), total, " ".join(_remarks(chunk)) or None)
    return chunks


def _prefetch(function: Callable[[range], Any], items: Sequence[range]) -> Iterator[Any]:
    """`function` of every item in order; a thread makes the next while the last is used."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(function, items[0]) if items else None
        for following in (*items[1:], None):
            if coming is not None:
                found = coming.result()
                coming = None if following is None else pool.submit(function, following)
                yield found


class Bar:
    """A progress bar on standard error or in a notebook, with notes above it; to be closed where an
    error may leave it unfinished.
    """

    def __init__(self, description: str) -> None:
        self.description = description
        self.bar: tqdm | None = None

    def __call__(self, done: int, total: int, note: str | None) -> None:
        if self.bar is None:  # what is done already was there before
            options = {"desc": self.description, "unit": "image", "file": sys.stderr}
            self.bar = tqdm(total=total, initial=done, **options)
        if note:
            tqdm.write(note, file=sys.stderr)
        self.bar.update(done - self.bar.n)
        if done >= total:
            self.close()

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
        self.bar = None


class _Work:
    """Loading and measuring, chunk after chunk; remembers how many images fit in memory."""

    def __init__(
        self,
        method: Method,
        model: nn.Module,
        images: Images,
        config: Any,
        preprocessing: Preprocessing,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.method, self.model, self.images, self.config = method, model, images, config
        self.preprocessing, self.device, self.dtype = preprocessing, device, dtype
        self.labels = images.targets_of(model)
        self.batch: int | None = None

    def keep_small(self, batch: int | None) -> None:
        """Go on with batches of at most this many images."""
        if batch is not None:
            self.batch = batch if self.batch is None else min(self.batch, batch)

    def read(self, indices: Sequence[int]) -> _Read:
        found = _Read([], [], {}, [], [])
        for i in indices:
            try:
                image, remarks = self.images.read(i)
            except BadImage as bad:
                found.skipped[bad.name] = bad.reason
                continue
            found.pictures.append(self.preprocessing.picture(image))
            found.indices.append(i)
            # asked for per chunk, so that a resumed run has the notes of all chunks
            found.notes.extend(remarks)
            if self.images.boxes is not None:
                boxes, remarks = self.images.boxes_of(i, image.size)
                found.boxes.append(self.preprocessing.boxes(boxes, image.size))
                found.notes.extend(remarks)
        return found

    def measure(self, found: _Read) -> _Chunk:
        kept, notes = found.indices, found.notes
        names = [self.images.names[i] for i in kept]
        if not kept:
            return _Chunk(None, names, found.skipped, notes, self.batch)
        batch = Batch(
            tensor=self.preprocessing.tensor(found.pictures).to(self.device, self.dtype),
            pictures=np.stack(found.pictures),
            names=tuple(names),
            labels=None if self.labels is None else tuple(self.labels[i] for i in kept),
            indices=tuple(kept),
            boxes=None if self.images.boxes is None else tuple(found.boxes),
        )
        partial = self._in_parts(batch, notes)
        return _Chunk(partial, names, found.skipped, notes, self.batch)

    def _in_parts(self, batch: Batch, notes: list[str]) -> Partial:
        parts: list[Partial] = []
        start = 0
        while start < len(batch):
            part = batch.part(start, start + (self.batch or len(batch)))
            partial = self._try(part)
            if partial is not None:
                parts.append(partial)
                start += len(part)
                continue
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            if len(part) == 1:
                h, w = self.preprocessing.size
                raise MemoryError(
                    f"One image of {h} x {w} pixels does not fit in the memory of {self.device} "
                    f"for {self.method.name}; choose a smaller size or a device with more memory."
                )
            self.batch = len(part) // 2
            notes.append(
                f"{len(part)} images at once did not fit in the memory of {self.device}; "
                f"measured {self.batch} at a time."
            )
        return Partial.joined(parts)

    def _try(self, batch: Batch) -> Partial | None:
        """What the method measured, or None when memory ran out.

        The error is gone on return, and with it the tensors that its traceback held.
        """
        try:
            measured = self.method.measure(self.model, batch, self.config)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            return None
        arrays = {name: np.asarray(value) for name, value in measured.arrays.items()}
        for name, value in arrays.items():
            if value.ndim == 0 or len(value) not in (0, len(batch)):
                raise ValueError(
                    f'{self.method.name} measured "{name}" of shape {value.shape} on {len(batch)} '
                    "images; the first axis must be the images, or empty."
                )
        # as a chunk file gives them back, so that a resumed run has the same constants
        return Partial(arrays, json.loads(json.dumps(measured.constants)))


def _chunks(count: int, size: int) -> list[range]:
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def _chunk_size(config: Any) -> int:
    size = config.get("chunk") if isinstance(config, Mapping) else getattr(config, "chunk", None)
    size = CHUNK if size is None else size
    if not isinstance(size, int) or size < 1:
        raise ValueError(f"chunk is {size!r}; give the number of images in a chunk, from 1 up.")
    return size


def _read_chunk(place: Path) -> _Chunk | None:
    """A finished chunk; None when it is not there or damaged, and has to be measured."""
    try:
        arrays, meta = load_arrays(place)
        partial = Partial(arrays, json.loads(meta["constants"]))
        return _Chunk(
            partial if meta["names"] else None,
            meta["names"],
            meta["skipped"],
            meta["notes"],
            meta["batch"],
        )
    except (ResultError, KeyError):
        return None


def _write_chunk(place: Path, chunk: _Chunk) -> None:
    partial = chunk.partial or Partial({})
    meta = {
        "names": chunk.names,
        "constants": json.dumps(partial.constants),  # a text, as files hold dicts in another order
        "skipped": chunk.skipped,
        "notes": chunk.notes,
        "batch": chunk.batch,
    }
    try:
        save_arrays(place, partial.arrays, meta)
    except ResultError:
        # another run of the same command may be done, and have removed the folder with its chunks
        if place.parent.is_dir():
            raise


def _remarks(chunk: _Chunk) -> Iterator[str]:
    yield from (f"Skipped: {name} {reason}." for name, reason in chunk.skipped.items())
    yield from chunk.notes


def _stored(file: Path) -> Result | None:
    if not file.exists():
        return None
    try:
        return load(file)
    except ResultError:
        return None


def _check_writable(store: Path, file: Path) -> None:
    """Try now, because an hour of measuring comes before the first result is written."""
    if file.is_dir():
        raise ResultError(f"{file} is a folder, where the result should go; remove it.")
    probe = store / "probe.npz"
    save_arrays(probe, {}, {})
    probe.unlink(missing_ok=True)


def _discard(store: Path) -> None:
    shutil.rmtree(store, ignore_errors=True)
    _remove_empty(store)


def _remove_empty(store: Path) -> None:
    """The folder of a run's chunks and the one above, where nothing is in them."""
    with suppress(OSError):  # there are chunks, or another run keeps its own beside them
        store.rmdir()
    with suppress(OSError):
        store.parent.rmdir()


def _alone(model: nn.Module) -> threading.RLock:
    """Held by the one run that uses the model: pages of the app share models between threads,
    and modes, hooks and device of a model hold for all of them.
    """
    with _LOCKS_LOCK:
        return _LOCKS.setdefault(model, threading.RLock())


def _measurable(model: nn.Module) -> nn.Module:
    """The model without the wrappers that only say how it runs.

    Raises:
        ValueError: for one that cannot be looked into, or that has no weights.
    """
    model = bare(model)
    kind = type(model).__name__
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise ValueError(
            f"{kind} holds TorchScript, whose layers cannot be looked into: give the "
            "torch.nn.Module that it was made from"
        )
    try:
        inspect.signature(model.forward).bind(None)
    except TypeError:
        raise ValueError(
            f"{kind} takes something else than one batch of images: wrap it in a module that makes "
            "its arguments of one, or say how by inputs(image) in an adapter (docs/your-model.md)"
        ) from None
    tensors = (*model.parameters(), *model.buffers())
    if any(tensor.is_meta for tensor in tensors):
        raise ValueError(
            f"{kind} has parameters without values (on the meta device): build it on a device, or "
            "give it weights first"
        )
    if any(tensor.is_inference() for tensor in tensors):
        raise ValueError(
            f"{kind} was built or loaded in torch.inference_mode, so that no gradient can pass its "
            "parameters: build it outside"
        )
    return model


def _complete(facts: Mapping[str, Any] | None, model: nn.Module) -> dict[str, Any]:
    complete = dict(facts or {})
    cfg = getattr(model, "pretrained_cfg", None) or {}
    complete.setdefault("model", cfg.get("architecture") or type(model).__name__)
    if not complete.get("weights_sha256"):
        # without it another model's stored result could be taken for this one's
        complete["state_sha256"] = _state_hash(model)
    # The same parameters scanned along other paths are another model.
    directions = tuple(dict.fromkeys(site.direction for site in scans(model)))
    if directions not in ((), ("row",), BIDIRECTIONAL, CROSS):
        complete["directions"] = list(directions)
    return complete


def _state_hash(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _as_dict(config: Any) -> Any:
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return dataclasses.asdict(config)
    return config


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    return device.type


def _silent(done: int, total: int, note: str | None) -> None:
    pass
