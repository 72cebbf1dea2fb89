"""How a scan is divided into programs, from shapes and strides alone.

Never from a measurement: the same inputs give the same bits in every run. Plans are kept, so that
the next call with the same layout only hands over its tensors.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from workbench.kernels.gpu import compiling
from workbench.kernels.gpu import variants as of
from workbench.kernels.gpu.arithmetic import (
    BIAS,
    CLEAR,
    ORDERED,
    PARAMETERS,
    SKIP,
    SOFTPLUS,
    SUMMED,
)

__all__ = ["Cut", "Division", "Launch", "Layout", "Plan", "bits_of", "plan"]

# Fewer programs than FEW of the wide tile leave most of a GPU idle (an H200 holds 1584 of them at
# once); the tall tile makes 4 times as many, each of 8 warps. It goes on until a path has PATIENT
# tiles times states. Beyond that a path is cut into segments where there are fewer than ENOUGH
# programs, to make about WANTED; a segment of fewer than SHORTEST tiles is not worth it.
FEW, PATIENT = 256, 64
ENOUGH, WANTED, SHORTEST = 512, 1024, 8


class Division(NamedTuple):
    """The sizes of a scan and what a program takes of it."""

    batch: int
    length: int  # tokens
    directions: int
    dim: int
    state: int
    steps: int  # of the longest path
    shape: of.Shape
    segments: int
    segment_tiles: int

    @classmethod
    def of(cls, delta_shape: torch.Size, state: int, steps: int) -> "Division":
        batch, length, directions, dim = delta_shape
        sizes = batch, length, directions, dim, state, steps
        programs = batch * directions * _parts(dim, of.WIDE.channels)
        tiles = _parts(steps, of.TALL.steps)
        if programs < FEW and tiles * state <= PATIENT:
            return cls(*sizes, of.TALL, 1, tiles)
        tiles = _parts(steps, of.WIDE.steps)
        each = tiles
        if programs < ENOUGH:
            each = min(tiles, max(_parts(tiles * programs, WANTED), SHORTEST))
        return cls(*sizes, of.WIDE, _parts(tiles, each), each)

    @property
    def tiles(self) -> int:
        return _parts(self.steps, self.shape.steps)

    @property
    def blocks(self) -> int:
        return _parts(self.dim, self.shape.channels)

    @property
    def pairs(self) -> int:
        return self.batch * self.directions

    @property
    def outputs(self) -> tuple[int, int, int, int]:
        """The shape of y, one per direction."""
        return self.batch, self.length, self.directions, self.dim

    @property
    def elements(self) -> int:
        return self.batch * self.length * self.directions * self.dim

    @property
    def transposed(self) -> bool:
        """Whether the kernels want A as [n, k d]: neighbours then read neighbours."""
        return self.shape is of.WIDE and self.state > 1

    def states(self, slots: int) -> tuple[int, ...]:
        return self.batch, self.directions, slots, self.state, self.dim

    def programs(self, segments: int) -> tuple[int, int, int]:
        return self.pairs * segments * self.blocks, 1, 1

    @property
    def group(self) -> str:
        return "tall" if self.shape is of.TALL else "wide"


def _parts(whole: int, part: int) -> int:
    return -(-whole // part)


class Layout(NamedTuple):
    """What a plan follows from, besides the shapes of the arguments."""

    device: torch.device
    dtype: torch.dtype
    delta_shape: torch.Size
    state: int
    steps: int
    strides: tuple[tuple[int, ...], ...]  # of u, delta, B, C and, backwards, dy
    flags: int


class Launch(NamedTuple):
    """A function of tensors, and the numbers that follow them."""

    run: Callable
    numbers: tuple[int, ...]

    def __call__(self, *tensors: Tensor) -> None:
        self.run(*tensors, *self.numbers)


class Cut(NamedTuple):
    """The launches before those of the scan that a cut into segments takes."""

    ends: Launch
    carry: Callable
    backward: int


class Plan(NamedTuple):
    """The launches of a pass."""

    division: Division
    run: Callable
    numbers: tuple[int, ...]
    cut: Cut | None
    finish: Launch | None
    scratch: int  # float32 numbers


def bits_of(D, delta_bias, order, delta_softplus: bool) -> int:
    """The flags that follow from what a scan is given."""
    return (
        (SOFTPLUS.value if delta_softplus else 0)
        | (0 if D is None else SKIP.value)
        | (0 if delta_bias is None else BIAS.value)
        | (0 if order is None else ORDERED.value)
    )


def _strides(stride: tuple[int, ...]) -> tuple[int, int, int]:
    """Over image, direction and token, for (b, l, k, d) or (b, l, d) shared by all directions."""
    return stride[0], (stride[2] if len(stride) == 4 else 0), stride[1]


@functools.lru_cache(maxsize=4096)
def plan(layout: Layout) -> Plan:
    """The plan of a pass; its kernels are compiled when they are met first.

    Raises:
        compiling.Unusable: when they do not run here.
    """
    division = Division.of(layout.delta_shape, layout.state, layout.steps)
    dtype = of.DTYPES[layout.dtype]
    compiling.ready(division.group, dtype, layout.device)
    forward, backward, finish = of.of_group(division.group, dtype)
    flags = layout.flags
    if division.segments == 1:  # else the outputs are zeroed before
        flags |= CLEAR.value

    u, delta, *dy = (_strides(x) for x in (*layout.strides[:2], *layout.strides[4:]))
    B, C = layout.strides[2:4]
    A = (1, division.directions * division.dim) if division.transposed else (division.state, 1)
    sides = [number for x in (*dy, u, delta) for number in x[:2]]
    sides += [B[0], B[2], C[0], C[2], *(x[2] for x in (*dy, u, delta)), B[1], B[3], *A]
    work = (
        division.blocks, division.directions, division.segments, division.segment_tiles,
        division.dim, division.state, division.length, division.steps, division.tiles, flags,
    )  # fmt: skip

    at, scratch, partial_block = [0, 0, 0, 0], 0, 0
    summed = bool(flags & SUMMED.value)
    if dy:
        partial_block = division.pairs * division.state * division.tiles * 2 * division.shape.steps
        entries = division.pairs * division.segments
        wanted = bool(flags & PARAMETERS.value)
        sizes = (
            division.elements if summed else 0,
            division.blocks * partial_block,
            wanted * entries * (division.state + 2) * division.dim,
            entries * 4 * division.state * division.dim,
        )
        at = [sum(sizes[:i]) for i in range(4)]
        scratch = sum(sizes)
        numbers = (*at, partial_block, *sides, *work)
    else:
        scratch = division.elements if summed else 0
        numbers = (*sides, *work)

    cut = None
    if division.segments > 1:
        compiling.ready("segments", dtype, layout.device)
        ends, carry = of.of_group("segments", dtype)
        source, weights = (dy[0], C) if dy else (u, B)
        backward_too = int(bool(dy))
        ends_numbers = (
            *source[:2], *delta[:2], weights[0], weights[2],
            source[2], delta[2], weights[1], weights[3], *A,
            *work[:6], division.steps, division.tiles, flags, backward_too,
        )  # fmt: skip
        programs = division.programs(division.segments - 1)
        run = compiling.runner(ends, layout.device, programs)
        grid = division.pairs, division.state, division.blocks
        carried = compiling.runner(carry, layout.device, grid)
        cut = Cut(Launch(run, ends_numbers), carried, backward_too)
    run = compiling.runner(
        backward if dy else forward, layout.device, division.programs(division.segments)
    )
    last = _finish(division, finish, layout.device, flags, at, partial_block, bool(dy))
    return Plan(division, run, numbers, cut, last, scratch)


def _finish(division, variant, device, flags, at, partial_block, backward: bool) -> Launch | None:
    rows, columns = of.MATRIX["ROWS"], of.MATRIX["COLUMNS"]
    tokens = division.batch * division.length
    merges = projections = sums = 0
    if flags & SUMMED.value:
        merges = _parts(tokens, rows) * _parts(division.dim, columns)
    if backward:
        parts = _parts(division.steps * division.state, rows * columns)
        projections = division.pairs * parts
    if flags & PARAMETERS.value:
        sums = _parts(division.directions * (division.state + 2) * division.dim, columns)
    programs = merges + projections + sums
    if programs == 0:
        return None
    numbers = (
        *at[:3], partial_block, merges, projections, division.dim, division.directions, tokens,
        division.state, division.length, division.steps, division.tiles, division.shape.steps,
        division.blocks, division.batch * division.segments, flags,
    )  # fmt: skip
    return Launch(compiling.runner(variant, device, (programs, 1, 1)), numbers)
