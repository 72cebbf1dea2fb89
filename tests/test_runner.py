import dataclasses
import json
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from workbench import runner
from workbench.images import Batch, Images, Preprocessing, open_images
from workbench.methods.method import Method, Partial
from workbench.results import Result, ResultError, load
from workbench.runner import Bar, run


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Means(Result):
    kind: ClassVar[str] = "test-means"
    means: np.ndarray
    labels: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Config:
    scale: float = 1.0
    chunk: int = 2


class MeanMethod(Method):
    """Mean of the model's output per image; counts what it was asked for."""

    name = "means"

    def __init__(self, before: Callable[[Batch], None] | None = None) -> None:
        self.batches: list[tuple[int, ...]] = []
        self.before = before

    def measure(self, model: nn.Module, batch: Batch, config: Config) -> Partial:
        if self.before:
            self.before(batch)
        self.batches.append(batch.indices)
        with torch.no_grad():
            out = model(batch.tensor).mean(dim=(1, 2, 3)) * config.scale
        arrays = {"means": out.double().numpy()}
        if batch.labels is not None:
            arrays["labels"] = np.array(batch.labels)
        return Partial(arrays, {"scale": config.scale, "axes": {"y": 1, "x": 2}})

    def combine(self, measured: Partial, config: Config, meta: dict[str, Any]) -> Means:
        assert list(measured.constants) == ["scale", "axes"]
        assert list(measured.constants["axes"]) == ["y", "x"]  # also when read from a chunk
        return Means(meta=meta, **measured.arrays)


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout(0.5), nn.BatchNorm2d(4))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Seven images."""
    place = tmp_path / "photos"
    place.mkdir()
    for i in range(7):
        values = np.random.default_rng(i).integers(0, 256, (20, 24, 3), np.uint8)
        Image.fromarray(values).save(place / f"{i}.png")
    return place


SMALL = Preprocessing((16, 16), 1.0)


def stored(out: Path) -> list[str]:
    return sorted(p.relative_to(out).as_posix() for p in out.rglob("*"))


def test_images_are_measured_in_chunks_and_combined_in_order(
    model: nn.Module, folder: Path
) -> None:
    method = MeanMethod()
    result = run(method, model, folder, Config(), preprocessing=SMALL)
    assert method.batches == [(0, 1), (2, 3), (4, 5), (6,)]
    assert isinstance(result, Means)
    model.eval()
    images = open_images(folder)
    for i in range(7):
        tensor = SMALL.tensor([SMALL.picture(images.load(i))])
        expected = model(tensor).mean().item()
        assert result.means[i] == pytest.approx(expected, abs=1e-6)
    assert result.meta["images"]["names"] == [f"{i}.png" for i in range(7)]
    assert result.meta["images"]["fingerprint"] == images.fingerprint
    assert result.meta["config"] == {"scale": 1.0, "chunk": 2}
    assert result.meta["preprocessing"] == SMALL.as_dict()
    assert result.meta["device"] == "cpu" and result.meta["dtype"] == "float32"


def test_a_config_without_chunk_means_eight_images(model: nn.Module) -> None:
    method = MeanMethod()

    @dataclasses.dataclass(frozen=True)
    class Bare:
        scale: float = 1.0

    run(method, model, "samples", Bare(), preprocessing=SMALL)
    assert method.batches == [tuple(range(8)), tuple(range(8, 16)), (16, 17, 18, 19)]


def test_only_one_chunk_of_images_is_loaded_ahead(
    model: nn.Module, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    original = Images.read
    monkeypatch.setattr(Images, "read", lambda self, i: (read.append(i), original(self, i))[1])
    seen: list[int] = []
    method = MeanMethod(before=lambda batch: seen.append(len(read)))
    run(method, model, folder, Config(), preprocessing=SMALL)
    assert all(given <= now <= given + 2 for given, now in zip((2, 4, 6, 7), seen, strict=True))


def test_the_model_is_at_rest_while_measured_and_as_before_afterwards(
    model: nn.Module, folder: Path
) -> None:
    model.train()
    model[1].eval()
    model[0].bias.requires_grad_(False)
    states: list[tuple[bool, bool]] = []

    def look(batch: Batch) -> None:
        modes = any(module.training for module in model.modules())
        states.append((modes, any(p.requires_grad for p in model.parameters())))
        if len(states) == 3:
            raise ArithmeticError

    with pytest.raises(ArithmeticError):
        run(MeanMethod(before=look), model, folder, Config(), preprocessing=SMALL)
    assert states == [(False, False)] * 3
    assert model.training and model[0].training and not model[1].training
    assert model[0].weight.requires_grad and not model[0].bias.requires_grad


def test_two_threads_take_turns_with_one_model(model: nn.Module, folder: Path) -> None:
    model.train()
    order: list[str] = []
    first_chunk, second_started = threading.Event(), threading.Event()

    def first(batch: Batch) -> None:
        order.append("first")
        first_chunk.set()
        assert second_started.wait(10)
        time.sleep(0.01)  # long enough for the second to get in, if it could

    def work() -> None:
        second = MeanMethod(before=lambda batch: order.append("second"))
        assert first_chunk.wait(10)
        second_started.set()
        run(second, model, folder, Config(), preprocessing=SMALL)

    thread = threading.Thread(target=work)
    thread.start()
    run(MeanMethod(before=first), model, folder, Config(), preprocessing=SMALL)
    thread.join(10)
    assert order == ["first"] * 4 + ["second"] * 4
    assert model.training and model[0].weight.requires_grad


def test_two_runs_give_the_same_bytes(model: nn.Module, folder: Path, tmp_path: Path) -> None:
    files = []
    for name in ("a", "b"):
        run(MeanMethod(), model, folder, Config(), preprocessing=SMALL, out=tmp_path / name)
        assert len(stored(tmp_path / name)) == 1
        files.append(next((tmp_path / name).iterdir()))
    assert files[0].name == files[1].name and files[0].name.startswith("means-Sequential-")
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_stored_result_is_returned_without_measuring(
    model: nn.Module, folder: Path, tmp_path: Path
) -> None:
    out, method = tmp_path / "out", MeanMethod()
    arguments: dict = {"preprocessing": SMALL, "out": out, "facts": {"model": "hf-hub:me/tiny"}}
    first = run(method, model, folder, Config(), **arguments)
    assert stored(out) == [f"means-hf-hub-me-tiny-{first.meta['hash']}.npz"]
    notes: list = []
    again = run(
        method, model, folder, Config(), progress=lambda *all: notes.append(all), **arguments
    )
    assert len(method.batches) == 4
    assert isinstance(again, Means) and isinstance(first, Means)
    assert again.meta == first.meta and np.array_equal(again.means, first.means)
    assert notes[0][:2] == (7, 7) and "stored" in notes[0][2]
    run(method, model, folder, Config(), force=True, **arguments)
    assert len(method.batches) == 8
    (out / stored(out)[0]).write_bytes(b"damaged")
    run(method, model, folder, Config(), **arguments)
    assert len(method.batches) == 12
    assert load(out / stored(out)[0]).meta == first.meta


def test_whatever_changes_the_numbers_changes_the_file_name(
    model: nn.Module, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"

    def measured(**changes: Any) -> None:
        arguments: dict = {"model": model, "images": folder, "config": Config()}
        arguments |= {"preprocessing": SMALL, "facts": {"weights_sha256": "0"}} | changes
        run(method, arguments.pop("model"), arguments.pop("images"), out=out, **arguments)

    method = MeanMethod()
    measured()
    other = MeanMethod()
    other.name = "other"
    changes: list[dict] = [
        {"config": Config(scale=2.0)},
        {"config": Config(chunk=3)},
        {"images": open_images(folder, limit=6)},
        {"preprocessing": Preprocessing((16, 16), 0.5)},
        {"facts": {"weights_sha256": "1"}},
        {"facts": {"weights_sha256": "0", "model": "tiny"}},
        {"facts": None},
        {"model": model.double()},
    ]
    for n, change in enumerate(changes):
        if "model" not in change:
            model.float()
        else:
            model.double()
        measured(**change)
        assert len(list(out.glob("*.npz"))) == n + 2, change
    model.float()
    method = other
    measured()
    assert len(list(out.glob("*.npz"))) == len(changes) + 2


def test_other_weights_are_never_given_the_stored_result(
    model: nn.Module, folder: Path, tmp_path: Path
) -> None:
    first = run(MeanMethod(), model, folder, Config(), preprocessing=SMALL, out=tmp_path / "o")
    with torch.no_grad():
        model[2].bias += 1
    second = run(MeanMethod(), model, folder, Config(), preprocessing=SMALL, out=tmp_path / "o")
    assert isinstance(first, Means) and isinstance(second, Means)
    np.testing.assert_allclose(second.means, first.means + 1, atol=1e-5)


def test_an_interrupted_run_goes_on_where_it_stopped(
    model: nn.Module, folder: Path, tmp_path: Path
) -> None:
    def interrupt(batch: Batch) -> None:
        if batch.indices[0] == 4:
            raise KeyboardInterrupt

    (folder / "1.png").write_text("broken")
    out, first = tmp_path / "out", MeanMethod(before=interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(first, model, folder, Config(), preprocessing=SMALL, out=out)
    assert first.batches == [(0,), (2, 3)]
    chunks = sorted(p.name for p in out.rglob("*.npz"))
    assert chunks == ["00000.npz", "00001.npz"]

    second, notes = MeanMethod(), []
    result = run(
        second,
        model,
        folder,
        Config(),
        preprocessing=SMALL,
        out=out,
        progress=lambda *all: notes.append(all),
    )
    assert second.batches == [(4, 5), (6,)]
    assert [note[0] for note in notes] == [4, 6, 7]
    assert "earlier run" in notes[0][2] and notes[1][2] is None
    assert result.meta["skipped"] == {"1.png": "is not an image that can be read"}
    whole = run(MeanMethod(), model, folder, Config(), preprocessing=SMALL, out=tmp_path / "b")
    assert stored(out) == stored(tmp_path / "b") == [f"means-Sequential-{whole.meta['hash']}.npz"]
    names = stored(out)
    assert (out / names[0]).read_bytes() == (tmp_path / "b" / names[0]).read_bytes()


def test_a_damaged_chunk_is_measured_again(model: nn.Module, folder: Path, tmp_path: Path) -> None:
    def interrupt(batch: Batch) -> None:
        if batch.indices[0] == 6:
            raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run(MeanMethod(before=interrupt), model, folder, Config(), preprocessing=SMALL, out=out)
    chunk = next(out.rglob("00001.npz"))
    chunk.write_bytes(chunk.read_bytes()[:-40])
    method = MeanMethod()
    result = run(method, model, folder, Config(), preprocessing=SMALL, out=out)
    assert method.batches == [(2, 3), (6,)]
    expected = run(MeanMethod(), model, folder, Config(), preprocessing=SMALL)
    assert isinstance(result, Means) and isinstance(expected, Means)
    np.testing.assert_array_equal(result.means, expected.means)


def test_force_forgets_finished_chunks(model: nn.Module, folder: Path, tmp_path: Path) -> None:
    def interrupt(batch: Batch) -> None:
        if batch.indices[0] == 4:
            raise KeyboardInterrupt

    arguments: dict = {"preprocessing": SMALL, "out": tmp_path / "out"}
    with pytest.raises(KeyboardInterrupt):
        run(MeanMethod(before=interrupt), model, folder, Config(), **arguments)
    method = MeanMethod()
    run(method, model, folder, Config(), force=True, **arguments)
    assert len(method.batches) == 4


def test_bad_images_are_left_out_and_the_rest_keeps_its_chunks(
    model: nn.Module, folder: Path
) -> None:
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:200])
    for name in ("4.png", "5.png"):
        (folder / name).write_text("broken")
    method, notes = MeanMethod(), []
    result = run(
        method,
        model,
        folder,
        Config(),
        preprocessing=SMALL,
        progress=lambda *all: notes.append(all),
    )
    assert method.batches == [(0,), (2, 3), (6,)]
    assert result.meta["skipped"]["1.png"] == "is truncated"
    assert list(result.meta["skipped"]) == ["1.png", "4.png", "5.png"]
    assert result.meta["images"]["names"] == ["0.png", "2.png", "3.png", "6.png"]
    assert [note[:2] for note in notes] == [(0, 7), (2, 7), (4, 7), (6, 7), (7, 7)]
    assert notes[1][2] == "Skipped: 1.png is truncated."


def test_no_usable_image_lists_the_first_reasons(
    model: nn.Module, folder: Path, tmp_path: Path
) -> None:
    for path in folder.iterdir():
        path.write_text("broken")
    message = "None of the 7 images can be used: 0.png is not an image .*; 1.png .*; 2.png [^;]*$"
    out = tmp_path / "out"
    with pytest.raises(ValueError, match=message):
        run(MeanMethod(), model, folder, Config(), preprocessing=SMALL, out=out)
    assert not list(out.iterdir())


def memory_for(count: int, error: Exception) -> Callable[[Batch], None]:
    def check(batch: Batch) -> None:
        if len(batch) > count:
            raise error

    return check


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: not enough memory"),
        RuntimeError("can't allocate memory: you tried to allocate 8 bytes"),
    ],
    ids=["python", "cuda", "cpu", "cpu-old"],
)
def test_out_of_memory_halves_the_batch_and_keeps_it_small(
    error: Exception, model: nn.Module, folder: Path
) -> None:
    method, notes = MeanMethod(before=memory_for(2, error)), []
    result = run(
        method,
        model,
        folder,
        Config(chunk=5),
        preprocessing=SMALL,
        progress=lambda *all: notes.append(all[2]),
    )
    assert method.batches == [(0, 1), (2, 3), (4,), (5, 6)]
    expected = "5 images at once did not fit in the memory of cpu; measured 2 at a time."
    assert notes == [None, expected, None] and result.meta["notes"] == [expected]
    whole = run(MeanMethod(), model, folder, Config(chunk=5), preprocessing=SMALL)
    assert isinstance(result, Means) and isinstance(whole, Means)
    np.testing.assert_allclose(result.means, whole.means, atol=1e-6)


def test_a_resumed_run_remembers_how_many_images_fit(
    model: nn.Module, folder: Path, tmp_path: Path
) -> None:
    tried: list[int] = []
    enough = memory_for(2, MemoryError())

    def first(batch: Batch) -> None:
        if batch.indices[0] == 4:
            raise KeyboardInterrupt
        enough(batch)

    def second(batch: Batch) -> None:
        tried.append(len(batch))
        enough(batch)

    arguments: dict = {"preprocessing": SMALL, "out": tmp_path / "out"}
    with pytest.raises(KeyboardInterrupt):
        run(MeanMethod(before=first), model, folder, Config(chunk=4), **arguments)
    run(MeanMethod(before=second), model, folder, Config(chunk=4), **arguments)
    assert tried == [2, 1]


def test_one_image_that_does_not_fit_names_the_size(model: nn.Module, folder: Path) -> None:
    method = MeanMethod(before=memory_for(0, MemoryError()))
    with pytest.raises(MemoryError, match=r"One image of 16 x 16 pixels does not fit .* for means"):
        run(method, model, folder, Config(), preprocessing=SMALL)


def test_other_errors_of_a_method_pass_through(model: nn.Module, folder: Path) -> None:
    tried: list[int] = []

    def fail(batch: Batch) -> None:
        tried.append(len(batch))
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        run(MeanMethod(before=fail), model, folder, Config(), preprocessing=SMALL)
    assert tried == [2]


def test_a_partial_without_an_image_axis_is_refused(model: nn.Module, folder: Path) -> None:
    class Total(MeanMethod):
        def measure(self, model: nn.Module, batch: Batch, config: Config) -> Partial:
            return Partial({"total": super().measure(model, batch, config)["means"].sum()})

    with pytest.raises(ValueError, match='means measured "total" of shape \\(\\) on 2 images'):
        run(Total(), model, folder, Config(), preprocessing=SMALL)


def test_a_constant_that_depends_on_the_images_is_refused(model: nn.Module, folder: Path) -> None:
    class First(MeanMethod):
        def measure(self, model: nn.Module, batch: Batch, config: Config) -> Partial:
            arrays = super().measure(model, batch, config).arrays
            return Partial(arrays, {"first": batch.names[0]})

    with pytest.raises(ValueError, match=r'the constant "first" is "0\.png" on some'):
        run(First(), model, folder, Config(), preprocessing=SMALL)


def test_an_unwritable_folder_is_found_before_measuring(
    model: nn.Module, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    method = MeanMethod()
    with pytest.raises(ResultError, match="cannot be written") as caught:
        run(method, model, folder, Config(), preprocessing=SMALL, out=tmp_path / "file" / "out")
    assert method.batches == [] and "\n" not in str(caught.value)


def test_labels_are_counted_as_the_model_counts_its_classes(
    model: nn.Module, tmp_path: Path
) -> None:
    for i, name in enumerate(("n01440764", "n03028079")):
        (tmp_path / name).mkdir()
        Image.new("RGB", (20, 20), (i, 0, 0)).save(tmp_path / name / "0.png")
    found = []
    for classes in (2, 1000, 7, None):
        model.num_classes = classes  # type: ignore[assignment]
        result = run(MeanMethod(), model, tmp_path, Config(), preprocessing=SMALL)
        assert isinstance(result, Means)
        found.append(None if result.labels is None else result.labels.tolist())
    assert found == [[0, 1], [0, 497], None, [0, 1]]


def test_other_labels_are_never_given_the_stored_result(model: nn.Module, tmp_path: Path) -> None:
    contents = [(tmp_path / f"{i}.png") for i in range(2)]
    for path in contents:
        Image.new("RGB", (20, 20)).save(path)
    found = []
    for labels in ([0, 1], [1, 0]):
        images = Images("two", ["a", "b"], contents, labels, ["x", "y"])
        result = run(MeanMethod(), model, images, Config(), preprocessing=SMALL, out=tmp_path / "o")
        assert isinstance(result, Means) and result.labels is not None
        found.append(result.labels.tolist())
    assert found == [[0, 1], [1, 0]]


def test_a_model_in_float64_gets_float64_batches(model: nn.Module, folder: Path) -> None:
    types: set[torch.dtype] = set()
    method = MeanMethod(before=lambda batch: types.add(batch.tensor.dtype))
    result = run(method, model.double(), folder, Config(), preprocessing=SMALL)
    assert types == {torch.float64} and result.meta["dtype"] == "float64"


def test_notes_on_images_reach_the_result(model: nn.Module, tmp_path: Path) -> None:
    Image.new("RGBA", (20, 20), (9, 9, 9, 0)).save(tmp_path / "clear.png")
    result = run(MeanMethod(), model, tmp_path, Config(), preprocessing=SMALL)
    assert result.meta["notes"] == ["clear.png: its transparent parts are shown on white."]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_said_in_one_sentence(model: nn.Module, folder: Path) -> None:
    with pytest.raises(ValueError, match='device is "cuda", which cannot be used here'):
        run(MeanMethod(), model, folder, Config(), preprocessing=SMALL, device="cuda")


def test_a_chunk_of_no_images_is_refused(model: nn.Module, folder: Path) -> None:
    with pytest.raises(ValueError, match="chunk is 0"):
        run(MeanMethod(), model, folder, Config(chunk=0), preprocessing=SMALL)


def test_the_progress_bar_writes_to_standard_error_only(
    model: nn.Module, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "3.png").write_text("broken")
    run(
        MeanMethod(),
        model,
        folder,
        Config(),
        preprocessing=SMALL,
        progress=Bar("Measuring"),
    )
    written = capsys.readouterr()
    assert written.out == ""
    assert "Measuring: 100%" in written.err and "7/7" in written.err
    assert "Skipped: 3.png is not an image that can be read." in written.err


def test_a_stored_chunk_keeps_the_order_of_its_constants(tmp_path: Path) -> None:
    partial = Partial({"b": np.zeros(1), "a": np.ones(1)}, {"z": {"clean": 1, "attack": None}})
    runner._write_chunk(tmp_path / "0.npz", runner._Chunk(partial, ["x"], {}, [], None))
    found = runner._read_chunk(tmp_path / "0.npz")
    assert found and found.partial and found.partial.arrays == partial.arrays
    assert json.dumps(found.partial.constants) == json.dumps(partial.constants)


def test_another_run_may_finish_and_take_the_chunks_away(model, folder, tmp_path) -> None:
    """Two runs of one command at once: the first to end removes what both keep their chunks in."""
    alone = run(MeanMethod(), model, folder, Config(), preprocessing=SMALL)
    out = tmp_path / "out"
    method = MeanMethod(before=lambda _: shutil.rmtree(out / ".chunks", ignore_errors=True))
    result = run(method, model, folder, Config(), preprocessing=SMALL, out=out)
    assert np.array_equal(result.means, alone.means)
    assert [path.suffix for path in out.iterdir()] == [".npz"]


def test_chunks_of_a_run_that_was_killed_after_its_result_go(model, folder, tmp_path) -> None:
    run(MeanMethod(), model, folder, Config(), preprocessing=SMALL, out=tmp_path / "out")
    (file,) = (tmp_path / "out").glob("*.npz")
    left = tmp_path / "out" / ".chunks" / file.stem.rpartition("-")[2]
    left.mkdir(parents=True)
    (left / "00000.npz").write_bytes(b"left")
    run(MeanMethod(), model, folder, Config(), preprocessing=SMALL, out=tmp_path / "out")
    assert list(file.parent.iterdir()) == [file]


def test_a_refusal_in_combine_leaves_no_folder(model, folder, tmp_path) -> None:
    class Refuses(MeanMethod):
        def combine(self, measured, config, meta):
            raise ValueError("not together")

    with pytest.raises(ValueError, match="not together"):
        run(Refuses(), model, folder, Config(), preprocessing=SMALL, out=tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())
