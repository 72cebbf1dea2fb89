"""The S4ND layer (Nguyen et al., NeurIPS 2022, arXiv 2210.06583): a state-space model along each
axis of an image, whose parameters do not depend on the input.

A time-invariant scan is a convolution, computed here with the FFT. Written from the paper and from
measured behaviour of the published layer; names and shapes of the parameters are the published
ones.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["S4ND", "Kernel", "initial_state"]
INITS = ("legs", "fourier", "diag-legs", "diag-lin", "diag-inv")


def initial_state(init: str, d_state: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Diagonal A, input B and low-rank term P that a kernel starts from, complex (d_state / 2).

    One of each conjugate pair is kept, with imaginary parts of A <= 0. The state matrix is
    diag(A) - P P^*.

    Args:
        init: "legs" (HiPPO, Gu et al. 2020) and "fourier" with a low-rank term; "diag-legs",
            "diag-lin" and "diag-inv" (S4D, arXiv 2206.11893) without one.

    Raises:
        ValueError: for an unknown init or an odd number of states.
    """
    if init not in INITS:
        raise ValueError(f"init must be one of {', '.join(INITS)}, not {init!r}")
    if d_state < 2 or d_state % 2:
        raise ValueError(f"d_state must be even, as states come in pairs, not {d_state}")
    k = np.arange(d_state // 2)
    one = np.ones(d_state // 2, complex)
    if init == "diag-lin":
        return -0.5 - 1j * np.pi * k, one, 0 * one
    if init == "diag-inv":
        return -0.5 - 1j * d_state / np.pi * (d_state / (2 * k + 1) - 1), one, 0 * one
    if init == "fourier":
        gain = np.where(k == 0, math.sqrt(0.5), 1.0).astype(complex)
        return -1j * np.pi * k, gain, gain
    n = np.arange(d_state)
    root = np.sqrt(2 * n + 1)
    legs = np.diag(n) - np.tril(np.outer(root, root))
    rank_one = np.sqrt(n + 0.5)
    # legs + P P^T is -1/2 plus a skew-symmetric matrix, so it has orthogonal eigenvectors
    skew = legs + np.outer(rank_one, rank_one)
    frequencies, vectors = np.linalg.eigh(-1j * skew)
    vectors = vectors * np.exp(-1j * np.angle(vectors[0]))
    A = -0.5 + 1j * frequencies[: len(k)]
    B, P = ((vectors.conj().T @ x)[: len(k)] for x in (root, rank_one))
    B = B.real + 1j * B.imag.clip(-2, 2)  # as published
    return A, B, (0 * P if init == "diag-legs" else P)


def _pairs(x: np.ndarray) -> Tensor:
    """Complex (...) -> real (..., 2), as the parameters are stored."""
    return torch.tensor(np.stack([x.real, x.imag], axis=-1).tolist())


def _complex(x: Tensor) -> Tensor:
    """The way back; channels-last models hold (..., 2) in another order."""
    return torch.view_as_complex(x.contiguous())


class Kernel(nn.Module):
    """Convolution kernels of independent 1-D state-space models, along one axis of the image.

    mode "diag" (S4D): k[l] = 2 Re sum_n C_n Bd_n Ad_n^l. Mode "dplr" (S4, arXiv 2111.00396): the
    same with the full matrix diag(A) - P P^*. Ad and Bd come from the step size exp(inv_dt) by
    `disc`, "zoh" or "bilinear" ("dplr" is always bilinear).

    A published "dplr" checkpoint holds C (1 - Ad^L) with L = `l_kernel` in place of C; loading one
    takes that back, and `l_kernel` is 0 ever after.
    """

    def __init__(
        self,
        dim: int,
        count: int,
        d_state: int,
        mode: str,
        disc: str,
        init: str,
        n_ssm: int,
        dt_min: float,
        dt_max: float,
        bandlimit: float | None,
    ) -> None:
        super().__init__()
        self.mode, self.disc, self.bandlimit = mode, disc, bandlimit
        A, B, P = initial_state(init, d_state)
        rows = (n_ssm, d_state // 2)
        low, high = math.log(dt_min), math.log(dt_max)
        self.inv_dt = nn.Parameter(low + (high - low) * torch.rand(dim, 1))
        self.C = nn.Parameter(math.sqrt(0.5) * torch.randn(count, dim, d_state // 2, 2))
        self.B = nn.Parameter(_pairs(np.broadcast_to(B, (1, *rows))))
        decay = np.log((-A.real).clip(min=1e-4))
        self.A_real = nn.Parameter(torch.tensor(np.broadcast_to(decay, rows).tolist()))
        self.A_imag = nn.Parameter(torch.tensor(np.broadcast_to(-A.imag, rows).tolist()))
        if mode == "dplr":
            self.P = nn.Parameter(_pairs(np.broadcast_to(P, (1, *rows))))
            self.register_buffer("l_kernel", torch.tensor(0))

    def forward(self, length: int, rate: float = 1.0) -> Tensor:
        """(count, dim, length): the first `length` samples, at `rate` times the step size."""
        dt = self.inv_dt.exp()
        A, B = self._per_channel(torch.complex(-self.A_real.exp(), -self.A_imag)[None], self.B)
        A, B, C = A[0], B[0], _complex(self.C)
        if self.bandlimit is not None:
            # cycles per sample at the size trained at: the mask is the same at every rate
            C = C * (dt * A.imag.abs() / (2 * math.pi) < self.bandlimit / 2)
        if self.mode == "dplr":
            (P,) = self._per_channel(self.P)
            return 2 * torch.einsum("chn,lhn->chl", C, _dplr(dt * rate, A, B, P, length)).real
        step = dt * rate * A
        if self.disc == "zoh":
            exponent, B = step, B * torch.expm1(step) / A
        else:
            exponent = torch.log((1 + step / 2) / (1 - step / 2))
            B = B * dt * rate / (1 - step / 2)
        powers = torch.exp(exponent[..., None] * torch.arange(length, device=A.device))
        return 2 * torch.einsum("chn,hnl->chl", C * B, powers).real

    def _per_channel(self, *tensors: Tensor) -> list[Tensor]:
        """(r, n_ssm, n) -> (r, dim, n): channel h uses copy h mod n_ssm."""
        complex_ = (x if x.is_complex() else _complex(x) for x in tensors)
        dim = len(self.inv_dt)
        return [x.repeat(1, -(-dim // x.shape[1]), 1)[:, :dim] for x in complex_]

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args) -> None:
        length = state_dict.get(f"{prefix}l_kernel")
        if self.mode == "dplr" and length is not None and int(length) > 0:
            state_dict[f"{prefix}C"] = _untruncated(
                {name: state_dict[prefix + name] for name in ("inv_dt", "C", "A_real", "A_imag")},
                state_dict[f"{prefix}P"],
                int(length),
            )
            state_dict[f"{prefix}l_kernel"] = torch.zeros_like(length)
        super()._load_from_state_dict(state_dict, prefix, *args)


def _dplr(dt: Tensor, A: Tensor, B: Tensor, P: Tensor, length: int) -> Tensor:
    """States Ad^l Bd for l < length, (length, h, n), of the half of each conjugate pair kept.

    Shapes: dt (h, 1); A, B (h, n); P (r, h, n). The inverse of 1 - dt/2 (diag(A) - P P^*) is
    Woodbury's, so a step costs O(n r).
    """
    inverse = 1 / (1 - dt / 2 * A)
    left = P.conj() * inverse
    gram = 2 * torch.einsum("rhn,shn->hrs", left, P).real
    small = torch.linalg.inv(torch.eye(len(P), device=P.device) + dt[..., None] / 2 * gram)
    right = dt / 2 * inverse * torch.einsum("shn,hsr->rhn", P, small.to(P.dtype))

    def solve(x: Tensor) -> Tensor:
        # a sum over both of each pair is twice the real part of a sum over one
        inner = 2 * (left * x).sum(-1, keepdim=True).real
        return inverse * x - (right * inner).sum(0)

    x = solve(dt * B)
    states = [x]
    for _ in range(length - 1):
        x = 2 * solve(x) - x  # Ad = 2 (1 - dt/2 M)^-1 - 1
        states.append(x)
    return torch.stack(states)


def _untruncated(tensors: Mapping[str, Tensor], P: Tensor, length: int) -> Tensor:
    """C (..., 2) from the C (1 - Ad^length) of a published checkpoint, in float64."""
    dt, C_, A_real, A_imag = (tensors[k].double() for k in ("inv_dt", "C", "A_real", "A_imag"))
    dim, copies, half = len(dt), len(A_real), C_.shape[2]
    which = torch.arange(dim) % copies

    def whole(x: Tensor) -> Tensor:  # both of each conjugate pair
        return torch.cat([x, x.conj()], dim=-1)

    A = whole(torch.complex(-A_real.exp(), -A_imag))[which]
    P = whole(_complex(P.double()))[:, which]
    M = torch.diag_embed(A) - torch.einsum("rhn,rhm->hnm", P, P.conj())
    eye = torch.eye(2 * half, dtype=M.dtype)
    step = dt.exp()[..., None].to(M.dtype) / 2 * M
    Ad = torch.linalg.solve(eye - step, eye + step)
    rest = eye - torch.linalg.matrix_power(Ad, length)
    rows = whole(_complex(C_)).movedim(0, 1)  # (h, count, n)
    found = torch.linalg.solve(rest, rows, left=False).movedim(0, 1)[..., :half]
    return torch.view_as_real(found.contiguous()).to(tensors["C"].dtype)


class S4ND(nn.Module):
    """A depthwise convolution whose kernel is the outer product of state-space kernels, one along
    each axis.

    With kernels k0 (forward) and k1 (backward) of an axis, when bidirectional,
    out[i] = sum_{o >= 0} k0[o] u[i - o] + sum_{o >= 1} k1[o - 1] u[i + o]; D u is added.

    Args:
        dim: channels.
        l_max: longest kernel along each axis at rate 1; None for as long as the map.
        axes: 2 for images, 1 for sequences.
        mode, disc, init: see `Kernel` and `initial_state`; disc and init follow mode by default
            (dplr: bilinear, fourier; diag: zoh, diag-lin).
        n_ssm: how many state matrices the channels share.
        channels: kernels for each channel; their outputs lie one after the other, "(c h)".
        trank: outer products that are averaged.
        out_channels: mix the channels into so many instead (without D).
        bandlimit: kernels keep only frequencies below bandlimit / 2 cycles per cell of the size
            trained at; 1 is all that the cells can hold.
        linear: nothing after the convolution; else GELU, dropout, and a GLU layer back to `dim`.

    Attributes:
        rate: factor of every step size. A model trained on maps of side l sees a map of side
            l / rate as the same picture, finer sampled: the zero-shot change of resolution.

    Raises:
        ValueError: for an unknown mode or disc, or sizes that do not fit together.
    """

    def __init__(
        self,
        dim: int,
        d_state: int = 64,
        l_max: Sequence[int] | int | None = None,
        *,
        axes: int = 2,
        mode: str = "dplr",
        disc: str | None = None,
        init: str | None = None,
        bidirectional: bool = True,
        n_ssm: int = 1,
        channels: int = 1,
        trank: int = 1,
        out_channels: int | None = None,
        bandlimit: float | None = None,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        linear: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if axes not in (1, 2):
            raise ValueError(f"axes must be 1 or 2, not {axes}")
        if mode not in ("dplr", "diag"):
            raise ValueError(f"mode must be 'dplr' or 'diag', not {mode!r}")
        disc = disc or ("bilinear" if mode == "dplr" else "zoh")
        if disc not in ("zoh", "bilinear") or (mode == "dplr" and disc != "bilinear"):
            raise ValueError(f"disc must be 'bilinear' (or 'zoh' with mode='diag'), not {disc!r}")
        if out_channels and not linear:
            raise ValueError("out_channels needs linear=True")
        lengths = [l_max] * axes if l_max is None or isinstance(l_max, int) else list(l_max)
        if len(lengths) != axes:
            raise ValueError(f"l_max needs {axes} lengths, one for each axis, not {len(lengths)}")
        self.l_max, self.bidirectional, self.trank = lengths, bidirectional, trank
        self.out_channels, self.rate = out_channels, 1.0
        count = channels * trank * (out_channels or 1) * (2 if bidirectional else 1)
        init = init or ("fourier" if mode == "dplr" else "diag-lin")
        self.D = nn.Parameter(torch.randn(channels, dim))
        self.kernel = nn.ModuleList(
            Kernel(dim, count, d_state, mode, disc, init, n_ssm, dt_min, dt_max, bandlimit)
            for _ in range(axes)
        )
        self.output_linear = None if linear else nn.Linear(channels * dim, 2 * dim)
        self.dropout = nn.Dropout(dropout)

    def lengths(self, size: Sequence[int]) -> list[int]:
        """Kernel lengths along the axes of a map of that size."""
        return [
            n if longest is None else min(n, round(longest / self.rate))
            for n, longest in zip(size, self.l_max, strict=True)
        ]

    def _spectrum(self, axis: int, length: int, size: int, last: bool) -> Tensor:
        """(count, dim, frequencies) of one axis's kernel, zero-padded to `size` samples."""
        k = self.kernel[axis](length, self.rate)
        if self.bidirectional:
            forward, backward = k.chunk(2)
            k = F.pad(forward, (0, size - length)) + F.pad(backward.flip(-1), (size - length, 0))
        return torch.fft.rfft(k, n=size) if last else torch.fft.fft(k, n=size)

    def forward(self, x: Tensor) -> Tensor:
        """(b, dim, *map) -> (b, channels * dim, *map), (b, out_channels, *map), or with
        linear=False (b, dim, *map).
        """
        size = x.shape[2:]
        if len(size) != len(self.kernel):
            raise ValueError(
                f"S4ND of {len(self.kernel)} axes cannot take a map of shape {tuple(size)}"
            )
        u = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        lengths = self.lengths(size)
        padded = [n + length for n, length in zip(size, lengths, strict=True)]  # no wrap-around
        spectrum: Tensor | None = None
        for axis, (length, n) in enumerate(zip(lengths, padded, strict=True)):
            k = self._spectrum(axis, length, n, last=axis == len(lengths) - 1)
            spectrum = k if spectrum is None else spectrum[..., None] * k[:, :, None]
        assert spectrum is not None
        if self.trank > 1:
            spectrum = spectrum.unflatten(0, (self.trank, -1)).mean(0)
        axes = tuple(range(-len(size), 0))
        u_f = torch.fft.rfftn(u, s=padded, dim=axes)
        if self.out_channels:
            mixing = spectrum.unflatten(0, (self.out_channels, -1))
            y_f = torch.einsum("bh...,ich...->bci...", u_f, mixing)
        else:
            y_f = u_f[:, None] * spectrum
        y = torch.fft.irfftn(y_f, s=padded, dim=axes)
        y = y[(..., *(slice(n) for n in size))]
        if not self.out_channels:
            y = y + self.D[(..., *(None for _ in size))] * u[:, None]
        y = y.flatten(1, 2).to(x.dtype)
        if self.output_linear is None:
            return y
        y = self.output_linear(self.dropout(F.gelu(y)).movedim(1, -1))
        return F.glu(y, dim=-1).movedim(-1, 1)

    def kernel_parameters(self) -> set[str]:
        """Names of the parameters that are trained without weight decay."""
        return {name for name, _ in self.named_parameters() if not name.startswith("output_linear")}

    def extra_repr(self) -> str:
        return f"l_max={self.l_max}, rate={self.rate:g}, bidirectional={self.bidirectional}"
