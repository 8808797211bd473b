r"""Values of the Nanonis TCP protocol to bytes and back.  Everything is big-endian.

==========  ============================================================  =================================
code        on the wire                                                   in Python
==========  ============================================================  =================================
H h I i     uint16, int16, uint32, int32                                  int
f d         float32, float64                                              float
S           int32 length in bytes, then the bytes                         str
[x]         int32 number of elements, then the elements                   1-D array (x: B h H i I f d)
SA          int32 size in bytes, int32 number, then each string as S      tuple of str
BS          int32 size in bytes, then strings as S up to that size        tuple of str
M           int32 rows, int32 columns, float32 row by row                 2-D float32 array
MS          int32 rows, int32 columns, each string as S, row by row       tuple of tuples of str
\*x \*S     elements or strings alone: the number was sent before           1-D array, tuple of str
\*BS        int32 size in bytes, then as many strings as said before      tuple of str
\*[S]       int32 number, then as many strings as said before             tuple of str
==========  ============================================================  =================================

The size in bytes before strings counts their length fields too.  We send it so, and only ``BS`` relies on it
when reading: public clients send three different sizes for the same ``SA``.

Text is Latin-1: every byte has a character, so whatever code page the electronics' computer uses, text that
was read can be written back unchanged.

Decoded arrays own their memory and have native byte order.
"""

from __future__ import annotations

import math
import operator
import struct
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from protocols.errors import MalformedMessageError, UsageError

Value: TypeAlias = int | float | str | tuple[str, ...] | tuple[tuple[str, ...], ...] | npt.NDArray[Any]
"""What a field may hold, see the table above."""

SCALARS = {"H": ">H", "h": ">h", "I": ">I", "i": ">i", "f": ">f", "d": ">d"}
"""Codes of single numbers, with their struct formats."""

ELEMENTS = {"B": ">u1", "h": ">i2", "H": ">u2", "i": ">i4", "I": ">u4", "f": ">f4", "d": ">f8"}
"""Codes of array elements, with their numpy formats."""

CODES = frozenset(
    [*SCALARS, "S", "SA", "BS", "M", "MS", "*S", "*BS", "*[S]"]
    + [f"[{code}]" for code in ELEMENTS]
    + [f"*{code}" for code in ELEMENTS]
)
"""Every code there is."""

LARGEST_TABLE = 65_536
"""Most rows of a string table without columns: such rows cost no bytes, so bytes do not bound them."""

_LARGEST_INT32 = 2**31 - 1
_COUNT = struct.Struct(">i")
_SHAPE = struct.Struct(">ii")


class Cursor:
    """A place in received bytes; taking moves it on."""

    def __init__(self, data: bytes | memoryview, position: int = 0) -> None:
        self.data = memoryview(data)
        self.position = position

    @property
    def left(self) -> int:
        """Bytes that were not taken."""
        return len(self.data) - self.position

    def take(self, size: int, what: str) -> memoryview:
        """The next bytes.

        Raises:
            MalformedMessageError: there are fewer; the text says of what, where, and how many are missing.
        """
        if size > self.left:
            raise MalformedMessageError(
                f"{what}: {size} bytes at offset {self.position} are awaited, {self.left} are there.",
                offset=self.position,
                missing=size - self.left,
            )
        piece = self.data[self.position : self.position + size]
        self.position += size
        return piece

    def take_count(self, what: str) -> int:
        """The next int32, which must not be negative.

        Raises:
            MalformedMessageError: it is negative, or the bytes end.
        """
        at = self.position
        (count,) = _COUNT.unpack(self.take(4, what))
        if count < 0:
            raise MalformedMessageError(f"{what}: negative length {count} at offset {at}.", offset=at)
        return int(count)


def is_counted(code: str) -> bool:
    """Whether the number of elements is sent apart, before the value."""
    return code.startswith("*")


def zero(code: str) -> Value:
    """The value that the electronics send when they have none: 0, no text, nothing in it."""
    if code in SCALARS:
        return 0.0 if code in "fd" else 0
    if code == "S":
        return ""
    if code == "M":
        return np.zeros((0, 0), np.float32)
    if code.strip("[]*") in ELEMENTS:
        return np.zeros(0, np.dtype(ELEMENTS[code.strip("[]*")]).newbyteorder("="))
    return ()


