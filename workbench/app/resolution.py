"""Page: models over image sizes, and what one picture becomes on the way."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import streamlit as st

from workbench.app import resolution_measure, resolution_panels, session, sidebar
from workbench.app.files import files
from workbench.app.glossary import header
from workbench.app.resolution_chart import LABELLED, MOST, NUMBERS
from workbench.app.resolution_measure import Task, distinct
from workbench.app.session import Spec
from workbench.app.sidebar import Choice
from workbench.images import open_images
from workbench.methods.resolution.curve import compare
from workbench.results import Resolution

MODELS = 4  # at once, as many as the cache of loaded ones holds
MEASURED = {"samples": "samples", "picture": "sidebar picture"}
PROTOCOLS = {
    "grows": "The whole picture is scaled to each size, so that objects appear larger at larger "
    "sizes.",
    "constant": "Objects keep their size in pixels: smaller sizes see less of the picture, larger "
    "ones more of it, then the mean colour around it.",
}
RANDOM = ":material/info: Random (untrained) weights of {}: they show the architecture."


@dataclass(frozen=True)
class Chosen:
    """What the page shows.

    number: a name of `NUMBERS`.
    stored: curves that are drawn without measuring.
    drawn: tasks whose curves are drawn instead.
    pictures: tasks of the sidebar's image, empty while there is none.
    """

    number: str
    stored: list[Resolution]
    drawn: list[Task]
    pictures: list[Task]

    @property
    def curves(self) -> list[Resolution]:
        measured = map(resolution_measure.curve, self.drawn)
        return self.stored or [curve for curve in measured if curve is not None]

    @property
    def commands(self) -> list[str]:
        """What measures the curves."""
        if self.drawn:
            return resolution_measure.commands(self.drawn)
        return [resolution_measure.command_of(curve) for curve in self.stored]

    @property
    def sizes(self) -> list[int]:
        """All sizes that are drawn or to be drawn."""
        known = resolution_measure.sizes(self.curves)
        return sorted({*known, *(size for task in self.drawn for size in task.sizes)})

    @property
    def tasks(self) -> list[Task]:
        return list(dict.fromkeys([*self.drawn, *self.pictures]))


def choices(choice: Choice) -> Chosen:
    """The controls of the page."""
    kept = resolution_measure.stored()
    spec = choice.spec
    own = sidebar.spec(spec.model, spec.weights, spec.seed, sidebar.OWN_SIZE)
    specs = [own]
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        source, object_size = choose_images(kept)
        kept = [c for c in kept if (_stamp(c), c.meta["object_size"]) == (source, object_size)]
        number = choose_number(bool(kept) and all(c.correct is not None for c in kept))
        if source in MEASURED:
            specs += choose_models(own)
        else:
            kept = choose_curves(kept)
        sizes = choose_sizes(own.size)
    st.caption(PROTOCOLS[object_size])
    if source not in MEASURED:
        folder = session.short(session.results_folder())
        st.caption(
            f"Curves stored in {folder}; nothing has to be measured for them."
            if kept
            else f"No curve of this protocol is stored in {folder}."
        )
    untrained = [spec.model for spec in specs if spec.random]
    if untrained:
        st.markdown(RANDOM.format(", ".join(untrained)))

    def tasks(images) -> list[Task]:
        return [Task(s, images, object_size, tuple(sorted({s.size, *sizes}))) for s in specs]

    pictures = tasks(choice.images) if choice.images else []
    samples = tasks(open_images("samples")) if source == "samples" else []
    return Chosen(number, kept, pictures if source == "picture" else samples, pictures)


def choose_images(kept: Sequence[Resolution]) -> tuple[str, str]:
    """The images (those of stored curves by `_stamp`) and the protocol."""
    stored = {_stamp(c): f"stored: {c.meta['images']['source']}" for c in kept}
    described = dict(zip(stored, distinct(list(stored.values())), strict=True)) | MEASURED
    source = st.selectbox(
        "Images",
        list(described),
        key="data",
        bind="query-params",
        format_func=lambda name: described[name],
        width=330,
    )
    object_size = st.segmented_control(
        "Object size",
        list(PROTOCOLS),
        default="grows",
        required=True,
        key="object_size",
        bind="query-params",
        help="Two protocols that are never drawn together: the size at which objects appear is "
        "itself a cause.",
    )
    return source, object_size


def _stamp(curve: Resolution) -> str:
    """What tells sets of images apart."""
    return curve.meta["images"]["fingerprint"][:8]


def choose_models(own: Spec) -> list[Spec]:
    """The models beside the sidebar's, each at the size it was trained at."""
    names = st.multiselect(
        "Models beside it",
        [name for name in sidebar.model_names() if name != own.model],
        key="beside",
        bind="query-params",
        max_selections=MODELS - 1,
        placeholder="none",
        width=330,
        help="With the first file of the weights folder that is named after them, else random "
        "weights.",
    )
    weights = {name: sidebar.weights_offered(name)[0] for name in names}
    return [sidebar.spec(name, weights[name], own.seed, sidebar.OWN_SIZE) for name in names]


