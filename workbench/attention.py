"""Softmax attention as a module: with the scan the second way in which layers mix tokens."""

from collections.abc import Sequence

from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al., arXiv 1706.03762) over all tokens it is given.

    `qkv` gives q, k and v of all heads, (b, l, 3 * heads * c).
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def split(self, qkv: Tensor) -> Tensor:
        """(b, l, 3 * heads * c) -> q, k and v: (3, b, heads, l, c)."""
        return qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)

    def forward(self, h: Tensor, paths: Sequence = ()) -> Tensor:
        """(b, l, dim) -> (b, l, dim); `paths` is for scans in the same place."""
        q, k, v = self.split(self.qkv(h))
        # Written out, as the fused one on CPUs has neither forward mode nor second derivatives.
        weights = (q * q.shape[-1] ** -0.5 @ k.mT).softmax(dim=-1)
        return self.proj((weights @ v).transpose(1, 2).flatten(2))
