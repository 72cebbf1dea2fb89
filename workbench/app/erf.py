"""Page: the effective receptive field of the place that is clicked."""

from collections.abc import Sequence
from functools import partial

import streamlit as st

from workbench.app import erf_measure, erf_panels, session, sidebar
from workbench.app.click_map import Place
from workbench.app.erf_panels import Panel
from workbench.app.files import files
from workbench.app.glossary import header
from workbench.app.measure import command, measure, measure_once
from workbench.app.place import place, remember
from workbench.app.session import Spec
from workbench.app.sidebar import Choice
from workbench.figures import overlay
from workbench.images import Images, open_images
from workbench.methods.erf.interactive import page
from workbench.results import Erf

RANDOM = ":material/info: Random (untrained) weights: the map shows the architecture, not training."
SPLIT = (
    "direction: what comes through one scan direction alone; route: what comes through B, C, "
    "delta, u and the ways around the state."
)


def controls(choice: Choice) -> tuple[list[Panel], str, str]:
    """The models to show, each with a stage, how to split, and the scale of the maps."""
    count = erf_measure.stage_count(choice.spec)
    numbers = [str(i + 1) for i in range(count)]
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        stage = st.segmented_control(
            "Stage", numbers, default=numbers[-1], required=True, key="stage", bind="query-params"
        )
        split = st.segmented_control(
            "Split by",
            ["none", "direction", "route"],
            default="none",
            required=True,
            key="split",
            bind="query-params",
            help=SPLIT,
        )
        scale = st.segmented_control(
            "Scale",
            list(overlay.SCALES),
            default="power",
            required=True,
            key="scale",
            bind="query-params",
            help="; ".join(f"{name}: {says}" for name, says in overlay.SCALES.items()) + ".",
        )
        beside = sidebar.choose_beside(choice.spec, choice.size)
        both = st.toggle("Before and after training", key="training", bind="query-params")
    specs, panels = [choice.spec, *beside], []
    for spec in specs:
        number = int(stage)
        if number == count:  # the last stage of one model beside the last of the other
            number = erf_measure.stage_count(spec)
        if both and spec.trained:
            panels.append(Panel(spec.untrained(), number))
        panels.append(Panel(spec, number))
    untrained = [spec.model for spec in specs if not spec.trained]
    if both and untrained:
        st.info(
            f"No checkpoint of {' and '.join(untrained)} is chosen, so there is no state after "
            "training to compare with; choose trained weights in the sidebar."
        )
    return panels, split, scale


def over_samples(at: Place, panels: Sequence[Panel], split: str) -> None:
    """Measure the fields over all sample images.

    Not in the fragment, which waits for what it does: here Stop and every other choice interrupt.
    """
    every, known = open_images("samples"), st.session_state.setdefault("over_samples", {})
    if len(known) >= 16:
        known.clear()
    for number, (spec, stage) in enumerate(panels):
        config = erf_measure.config_at(spec, stage, at, split)
        with session.waiting(f"stop-{number}") as move:

            def report(done: int, total: int, note: str | None, name: str = spec.model) -> None:
                move(done / total, f"{name}: {done} of {total} images")

            known[spec, config] = measure(spec, "erf", every, config, report)


def fields(choice: Choice, images: Images) -> None:
    """Everything that a click changes."""
    at = place()
    panels, split, scale = controls(choice)
    if any(panel.spec.random for panel in panels):
        st.markdown(RANDOM)
    session.warm_up()
    asked = (at, panels, split)
    samples = st.session_state.get("samples") == asked
    finding = st.empty()
    found, specs = [], []
    commands: list[str] = []
    columns = st.columns(len(panels), gap="medium")
    for i, (panel, column) in enumerate(zip(panels, columns, strict=True)):
        with column, session.sentences():
            config = erf_measure.config_at(panel.spec, panel.stage, at, split)
            known = st.session_state.get("over_samples", {}) if samples else {}
            result = known.get((panel.spec, config))
            if result is None:
                with st.spinner("Measuring ..."):
                    result = measure_once(panel.spec, "erf", images.fingerprint, config, images)
            shown = ["samples" if samples else session.picture(images)]
            commands.append(
                command("erf", panel.spec.words, ["--images", *shown], panel.spec.size, config)
            )
            erf_panels.pictures(panel, images, result, remember, f"click-{i}", scale)
            found.append(result)
            specs.append(panel.spec)
    if not found:
        return
    finding.markdown(erf_panels.finding(found))
    for result in found:
        erf_panels.routes(result)
    st.button(
        f"All {len(open_images('samples'))} sample images",
        help="The mean over all sample images, with intervals.",
        on_click=lambda: st.session_state.update(wanted=asked),
    )
    erf_panels.numbers(found)
    interactive = ("Fields under the mouse (HTML)", partial(page_of, specs, found), "fields.html")
    files(found, commands, more=[interactive])


def page_of(specs: Sequence[Spec], results: Sequence[Erf]) -> str:
    """One file in which the fields follow the mouse."""
    pairs = zip(specs, results, strict=True)
    return page(results, [erf_measure.all_cells(*pair, len(results)) for pair in pairs])


@st.fragment
def below(choice: Choice | None) -> None:
    """The page below its title; runs alone after a click."""
    if "wanted" in st.session_state:
        st.rerun()
    with session.sentences():
        if choice and choice.images:
            fields(choice, choice.images)
        elif choice:
            st.info("Choose a picture in the sidebar to begin.")


header("Effective receptive field", "erf")
st.markdown(
    "Which pixels does one output unit depend on? Move the mouse: the maps show its gradient at "
    "every pixel. A click measures."
)
if wanted := st.session_state.pop("wanted", None):
    session.warm_up()
    with session.sentences():
        over_samples(*wanted)
        st.session_state["samples"] = wanted
below(sidebar.choice())
