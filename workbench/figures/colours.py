"""Colours and markers of lines."""

from collections.abc import Sequence
from zlib import crc32

# Okabe and Ito's colours, told apart with any colour vision; black last.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_SALT = 84  # with it the families that ship have colours of their own


def styles(models: Sequence[str]) -> list[int]:
    """The place in COLOURS and MARKERS of each model: that of its family, the same in every figure.

    Where two meet in one figure the later takes the next that is free.
    """
    found: list[int] = []
    for model in models:
        place = crc32(f"{_SALT}{model.partition('_')[0]}".encode()) % 6
        while place in found and len(set(found)) < len(COLOURS):
            place = (place + 1) % len(COLOURS)
        found.append(place)
    return found
