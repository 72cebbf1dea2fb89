"""Page: what each scan direction carries to the place that is clicked."""

import streamlit as st

from workbench.app import scan_maps_measure, scan_maps_panels, session, sidebar
from workbench.app.files import files
from workbench.app.glossary import header
from workbench.app.measure import command, measure_once
from workbench.app.place import place
from workbench.app.sidebar import Choice
from workbench.figures import overlay
from workbench.images import Images
from workbench.methods.scan_maps import ScanMapsConfig
from workbench.methods.scan_maps.figure import MEANING
from workbench.mixing.layers import ScanLayer

VIEWS = {
    "alpha": "hidden attention: C decay B delta, the weights with which the scan mixes cells",
    "contribution": "hidden attention times u: the parts that add up to the output",
    "QK": "as VMamba's figures: C B delta without the decay",
    "QwKw": "as VMamba's figures: C decay B delta of the first state",
    "w": "as VMamba's figures: the decay alone",
}
CHANNELS = {
    "abs": "mean of the absolute values",
    "mean": "mean with signs, in which channels may cancel",
    "norm": "Euclidean norm, which strong channels decide",
}


def choose_layer(names: list[str]) -> str:
    """The number of the layer to look at."""
    with st.container(width=420, gap="xxsmall"):
        title, numbers = st.empty(), [str(i) for i in range(len(names))]
        layer = st.select_slider(
            "Layer",
            numbers,
            value=numbers[len(numbers) // 2],
            key="layer",
            bind="query-params",
            label_visibility="collapsed",
        )
    title.markdown(f":small[{session.layer_said(layer, names[int(layer)], names)}]")
    return layer


def controls(number: str, layer: ScanLayer) -> tuple[ScanMapsConfig, str]:
    """What to look at: view, aggregation and the cell that was clicked; row or column."""
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        quantity = st.segmented_control(
            "Influence",
            ["row", "column"],
            default="row",
            required=True,
            key="quantity",
            bind="query-params",
            format_func=lambda name: MEANING[name],
            help="Row of the scan's matrix: what the state has read before the query. Column: "
            "where what is read at the query goes later.",
        )
        view = st.selectbox(
            "View",
            list(VIEWS),
            key="view",
            bind="query-params",
            width=170,
            help="  \n".join(f"**{name}**: {meaning}." for name, meaning in VIEWS.items()),
        )
        aggregate = st.segmented_control(
            "Channels",
            list(CHANNELS),
            default="abs",
            required=True,
            key="aggregate",
            bind="query-params",
            help="Every channel has a map of its own; shown is one number over all of them.  \n"
            + "  \n".join(f"**{name}**: {meaning}." for name, meaning in CHANNELS.items()),
        )
        skip = st.toggle(
            "With D",
            key="with_D",
            bind="query-params",
            disabled=view not in ("alpha", "contribution"),
            help="Count the skip connection D, which adds to every output D times its own input: "
            "it shows at the query itself.",
        )
    if layer.is_scan:
        st.caption(VIEWS[view][0].upper() + VIEWS[view][1:] + ".")
    at, cells = place(), layer.cells
    query = ",".join(str(min(int(at[i] * cells[i]), cells[i] - 1)) for i in (0, 1))
    with_D = bool(skip) and view in ("alpha", "contribution")
    config = ScanMapsConfig(
        layer=number, query=query, view=view, aggregate=aggregate, with_D=with_D, resamples=0
    )
    return config, quantity


def page(choice: Choice, images: Images) -> None:
    """Everything that a click changes."""
    names = scan_maps_measure.layers(choice.spec)
    if not names:
        st.info(
            f"{choice.spec.model} has no selective scan, so there is nothing to map; choose a "
            f"{sidebar.scanning()} in the sidebar."
        )
        return
    session.warm_up()
    number = choose_layer(names)
    layer = scan_maps_measure.layer_of(choice.spec, images.fingerprint, names[int(number)], images)
    photo = overlay.data_url(session.photograph(choice.spec, images), photo=True)
    hero = st.container()
    if choice.spec.random:
        st.markdown(":material/info: Random (untrained) weights: the maps show the architecture.")
    config, way = controls(number, layer)
    with st.spinner("Measuring ..."):
        result = measure_once(choice.spec, "scan-maps", images.fingerprint, config, images)
    with hero:
        scan_maps_panels.walks(layer, photo, result)
    scan_maps_panels.maps(choice, images, layer, photo, result, config, way)
    if layer.is_scan:
        one, two = st.tabs(["Scan order and image order", "Delta, B, C"])
        with one, session.sentences():
            scan_maps_panels.orders(layer, result, config)
        with two:
            scan_maps_panels.statistics(result)
    shown = ["--images", session.picture(images)]
    files([result], [command("scan-maps", choice.spec.words, shown, choice.spec.size, config)])


@st.fragment
def below(choice: Choice | None) -> None:
    """The page below its title; runs alone after a click."""
    with session.sentences():
        if choice and choice.images:
            page(choice, choice.images)
        elif choice:
            st.info("Choose a picture in the sidebar to begin.")


header("Scan maps", "scan-maps")
st.markdown(
    "Which cells does each scan direction carry to a place? Above, the scans as they go; below, "
    "the exact weights with which they mix the image, at the cell under the mouse."
)
below(sidebar.choice())
