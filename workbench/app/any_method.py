"""The page of a method that has none of its own: its options, its figures, its numbers."""

import os
import typing
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, fields
from typing import Any

import streamlit as st

from workbench import methods
from workbench.app import session, sidebar
from workbench.app.drawn import drawn_together
from workbench.app.glossary import header
from workbench.app.measure import command, measure
from workbench.app.session import Spec
from workbench.app.sidebar import Choice
from workbench.fields import meanings, read_option, several
from workbench.images import Images, open_images
from workbench.methods.method import IntervalConfig, choices
from workbench.results import Result

PICTURE, SAMPLES, OWN = "this picture", "all sample images", "all of yours"
WORKINGS = {field.name for field in fields(IntervalConfig)} | {"chunk", "keep"}
"""Options of how it is measured, not of what."""
KEPT = 16


Below = Callable[[Spec, Result], None]


def page(name: str, below: Below | None = None) -> None:
    """Title, options, and what was measured with them.

    Args:
        below: draws more of each result, below the figures of all.
    """
    title, _, question = methods.METHODS[name].partition(": ")
    header(title, name)
    st.markdown(f"{question[0].upper()}{question[1:]}?")
    with session.sentences():
        if choice := sidebar.choice():
            measured(name, choice, below)


def measured(name: str, choice: Choice, below: Below | None) -> None:
    """The controls; below them a result for each model, once it is asked for."""
    images, words, models = choose_images(name, choice)
    config = choose_config(name, choice.spec.seed)
    if images is None:
        st.info("Choose a picture in the sidebar to begin.")
        return
    asked = [(spec, name, images.fingerprint, config) for spec in models]
    known: dict[Any, Result] = st.session_state.setdefault("any_method", {})
    begun = st.button("Measure", type="primary", key=f"{name}-go")
    if begun:
        measure_missing(asked, images, known)
    shown = [one for one in asked if one in known]
    if not shown:
        st.caption("Nothing is measured before you press the button.")
        return
    found, specs = [known[one] for one in shown], [one[0] for one in shown]
    commands = [command(name, s.words, ["--images", words], s.size, config) for s in specs]
    try:
        drawn_together(found, commands, tuple(shown), key=name)
    except ValueError as error:
        if len(found) == 1:
            raise
        st.info(f"They are shown one by one: {session.plain(error)}.")
        for i, (one, result) in enumerate(zip(shown, found, strict=True)):
            drawn_together([result], commands[i : i + 1], (one,), key=f"{name}-{i}")
    if below:
        for spec, result in zip(specs, found, strict=True):
            below(spec, result)


def choose_images(name: str, choice: Choice) -> tuple[Images | None, str, list[Spec]]:
    """The images, how the command line names them, and the models."""
    own = session.own_images()
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        source = st.segmented_control(
            "Images",
            [PICTURE, SAMPLES, *([OWN] if own else [])],
            default=SAMPLES,
            required=True,
            key=f"{name}-images",
            bind="query-params",
            help="More with `vssm app --images FOLDER_OR_PACK`; class folders and packs have "
            "labels.",
        )
        first = sidebar.SCANNING if methods.get(name).scans else sidebar.FIRST
        beside = sidebar.choose_beside(choice.spec, choice.size, first)
    models = [choice.spec, *beside]
    if source == SAMPLES:
        return open_images("samples"), "samples", models
    if source == OWN:
        return own, session.short(os.environ["VSSM_IMAGES"]), models
    return choice.images, session.picture(choice.images) if choice.images else "", models


def choose_config(name: str, seed: int) -> Any:
    """A control for each field of the method's configuration."""
    kind = methods.get(name).Config
    hints, told = typing.get_type_hints(kind), meanings(kind)
    own = [field for field in fields(kind) if field.name not in WORKINGS]
    first = [field for field in own if hints[field.name] is bool or choices(hints[field.name])]
    values: dict[str, Any] = {}
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        for field in first:
            values[field.name] = control(name, field, hints[field.name], told.get(field.name))
    rest = [field for field in own if field not in first]
    if rest:
        with st.expander("More options"), st.container(horizontal=True, gap="medium"):
            for field in rest:
                values[field.name] = control(name, field, hints[field.name], told.get(field.name))
    if "seed" in hints:
        values["seed"] = seed
    return kind(**values)


def control(name: str, field: Field, hint: Any, meaning: str | None) -> Any:
    """A field's value: a switch, a choice, or a text that is read as the command line reads it."""
    label, default = field.name.replace("_", " ").capitalize(), _default(field)
    look: dict[str, Any] = {
        "key": f"{name}-{field.name}",
        "bind": "query-params",
        "help": meaning,
    }
    if hint is bool:
        return st.toggle(label, default, **look)
    allowed = choices(hint)
    if allowed and several(hint):
        names = [str(value) for value in allowed if value is not None]
        chosen = st.multiselect(
            label, names, [str(value) for value in default or ()], placeholder="default", **look
        )
        return read_option(field.name, chosen, hint)
    if allowed:
        names = [_text(value) for value in allowed]
        chosen = st.selectbox(label, names, names.index(_text(default)), width=180, **look)
        return next(value for value in allowed if _text(value) == chosen)
    text = st.text_input(label, _text(default), width=180, **look)
    if text == _text(default):
        return default
    words = text.replace(",", " ").split() if several(hint) else text
    return _number(field.name, read_option(field.name, words, hint), hint)


def _default(field: Field) -> Any:
    return field.default_factory() if field.default_factory is not MISSING else field.default


def _text(value: Any) -> str:
    if value is None:
        return "none"
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _number(name: str, value: Any, hint: Any) -> Any:
    """A text as the number that the field's type asks for."""
    kinds = {hint, *typing.get_args(hint)}
    if not isinstance(value, str) or str in kinds:
        return value
    if value in ("", "none") and type(None) in kinds:
        return None
    for kind in (int, float):
        if kind in kinds:
            try:
                return kind(value)
            except ValueError:
                continue
    raise ValueError(f"{name.replace('_', ' ')} is a number, not {value!r}")


def measure_missing(asked: Sequence[tuple], images: Images, known: dict[Any, Result]) -> None:
    """Measure what is not known yet, with a bar; what is finished stays after Stop."""
    session.warm_up()
    for number, one in enumerate(asked):
        if one in known:
            continue
        spec, name, _, config = one
        with session.sentences(), session.waiting(f"{name}-stop-{number}") as move:

            def report(done: int, total: int, note: str | None, model: str = spec.model) -> None:
                move(done / total, f"{model}: {done} of {total} images")

            result = measure(spec, name, images, config, report)
            while len(known) >= KEPT:
                known.pop(next(iter(known)))
            known[one] = result
