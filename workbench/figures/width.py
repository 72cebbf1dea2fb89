"""A figure at the width of a venue's text: all that is in it is scaled alike, as LaTeX would do."""

from collections.abc import Iterator

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axis import Axis
from matplotlib.collections import Collection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Text

VENUES = {
    "cvpr": 6.875, "cvpr-column": 3.25, "eccv": 4.8, "iclr": 5.5, "icml": 6.75,
    "icml-column": 3.25, "ieee": 7.16, "ieee-column": 3.5, "neurips": 5.5,
}  # fmt: skip
"""Width of the text, or of a column, in the templates of venues, in inches."""


def scaled(figure: Figure, width: float) -> Figure:
    """The figure made `width` inches wide."""
    factor = width / figure.get_figwidth()
    axes = [axis for ax in figure.axes for axis in (ax.xaxis, ax.yaxis)]
    in_ticks = {id(artist) for axis in axes for artist in _tick_artists(axis)}
    for artist in figure.findobj():
        if id(artist) in in_ticks:
            continue
        if isinstance(artist, Text):
            artist.set_fontsize(factor * artist.get_fontsize())
        elif isinstance(artist, Collection):
            artist.set_linewidth(
                [factor * width for width in np.atleast_1d(artist.get_linewidth())]
            )
        elif isinstance(artist, Line2D | Patch):
            artist.set_linewidth(factor * artist.get_linewidth())
        if isinstance(artist, Line2D):
            artist.set_markersize(factor * artist.get_markersize())
            artist.set_markeredgewidth(factor * artist.get_markeredgewidth())
    for axis in axes:  # ticks are made anew while drawing, from these
        for which, ticks in (("major", axis.get_major_ticks()), ("minor", axis.get_minor_ticks())):
            if ticks:
                mark = ticks[0].tick1line
                axis.set_tick_params(
                    which=which,
                    labelsize=factor * ticks[0].label1.get_fontsize(),
                    length=factor * mark.get_markersize(),
                    width=factor * mark.get_markeredgewidth(),
                    pad=factor * ticks[0].get_pad(),
                )
        axis.labelpad *= factor
    figure.set_size_inches(factor * figure.get_size_inches())
    return figure


def _tick_artists(axis: Axis) -> Iterator[Artist]:
    for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
        yield from tick.findobj()
