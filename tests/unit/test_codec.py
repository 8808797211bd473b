"""The codec: every message comes back as it left, and no bytes whatever do worse than a named error."""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from msgspec import inspect as mi

from protocols.errors import MalformedMessageError, UnknownMessageError, UsageError, VersionError
from protocols.messages import codec
from protocols.messages.base import PROTOCOL_VERSION, Message
from protocols.messages.control import Done, GuardQuery, Ping
from protocols.messages.data import Channel, Chunk, FrameLines, SweepData
from protocols.messages.records import ModelState

DTYPES = [
    "?",
    "i1",
    "<i2",
    "<i4",
    "<i8",
    "u1",
    "<u2",
    "<u4",
    "<u8",
    "<f4",
    "<f8",
    "<c8",
    "<c16",
    ">f8",
    ">i4",
]
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


def arrays() -> st.SearchStrategy[np.ndarray[Any, Any]]:
    """Arrays of every dtype that may travel."""
    shapes = npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
    return st.sampled_from(DTYPES).flatmap(lambda dtype: npst.arrays(dtype, shapes))


def values_of(kind: mi.Type) -> st.SearchStrategy[Any]:
    """A strategy for a field's type as msgspec sees it."""
    match kind:
        case mi.IntType():
            return st.integers(-(2**63), 2**63 - 1)
        case mi.FloatType():
            return st.floats(allow_nan=True, allow_infinity=True)
        case mi.StrType():
            return TEXT
        case mi.BoolType():
            return st.booleans()
        case mi.NoneType():
            return st.none()
        case mi.BytesType():
            return st.binary(max_size=20)
        case mi.EnumType(cls=cls):
            return st.sampled_from(list(cls))
        case mi.LiteralType(values=values):
            return st.sampled_from(list(values))
        case mi.UnionType(types=types):
            return st.one_of([values_of(t) for t in types])
        case mi.DictType(key_type=key, value_type=value):
            return st.dictionaries(values_of(key), values_of(value), max_size=2)
        case mi.VarTupleType(item_type=item):
            return st.lists(values_of(item), max_size=2).map(tuple)
        case mi.ListType(item_type=item):
            return st.lists(values_of(item), max_size=2)
        case mi.TupleType(item_types=items):
            return st.tuples(*[values_of(t) for t in items])
        case mi.StructType(cls=cls, fields=fields):
            return st.builds(cls, **{f.name: values_of(f.type) for f in fields})
        case mi.CustomType(cls=np.ndarray):
            return arrays()
    raise AssertionError(f"no strategy for {kind}: add one")


STRATEGIES = {name: values_of(mi.type_info(kind)) for name, kind in codec.MESSAGE_CLASSES.items()}
ANY_MESSAGE = st.sampled_from(sorted(STRATEGIES)).flatmap(STRATEGIES.__getitem__)


def same(a: Any, b: Any) -> bool:
    """Equality in which NaN equals NaN, arrays compare by dtype (apart from byte order), shape and values."""
    if isinstance(a, np.ndarray):
        native = a.dtype.newbyteorder("=")
        return (
            isinstance(b, np.ndarray)
            and b.dtype == native
            and a.shape == b.shape
            and a.astype(native).tobytes() == b.tobytes()
        )
    if isinstance(a, msgspec.Struct):
        return type(a) is type(b) and all(same(getattr(a, f), getattr(b, f)) for f in a.__struct_fields__)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float) and math.isnan(a):
        return isinstance(b, float) and math.isnan(b)
    return type(a) is type(b) and bool(a == b)


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_every_message_round_trips(name: str) -> None:
    """Whatever a message of any kind holds (NaN, infinities, unions, arrays), it comes back the same."""

    @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
    @given(STRATEGIES[name], TEXT)
    def check(message: Message, request_id: str) -> None:
        envelope = codec.decode(codec.encode(message, request_id))
        assert (envelope.version, envelope.request_id) == (PROTOCOL_VERSION, request_id)
        assert same(message, envelope.message)
        assert same(message, codec.decode_body(codec.encode_body(message)))
        json.dumps(codec.to_jsonable(message), allow_nan=False)
        json.dumps(codec.to_jsonable(message, arrays=True), allow_nan=False)

    check()


def test_arrays_come_back_owned_native_and_writeable() -> None:
    """A decoded array owns its memory, is aligned, in native byte order and independent of the frame."""
    frame = bytearray(
        codec.encode(ModelState(decision="d", window=0, arrays={"a": np.arange(5.0, dtype=">f8")}))
    )
    array = codec.decode(bytes(frame)).message.arrays["a"]
    assert array.flags.owndata and array.flags.writeable and array.flags.aligned
    assert array.dtype.isnative
    assert array.tolist() == [0, 1, 2, 3, 4]


