"""exp and ln in single precision that the compiler turns into vector instructions (16 at a time, or 8).

Numba calls the C library for one number at a time; these are a power of two made of bits, times a polynomial.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, types
from numba.extending import intrinsic

FAST = {"contract", "arcp", "nsz", "reassoc", "nnan", "ninf"}
"""No NaN and no infinities occur in the kernels of this package."""

F = np.float32
_PER_LN2, _LN2 = F(1.4426950408889634), F(0.6931471805599453)
_HALF, _ONE, _BIAS, _SQRT2 = F(0.5), F(1.0), F(127.0), F(1.4142135623730951)
_MOST = F(254.9)
_E1, _E2, _E3 = F(0.6931471805599453), F(0.2402265069591007), F(0.05550410866482158)
_E4, _E5 = F(0.009618129107628477), F(0.0013333558146428443)
_L1, _L2, _L3 = F(1.0), F(1.0 / 3.0), F(0.2)
_L4 = F(1.0 / 7.0)
_TWO = F(2.0)


@intrinsic
def _whole(context: Any, x: Any) -> Any:
    """The whole part of a positive float32, as int32."""

    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        return builder.fptosi(arguments[0], ir.IntType(32))

    return types.int32(types.float32), generate


@intrinsic
def _power_of_two(context: Any, n: Any) -> Any:
    """2^(n - 127) for 0 < n < 255."""

    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        return builder.bitcast(builder.shl(arguments[0], ir.IntType(32)(23)), ir.FloatType())

    return types.float32(types.int32), generate


@intrinsic
def _bits(context: Any, x: Any) -> Any:
    """The bits of a float32."""

    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.int32(types.float32), generate


@intrinsic
def _from_bits(context: Any, n: Any) -> Any:
    """The float32 of some bits."""

    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


@njit(inline="always")
def exp32(x):  # type: ignore[no-untyped-def]
    """exp(x) of a float32 to 1e-5, between exp(-88), below which it is 0, and exp(88)."""
    scaled = min(max(x * _PER_LN2 + _BIAS, F(0.0)), _MOST)
    n = _whole(scaled)  # type: ignore[call-arg, var-annotated]
    f = scaled - F(n) - _HALF
    tail = _E3 + f * (_E4 + f * _E5)
    return _SQRT2 * (_ONE + f * (_E1 + f * (_E2 + f * tail))) * _power_of_two(n)


@njit(inline="always")
def log32(x):  # type: ignore[no-untyped-def]
    """ln(x) of a positive float32 to 1e-6 of its size or absolutely, whichever is more."""
    # x = 2^n m with m between 1/sqrt(2) and sqrt(2);  ln m = 2 artanh((m - 1) / (m + 1)).
    bits = _bits(x) - np.int32(0x3F3504F3)  # type: ignore[call-arg]
    n = bits >> np.int32(23)
    m = _from_bits(bits - (n << np.int32(23)) + np.int32(0x3F3504F3))
    t = (m - _ONE) / (m + _ONE)
    square = t * t
    return _LN2 * F(n) + _TWO * t * (_L1 + square * (_L2 + square * (_L3 + square * _L4)))


_TURN = F(6.283185307179586)
_S1, _S2, _S3, _S4 = F(-1.0 / 6.0), F(1.0 / 120.0), F(-1.0 / 5040.0), F(1.0 / 362880.0)
_QUARTER = F(0.25)
_PER_2_24 = F(2.0**-24)


@njit(inline="always")
def quarter_sine(x):  # type: ignore[no-untyped-def]
    """sin(2 pi x) of a float32 from -1/4 to 1/4, to 4e-6."""
    a = x * _TURN
    square = a * a
    return a * (_ONE + square * (_S1 + square * (_S2 + square * (_S3 + square * _S4))))


@njit(inline="always")
def hashed(n):  # type: ignore[no-untyped-def]
    """A number of 32 bits mixed from another: "lowbias32" of C. Wellons, Prospecting for Hash Functions
    (2018)."""
    n = np.uint32(n ^ (n >> np.uint32(16)))
    n = np.uint32(n * np.uint32(0x7FEB352D))
    n = np.uint32(n ^ (n >> np.uint32(15)))
    n = np.uint32(n * np.uint32(0x846CA68B))
    return np.uint32(n ^ (n >> np.uint32(16)))


@njit(inline="always")
def normal_pair(counter, key):  # type: ignore[no-untyped-def]
    """Two standard normal float32, a function of counter and key (uint32), up to 5.8: G. E. P. Box and M. E.
    Muller."""
    first = hashed(np.uint32(hashed(np.uint32(counter ^ key)) + key))
    second = hashed(np.uint32(first + np.uint32(0x9E3779B9)))
    radius = np.sqrt(F(-2.0) * log32((F(np.int32(first >> np.uint32(8))) + _HALF) * _PER_2_24))
    turn = F(np.int32(second >> np.uint32(8))) * _PER_2_24 - _HALF
    folded = min(max(turn, -_HALF - turn), _HALF - turn)
    return radius * quarter_sine(_QUARTER - abs(turn)), radius * quarter_sine(folded)
