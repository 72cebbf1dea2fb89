"""Hidden attention: a selective scan with its coefficients held fixed is a matrix (Ali, Zimerman &
Wolf, arXiv 2403.01590).

    alpha[t, s] = C_t . (exp(delta_(s+1) A) ... exp(delta_t A)) B_s delta_s    for s <= t, else 0

so that y = alpha u + D u for each channel. Decays are computed as the exponential of a sum of
delta A between two tokens, in float64, never as a quotient of two long products, which underflow.
A row or a column costs O(l d n) time and O(l) memory beside its output, at any length.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from workbench.paths import ScanPath
from workbench.scan import to_image_order, to_scan_order

VIEWS = {
    "alpha": "C_t . decay(s to t) B_s delta_s, the hidden attention itself",
    "contribution": "alpha[t, s] u_s: the parts of y_t, which sum to it",
    "QK": "C_t . B_s: VMamba's Q K^T, without decay and step size",
    "QwKw": "C_t . decay(s to t) B_s: VMamba's (Q w)(K / w)^T, without step size",
    "w": "sum over states of decay(s to t): VMamba's w",
}
"""What an entry is, summed over states; `QK`, `QwKw` and `w` are arXiv 2401.10166, section 5."""

AGGREGATES = ("abs", "mean", "norm", "channels")
"""Over channels: mean of |.|, signed mean, Euclidean norm, or no aggregation."""

LIMIT = 2**30
"""Bytes that a full matrix may take."""

_BLOCK = 2**20  # entries worked on at once: a few MB for every intermediate tensor


@dataclass(frozen=True, eq=False)
class Convolution:
    """u = SiLU(conv(x) + bias) before a scan, as the linear map x -> slope * conv(x).

    Attributes:
        weight: (d, 1, k) along the sequence, or (d, 1, k, k) over the image.
        slope: (d, l) in scan order, sigmoid(conv(x) + bias).
        before: padding before the first token (row, column).
        path: where the sequence runs, for a convolution over the image.
    """

    weight: Tensor
    slope: Tensor
    before: int
    path: ScanPath | None = None

    def to_input(self, rows: Tensor, channels: slice) -> Tensor:
        """The adjoint: influence of u (r, c, l) -> influence of x (r, c, l), c = `channels`."""
        rows = rows * self.slope[channels]
        weight, length = self.weight[channels].to(rows.dtype), rows.shape[-1]
        groups = len(weight)
        if self.path is None:
            wide = F.conv_transpose1d(rows, weight, groups=groups)
            return wide[..., self.before : self.before + length]
        images = to_image_order(rows, self.path)
        height, width = images.shape[-2:]
        wide = F.conv_transpose2d(images, weight, groups=groups)
        images = wide[..., self.before : self.before + height, self.before : self.before + width]
        return to_scan_order(images, self.path)

    def impulse(self, token: int, channels: slice) -> Iterator[tuple[int, Tensor]]:
        """The tokens of u that x at `token` reaches, each with its weights (c)."""
        weight = self.weight[channels]
        if self.path is None:
            reached = [(token + self.before - k, weight[:, 0, k]) for k in range(weight.shape[-1])]
        else:
            height, width = self.path.height, self.path.width
            row, column = divmod(int(self.path.order[token]), width)
            reached = []
            for i in range(weight.shape[-2]):
                for j in range(weight.shape[-1]):
                    r, c = row + self.before - i, column + self.before - j
                    if 0 <= r < height and 0 <= c < width:
                        at = int(self.path.inverse[r * width + c])
                        reached.append((at, weight[:, 0, i, j]))
        for at, taps in reached:
            if 0 <= at < self.slope.shape[-1]:
                yield at, taps * self.slope[channels, at]


@dataclass(frozen=True, eq=False)
class HiddenAttention:
    """The matrix of one direction of one layer for one image (or one window of it).

    Tokens are counted in scan order. D, gate and convolution take part when they are given.

    Attributes:
        delta: (d, l), the step size after softplus.
        A: (d, n). B, C: (n, l).
        D: (d), adds the skip connection to the diagonal.
        gate: (d, l), what y is multiplied with afterwards, SiLU(z).
        convolution: what makes u from x; entries then say how x, not u, influences y.
        u: (d, l), for the view "contribution" only.
        view: one of `VIEWS`.

    Raises:
        ValueError: for an unknown view, or parts that a view does not have.
    """

    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None = None
    gate: Tensor | None = None
    convolution: Convolution | None = None
    u: Tensor | None = None
    view: str = "alpha"

    def __post_init__(self) -> None:
        if self.view not in VIEWS:
            raise ValueError(f"a view is one of {', '.join(VIEWS)}, not {self.view!r}")
        extra = {"D": self.D, "gate": self.gate, "convolution": self.convolution}
        if self.view in ("QK", "QwKw", "w"):
            for part, value in extra.items():
                if value is not None:
                    raise ValueError(
                        f"the published view {self.view!r} has no {part}; leave it out"
                    )
        if self.view == "contribution":
            if self.u is None:
                raise ValueError("the view 'contribution' needs u; record it too")
            if self.convolution is not None:
                raise ValueError("the view 'contribution' is of u, so leave the convolution out")

    @property
    def length(self) -> int:
        """Tokens."""
        return self.delta.shape[1]

    @property
    def dim(self) -> int:
        """Channels."""
        return self.delta.shape[0]

    def row(
        self, query: int, aggregate: str | int = "abs", channels: slice | None = None
    ) -> Tensor:
        """Influence of every token on the token `query`.

        Args:
            query: in scan order.
            aggregate: one of `AGGREGATES`, or the number of one channel.
            channels: only these channels; by default all.

        Returns:
            (l), zero after the query unless a convolution looks ahead; (c, l) for "channels".

        Raises:
            ValueError: for a token outside the sequence or an unknown aggregate.
        """
        self._check_token(query)
        return self._aggregated(lambda part: self._row(query, part), aggregate, channels)

    def column(
        self, token: int, aggregate: str | int = "abs", channels: slice | None = None
    ) -> Tensor:
        """Influence of `token` on every token; arguments, shape and errors as for `row`."""
        self._check_token(token)
        return self._aggregated(lambda part: self._column(token, part), aggregate, channels)

    def diagonal(self, aggregate: str | int = "abs", channels: slice | None = None) -> Tensor:
        """Influence of every token on itself: (l), or (c, l) for "channels".

        Raises:
            ValueError: for an unknown aggregate, or with a convolution.
        """
        if self.convolution is not None:
            raise ValueError("the diagonal is that of the scan, so leave the convolution out")
        return self._aggregated(self._diagonal, aggregate, channels)

    def matrix(
        self, aggregate: str | int = "abs", channels: slice | None = None, limit: int = LIMIT
    ) -> Tensor:
        """All rows: (l, l), rows are queries; (c, l, l) for "channels".

        Raises:
            ValueError: when it would take more than `limit` bytes, for an unknown aggregate.
        """
        length = self.length
        count = len(range(self.dim)[channels or slice(None)]) if aggregate == "channels" else 1
        size = count * length**2 * self._dtype.itemsize
        if size > limit:
            what = f"{count} x " if count > 1 else ""
            raise ValueError(
                f"the full matrix of {what}{length:,} x {length:,} entries takes {size / 1e9:.1f} "
                f"GB, more than the limit of {limit / 1e9:.1f} GB; ask for the row or column of a "
                "query instead, which take O(length)"
            )
        shape = (count, length, length) if aggregate == "channels" else (length, length)
        found = torch.zeros(shape, dtype=self._dtype, device=self.delta.device)
        step = max(8, math.isqrt(length // 2))  # balances the two kinds of exponentials below
        for start in range(0, length, step):
            stop = min(start + step, length)

            def rows(part: slice, start=start, stop=stop) -> Tensor:
                return self._rows(start, stop, part)

            block = self._aggregated(rows, aggregate, channels, (stop - start) + self.A.shape[1])
            found[..., start:stop, : block.shape[-1]] = block
        return found

    # The mathematics, for some channels c.

    @property
    def _dtype(self) -> torch.dtype:
        return torch.promote_types(self.delta.dtype, torch.float32)

    def _rates(self, channels: slice) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """delta (c, l), A (c, n), B and C (n, l), in the working precision.

        A is for powers of two: `exp2` is several times faster than `exp` where decays underflow.
        """
        tensors = (self.delta[channels], self.A[channels], self.B, self.C)
        delta, A, B, C = (x.detach().to(self._dtype).contiguous() for x in tensors)
        return delta, A * math.log2(math.e), B, C

    def _decayed(self, sums: Tensor, A: Tensor, C: Tensor, B: Tensor) -> Tensor:
        """sum_n C[n] 2^(A[:, n] sums) B[n]: sums (c, ...), C and B (n, ...) -> (c, ...)."""
        weights = C * B
        if self.view == "QK":
            return weights.sum(dim=0).expand_as(sums).clone()
        if self.view == "w":
            weights = torch.ones_like(weights)
        found, decay = torch.zeros_like(sums), torch.empty_like(sums)
        for n in range(A.shape[1]):
            torch.mul(sums, A[:, n].view(-1, *[1] * (sums.ndim - 1)), out=decay)
            found.addcmul_(decay.exp2_(), weights[n])
        return found

    def _input(self, channels: slice, tokens: slice) -> Tensor | None:
        """(c, tokens): what an entry is multiplied with because of the token it comes from."""
        if self.view not in ("alpha", "contribution"):
            return None
        factor = self.delta[channels, tokens].detach().to(self._dtype)
        return factor if self.view == "alpha" else factor * self._u(channels, tokens)

    def _u(self, channels: slice, tokens: slice) -> Tensor:
        assert self.u is not None  # checked for the view that needs it
        return self.u[channels, tokens].detach().to(self._dtype)

    def _skip(self, channels: slice, tokens: slice) -> Tensor | None:
        """(c, tokens): what D adds to the diagonal."""
        if self.D is None:
            return None
        skip = self.D[channels, None].detach().to(self._dtype)
        if self.view == "contribution":
            return skip * self._u(channels, tokens)
        return skip.expand(-1, len(range(self.length)[tokens]))

    def _row(self, query: int, channels: slice) -> Tensor:
        delta, A, B, C = self._rates(channels)
        before, own = slice(0, query + 1), slice(query, query + 1)
        row = self._decayed(_sums_to(delta, query), A, C[:, own], B[:, before])
        if (factor := self._input(channels, before)) is not None:
            row *= factor
        if (skip := self._skip(channels, own)) is not None:
            row[:, own] += skip
        if self.gate is not None:
            row *= self.gate[channels, own].detach()
        row = F.pad(row, (0, self.length - query - 1))
        if self.convolution is not None:
            row = self.convolution.to_input(row[None], channels)[0]
        return row

    def _column(self, token: int, channels: slice) -> Tensor:
        if self.convolution is None:
            column = self._scan_column(token, channels)
        else:
            column = torch.zeros_like(self.delta[channels], dtype=self._dtype)
            for at, weights in self.convolution.impulse(token, channels):
                column += self._scan_column(at, channels) * weights[:, None]
        return column if self.gate is None else column.mul_(self.gate[channels].detach())

    def _scan_column(self, token: int, channels: slice) -> Tensor:
        delta, A, B, C = self._rates(channels)
        own, after = slice(token, token + 1), slice(token, None)
        column = self._decayed(_sums_from(delta, token), A, C[:, after], B[:, own])
        if (factor := self._input(channels, own)) is not None:
            column *= factor
        if (skip := self._skip(channels, own)) is not None:
            column[:, :1] += skip
        return F.pad(column, (token, 0))

    def _diagonal(self, channels: slice) -> Tensor:
        delta, A, B, C = self._rates(channels)
        diagonal = self._decayed(torch.zeros_like(delta), A, C, B)
        if (factor := self._input(channels, slice(None))) is not None:
            diagonal *= factor
        if (skip := self._skip(channels, slice(None))) is not None:
            diagonal += skip
        return diagonal if self.gate is None else diagonal.mul_(self.gate[channels].detach())

    def _rows(self, start: int, stop: int, channels: slice) -> Tensor:
        """Rows start ... stop - 1: (c, stop - start, stop), or (..., l) with a convolution.

        The decay from s to t is one factor up to `start` and one from there, both at most 1, so
        that the sum over states is a matrix product; within the rows it is taken directly.
        """
        delta, A, B, C = self._rates(channels)
        here, count = slice(start, stop), stop - start
        # [t, s] = sum of delta from s + 1 to t: a running sum of positive terms, no difference.
        steps = delta[:, here, None].double() * torch.ones(count, count).tril(-1).to(delta.device)
        sums = steps.cumsum(dim=1).to(delta.dtype)
        inner = self._decayed(sums, A, C[:, here, None], B[:, None, here]).tril_()
        if start == 0:
            rows = inner
        else:
            to_here = _sums_to(delta, start - 1)[:, None]  # (c, 1, start)
            from_here = delta[:, here].double().cumsum(dim=1).to(delta.dtype)[:, :, None]
            left, right = C[:, here].T, B[:, :start]
            if self.view == "w":
                left, right = torch.ones_like(left), torch.ones_like(right)
            if self.view != "QK":
                left = left * (from_here * A[:, None]).exp2_()  # (c, count, n)
                right = right * (to_here * A[:, :, None]).exp2_()  # (c, n, start)
            outer = torch.matmul(left, right).expand(len(delta), -1, -1)
            rows = torch.cat([outer, inner], dim=2)
        if (factor := self._input(channels, slice(0, stop))) is not None:
            rows *= factor[:, None]
        if (skip := self._skip(channels, here)) is not None:
            rows[:, :, start:].diagonal(dim1=1, dim2=2).add_(skip)
        if self.gate is not None:
            rows *= self.gate[channels, here, None].detach()
        if self.convolution is not None:
            rows = F.pad(rows, (0, self.length - stop)).transpose(0, 1)
            rows = self.convolution.to_input(rows, channels).transpose(0, 1)
        return rows

    # Over channels.

    def _check_token(self, token: int) -> None:
        if not 0 <= token < self.length:
            raise ValueError(
                f"token {token} lies outside the sequence of {self.length} tokens (0 to "
                f"{self.length - 1})"
            )

    def _aggregated(
        self,
        part: Callable[[slice], Tensor],
        aggregate: str | int,
        channels: slice | None,
        width: int = 1,
    ) -> Tensor:
        """`part` over blocks of channels, aggregated; a channel has about width * l entries."""
        chosen = range(self.dim)[channels or slice(None)]
        if isinstance(aggregate, int):
            if aggregate not in chosen:
                raise ValueError(f"there is no channel {aggregate}; they are 0 to {self.dim - 1}")
            return part(slice(aggregate, aggregate + 1))[0]
        total = ChannelTotal(aggregate)
        for block in blocks_of(chosen, width * self.length):
            total.add(part(block))
        return total.value


def blocks_of(channels: range, entries: int) -> Iterator[slice]:
    """Runs of channels, few enough to be worked on at once, when a channel has so many entries."""
    size = max(1, _BLOCK // entries)
    for start in range(channels.start, channels.stop, size):
        yield slice(start, min(start + size, channels.stop))


def hidden_attention(
    tensors: Mapping[str, Tensor],
    image: int = 0,
    view: str = "alpha",
    with_D: bool = False,
    **parts: Tensor | Convolution | None,
) -> HiddenAttention:
    """The hidden attention of one site of `workbench.record`, for one image of the batch.

    Args:
        tensors: delta (b, d, l), A (d, n), B, C (b, n, l), and D (d) and u (b, d, l) as needed.
        parts: `gate` and `convolution`.
    """
    return HiddenAttention(
        delta=tensors["delta"][image],
        A=tensors["A"],
        B=tensors["B"][image],
        C=tensors["C"][image],
        D=tensors.get("D") if with_D else None,
        u=tensors["u"][image] if view == "contribution" else None,
        view=view,
        **parts,
    )


class ChannelTotal:
    """Aggregates blocks (c, ...) of channels, one after the other; see `AGGREGATES`.

    Raises:
        ValueError: for an unknown aggregate.
    """

    def __init__(self, aggregate: str) -> None:
        if aggregate not in AGGREGATES:
            raise ValueError(
                f"channels are aggregated by {', '.join(AGGREGATES)} or a channel's number, not "
                f"{aggregate!r}"
            )
        self.aggregate = aggregate
        self.count = 0
        self._parts: list[Tensor] = []

    def add(self, part: Tensor) -> None:
        self.count += len(part)
        if self.aggregate == "channels":
            self._parts.append(part)
            return
        if self.aggregate == "abs":
            part = part.abs()
        elif self.aggregate == "norm":
            part = part.square()
        found = part.sum(dim=0)
        self._parts = [self._parts[0].add_(found)] if self._parts else [found]

    @property
    def value(self) -> Tensor:
        """(...), or all channels (c, ...) for "channels"."""
        if self.aggregate == "channels":
            return torch.cat(self._parts)
        (total,) = self._parts
        return total.sqrt() if self.aggregate == "norm" else total / self.count


def _sums_to(delta: Tensor, query: int) -> Tensor:
    """(c, query + 1): sum of delta (c, l) from s + 1 to the query, for s = 0 ... query."""
    steps = delta[:, 1 : query + 1].flip(1).double().cumsum(dim=1).flip(1)
    return F.pad(steps, (0, 1)).to(delta.dtype)


def _sums_from(delta: Tensor, token: int) -> Tensor:
    """(c, l - token): sum of delta (c, l) from token + 1 to t, for t = token ... l - 1."""
    return F.pad(delta[:, token + 1 :].double().cumsum(dim=1), (1, 0)).to(delta.dtype)
