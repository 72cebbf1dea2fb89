"""Stand-ins for cross-scan kernels that exist only in Triton, as VMamba's `csm_triton.py` has them.

Functions of autograd by the same names: `X.apply(tensor)`. Directions are rows, columns, and both
reversed.
"""

from typing import Any

import torch
from torch import Tensor


class CrossScan:
    """(b, c, h, w) -> (b, 4, c, h w)."""

    @staticmethod
    def apply(x: Tensor) -> Tensor:
        return CrossScanEach.apply(x.unsqueeze(1).expand(-1, 4, -1, -1, -1))


class CrossMerge:
    """(b, 4, c, h, w) in scan order -> (b, c, h w), the sum over directions in image order."""

    @staticmethod
    def apply(y: Tensor) -> Tensor:
        return CrossMergeEach.apply(y).sum(1)


class CrossScanEach:
    """The same with an image for each direction: (b, 4, c, h, w) -> (b, 4, c, h w)."""

    @staticmethod
    def apply(x: Tensor) -> Tensor:
        rows, columns, rows_back, columns_back = x.unbind(1)
        forth = [rows.flatten(2), columns.mT.flatten(2)]
        back = [rows_back.flatten(2).flip(-1), columns_back.mT.flatten(2).flip(-1)]
        return torch.stack(forth + back, dim=1)


class CrossMergeEach:
    """Back into image order, one by one: (b, 4, c, h, w) -> (b, 4, c, h w)."""

    @staticmethod
    def apply(y: Tensor) -> Tensor:
        height, width = y.shape[-2:]
        rows, columns, rows_back, columns_back = y.flatten(3).unbind(1)
        turned = [
            each.unflatten(-1, (width, height)).mT.flatten(2)
            for each in (columns, columns_back.flip(-1))
        ]
        return torch.stack([rows, turned[0], rows_back.flip(-1), turned[1]], dim=1)


CROSS: dict[str, Any] = {
    "CrossScanTriton": CrossScan,
    "CrossMergeTriton": CrossMerge,
    "CrossScanTriton1b1": CrossScanEach,
    "CrossMergeTriton1b1": CrossMergeEach,
}
"""Taken for what a repository calls so, without a GPU."""