def test_strided_and_fortran_arrays_travel() -> None:
    """Arrays that are not contiguous in C order arrive with their values in place."""
    base = np.arange(24.0).reshape(4, 6)
    sent = {"strided": base[::2, 1::2], "fortran": np.asfortranarray(base), "reversed": base[::-1]}
    back = codec.decode_body(codec.encode_body(ModelState(decision="", window=0, arrays=sent)))
    assert isinstance(back, ModelState)
    for name, array in sent.items():
        assert np.array_equal(back.arrays[name], array)


def test_numpy_scalars_travel_as_numbers() -> None:
    """A numpy scalar in a field that is declared a number becomes that number."""
    message = Ping(sent_s=np.float32(0.5))  # type: ignore[arg-type]
    assert codec.decode(codec.encode(message)).message == Ping(sent_s=0.5)


@pytest.mark.parametrize(
    "array",
    [
        np.array([{}], dtype=object),
        np.array(["text"]),
        np.zeros(2, dtype="M8[s]"),
        np.zeros(2, dtype=[("a", "f8")]),
        np.zeros(2, dtype="f2"),
        np.zeros((1,) * 9),
        np.zeros(codec.MAXIMUM_BYTES // 8 + 1),
    ],
    ids=["object", "text", "date", "record", "half", "dimensions", "size"],
)
def test_arrays_that_cannot_travel_are_refused_at_the_sender(array: np.ndarray[Any, Any]) -> None:
    """Dtypes off the list, too many dimensions and too many bytes are the sender's mistake."""
    with pytest.raises(UsageError):
        codec.encode(ModelState(decision="d", window=0, arrays={"a": array}))


def with_extension(content: Any, code: int = codec.ARRAY_EXTENSION, raw: bool = False) -> bytes:
    """A ModelState frame whose one array is this."""
    data = content if raw else msgspec.msgpack.encode(content)
    body = {"t": "ModelState", "decision": "", "window": 0, "arrays": {"a": msgspec.msgpack.Ext(code, data)}}
    return msgspec.msgpack.encode([PROTOCOL_VERSION, "9", body])


@pytest.mark.parametrize(
    "frame",
    [
        with_extension(["|O", [1], b"12345678"]),
        with_extension(["<f8", [2], b"12345678"]),
        with_extension(["<f8", [-1, -1], b"12345678"]),
        with_extension(["<f8", [0, 2**62], b""]),
        with_extension(["<f8", [1] * 9, b"12345678"]),
        with_extension(["f8", [1], b"12345678"]),
        with_extension(["|b1", [1], b"\x02"]),
        with_extension({"a": 1}),
        with_extension(b"\xc1", raw=True),
        with_extension(["<f8", [1], b"12345678"], code=2),
    ],
    ids=["object", "short", "negative", "huge", "dims", "no-order", "bool", "map", "bytes", "code"],
)
def test_false_arrays_are_malformed(frame: bytes) -> None:
    """An array whose dtype, shape, length or code is wrong is refused, with the request id it came with."""
    with pytest.raises(MalformedMessageError) as caught:
        codec.decode(frame)
    assert caught.value.details["request_id"] == "9"


def test_a_number_where_an_array_is_declared_is_malformed() -> None:
    """A plain number where an array is declared is no array."""
    body = {"t": "ModelState", "decision": "", "window": 0, "arrays": {"a": 3}}
    with pytest.raises(MalformedMessageError, match="array"):
        codec.decode(msgspec.msgpack.encode([PROTOCOL_VERSION, "", body]))


def test_unknown_kind_says_that_the_peer_is_newer() -> None:
    """A kind that this release does not know is an error of its own that names kind and request."""
    frame = msgspec.msgpack.encode([PROTOCOL_VERSION, "17", {"t": "Teleport", "where": [1, 2]}])
    with pytest.raises(UnknownMessageError, match="peer is newer") as caught:
        codec.decode(frame)
    assert caught.value.details == {"kind": "Teleport", "request_id": "17"}


def test_unknown_fields_of_a_known_kind_are_ignored() -> None:
    """A newer peer may add optional fields without breaking older ones."""
    frame = msgspec.msgpack.encode([PROTOCOL_VERSION, "1", {"t": "Done", "note": "x", "colour": "red"}])
    assert codec.decode(frame).message == Done(note="x")


@pytest.mark.parametrize("frame", [[2, "5", {"t": "Done"}], [2, "5", "quite", "another", "layout"]])
def test_another_version_is_told_apart(frame: list[Any]) -> None:
    """A frame of another protocol version is refused as such, whatever its layout."""
    with pytest.raises(VersionError) as caught:
        codec.decode(msgspec.msgpack.encode(frame))
    assert caught.value.details == {"version": 2, "request_id": "5"}


def read(data: bytes) -> None:
    """Decode; only the three named errors may come out."""
    try:
        codec.decode(data)
    except (MalformedMessageError, UnknownMessageError, VersionError) as error:
        assert isinstance(error.details["request_id"], str)
    try:
        codec.decode_body(data)
    except (MalformedMessageError, UnknownMessageError):
        pass


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_give_named_errors(data: bytes) -> None:
    """No bytes make the decoder raise anything but its named errors."""
    read(data)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | TEXT | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT | st.integers(0, 9), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(codec.MESSAGE_CLASSES)), st.dictionaries(TEXT, PLAIN, max_size=4), PLAIN)
