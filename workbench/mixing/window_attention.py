"""Softmax attention inside a window, asked the same questions as `hidden_attention`.

MambaVision (arXiv 2407.08083) follows its scans with such blocks.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from workbench.mixing.hidden_attention import ChannelTotal

VIEWS = ("alpha", "contribution")


@dataclass(frozen=True, eq=False)
class WindowAttention:
    """softmax(q k^T / sqrt(c)) of one window of one image.

    Attributes:
        q, k, v: (heads, l, c).
        view: "alpha", the weights, whose channels are the heads; or "contribution", the weights
            times v, whose channels are those of all heads: the parts of the output.

    Raises:
        ValueError: for another view.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    view: str = "alpha"

    def __post_init__(self) -> None:
        if self.view not in VIEWS:
            raise ValueError(f"attention has the views {', '.join(VIEWS)}, not {self.view!r}")

    @property
    def length(self) -> int:
        return self.q.shape[1]

    def weights(self, queries: slice) -> Tensor:
        """(heads, queries, l); each row sums to 1."""
        scores = self.q[:, queries] @ self.k.transpose(1, 2) / self.q.shape[2] ** 0.5
        return scores.softmax(dim=-1)

    def row(self, query: int, aggregate: str | int = "abs") -> Tensor:
        """Influence of every token on the token `query`: (l), or (channels, l)."""
        weights = self.weights(slice(query, query + 1))[:, 0]
        if self.view == "contribution":
            weights = (weights[:, :, None] * self.v).transpose(1, 2).flatten(0, 1)
        return _aggregated(weights, aggregate)

    def column(self, token: int, aggregate: str | int = "abs") -> Tensor:
        """Influence of `token` on every token: (l), or (channels, l)."""
        found = self._over_rows(lambda weights, rows: weights[:, :, token])
        if self.view == "contribution":
            found = (found[:, None] * self.v[:, token, :, None]).flatten(0, 1)
        return _aggregated(found, aggregate)

    def diagonal(self, aggregate: str | int = "abs") -> Tensor:
        """Influence of every token on itself: (l), or (channels, l)."""
        found = self._over_rows(lambda weights, rows: weights[:, :, rows].diagonal(dim1=1, dim2=2))
        if self.view == "contribution":
            found = (found[:, None] * self.v.transpose(1, 2)).flatten(0, 1)
        return _aggregated(found, aggregate)

    def _over_rows(self, take: Callable[[Tensor, slice], Tensor]) -> Tensor:
        """(heads, l) from blocks of rows, so that long windows take little memory."""
        step = max(1, 2**20 // self.length)
        blocks = [slice(i, min(i + step, self.length)) for i in range(0, self.length, step)]
        return torch.cat([take(self.weights(rows), rows) for rows in blocks], dim=1)


def _aggregated(channels: Tensor, aggregate: str | int) -> Tensor:
    if isinstance(aggregate, int):
        if not 0 <= aggregate < len(channels):
            raise ValueError(f"there is no channel {aggregate}; they are 0 to {len(channels) - 1}")
        return channels[aggregate]
    total = ChannelTotal(aggregate)
    total.add(channels)
    return total.value
