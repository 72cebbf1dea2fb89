"""Sixteen float32 lanes as one value inside numba functions.

Numba's own loops are rarely vectorised when arrays might overlap, so the kernels work on the LLVM
type <16 x float> directly. LLVM maps it to one AVX-512 register, two of AVX2 or four of
NEON. Arrays are flat float32; offsets count elements and need no alignment.

NaN passes through every function: comparisons are ordered, and no operation may assume that NaN or
infinity does not occur.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core.cgutils import get_or_insert_function
from numba.extending import intrinsic, models, register_model

LANES = 16

_INDEX = ir.IntType(32)
_FLOAT = ir.FloatType()
_FLOATS = ir.VectorType(_FLOAT, LANES)
_INTS = ir.VectorType(_INDEX, LANES)

# a * b + c may become one fused instruction; nothing else is relaxed.
_FUSE = ("contract",)

_LOG2_E = 1.4426950408889634
_LN_2 = 0.6931471805599453
_LN_2_SHORT = 0.693359375

# 2^f = 1 + f P(f) on [-1/2, 1/2], highest power first (Cephes exp2f; relative error below 2e-7).
_EXP2 = (
    1.535336188319500e-4,
    1.339887440266574e-3,
    9.618437357674640e-3,
    5.550332471162809e-2,
    2.402264791363012e-1,
    6.931472028550421e-1,
)
# log(1 + e) = 2 artanh(s) = 2 s + s w P(w) with s = e / (2 + e), w = s^2, on [0, 1/9] (Chebyshev
# interpolation; relative error below 2e-8).
_ATANH = (0.26851499, 0.28236619, 0.40007561, 0.66666639)
# Adding 1.5 * 2^23 rounds to an integer, which then sits in the low bits; 127 is the bias that the
# exponent field of a float32 wants.
_ROUND = 1.5 * 2.0**23 + 127.0


class _Lanes(types.Type):
    def __init__(self) -> None:
        super().__init__(name="Lanes")


lanes = _Lanes()


@register_model(_Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager, kind) -> None:
        super().__init__(manager, kind, _FLOATS)


def _numba(typing: Callable) -> Any:
    """`intrinsic`, for a type checker without the typing context that callers do not pass."""
    return intrinsic(typing)


def _floats(x: float) -> ir.Constant:
    return ir.Constant(_FLOATS, [ir.Constant(_FLOAT, float(np.float32(x)))] * LANES)


def _mask(indices: list[int]) -> ir.Constant:
    return ir.Constant(ir.VectorType(_INDEX, len(indices)), indices)


def _address(context, builder, kind, array, offset):
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [offset]), _FLOATS.as_pointer())


def _load(builder, address):
    value = builder.load(address)
    value.align = 4
    return value


def _store(builder, value, address) -> None:
    builder.store(value, address).align = 4


def _at_least(builder, x, low: float):
    return builder.select(builder.fcmp_ordered("<", x, _floats(low)), _floats(low), x)


def _polynomial(builder, coefficients: tuple[float, ...], x):
    value = _floats(coefficients[0])
    for c in coefficients[1:]:
        value = builder.fadd(builder.fmul(value, x, flags=_FUSE), _floats(c), flags=_FUSE)
    return value


def _whole(builder, x):
    """Return (n, 2^n) for x in [-127, 128] and n the nearest integer; 2^-127 as 0, 2^128 as inf."""
    shifted = builder.fadd(x, _floats(_ROUND))
    bits = builder.shl(builder.bitcast(shifted, _INTS), ir.Constant(_INTS, [23] * LANES))
    return builder.fsub(shifted, _floats(_ROUND)), builder.bitcast(bits, _FLOATS)


def _tail(builder, fraction):
    """2^fraction - 1 for |fraction| <= 1/2."""
    return builder.fmul(_polynomial(builder, _EXP2, fraction), fraction, flags=_FUSE)


def _exp2_parts(builder, x):
    """Return (scale, tail) with 2^x = scale (1 + tail), |tail| < 1/2 and scale a power of two.

    The scale is exactly 0 for x < -126.5 and infinite for x > 127.5.
    """
    x = _at_least(builder, x, -127.0)
    x = builder.select(builder.fcmp_ordered(">", x, _floats(128.0)), _floats(128.0), x)
    whole, scale = _whole(builder, x)
    return scale, _tail(builder, builder.fsub(x, whole))


def _exp2(builder, x):
    scale, tail = _exp2_parts(builder, x)
    return builder.fmul(scale, builder.fadd(tail, _floats(1.0), flags=_FUSE))


def _decaying_exp(builder, x):
    """exp(x) for x <= 0, relatively exact also where it is tiny and x log2(e) is too coarse."""
    x = _at_least(builder, x, -127.0 * _LN_2)
    whole, scale = _whole(builder, builder.fmul(x, _floats(_LOG2_E)))
    # ln 2 in two parts; the first is so short that its product with a small integer is exact.
    for part in (_LN_2_SHORT, _LN_2 - _LN_2_SHORT):
        x = builder.fsub(x, builder.fmul(whole, _floats(part), flags=_FUSE), flags=_FUSE)
    tail = _tail(builder, builder.fmul(x, _floats(_LOG2_E)))
    return builder.fmul(scale, builder.fadd(tail, _floats(1.0), flags=_FUSE))


def _softplus(builder, x):
    """log(1 + exp(x)) as max(x, 0) + log1p(e) with e = exp(-|x|)."""
    negative = builder.fcmp_ordered("<", x, _floats(0.0))
    e = _decaying_exp(builder, builder.select(negative, x, builder.fneg(x)))
    s = builder.fdiv(e, builder.fadd(e, _floats(2.0)))
    w = builder.fmul(s, s)
    small = builder.fmul(builder.fmul(s, w), _polynomial(builder, _ATANH, w), flags=_FUSE)
    log = builder.fadd(builder.fmul(s, _floats(2.0), flags=_FUSE), small, flags=_FUSE)
    return builder.fadd(_at_least(builder, x, 0.0), log)


def _softplus_slope(builder, y):
    """Sigmoid(x) from y = softplus(x): 1 - exp(-y) without cancellation at small y."""
    scale, tail = _exp2_parts(builder, builder.fmul(y, _floats(-_LOG2_E)))
    return builder.fsub(builder.fsub(_floats(1.0), scale), builder.fmul(scale, tail))


def _mul_add(builder, x, y, z):
    return builder.fadd(builder.fmul(x, y, flags=_FUSE), z, flags=_FUSE)


def _lanewise(arity: int, emit: Callable) -> Any:
    """Make a numba function of `arity` lane values from a function that emits its code."""

    def codegen(context, builder, signature, args):
        return emit(builder, *args)

    signature = lanes(*[lanes] * arity)
    typings = {  # numba wants the number of arguments in the signature
        1: lambda typing_context, x: (signature, codegen),
        2: lambda typing_context, x, y: (signature, codegen),
        3: lambda typing_context, x, y, z: (signature, codegen),
    }
    return _numba(typings[arity])


add = _lanewise(2, lambda builder, x, y: builder.fadd(x, y, flags=_FUSE))
mul = _lanewise(2, lambda builder, x, y: builder.fmul(x, y, flags=_FUSE))
mul_add = _lanewise(3, _mul_add)
exp2 = _lanewise(1, _exp2)
softplus = _lanewise(1, _softplus)
softplus_slope = _lanewise(1, _softplus_slope)


def _same(builder, x):
    undefined = ir.Constant(_FLOATS, ir.Undefined)
    one = builder.insert_element(undefined, x, ir.Constant(_INDEX, 0))
    return builder.shuffle_vector(one, undefined, _mask([0] * LANES))


@_numba
def fill(typing_context, x):
    """Lanes that all hold the float32 x."""

    def codegen(context, builder, signature, args):
        return _same(builder, args[0])

    return lanes(types.float32), codegen


@_numba
def spread(typing_context, array, offset):
    """Lanes that all hold array[offset]."""

    def codegen(context, builder, signature, args):
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        return _same(builder, builder.load(builder.gep(data, [args[1]])))

    return lanes(array, types.intp), codegen


@_numba
def load(typing_context, array, offset):
    """array[offset : offset + 16] as lanes."""

    def codegen(context, builder, signature, args):
        return _load(builder, _address(context, builder, signature.args[0], *args))

    return lanes(array, types.intp), codegen


@_numba
def store(typing_context, array, offset, x):
    """array[offset : offset + 16] = x."""

    def codegen(context, builder, signature, args):
        array, offset, x = args
        _store(builder, x, _address(context, builder, signature.args[0], array, offset))
        return context.get_dummy_value()

    return types.void(array, types.intp, lanes), codegen


@_numba
def prefetch(typing_context, array, offset):
    """Ask for the cache line of array[offset], which need not exist."""

    def codegen(context, builder, signature, args):
        array, offset = args
        address = _address(context, builder, signature.args[0], array, offset)
        byte = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [byte, _INDEX, _INDEX, _INDEX])
        function = get_or_insert_function(builder.module, kind, "llvm.prefetch")
        how = (ir.Constant(_INDEX, x) for x in (0, 3, 1))  # to read, into every cache, as data
        builder.call(function, [builder.bitcast(address, byte), *how])
        return context.get_dummy_value()

    return types.void(array, types.intp), codegen


def _merge_masks(half: int) -> tuple[ir.Constant, ir.Constant]:
    """Shuffles that exchange the off-diagonal halves of 2 x 2 blocks of `half` lanes."""
    upper = [j if not j & half else LANES + j - half for j in range(LANES)]
    lower = [j + half if not j & half else LANES + j for j in range(LANES)]
    return _mask(upper), _mask(lower)


@_numba
def transpose(typing_context, source, start, stride, target, target_start, target_stride):
    """target row i, lane j = source row j, lane i, for 16 rows at the given strides."""

    def codegen(context, builder, signature, args):
        source, start, stride, target, target_start, target_stride = args

        def row(position, array, first, step, i):
            offset = builder.add(first, builder.mul(step, ir.Constant(step.type, i)))
            return _address(context, builder, signature.args[position], array, offset)

        rows = [_load(builder, row(0, source, start, stride, i)) for i in range(LANES)]
        for half in (8, 4, 2, 1):
            upper, lower = _merge_masks(half)
            for i in range(LANES):
                if not i & half:
                    a, b = rows[i], rows[i | half]
                    rows[i] = builder.shuffle_vector(a, b, upper)
                    rows[i | half] = builder.shuffle_vector(a, b, lower)
        for i, x in enumerate(rows):
            _store(builder, x, row(3, target, target_start, target_stride, i))
        return context.get_dummy_value()

    offset = types.intp
    return types.void(source, offset, offset, target, offset, offset), codegen


@_numba
def row_sums(typing_context, array, start):
    """Lane i = the sum of array[start + 16 i : start + 16 i + 16].

    The transposition network with additions: after each exchange the two halves are added, so 16
    sums cost 15 additions of lanes.
    """

    def codegen(context, builder, signature, args):
        array, start = args

        def row(i):
            offset = builder.add(start, ir.Constant(start.type, LANES * i))
            return _load(builder, _address(context, builder, signature.args[0], array, offset))

        rows = [row(i) for i in range(LANES)]
        for half in (8, 4, 2, 1):
            upper, lower = _merge_masks(half)
            rows = [
                builder.fadd(
                    builder.shuffle_vector(a, b, upper), builder.shuffle_vector(a, b, lower)
                )
                for a, b in zip(rows[:half], rows[half:], strict=True)
            ]
        return rows[0]

    return lanes(array, types.intp), codegen