def test_wrong_contents_give_named_errors(kind: str, body: dict[str, Any], other: Any) -> None:
    """Well-formed msgpack with wrong fields, wrong types or wrong layout gives named errors too."""
    fields = [f.name for f in mi.type_info(codec.MESSAGE_CLASSES[kind]).fields]
    filled = dict(zip(fields, [other, *body.values()], strict=False))
    for content in (other, {"t": kind, **body}, {"t": kind, **filled}):
        read(msgspec.msgpack.encode([PROTOCOL_VERSION, "1", content]))
        read(msgspec.msgpack.encode(content))


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(ANY_MESSAGE, st.data())
def test_damaged_messages_give_named_errors(message: Message, data: st.DataObject) -> None:
    """A valid frame with bytes changed, cut out, cut off or put in decodes or gives a named error."""
    frame = bytearray(codec.encode(message, "1"))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, max(0, len(frame) - 1)))
        match data.draw(st.sampled_from(["change", "cut", "truncate", "insert"])):
            case "change" if frame:
                frame[at] = data.draw(st.integers(0, 255))
            case "cut":
                del frame[at : at + data.draw(st.integers(1, 8))]
            case "truncate":
                del frame[at:]
            case _:
                frame[at:at] = data.draw(st.binary(max_size=8))
    read(bytes(frame))


@pytest.mark.parametrize("data", [b"\x91" * 100_000, b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b""])
def test_hostile_nesting_and_lengths_are_malformed(data: bytes) -> None:
    """Deep nesting and announced lengths that do not follow cost neither the stack nor memory."""
    with pytest.raises(MalformedMessageError):
        codec.decode(data)


def test_oversize_is_refused_both_ways() -> None:
    """Messages above the size limit are refused when sent and when received."""
    with pytest.raises(UsageError, match="limit"):
        codec.encode(Done(note="x" * codec.MAXIMUM_BYTES))
    with pytest.raises(MalformedMessageError, match="limit"):
        codec.decode(b"\0" * (codec.MAXIMUM_BYTES + 1))


def test_every_kind_is_known_by_its_class_name() -> None:
    """The table of kinds covers all modules of messages."""
    assert codec.MESSAGE_CLASSES["GuardQuery"] is GuardQuery
    assert all(name == kind.__name__ for name, kind in codec.MESSAGE_CLASSES.items())
    assert len(codec.MESSAGE_CLASSES) >= 55


def test_jsonable_summarises_arrays_and_drops_what_json_cannot_say() -> None:
    """Arrays become summaries over their finite values, NaN becomes null; lists if asked for."""
    values = np.array([[1.0, np.nan], [3.0, np.inf]])
    sweep = SweepData(
        bias_v=np.array([0.0, 1.0]),
        channels=(Channel(name="current", unit="A", values=values),),
        x_m=math.nan,
        y_m=0.0,
        z_m=0.0,
        time_s=0.0,
    )
    short = codec.to_jsonable(Chunk(job_id="r/d1/a1", seq=0, body=sweep))
    assert short["body"]["x_m"] is None
    summary = {"dtype": "float64", "shape": [2, 2], "minimum": 1.0, "maximum": 3.0, "finite": 2}
    assert short["body"]["channels"][0]["values"] == summary
    full = codec.to_jsonable(sweep, arrays=True)
    assert full["channels"][0]["values"] == [[1.0, None], [3.0, None]]
    assert codec.to_jsonable(FrameLines(rows=(1,), channels=(), time_s=0.0))["rows"] == [1]