def encode(code: str, value: Any, what: str) -> bytes:
    """One value as bytes; ``what`` names it in errors.

    Raises:
        UsageError: the value does not fit the code: other type, out of range, not finite where float32 cannot
            hold it, text beyond Latin-1, wrong number of dimensions.
    """
    if code in SCALARS:
        return _encode_scalar(code, value, what)
    if code == "S":
        return _encode_string(value, what)
    if code == "M":
        matrix = _as_array("f", value, what, dimensions=2)
        return _SHAPE.pack(*matrix.shape) + matrix.tobytes()
    if code == "MS":
        return _encode_string_table(value, what)
    element = code.strip("[]*")
    if element in ELEMENTS:
        array = _as_array(element, value, what, dimensions=1)
        return (b"" if is_counted(code) else _COUNT.pack(array.size)) + array.tobytes()
    pieces = [_encode_string(text, what) for text in _as_strings(value, what)]
    body = b"".join(pieces)
    heads = {
        "SA": _SHAPE.pack(len(body), len(pieces)),
        "BS": _COUNT.pack(len(body)),
        "*BS": _COUNT.pack(len(body)),
        "*[S]": _COUNT.pack(len(pieces)),
        "*S": b"",
    }
    return heads[code] + body


def decode(code: str, cursor: Cursor, what: str, count: int = 0) -> Value:
    """Take one value from the cursor; ``count`` is the number of elements of a counted code.

    Raises:
        MalformedMessageError: the bytes end too early, a length is negative or a table is absurd.
    """
    if code in SCALARS:
        (number,) = struct.unpack(SCALARS[code], cursor.take(struct.calcsize(SCALARS[code]), what))
        return float(number) if code in "fd" else int(number)
    if code == "S":
        return _decode_string(cursor, what)
    if code == "M":
        rows, columns = cursor.take_count(what), cursor.take_count(what)
        return _decode_array("f", rows * columns, cursor, what).reshape(rows, columns)
    if code == "MS":
        return _decode_string_table(cursor, what)
    element = code.strip("[]*")
    if element in ELEMENTS:
        number = count if is_counted(code) else cursor.take_count(what)
        return _decode_array(element, number, cursor, what)
    if code == "BS":
        inner = Cursor(cursor.take(cursor.take_count(what), what))
        texts: list[str] = []
        while inner.left:
            texts.append(_decode_string(inner, what))
        return tuple(texts)
    if code in ("SA", "*BS"):
        cursor.take_count(what)
    if code == "*[S]":
        _check_number(count, cursor, what)
    number = count if is_counted(code) else cursor.take_count(what)
    return _decode_strings(number, cursor, what)


def length(code: str, value: Any, what: str) -> int:
    """How many elements a counted value has.

    Raises:
        UsageError: it is no array or no list of texts.
    """
    if code in ("*S", "*BS", "*[S]"):
        return len(_as_strings(value, what))
    return int(_as_array(code[1:], value, what, dimensions=1).size)


def as_read_back(code: str, value: float) -> float:
    """The number that comes back when ``value`` is set and read again: float32 rounds, all else is exact."""
    return float(np.float32(value)) if code == "f" else float(value)


def ascii_text(text: str) -> str:
    """Text that every public client can read: anything beyond ASCII becomes a question mark."""
    return text.encode("ascii", "replace").decode("ascii")


def _encode_scalar(code: str, value: Any, what: str) -> bytes:
    try:
        if code in "fd":
            number: Any = float(_no_text(value))
            packed = struct.pack(SCALARS[code], number)
        else:
            number = operator.index(value)
            packed = struct.pack(SCALARS[code], number)
    except (TypeError, ValueError) as wrong:
        raise UsageError(f"{what}: {value!r} is no number of type {code}: {wrong}.") from None
    except (struct.error, OverflowError):
        raise UsageError(f"{what}: {value!r} is beyond the range of {_NAMES[code]}.") from None
    return packed


_NAMES = {"H": "uint16", "h": "int16", "I": "uint32", "i": "int32", "f": "float32", "d": "float64"}


def _no_text(value: Any) -> Any:
    if isinstance(value, str | bytes):
        raise TypeError("text is no number")
    return value


def _encode_string(value: Any, what: str) -> bytes:
    if not isinstance(value, str):
        raise UsageError(f"{what}: {value!r} is no text.")
    try:
        raw = value.encode("latin-1")
    except UnicodeEncodeError as wrong:
        raise UsageError(f"{what}: {value[wrong.start]!r} cannot be sent (Latin-1 only).") from None
    return _COUNT.pack(len(raw)) + raw


