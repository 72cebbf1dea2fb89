"""What the page about image sizes asks of the engine: curves that grow point by point."""

import copy
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from tempfile import TemporaryDirectory

import streamlit as st

from workbench.app import session
from workbench.app.measure import command
from workbench.app.repository import beside_the_model, repository_of
from workbench.app.session import Spec
from workbench.images import Images, Preprocessing
from workbench.methods import resolution
from workbench.methods.resolution import figure as pictures
from workbench.methods.resolution.adapt import preprocessing_at
from workbench.methods.resolution.config import PointConfig, ResolutionConfig
from workbench.methods.resolution.sweep import Step, curve_of
from workbench.results import Resolution
from workbench.runner import Progress, parts
from workbench.weights.files import file_of


@dataclass
class Known:
    """What has been measured of one curve; the folder also keeps what a stop leaves behind."""

    steps: dict[int, Step] = field(default_factory=dict)
    folder: TemporaryDirectory = field(default_factory=TemporaryDirectory)
    lock: threading.Lock = field(default_factory=threading.Lock)


@st.cache_resource(max_entries=64, show_spinner=False)
def _known(spec: Spec, fingerprint: str, object_size: str) -> Known:
    """The same object at every call, in every session."""
    return Known()


@dataclass(frozen=True)
class Task:
    """One model over sizes (its own, `spec.size`, among them) on some images, by one protocol."""

    spec: Spec
    images: Images
    object_size: str
    sizes: tuple[int, ...]

    @property
    def identity(self) -> tuple:
        return self.spec, self.images.fingerprint, self.object_size, self.sizes

    @property
    def config(self) -> ResolutionConfig:
        return ResolutionConfig(
            object_size=(self.object_size,),
            native=self.spec.size,
        )

    @property
    def known(self) -> Known:
        return _known(self.spec, self.images.fingerprint, self.object_size)

    @property
    def steps(self) -> list[Step]:
        """The sizes that are known, smallest first."""
        steps = self.known.steps
        return [steps[size] for size in self.sizes if size in steps]

    @property
    def missing(self) -> list[int]:
        return [size for size in self.sizes if size not in self.known.steps]


def measure(task: Task, progress: Progress, show: Callable[[], None]) -> None:
    """Measure the missing sizes of a task; call `show` as soon as one is known to all sessions."""
    known = task.known

    def keep(step: Step) -> None:
        known.steps[step.size] = step
        show()

    while not known.lock.acquire(timeout=0.5):
        progress(0, len(task.images), None)  # another session measures the same; here one can stop
    try:
        if task.missing:
            folder = known.folder.name
            config = replace(task.config, sizes=tuple(task.missing))
            _sweep(task.spec, task.images, config, folder, progress, keep)
    finally:
        known.lock.release()


@beside_the_model
def _sweep(
    spec: Spec,
    images: Images,
    config: ResolutionConfig,
    folder: str,
    progress: Progress,
    keep: Callable[[Step], None],
) -> None:
    loaded = session.load(spec)
    with loaded.lock:
        model = copy.deepcopy(loaded.model)  # a sweep takes long; others' clicks need not wait
    for step in parts(
        resolution.method,
        model,
        images,
        config,
        out=folder,
        device=session.device(),
        progress=progress,
        facts=session.facts(spec),
    ):
        if step.field is not None:  # the mean map is shown, those of the images fill the memory
            step = replace(step, field=replace(step.field, maps=step.field.maps[:0]))
        keep(step)


@st.cache_data(max_entries=200, show_spinner=False)
@beside_the_model
def preprocessing(spec: Spec, size: int, config: PointConfig) -> Preprocessing:
    """How images are brought to `size` by the protocol."""
    return preprocessing_at(session.load(spec).model, size, config)


def curve(task: Task) -> Resolution | None:
    """The curve of the sizes that are known so far; None before the first."""
    steps = task.steps
    if not any(step.point for step in steps):
        return None
    sizes = tuple(step.size for step in steps)
    return _curve(task.spec, task.images.fingerprint, task.object_size, sizes, steps)


@st.cache_data(max_entries=200, show_spinner=False)
def _curve(
    spec: Spec, fingerprint: str, object_size: str, sizes: tuple[int, ...], _steps: list[Step]
) -> Resolution:
    return curve_of(_steps)


def stored() -> list[Resolution]:
    """The curves in the results folder; a file that cannot be read is one sentence on the page."""
    found = []
    for path in sorted(session.results_folder().rglob("*resolution*.npz")):
        if path.parent.name == "points":  # of the curves beside them
            continue
        with session.sentences():
            result = session.stored(path, path.stat().st_mtime_ns)
            found += [result] if isinstance(result, Resolution) else []
    return found


def labels(curves: Sequence[Resolution]) -> list[str]:
    """The models, each label only once: their weights or a number tell them apart."""
    return distinct(pictures.names(curves))


def distinct(names: Sequence[str]) -> list[str]:
    """The names, with a number where one comes twice."""
    names = list(names)
    return [f"{name} #{i + 1}" if names.count(name) > 1 else name for i, name in enumerate(names)]


def sizes(curves: Sequence[Resolution]) -> list[int]:
    """All sizes of some curves, missing ones among them."""
    return sorted(
        {int(size) for curve in curves for size in [*curve.sizes, *curve.meta["missing"]]}
    )


def commands(tasks: Sequence[Task]) -> list[str]:
    """The command lines that measure the same; the repository's model has one of its own."""
    first = tasks[0]
    images = ["samples"]
    if len(first.images) == 1:
        images = [session.picture(first.images)]
    specs = [task.spec for task in tasks]
    own = [spec for spec in specs if repository_of(spec.model) is None]
    groups = [[spec] for spec in specs if spec not in own] + ([own] if own else [])
    config = ResolutionConfig(object_size=(first.object_size,), sizes=first.sizes)
    shown = ["--images", *images]
    size = first.spec.size
    return [command("resolution", _models(group), shown, size, config) for group in groups]


def command_of(curve: Resolution) -> str:
    """The command line that measures a stored curve again, by what it says of itself."""
    meta = curve.meta
    source = meta["images"]["source"].partition(":")[0]
    words = ["--images" if curve.correct is None else "--data"]
    words += ["samples" if source == "built-in samples" else source]
    words += ["--limit", str(meta["images"]["count"])]
    own = {entry.name: meta["config"][entry.name] for entry in fields(PointConfig)}
    own |= {"native": None, "classes": None, "object_size": (meta["object_size"],)}
    weights = meta["facts"].get("weights", "auto")
    file = file_of(meta["facts"], session.weights_folder())
    model = ["--model", meta["model"], "--weights", session.short(file) if file else weights]
    model += _seed(meta["facts"].get("seed", 0))
    config = ResolutionConfig(**own, sizes=tuple(sizes([curve])))
    return command("resolution", model, words, meta["native"], config)


def _models(specs: Sequence[Spec]) -> list[str]:
    """The options for several models of one seed."""
    if len(specs) == 1:
        return specs[0].words
    words = ["--model", *(spec.model for spec in specs)]
    words += ["--weights", *(session.short(spec.source) for spec in specs)]
    return words + _seed(specs[0].seed)


def _seed(seed: int) -> list[str]:
    return ["--seed", str(seed)] if seed else []
