"""Nanonis wire types and layouts: exact bytes, round trips, exact errors on truncation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from protocols.errors import MalformedMessageError, UsageError
from protocols.nanonis import layouts, types
from protocols.nanonis.types import Cursor

TEXT = st.text(st.characters(max_codepoint=255), max_size=12)
TEXTS = st.lists(TEXT, max_size=6).map(tuple)
NATIVE = {code: np.dtype(kind).newbyteorder("=") for code, kind in types.ELEMENTS.items()}


def vectors(element: str) -> st.SearchStrategy[Any]:
    """1-D arrays of an element code."""
    return npst.arrays(NATIVE[element], st.integers(0, 20))


def tables() -> st.SearchStrategy[Any]:
    """Rectangular tables of texts."""
    return st.integers(0, 4).flatmap(
        lambda columns: st.lists(st.tuples(*[TEXT] * columns), max_size=4).map(tuple)
    )


def values(code: str) -> st.SearchStrategy[Any]:
    """Any value of a code that carries its own length."""
    plain: dict[str, st.SearchStrategy[Any]] = {
        "H": st.integers(0, 2**16 - 1),
        "h": st.integers(-(2**15), 2**15 - 1),
        "I": st.integers(0, 2**32 - 1),
        "i": st.integers(-(2**31), 2**31 - 1),
        "f": st.floats(width=32),
        "d": st.floats(),
        "S": TEXT,
        "SA": TEXTS,
        "BS": TEXTS,
        "M": npst.arrays(np.float32, st.tuples(st.integers(0, 6), st.integers(0, 6))),
        "MS": tables(),
    }
    return plain[code] if code in plain else vectors(code.strip("[]*"))


SELF_CONTAINED = sorted(code for code in types.CODES if not types.is_counted(code))


def same(a: Any, b: Any) -> bool:
    """Equality in which NaN equals NaN and arrays also agree in shape and dtype."""
    if isinstance(a, np.ndarray):
        return (
            a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
        )
    if isinstance(a, float) and math.isnan(a):
        return isinstance(b, float) and math.isnan(b)
    return bool(a == b) and type(a) is type(b)


@pytest.mark.parametrize(
    ("code", "value", "wire"),
    [
        ("H", 65535, "ffff"),
        ("h", -2, "fffe"),
        ("I", 1, "00000001"),
        ("i", -1, "ffffffff"),
        ("f", 0.5, "3f000000"),
        ("d", 5e-9, "3e35798ee2308c3a"),
        ("S", "Bias", "00000004" + b"Bias".hex()),
        ("S", "µ", "00000001b5"),
        ("[i]", np.array([0, 30]), "00000002000000000000001e"),
        ("[B]", [1, 255], "0000000201ff"),
        ("SA", ("ab", "c"), "0000000b000000020000000261620000000163"),
        ("BS", ("ab", "c"), "0000000b0000000261620000000163"),
        ("*BS", ("ab",), "00000006000000026162"),
        ("*[S]", ("ab",), "00000001000000026162"),
        ("*S", ("ab",), "000000026162"),
        ("*h", [-1, 1], "ffff0001"),
        ("M", [[1.0], [-2.0]], "00000002000000013f800000c0000000"),
        ("MS", (("a", "b"),), "000000010000000200000001610000000162"),
    ],
)
def test_exact_bytes(code: str, value: Any, wire: str) -> None:
    """Each type is big-endian with the lengths where the protocol has them."""
    data = types.encode(code, value, "x")
    assert data.hex() == wire
    count = types.length(code, value, "x") if types.is_counted(code) else 0
    back = types.decode(code, Cursor(data), "x", count)
    assert np.array_equal(back, value) if isinstance(back, np.ndarray) else back == value  # type: ignore[arg-type]


@pytest.mark.parametrize("code", SELF_CONTAINED)
@given(data=st.data())
@settings(max_examples=40)
def test_round_trip(code: str, data: st.DataObject) -> None:
    """Every value comes back as it left, and exactly its bytes are taken."""
    value = data.draw(values(code))
    wire = types.encode(code, value, "x")
    cursor = Cursor(wire + b"behind")
    assert same(value, types.decode(code, cursor, "x"))
    assert cursor.left == len(b"behind")


@pytest.mark.parametrize("code", SELF_CONTAINED)
@given(data=st.data())
@settings(max_examples=25)
def test_truncation_is_an_error_with_its_place(code: str, data: st.DataObject) -> None:
    """A value cut short anywhere is an error that names the field; never another value."""
    wire = types.encode(code, data.draw(values(code)), "x")
    short = wire[: data.draw(st.integers(0, len(wire) - 1))]
    with pytest.raises(MalformedMessageError, match=r"^width_m: "):
        types.decode(code, Cursor(short), "width_m")


@given(st.sampled_from(SELF_CONTAINED), st.binary(max_size=60))
def test_random_bytes_do_no_worse_than_a_named_error(code: str, data: bytes) -> None:
    """Whatever the bytes, decoding gives a value that can be sent again, or a MalformedMessageError."""
    try:
        value = types.decode(code, Cursor(data), "x")
    except MalformedMessageError:
        return
    types.encode(code, value, "x")


def test_missing_bytes_are_counted() -> None:
    """The error says where bytes are missing and how many."""
    with pytest.raises(MalformedMessageError, match="8 bytes at offset 4 are awaited, 3 are there") as caught:
        types.decode("d", Cursor(bytes(7), 4), "x_m")
    assert caught.value.details == {"offset": 4, "missing": 5}


@pytest.mark.parametrize(
    ("code", "wire"),
    [
        ("S", "ffffffff"),
        ("[f]", "80000000"),
        ("[d]", "7fffffff"),
        ("SA", "000000007fffffff"),
        ("SA", "00000000ffffffff"),
        ("M", "7fffffff7fffffff"),
        ("M", "ffffffff00000000"),
        ("MS", "7fffffff00000000"),
        ("MS", "7fffffff7fffffff"),
        ("BS", "00000003000000"),
    ],
)
def test_absurd_lengths_are_refused_without_making_room(code: str, wire: str) -> None:
    """Negative and impossible lengths are errors before anything of that size is made."""
    with pytest.raises(MalformedMessageError):
        types.decode(code, Cursor(bytes.fromhex(wire)), "x")


@pytest.mark.parametrize("declared", [0, 4, 11, 19, 2**31 - 1])
def test_the_declared_size_of_a_string_array_is_not_believed(declared: int) -> None:
    """Public clients declare three different sizes for the same array: only the number of strings counts."""
    wire = types.encode("SA", ("ab", "c"), "x")
    assert types.decode("SA", Cursor(declared.to_bytes(4, "big") + wire[4:]), "x") == ("ab", "c")


@given(TEXTS)
def test_the_size_we_declare_counts_lengths_and_bytes(texts: tuple[str, ...]) -> None:
    """Clients that step over a string array by its declared size land behind it."""
    wire = types.encode("SA", texts, "x")
    assert int.from_bytes(wire[:4], "big") == len(wire) - 8


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("H", -1),
        ("H", 65536),
        ("h", 40000),
        ("I", -1),
        ("i", 2**31),
        ("i", 1.0),
        ("i", "1"),
        ("f", "1"),
        ("f", 1e39),
        ("d", None),
        ("S", b"raw"),
        ("S", "€"),
        ("SA", "abc"),
        ("SA", ("a", 1)),
        ("[i]", [2**31]),
        ("[i]", [0.5]),
        ("[I]", [-1]),
        ("[B]", [256]),
        ("[f]", [[1.0]]),
        ("[f]", [1e39]),
        ("[f]", ["1"]),
        ("[f]", 1.0),
        ("M", [1.0]),
        ("M", [[1.0], [1.0, 2.0]]),
        ("MS", (("a",), ())),
        ("MS", "ab"),
    ],
)
def test_unfit_values_are_refused_by_name(code: str, value: Any) -> None:
    """A value that does not fit is our mistake: nothing is rounded to fit, wrapped or cut."""
    with pytest.raises(UsageError, match=r"^Bias\.Set, bias_v: "):
        types.encode(code, value, "Bias.Set, bias_v")


def test_numbers_of_other_kinds_fit() -> None:
    """Bools, numpy scalars, infinity and NaN may be sent where the type has room for them."""
    assert types.encode("I", True, "x") == b"\0\0\0\1"
    assert types.encode("H", np.int64(7), "x") == b"\0\7"
    assert types.encode("f", np.float64(0.5), "x").hex() == "3f000000"
    assert types.encode("f", math.inf, "x").hex() == "7f800000"
    assert types.encode("[f]", [math.inf, 1], "x").hex() == "000000027f8000003f800000"


def test_arrays_own_their_memory() -> None:
    """A decoded array is native, writeable, and does not change with the buffer it came from."""
    buffer = bytearray(types.encode("[f]", [1.0, 2.0], "x"))
    array = types.decode("[f]", Cursor(memoryview(buffer)), "x")
    assert isinstance(array, np.ndarray)
    buffer[4:] = bytes(8)
    array[1] = 3.0
    assert array.dtype.isnative
    assert array.tolist() == [1.0, 3.0]


def test_what_comes_back_of_a_number_that_was_set() -> None:
    """A float32 field rounds: a read-back is compared with the rounded number, others with the number."""
    assert types.as_read_back("f", 0.1) != 0.1
    assert np.isclose(types.as_read_back("f", 0.1), 0.1, rtol=1e-7, atol=0)
    wire = types.encode("f", 0.1, "x")
    assert types.decode("f", Cursor(wire), "x") == types.as_read_back("f", 0.1)
    assert types.as_read_back("d", 0.1) == 0.1


def test_ascii_text() -> None:
    """Text for clients that read ASCII alone keeps its length; the rest becomes question marks."""
    assert types.ascii_text("5 µm, 20 °") == "5 ?m, 20 ?"


def test_layout_encodes_by_name_in_the_order_of_the_wire() -> None:
    """Values are given by name in any order; a shared count is made from the arrays."""
    layout = layouts.parse("active:I n x_m:*f y_m:*f name:S")
    data = layout.encode({"name": "a", "y_m": [3.0, 4.0], "x_m": [1.0, 2.0], "active": 1}, "t")
    assert data.hex() == "00000001000000023f8000004000000040400000408000000000000161"
    back = layout.decode(data, "t")
    assert list(back) == ["active", "x_m", "y_m", "name"]
    assert np.array_equal(back["y_m"], [3.0, 4.0])  # type: ignore[arg-type]


def test_layout_refuses_arrays_that_differ() -> None:
    """Arrays under one count must agree in length; the error tells their lengths."""
    layout = layouts.parse("n x_m:*f y_m:*f")
    with pytest.raises(UsageError, match="x_m 1, y_m 2"):
        layout.encode({"x_m": [1.0], "y_m": [1.0, 2.0]}, "t")


def test_layout_tells_missing_and_strange_names() -> None:
    """One error tells all names that are missing and all that are not fields, and lists the fields."""
    with pytest.raises(UsageError, match=r"volts is not a field; bias_v is missing\. Fields: bias_v"):
        layouts.parse("bias_v:f").encode({"volts": 1.0}, "t")


def test_layout_takes_values_in_order_and_by_name() -> None:
    """As in a call: too many values and a value given twice are refused."""
    layout = layouts.parse("a:I b:I")
    assert layout.bind((1,), {"b": 2}, "t") == {"a": 1, "b": 2}
    with pytest.raises(UsageError, match="a given twice"):
        layout.bind((1,), {"a": 2}, "t")
    with pytest.raises(UsageError, match="3 values for 2 fields"):
        layout.bind((1, 2, 3), {}, "t")
    assert layout.field("b").code == "I"
    with pytest.raises(UsageError, match="no field 'c'"):
        layout.field("c")


@pytest.mark.parametrize("text", ["a", "a:Q", "A:i", "a:*f", "n", "n a:i", "a:i a:f", ":i", "a:i n"])
def test_layouts_that_make_no_sense(text: str) -> None:
    """A layout is checked when it is read: codes, names, counts."""
    with pytest.raises(UsageError):
        layouts.parse(text)


def test_missing_fields_at_the_end_are_zero_only_where_allowed() -> None:
    """Fields behind the required ones may be absent as a whole; half a field is always an error."""
    layout = layouts.parse("x:I y:f name:S names:SA m:M n a:*f b:*S")
    whole = layout.decode(bytes(4), "t", required=1)
    assert whole["x"] == 0 and whole["y"] == 0.0 and whole["name"] == "" and whole["b"] == ()
    for data, required in ((bytes(4), 2), (bytes(4), None), (bytes(6), 1), (b"", 1)):
        with pytest.raises(MalformedMessageError):
            layout.decode(data, "t", required=required)


def test_a_count_without_its_arrays_is_an_error() -> None:
    """If the count says that elements follow, they are not optional."""
    with pytest.raises(MalformedMessageError):
        layouts.parse("n a:*f").decode(bytes([0, 0, 0, 2]), "t", required=0)
