"""The words of a page, told where the mouse rests on the mark beside its title."""

import streamlit as st

WORDS = {
    "u": "what a scan reads at a step: the features of one cell, a value a channel",
    "delta": "step size: how much of u a step takes in, and how much of the state it forgets",
    "A": "rates, below zero: a step keeps exp(delta A) of the state",
    "B": "what the state takes in: how a step writes delta u into its entries",
    "C": "what is read out: y = C h",
    "h": "the hidden state: all that a scan knows of the steps before",
    "y": "what a scan gives at a step",
    "half-life": "steps until half of what the state holds is gone, ln 2 / (delta |A|)",
    "path": "the order in which a scan reads the cells; a direction is a scan along one path",
    "alpha": "hidden attention: how much of u at one cell reaches y at another, C decay B delta",
    "receptive field": "size of the gradient of one output unit at every pixel",
    "r50": "area of the smallest square around the unit that holds half of the map",
    "A50": "area of the smallest set of pixels, wherever they lie, that holds half of the map",
    "A99": "the same for 99 % of the map",
    "radius": "root mean square distance of the map from the unit",
    "participation": "part of the image that acts; 100 % when every pixel counts the same",
    "crossness": "how far the unit's row and column stand out; 1 for a map without a cross",
    "row_share": "share of the map in the horizontal band through the unit",
    "column_share": "share of the map in the vertical band through the unit",
    "margin": "logit of the right class less the largest other one; below zero is wrong",
    "top-1": "share of the images whose largest logit is the right class",
    "agreement": "share of the images that are answered as without the change",
    "CKA": "likeness of two sets of features or maps, 1 where they differ by a rotation alone",
    "eps": "the largest change of any pixel, or of any entry inside the model",
    "FGSM, PGD": "attacks along the gradient, in one step and in many",
    "budget": "how large a change inside the model may be, in parts of the tensor's size",
    "patching": "a tensor of one run put into another: what it carries over",
    "reach": "distance from a cell to what reaches it, in pixels, weighted by the map",
    "outlier": "a token whose norm lies far above those of the others in its image and block",
    "evidence": "what one token alone adds to the logit of the predicted class",
    "average precision": "how well a map's largest values lie in the object's box; 1 is perfect",
    "pointing game": "how often the map's largest value lies in the object's box",
    "static, dynamic": "ranges of values taken from calibration images, or from the image itself",
    "own, others": "what a token adds to the output at its own place, and at all other places",
    "deletion, insertion": "probability of the class while pixels go, or come, in the map's order",
}
"""Word -> what it means, as docs say at length."""

SCAN = ("u", "delta", "A", "B", "C", "h", "y")
ON_PAGE = {
    "erf": ("receptive field", "r50", "A50", "A99", "radius", "participation", *SCAN[:5]),
    "scan-maps": ("path", "alpha", "half-life", *SCAN),
    "state": ("h", "half-life", "delta", "A", "path"),
    "decompose": ("own, others", "alpha", "u", "y"),
    "tokens": ("outlier", "evidence"),
    "atlas": ("alpha", "reach", "CKA", "path"),
    "attribution": ("deletion, insertion", "r50", "A50"),
    "objects": ("average precision", "pointing game", "receptive field", "alpha"),
    "resolution": ("top-1", "agreement", "CKA", "A50", "half-life"),
    "robustness": ("top-1", "agreement", "margin", "eps", "FGSM, PGD", "path"),
    "sensitivity": ("margin", "budget", "eps", "patching", "half-life", *SCAN[:5]),
    "quantize": ("static, dynamic", "margin", "agreement", *SCAN),
    "story": ("receptive field", "path", "alpha", "half-life", "A50", "crossness"),
}


def header(title: str, page: str) -> None:
    """The title of a page, with its words on hover."""
    words = "  \n".join(f"**{word}**: {WORDS[word]}" for word in ON_PAGE.get(page, ()))
    st.header(title, anchor=False, help=words or None)
