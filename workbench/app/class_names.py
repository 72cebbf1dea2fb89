"""Names of the classes that a model tells apart, where its weights say which they are."""

from collections.abc import Sequence

import numpy as np
import streamlit as st
import torch
from scipy.special import softmax

from workbench.app import session
from workbench.app.repository import beside_the_model
from workbench.app.session import Spec
from workbench.images import Images
from workbench.results.class_names import class_name

FEW = 20
"""Classes; who knows no more calls most photographs something that they do not show."""


def class_names(spec: Spec, count: int) -> list[str]:
    """A name for each of `count` classes: those that were trained for, else "class 3"."""
    known = session.facts(spec).get("class_names", ())
    return [class_name(known, i) for i in range(count)]


@st.cache_data(max_entries=200, show_spinner=False)
@beside_the_model
def first_answers(spec: Spec, fingerprint: str, _images: Images, count: int = 3) -> str:
    """What a model says of a picture, in words; empty where its classes have no names."""
    known = session.facts(spec).get("class_names")
    if not known:
        return ""
    loaded, preprocessing = session.load(spec), session.preprocessing(spec)
    x = preprocessing.tensor(preprocessing.picture(_images.load(0))[None])
    with loaded.lock, torch.no_grad():
        logits = loaded.model(x.to(next(loaded.model.parameters()).device))
    shares = 100 * softmax(logits[0].double().cpu().numpy())
    best = np.argsort(-shares)[:count]
    said = ", ".join(f"{class_name(known, int(k))} {shares[k]:.0f} %" for k in best)
    return f"Says {said}.{_only(known)}"


def _only(known: Sequence[str] | str) -> str:
    """That a network which knows few classes calls all else one of them."""
    few = not isinstance(known, str) and len(known) <= FEW
    return f" It knows {len(known)} classes only." if few else ""