def _decode_string(cursor: Cursor, what: str) -> str:
    return bytes(cursor.take(cursor.take_count(what), what)).decode("latin-1")


def _decode_strings(number: int, cursor: Cursor, what: str) -> tuple[str, ...]:
    _check_room(number, cursor, what)
    return tuple(_decode_string(cursor, what) for _ in range(number))


def _check_number(count: int, cursor: Cursor, what: str) -> None:
    """Take the repeated number of strings; public clients put a size in bytes (never equal) first."""
    at = cursor.position
    if cursor.take_count(what) != count and cursor.take_count(what) != count:
        raise MalformedMessageError(f"{what}: {count} strings are awaited, another number is at offset {at}.")


def _check_room(number: int, cursor: Cursor, what: str) -> None:
    """Refuse a number of strings that cannot be there, before anything is made for them."""
    if 4 * number > cursor.left:
        raise MalformedMessageError(
            f"{what}: {number} strings are announced at offset {cursor.position},"
            f" {cursor.left} bytes are there.",
            offset=cursor.position,
            missing=4 * number - cursor.left,
        )


def _encode_string_table(value: Any, what: str) -> bytes:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise UsageError(f"{what}: {value!r} is no table of texts.")
    rows = [_as_strings(row, what) for row in value]
    columns = len(rows[0]) if rows else 0
    if any(len(row) != columns for row in rows):
        raise UsageError(f"{what}: the rows of the table differ in length.")
    if not columns and len(rows) > LARGEST_TABLE:
        raise UsageError(f"{what}: {len(rows)} empty rows (limit {LARGEST_TABLE}).")
    return _SHAPE.pack(len(rows), columns) + b"".join(
        _encode_string(text, what) for row in rows for text in row
    )


def _decode_string_table(cursor: Cursor, what: str) -> tuple[tuple[str, ...], ...]:
    rows, columns = cursor.take_count(what), cursor.take_count(what)
    if not columns and rows > LARGEST_TABLE:
        raise MalformedMessageError(f"{what}: {rows} rows without columns (limit {LARGEST_TABLE}).")
    _check_room(rows * columns, cursor, what)
    return tuple(tuple(_decode_string(cursor, what) for _ in range(columns)) for _ in range(rows))


def _decode_array(element: str, number: int, cursor: Cursor, what: str) -> npt.NDArray[Any]:
    dtype = np.dtype(ELEMENTS[element])
    raw = cursor.take(number * dtype.itemsize, what)
    return np.frombuffer(raw, dtype).astype(dtype.newbyteorder("="), copy=True)


def _as_strings(value: Any, what: str) -> Sequence[str]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise UsageError(f"{what}: {value!r} is no list of texts.")
    return value


def _as_array(element: str, value: Any, what: str, dimensions: int) -> npt.NDArray[Any]:
    dtype = np.dtype(ELEMENTS[element])
    try:
        given = np.asarray(value)
        if given.size == 0 and given.ndim == 1 and dimensions == 2:
            given = given.reshape(0, 0)
        if given.ndim != dimensions:
            raise ValueError(f"{given.ndim} dimensions instead of {dimensions}")
        if max(given.shape) > _LARGEST_INT32:
            raise ValueError("it is too long")
        return np.ascontiguousarray(_cast(given, dtype))
    except (TypeError, ValueError, OverflowError) as wrong:
        raise UsageError(f"{what}: no {dimensions}-D array of {dtype.name}: {wrong}.") from None


def _cast(given: npt.NDArray[Any], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """``given`` in the wire's dtype; anything but rounding of floats is refused."""
    if given.size == 0:
        return given.astype(dtype)
    if dtype.kind == "f":
        if given.dtype.kind not in "fiub":
            raise TypeError(f"elements of {given.dtype}")
        limit = float(np.finfo(dtype).max)
        wide = given.astype(np.float64)
        with np.errstate(over="ignore"):
            cast = wide.astype(dtype)
        if np.any(np.isinf(cast) & ~np.isinf(wide)):
            raise ValueError(f"an element is beyond {math.copysign(limit, 1):.3g}")
        return cast
    if given.dtype.kind not in "iub":
        raise TypeError(f"elements of {given.dtype}")
    info = np.iinfo(dtype)
    if int(given.min()) < info.min or int(given.max()) > info.max:
        raise ValueError(f"an element is outside {info.min} to {info.max}")
    return given.astype(dtype)
