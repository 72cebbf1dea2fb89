"""What all pages ask of the engine: a run of a method on the sidebar's model, and the same run as a
command line.
"""

import shlex
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import streamlit as st

from workbench import methods
from workbench.app import session
from workbench.app.repository import beside_the_model
from workbench.app.session import Spec
from workbench.images import Images
from workbench.results import Result
from workbench.runner import Progress, run


@beside_the_model
def measure(
    spec: Spec, method: str, images: Images, config: Any, progress: Progress | None = None
) -> Result:
    """A method on one model and some images."""
    loaded = session.load(spec)
    with loaded.lock:
        return run(
            methods.get(method),
            loaded.model,
            images,
            config,
            preprocessing=session.preprocessing(spec),
            facts=session.facts(spec),
            device=session.device(),
            progress=progress,
        )


@st.cache_data(max_entries=200, show_spinner=False)
def measure_once(spec: Spec, method: str, fingerprint: str, config: Any, _images: Images) -> Result:
    """`measure`, remembered by the fingerprint of the images."""
    return measure(spec, method, _images, config)


def command(
    method: str, models: Sequence[str], images: Sequence[str], size: int, config: Any
) -> str:
    """The command line that measures the same: fields that differ from their defaults are named.

    Args:
        models: the options that name the models, such as `Spec.words`.
        images: the option that names the images, and its values.
    """
    words = ["vssm", method, *models, *images, "--size", str(size)]
    for field in fields(config):
        value = getattr(config, field.name)
        if value != field.default and field.name != "seed":  # the models' options have it
            words.append(f"--{field.name.replace('_', '-')}")
            words += [] if value is True else map(_text, value if type(value) is tuple else [value])
    return shlex.join([*words, "--out", "out"])


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
