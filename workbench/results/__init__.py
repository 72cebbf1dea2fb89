"""Results: numpy arrays and `meta` in one file; what methods, figures and pages exchange."""

from workbench.results.kinds import (
    Attribution,
    Decomposition,
    Erf,
    Quantization,
    QuantizationRanges,
    Resolution,
    ResolutionPoint,
    Robustness,
    ScanMaps,
    Sensitivity,
    State,
    Tokens,
)
from workbench.results.provenance import canonical_json, content_hash, provenance
from workbench.results.store import (
    Result,
    ResultError,
    atomic_write,
    file_name,
    load,
    load_arrays,
    safe_name,
    save_arrays,
)

__all__ = [
    "Attribution",
    "Decomposition",
    "Erf",
    "Quantization",
    "QuantizationRanges",
    "Resolution",
    "ResolutionPoint",
    "Result",
    "ResultError",
    "Robustness",
    "ScanMaps",
    "Sensitivity",
    "State",
    "Tokens",
    "atomic_write",
    "canonical_json",
    "content_hash",
    "file_name",
    "load",
    "load_arrays",
    "provenance",
    "safe_name",
    "save_arrays",
]
