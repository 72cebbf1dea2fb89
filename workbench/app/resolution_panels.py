"""The parts of the page about image sizes: curves, and one picture at every size."""

from collections.abc import Sequence

import numpy as np
import streamlit as st

from workbench.app import resolution_measure
from workbench.app.class_names import class_names
from workbench.app.resolution_chart import NUMBERS, axis, chart, written
from workbench.app.resolution_measure import Task
from workbench.figures import overlay
from workbench.methods.erf.figure import shown, with_interval
from workbench.methods.resolution.figure import disturbed
from workbench.methods.resolution.metrics import log_softmax
from workbench.methods.resolution.sweep import Step
from workbench.results import Resolution

WIDTH = 150  # of a picture, in CSS pixels
ABSENT = {
    "horizon": "These models have no selective scan, so there is no memory to measure.",
    "cka": "The similarity of features needs at least 4 images.",
}


def curves(found: Sequence[Resolution], number: str, sizes: Sequence[int]) -> None:
    """One number of all curves over `sizes`, and what it says."""
    labels = resolution_measure.labels(found)
    if not any(np.isfinite(curve.number(number)[0]).any() for curve in found):
        st.info(ABSENT.get(number, "This was not measured; choose another quantity."))
        return
    alt = f"{axis(number)} against image size, of {', '.join(labels)}"
    st.vega_lite_chart(chart(found, labels, number, sizes), width="stretch", alt=alt)
    level = f"{100 * found[0].meta['interval']['confidence']:.0f} %"
    entry = NUMBERS[number]
    st.caption(
        f"{entry.title}: {entry.meaning}. Of {found[0].meta['images']['source']}; intervals, where "
        f"there are any, are {level} unless they are quartiles."
    )
    growths = []
    for curve, label in zip(found, labels, strict=True):
        growth = curve.meta["exponents"].get(number, {})
        if growth.get("value") is not None:
            ends = [np.nan if growth[end] is None else growth[end] for end in ("low", "high")]
            growths.append(f"{label} as pixels^{written(growth['value'], *ends)}")
        for size, reason in curve.meta["missing"].items():
            st.caption(f"{label}, {size} px is missing: {reason.rstrip('.')}.")
        late = disturbed(curve) if number in ("latency", "throughput") else []
        if late:
            st.caption(
                f"{label}, {', '.join(map(str, late))} px: timed beside other work, so too slow."
            )
    if growths:
        st.caption(f"Growth: {'; '.join(growths)}.")


def table(found: Sequence[Resolution], number: str) -> None:
    """The numbers of the chart."""
    sizes = resolution_measure.sizes(found)
    columns = {"size": [f"{size} px" for size in sizes]}
    for curve, label in zip(found, resolution_measure.labels(found), strict=True):
        values = zip(*curve.number(number), strict=True)
        cells = dict(zip(curve.sizes.tolist(), values, strict=True))
        columns[label] = [written(*cells.get(size, (np.nan,) * 3)) for size in sizes]
    st.markdown(f":small[**{axis(number)}**]")
    st.table(columns, hide_index=True, border="horizontal", alt=axis(number))


def about_pictures(task: Task) -> None:
    st.subheader("One picture", anchor=False)
    st.caption(
        f"{task.images.names[0]} as the models get it at each size, their first answer, and the "
        "receptive field of the last stage's centre: gradient / its maximum, to the power 0.25."
    )


def one_picture(task: Task) -> None:
    """The picture at each size, and where it is known the prediction and the receptive field."""
    spec = task.spec
    st.markdown(f"**{spec.model}**  \n:small[{spec.label}]")
    known = {step.size: step for step in task.steps}
    trained = known.get(spec.size)
    with st.container(horizontal=True, gap="small"):
        for size in task.sizes:
            with st.container(width=WIDTH, gap="small"):
                _one_size(task, size, known.get(size), trained)


def _one_size(task: Task, size: int, step: Step | None, trained: Step | None) -> None:
    spec, name = task.spec, task.images.names[0]
    preprocessing = resolution_measure.preprocessing(spec, size, task.config.point)
    picture = preprocessing.picture(task.images.load(0))
    side = size * max(1, round(256 / size))  # whole blocks, so that pixels are seen as pixels
    title = f"{size} px" + (", trained" if size == spec.size else "")
    said = "" if step is None else _said(task, step, trained)
    st.image(
        overlay.enlarged(picture, (side, side)),
        caption=f"**{title}**" + (f"  \n{said}" if said else ""),
        width=WIDTH,
        alt=f"{name} at {size} px",
    )
    if step is not None and step.field is not None:
        field = step.field
        st.image(
            overlay.enlarged(overlay.over(picture, shown(field)), (side, side)),
            caption=f"A50 {with_interval(field, 'A50')}  \n"
            f"cross-ness {with_interval(field, 'crossness')}",
            width=WIDTH,
            alt=f"Receptive field of {spec.model} at {size} px",
        )


def _said(task: Task, step: Step, trained: Step | None) -> str:
    """The first answer and its probability, or why there is none."""
    if step.point is None:
        return f"missing: {step.reason}"
    logits = step.point.logits
    best = int(logits[0].argmax())
    share = float(np.exp(log_softmax(logits)[0, best]))
    text = f"{class_names(task.spec, logits.shape[1])[best]}  \n{100 * share:.0f} %"
    if trained is None or trained.point is None or trained.point.logits[0].argmax() == best:
        return text
    return f"{text}, changed"