def choose_curves(kept: Sequence[Resolution]) -> list[Resolution]:
    labels = resolution_measure.labels(kept)
    chosen = st.multiselect(
        "Curves",
        labels,
        default=labels[:MOST],
        key="curves",
        bind="query-params",
        max_selections=MOST,
        width=330,
    )
    return [kept[labels.index(label)] for label in chosen]


def choose_sizes(trained: int) -> list[int]:
    """Sizes in pixels; by default from half to twice the size trained at."""
    usual = {16 * round(trained * factor / 16) for factor in (0.5, 1, 1.5, 2)}
    chosen = st.multiselect(
        "Sizes in pixels",
        [str(size) for size in sorted({*range(32, 513, 16), *usual})],
        default=[str(size) for size in sorted(usual)],
        key=f"sizes-{trained}",  # a model of another size begins with other sizes
        bind="query-params",
        width=430,
        help="The size that a model was trained at is always among them.",
    )
    return [int(size) for size in chosen]


def choose_number(labelled: bool) -> str:
    return st.selectbox(
        "Quantity",
        [name for name in NUMBERS if labelled or name not in LABELLED],
        key="number",
        bind="query-params",
        format_func=lambda name: NUMBERS[name].title,
        width=230,
    )


def measure_button(chosen: Chosen) -> bool:
    """A button to begin or to stop; returns whether measuring goes on."""
    tasks = chosen.tasks
    begin = "Measure" if chosen.drawn else "Measure the picture"
    asked = [task.identity for task in tasks]
    todo = any(task.missing for task in tasks)
    going = todo and st.session_state.get("sweep") == asked
    st.button(
        "Stop" if going else begin,
        key="go",  # one button with two names: of two, a browser shows the former beside the latter
        type="secondary" if going else "primary",
        disabled=not todo,
        on_click=lambda: st.session_state.update(sweep=None if going else asked),
        help="What is finished stays when you stop or choose something else.",
    )
    return going


def measure(tasks: Sequence[Task], show: Callable[[Task], None]) -> None:
    """Measure what is missing, size by size, and show every point as it comes.

    Whatever is chosen meanwhile starts the page anew, and measuring then goes on where it was.
    """
    bar = st.progress(0.0, "Preparing ...")
    session.warm_up()
    total = sum(len(task.missing) for task in tasks)
    for task in tasks:

        def report(images: int, of: int, note: str | None, model: str = task.spec.model) -> None:
            done = total - sum(len(task.missing) for task in tasks)
            bar.progress(max(done, 0) / total, f"{model}: {done} of {total} points")

        with session.sentences():
            if task.missing:
                resolution_measure.measure(task, report, partial(show, task))
    bar.empty()
    st.session_state["sweep"] = None
    if not any(task.missing for task in tasks):
        st.rerun()  # else there is an error to read


def page(choice: Choice) -> None:
    """Controls, curves with their files, and below them the picture at every size."""
    chosen = choices(choice)
    going = measure_button(chosen)
    status, chart = st.container(), st.empty()
    if chosen.pictures:
        resolution_panels.about_pictures(chosen.pictures[0])
    rows = {task: st.empty() for task in chosen.pictures}

    def show_curves() -> None:
        if curves := chosen.curves:
            with chart.container():
                resolution_panels.curves(curves, chosen.number, chosen.sizes)

    def show(task: Task) -> None:
        if task in chosen.drawn:
            show_curves()
        if task in rows:
            with rows[task].container(), session.sentences():
                resolution_panels.one_picture(task)

    show_curves()
    for task in chosen.pictures:
        show(task)
    if going:
        with status:
            measure(chosen.tasks, show)
    if chosen.curves:
        resolution_panels.table(chosen.curves, chosen.number)
        files(compare(chosen.curves), chosen.commands)


header("Resolution", "resolution")
st.markdown("What does a model do at other image sizes than the one it was trained at?")
with session.sentences():
    if current := sidebar.choice():
        page(current)
