"""What `meta` holds: names and types of the parts that figures, tables and pages read.

JSON Schemas, checked by `jsonschema`. A part that is there has its type; what a run says of itself
is there as a whole (a result that was put together by hand may hold less).
"""

from typing import Any

import jsonschema

TEXT: dict[str, Any] = {"type": "string"}
WHOLE: dict[str, Any] = {"type": "integer"}
VALUE: dict[str, Any] = {"type": ["number", "null"]}
OBJECT: dict[str, Any] = {"type": "object"}
TEXTS: dict[str, Any] = {"type": "array", "items": TEXT}


def _object(required: str = "", **properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "required": required.split(), "properties": properties}


def _of(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": items}


def _list(items: dict[str, Any], **more: int) -> dict[str, Any]:
    return {"type": "array", "items": items, **more}


PAIR = _list({"type": "number"}, minItems=2, maxItems=2)
CELLS = _list({"type": "integer", "minimum": 0}, minItems=2, maxItems=2)
NUMBER = _object("value", value=VALUE, low=VALUE, high=VALUE, unit=TEXT)
NUMBERS = _of(NUMBER)

RUN = "method model facts config preprocessing images images_used skipped notes dtype device"
_COMMON = {
    "method": TEXT,
    "model": TEXT,
    "hash": TEXT,
    "facts": _object(
        weights_label=TEXT,
        training=TEXT,
        weights={"type": ["string", "null"]},
        weights_sha256={"type": ["string", "null"]},
        licence={"type": ["string", "null"]},
    ),
    "config": OBJECT,
    "preprocessing": _object(size=CELLS),
    "images": _object("source count", source=TEXT, count=WHOLE, fingerprint=TEXT, names=TEXTS),
    "images_used": WHOLE,
    "skipped": _of(TEXT),
    "notes": TEXTS,
    "quirks": TEXTS,
    "dtype": TEXT,
    "device": TEXT,
    "provenance": _object("versions", versions=_of(TEXT), revision=TEXT, dirty={"type": "boolean"}),
}

_NUMBERED = {"numbers": NUMBERS}
_CONDITION = _object(
    "name group series numbers", name=TEXT, group=TEXT, series=TEXT, numbers=NUMBERS
)
_POINT = _object(
    "size numbers layers", size=WHOLE, numbers=NUMBERS, layers=_list(_object("median length"))
)
_SITE = _object(
    "name kind cells start",
    **dict.fromkeys(("name", "kind", "layer", "direction"), TEXT),
    cells=CELLS,
    **dict.fromkeys(("start", "number", "dim", "states"), WHOLE),
)
_OWN: dict[str, dict[str, dict[str, Any]]] = {
    "erf": {
        **_NUMBERED,
        "cell": CELLS,
        "cells": CELLS,
        "centre": PAIR,
        "display": TEXT,
        "splits": TEXTS,
        "protocol": OBJECT,
    },
    "scan-maps": {"numbers": _of(NUMBERS), "quantities": TEXTS, "sites": _list(_SITE)},
    "state": {
        **_NUMBERED,
        "quantities": TEXTS,
        "meaning": TEXTS,
        "sites": _list(
            {
                **_SITE,
                "required": [*_SITE["required"], "layer", "direction", "number", "dim", "states"],
            },
            minItems=1,
        ),
    },
    "decompose": {
        **_NUMBERED,
        "quantities": TEXTS,
        "through": _of(TEXT),
        "sites": _list(
            {**_SITE, "required": [*_SITE["required"], "layer", "direction", "number"]}, minItems=1
        ),
    },
    "atlas": {
        **_NUMBERED,
        "sites": _list(
            _object(
                "name layer direction kind cells stride start queries even",
                **dict.fromkeys(("name", "layer", "direction", "kind"), TEXT),
                cells=CELLS,
                stride=PAIR,
                start=WHOLE,
                queries=_list(CELLS, minItems=1),
                even={"type": "number"},
            ),
            minItems=1,
        ),
        "compared": WHOLE,
        "grid": CELLS,
        "variance": PAIR,
    },
    "attribution": {
        **_NUMBERED,
        "fractions": _list({"type": "number"}),
        "probabilities": _list({"type": "number"}),
        "targets": _list(WHOLE),
        "references": TEXTS,
        "shows": TEXT,
    },
    "tokens": {
        **_NUMBERED,
        "blocks": _list(
            _object("name cells start", name=TEXT, cells=CELLS, start=WHOLE), minItems=1
        ),
        "others": TEXTS,
        "left_out": TEXTS,
        "quantiles": _list({"type": "number"}),
    },
    "objects": {
        **_NUMBERED,
        "maps": TEXTS,
        "controls": TEXTS,
        "missing": _of(TEXT),
        "scored": WHOLE,
        "unscored": WHOLE,
    },
    "resolution-point": {"size": WHOLE},
    "resolution": {
        "points": _list(_POINT, minItems=1),
        "missing": _of(TEXT),
        "exponents": _of(_object("value", value=VALUE, low=VALUE, high=VALUE)),
        "native": WHOLE,
        "object_size": TEXT,
        "classes": {"type": ["array", "null"]},
    },
    "robustness": {
        **_NUMBERED,
        "conditions": _list(_CONDITION),
        "benchmark": TEXTS,
        "directions": TEXTS,
        "checklist": {"type": ["object", "null"]},
        "labels": TEXT,
    },
    "sensitivity": {
        "clean": NUMBER,
        "attacked": NUMBER,
        "views": _of(OBJECT),
        "rows": _of({"type": "array"}),
        "used": OBJECT,
        "claims": _list(_object("claim verdict", claim=TEXT, verdict=TEXT)),
    },
    "quantize": {
        **_NUMBERED,
        "conditions": _list(
            _object(
                "name tensor granularity range bits numbers",
                **dict.fromkeys(("name", "tensor", "granularity", "range"), TEXT),
                bits=WHOLE,
                numbers=NUMBERS,
            ),
            minItems=1,
        ),
        "sites": TEXTS,
        "tensors": TEXTS,
        "tails": TEXTS,
        "labelled": WHOLE,
        "calibration": TEXTS,
    },
    "quantize-ranges": {"layout": _list({"type": "array", "minItems": 5, "maxItems": 5})},
}


def problem(kind: str, meta: dict[str, Any]) -> str | None:
    """What is wrong with the `meta` of a result, in words; None where nothing is."""
    own = _OWN.get(kind, {})
    schema = {
        "type": "object",
        "properties": {**_COMMON, **own},
        "dependentRequired": {"method": [*RUN.split(), "provenance", *own]},
    }
    error = next(jsonschema.Draft202012Validator(schema).iter_errors(meta), None)
    if error is None:
        return None
    place = ".".join(map(str, error.absolute_path)) or "meta"
    return f"{place}: {error.message}"
