"""Numbers that can be weights: dense, floating-point, finite."""

from collections.abc import Mapping

import torch
from torch import Tensor

from workbench.files import printable


def check_kind(name: str, value: Tensor) -> None:
    """Raise ValueError for a tensor without plain numbers in memory."""
    kinds = {
        "sparse": value.layout != torch.strided or value.is_nested,
        "quantised": value.is_quantized,
        "without numbers (meta)": value.is_meta,
    }
    for kind, found in kinds.items():
        if found:
            raise ValueError(
                f"{printable(name, 100)} is {kind}: convert the weights to dense floating-point "
                "tensors"
            )


def check_values(state: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
    """Look at the tensors that a model takes.

    Raises:
        ValueError: naming the first that is sparse, quantised, of whole numbers where the model has
            floating-point ones, NaN or infinite.
    """
    for name, value in state.items():
        if name not in target or not target[name].is_floating_point():
            continue
        shown = printable(name, 100)
        check_kind(name, value)
        if not value.is_floating_point():
            raise ValueError(
                f"{shown} holds {str(value.dtype).removeprefix('torch.')} numbers where the model "
                "has floating-point ones: convert the weights before saving them"
            )
        # a view of one number can claim any shape, which is told as it is
        if value.shape == target[name].shape:
            _check_finite(shown, value)


def _check_finite(name: str, value: Tensor) -> None:
    value = value.float() if value.itemsize == 1 else value
    wrong = int((~torch.isfinite(value)).sum())
    if wrong:
        raise ValueError(
            f"{name} holds NaN or infinity in {wrong:,} of {value.numel():,} places: training had "
            "broken down before the file was written, or the file is damaged; take another"
        )
