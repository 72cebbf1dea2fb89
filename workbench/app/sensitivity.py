"""Page: one image under attack, and which of B, C and delta carries the harm."""

import io

import altair as alt
import numpy as np
import streamlit as st
from PIL import Image

from workbench.app import sensitivity_measure, session, sidebar
from workbench.app.class_names import FEW, class_names
from workbench.app.files import export, files
from workbench.app.glossary import header
from workbench.app.measure import command
from workbench.app.sensitivity_measure import QUANTITIES, Attack, Setting
from workbench.app.sidebar import Choice
from workbench.figures import overlay
from workbench.images import Images
from workbench.methods.sensitivity import SensitivityConfig

MEANING = {"delta": "step size delta", "B": "size of B", "C": "size of C"}
RANDOM = ":material/info: Random (untrained) weights: ranks of B, C and delta are no evidence."
WHY = """
The attack lowers the margin of the model's own prediction (its logit minus the next best) as far as
it can within the chosen distance of every pixel. Then the adversarial image runs again with one
tensor of the scans **put back** to what it was for the clean image. A tensor whose clean value
brings the margin above zero suffices to undo the attack; `scan output` is the most that scans can
do, the rest flows around them. One image shows a case: for a verdict with intervals run the command
below over many.
"""


def controls(names: dict[int, str]) -> tuple[float, int, str | None, str]:
    """Strength and steps of the attack, the scope of patching, and the layer of the maps."""
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        eps = st.slider(
            "Attack, in 1/255 of every pixel",
            0.0,
            8.0,
            1.0,
            0.25,
            key="eps",
            bind="query-params",
            width=190,
        )
        steps = st.select_slider(
            "Steps", [1, 5, 10, 20, 50], 10, key="steps", bind="query-params", width=100
        )
        numbers = [str(i) for i in names]
        layer = st.select_slider(
            "Layer of the maps",
            numbers,
            numbers[len(numbers) // 2],
            key="layer",
            bind="query-params",
            width=300,
        )
        scope = st.segmented_control(
            "Put back in",
            ["all layers", "this layer"],
            default="all layers",
            required=True,
            key="scope",
            bind="query-params",
        )
    name = names[int(layer)]
    st.caption(session.layer_said(layer, name, list(names.values())))
    return float(eps), int(steps), None if scope == "all layers" else name, name


def said(found: Attack, which: int, names: list[str]) -> str:
    row = found.probabilities[which]
    best = int(row.argmax())
    return f"{names[best]}, {100 * row[best]:.0f} %, margin {found.margins[which]:.2f}"


def images_before_and_after(found: Attack, image: str, eps: float, names: list[str]) -> None:
    clean, twin = found.pictures
    shown = np.clip(127.5 + 127.5 * found.change / eps, 0, 255).astype(np.uint8)
    size = (224, 224)
    with st.container(horizontal=True, gap="medium"):
        for picture, caption, alt_text in (
            (clean, f"clean: {said(found, 0, names)}", f"{image} before the attack"),
            (twin, f"adversarial: {said(found, 1, names)}", f"{image} after the attack"),
            (
                shown,
                f"difference: grey where there is none, full colour at {eps:g}/255",
                f"What the attack changes in {image}",
            ),
        ):
            st.image(overlay.enlarged(picture, size), caption=caption, width=224, alt=alt_text)


def chart(found: Attack, rows: list[tuple[str, float]]) -> alt.LayerChart | alt.FacetChart:
    """Margins with each tensor put back, from that of the adversarial image on."""
    values = [
        {
            "tensor": name,
            "start": found.margins[1],
            "margin": margin,
            "outcome": "restores the prediction" if margin > 0 else "does not",
            "recovered": _recovered(found, margin),
        }
        for name, margin in rows
    ]
    base = alt.Chart(alt.Data(values=values))
    bars = base.mark_bar().encode(
        x=alt.X("start:Q", title="margin of the clean prediction (logits)"),
        x2="margin:Q",
        y=alt.Y("tensor:N", sort=None, title="put back", axis=alt.Axis(labelOverlap=False)),
        color=alt.Color(
            "outcome:N",
            title=None,
            scale=alt.Scale(
                domain=["restores the prediction", "does not"], range=["#009E73", "#D55E00"]
            ),
            legend=alt.Legend(orient="top"),
        ),
        tooltip=[
            alt.Tooltip("tensor:N", title="put back"),
            alt.Tooltip("margin:Q", format=".3f"),
            alt.Tooltip("recovered:N", title="of the margin lost"),
        ],
    )
    marks = [
        {"margin": found.margins[0], "what": "clean"},
        {"margin": found.margins[1], "what": "adversarial"},
        {"margin": 0.0, "what": "prediction turns"},
    ]
    lines = alt.Chart(alt.Data(values=marks)).mark_rule(color="#888888", strokeDash=[4, 3])
    lines = lines.encode(x="margin:Q", tooltip=["what:N", alt.Tooltip("margin:Q", format=".3f")])
    words = alt.Chart(alt.Data(values=marks)).mark_text(
        color="#888888", baseline="bottom", y=-2, fontSize=11
    )
    texts = words.encode(x="margin:Q", text="what:N")
    return (bars + lines + texts).properties(height=330)


def _recovered(found: Attack, margin: float) -> str:
    before, after = found.margins
    return f"{100 * (margin - after) / (before - after):.0f} %" if before > after else "none lost"


def maps(setting: Setting, layer: str, images: Images) -> None:
    """delta, |B| and |C| of one layer and direction: clean, adversarial, and the change."""
    runs = sensitivity_measure.layer_of(setting, layer, images)
    names = [direction.name for direction in runs[0].directions]
    chosen = names[0]
    if len(names) > 1:
        chosen = st.segmented_control(
            "Direction", names, default=names[0], required=True, key="direction"
        )
    both = [sensitivity_measure.maps(run, run.directions[names.index(chosen)]) for run in runs]
    for quantity in QUANTITIES:
        clean, twin = both[0][quantity], both[1][quantity]
        top = float(np.nanmax([clean, twin])) or 1.0
        change = twin - clean
        most = float(np.nanmax(np.abs(change))) or 1.0
        st.markdown(
            f":small[**{MEANING[quantity]}**, from 0 to {top:.3g}; change up to {most:.3g}]"
        )
        with st.container(horizontal=True, gap="small"):
            for values, scheme, caption in (
                (clean / top, "viridis", "clean"),
                (twin / top, "viridis", "adversarial"),
                (0.5 + 0.5 * change / most, "RdBu_r", "change: red more, blue less"),
            ):
                picture = overlay.colours(np.nan_to_num(values), scheme)
                alt_text = f"{MEANING[quantity]}, {caption}, {chosen}"
                st.image(
                    overlay.enlarged(picture, (150, 150)), caption=caption, width=150, alt=alt_text
                )


def downloads(found: Attack, rows: list[tuple[str, float]]) -> None:
    """What the page shows, as files."""
    buffer = io.BytesIO()
    Image.fromarray(found.pictures[1]).save(buffer, "PNG")
    table = "put back,margin\n" + "".join(f"{name},{margin:.6g}\n" for name, margin in rows)
    picture = ("Adversarial image (PNG)", buffer.getvalue(), "adversarial.png")
    export([picture, ("Margins (CSV)", table, "patching.csv")], "attack")


def controlled(setting: Setting, narrow: bool, images: Images, command: str) -> None:
    """On demand the same patching with controls, as a result with its figure and files."""
    asked = (setting, narrow)
    known = st.session_state.get("controlled", {})

    def ask(what: tuple | None) -> None:
        st.session_state["asked"] = what

    if asked not in known and st.session_state.get("asked") == asked:
        with session.waiting("stop-controlled", lambda: ask(None)) as move:
            result = sensitivity_measure.result(setting, narrow, images, move)
        known = st.session_state["controlled"] = {asked: result}
    if asked in known:
        files([known[asked]], [command])
        return
    st.button(
        "Figure and data",
        on_click=lambda: ask(asked),
        help="Measures both ways of putting back, with random changes of the same size as "
        "controls; a few times as long as the attack.",
    )
    st.code(command, language="bash", wrap_lines=True)


def attacked(choice: Choice, images: Images) -> None:
    """Everything that the slider changes."""
    spec = choice.spec
    if spec.random:
        st.markdown(RANDOM)
    names = sensitivity_measure.scans(spec)
    if not names:
        st.info(
            f"{spec.model} has no selective scan, so there is no B, C or delta to look at; choose "
            f"a {sidebar.scanning()} in the sidebar."
        )
        return
    eps, steps, scope, layer = controls(names)
    if eps == 0:
        st.info("Move the slider to attack the image.")
        return
    session.warm_up()
    setting = Setting(spec, images.fingerprint, eps, steps)
    if st.session_state.get("stopped") == setting:
        st.info("Stopped. Go on, or choose fewer steps or a smaller model.")
        st.button("Go on", on_click=lambda: st.session_state.update(stopped=None))
        return
    with session.waiting("stop", lambda: st.session_state.update(stopped=setting)) as move:
        sensitivity_measure.prepare(setting, images, move)
        found = sensitivity_measure.attack(setting, images)
        rows = sensitivity_measure.patchings(setting, scope, images, move)
    classes = class_names(spec, found.probabilities.shape[1])
    if len(classes) <= FEW:
        st.caption(
            f":material/info: The network knows {len(classes)} classes ({', '.join(classes)}); "
            "whatever else a photograph shows is called one of them."
        )
    images_before_and_after(found, images.names[0], eps, classes)
    restoring = [name for name, margin in rows if margin > 0]
    if found.margins[1] > 0:
        st.markdown("The prediction stands; a stronger attack or more steps may turn it.")
    elif restoring:
        st.markdown(f"Putting back **{', '.join(restoring)}** restores the prediction.")
    else:
        st.markdown("No patching restores the prediction.")
    st.altair_chart(chart(found, rows), alt=f"Margins of {spec.model} with tensors put back")
    with st.expander("What is put back, and what that shows"):
        st.markdown(WHY)
    st.subheader("Step size, B and C before and after", anchor=False)
    maps(setting, layer, images)
    downloads(found, rows)
    config = SensitivityConfig(patching_eps_255=eps, attack_steps=steps)
    shown = ["--images", session.picture(images)]
    line = command("sensitivity", spec.words, shown, spec.size, config)
    controlled(setting, scope is not None, images, line)


header("Sensitivity", "sensitivity")
st.markdown(
    "Which of B, C and delta carries an attack? The image is attacked as you move the slider; then "
    "each tensor of the scans is put back to its clean value."
)
# No fragment: what runs in one is finished first, and here the next move of the slider interrupts.
with session.sentences():
    current = sidebar.choice()
    if current and current.images:
        attacked(current, current.images)
    elif current:
        st.info("Choose a picture in the sidebar to begin.")
