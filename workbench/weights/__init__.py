"""From a model's name and a weight file to a model that is ready to be looked at.

`create` is the door, `files` finds and reads weight files, `identify` says what their names and
shapes mean, `provenance` where a model comes from.
"""

from workbench.models import resize_pos_embed
from workbench.weights.create import (
    Report,
    WeightsMismatch,
    create_model,
    load_into,
)
from workbench.weights.files import find_weights, read_state_dict
from workbench.weights.identify import clean_keys, variant_of
from workbench.weights.provenance import Provenance, facts_of

__all__ = [
    "Provenance",
    "Report",
    "WeightsMismatch",
    "clean_keys",
    "create_model",
    "facts_of",
    "find_weights",
    "load_into",
    "read_state_dict",
    "resize_pos_embed",
    "variant_of",
]
