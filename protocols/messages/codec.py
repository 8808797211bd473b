"""Messages to bytes and back: msgpack with typed decoding; arrays as extension type 1; never pickle.

One frame on the wire is the msgpack array ``[version, request_id, message]``; the message is a map whose
key ``"t"`` names its kind.  Journal and spool keep the message alone (``encode_body``).  An array is the
extension type 1 whose content is the msgpack array ``[dtype, shape, bytes]``: dtype as numpy writes it, with
its byte order ("<f8"), C order.  We always send little-endian and read both.

Decoded arrays own their memory: native byte order, aligned, writeable, and independent of the frame.

Modules of messages never import this one: it imports all of them to know every kind.
"""

from __future__ import annotations

import importlib
import math
import pkgutil
from typing import Any, get_args, get_origin

import msgspec
import numpy as np

import protocols.messages
from protocols.errors import MalformedMessageError, UnknownMessageError, UsageError, VersionError
from protocols.messages.base import PROTOCOL_VERSION, Message

ARRAY_EXTENSION = 1
"""Code of the msgpack extension type that carries an array."""

MAXIMUM_BYTES = 64 * 2**20
"""Largest message, and so the largest array, in bytes."""

MAXIMUM_DIMENSIONS = 8

_KINDS = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f4", "f8", "c8", "c16")
_DTYPES: dict[str, np.dtype[Any]] = {
    np.dtype(order + kind).str: np.dtype(order + kind) for kind in _KINDS for order in "<>"
}

_GARBAGE = (msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError, MemoryError)
"""What a decoder may raise on bytes that are no message."""


class Envelope(msgspec.Struct, frozen=True):
    """One decoded frame."""

    version: int
    request_id: str
    message: Message


class _Kind(msgspec.Struct, frozen=True):
    """Just the name of a message's kind."""

    t: str


def _message_classes() -> dict[str, type[Message]]:
    for module in pkgutil.iter_modules(protocols.messages.__path__, "protocols.messages."):
        if module.name != __name__:
            importlib.import_module(module.name)
    found: dict[str, type[Message]] = {}
    waiting: list[type[Message]] = Message.__subclasses__()
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        if not kind.__module__.startswith("protocols.messages."):
            continue
        if kind.__name__ in found and found[kind.__name__] is not kind:
            other = found[kind.__name__].__module__
            raise UsageError(f"two kinds of message are called {kind.__name__}: {other}, {kind.__module__}.")
        found[kind.__name__] = kind
    return dict(sorted(found.items()))


def _pack_array(array: np.ndarray[Any, Any]) -> msgspec.msgpack.Ext:
    little = array.dtype.newbyteorder("<")
    if little.str not in _DTYPES:
        raise UsageError(f"an array of dtype {array.dtype} cannot travel; possible: {', '.join(_KINDS)}.")
    if array.nbytes > MAXIMUM_BYTES:
        raise UsageError(
            f"an array of {array.nbytes} bytes cannot travel (limit {MAXIMUM_BYTES}).", "Split it."
        )
    if array.ndim > MAXIMUM_DIMENSIONS:
        raise UsageError(f"an array of {array.ndim} dimensions cannot travel (limit {MAXIMUM_DIMENSIONS}).")
    content = (little.str, array.shape, array.astype(little, copy=False).tobytes("C"))
    return msgspec.msgpack.Ext(ARRAY_EXTENSION, msgspec.msgpack.encode(content))


def _unpack_array(data: memoryview) -> np.ndarray[Any, Any]:
    name, shape, raw = _ARRAY_DECODER.decode(data)
    dtype = _DTYPES.get(name)
    if dtype is None:
        raise ValueError(f"dtype {name[:20]!r} is not allowed")
    if len(shape) > MAXIMUM_DIMENSIONS or any(n < 0 or n > MAXIMUM_BYTES for n in shape):
        raise ValueError("impossible shape")
    if math.prod(shape) * dtype.itemsize != len(raw):
        raise ValueError(f"shape {shape} of {name} does not fit {len(raw)} bytes")
    if dtype.kind == "b" and len(raw) and max(raw) > 1:
        raise ValueError("truth values other than 0 and 1")
    return np.frombuffer(raw, dtype).reshape(shape).astype(dtype.newbyteorder("="), order="C", copy=True)


def _encode_other(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return _pack_array(value)
    if isinstance(value, np.generic):
        return value.item()
    raise UsageError(f"a {type(value).__name__} cannot travel.")


def _decode_extension(code: int, data: memoryview) -> Any:
    if code != ARRAY_EXTENSION:
        raise ValueError(f"unknown extension type {code}")
    return _unpack_array(data)


def _decode_other(kind: Any, value: Any) -> Any:
    """Check an array against an annotation ``NDArray[scalar]``."""
    if get_origin(kind) is not np.ndarray or not isinstance(value, np.ndarray):
        raise ValueError("an array was expected")
    scalar = get_args(get_args(kind)[1])[0]
    if isinstance(scalar, type) and not issubclass(value.dtype.type, scalar):
        raise ValueError(f"an array of {scalar.__name__} was expected, not {value.dtype}")
    return value


MESSAGE_CLASSES: dict[str, type[Message]] = _message_classes()
"""Every kind of message by its name on the wire."""

_ENCODER = msgspec.msgpack.Encoder(enc_hook=_encode_other)
_ARRAY_DECODER = msgspec.msgpack.Decoder(tuple[str, tuple[int, ...], memoryview])
_FRAME_DECODER = msgspec.msgpack.Decoder(tuple[int, str, msgspec.Raw])
_ANY_FRAME_DECODER = msgspec.msgpack.Decoder(list[msgspec.Raw])
_KIND_DECODER = msgspec.msgpack.Decoder(_Kind)
_DECODERS = {
    name: msgspec.msgpack.Decoder(kind, dec_hook=_decode_other, ext_hook=_decode_extension)
    for name, kind in MESSAGE_CLASSES.items()
}


def encode(message: Message, request_id: str = "") -> bytes:
    """One frame for the wire.

    Raises:
        UsageError: the message holds something that cannot travel, or is larger than ``MAXIMUM_BYTES``.
    """
    return _limited(_ENCODER.encode((PROTOCOL_VERSION, request_id, message)), message)


def encode_body(message: Message) -> bytes:
    """The message alone, for journal and spool.

    Raises:
        UsageError: as ``encode``.
    """
    return _limited(_ENCODER.encode(message), message)


def decode(data: bytes) -> Envelope:
    """Read one frame.

    Raises:
        MalformedMessageError: these bytes are no message; ``details["request_id"]`` if that much was legible.
        UnknownMessageError: a kind we do not know; ``details["kind"]``, ``details["request_id"]``.
        VersionError: the peer speaks another version; ``details["version"]``, ``details["request_id"]``.
    """
    _refuse_oversize(data)
    version: int | None
    raw: msgspec.Raw | None
    try:
        version, request_id, raw = _FRAME_DECODER.decode(data)
    except _GARBAGE as broken:
        version, request_id = _other_version(data)
        if version is None:
            raise MalformedMessageError(f"no message of ours: {broken}.", request_id="") from None
        raw = None
    if version != PROTOCOL_VERSION or raw is None:
        raise VersionError(
            f"the peer speaks protocol version {version}, we speak {PROTOCOL_VERSION}.",
            "Run the same release on both sides.",
            version=version,
            request_id=request_id,
        )
    return Envelope(version, request_id, _decode_message(raw, request_id))


def decode_body(data: bytes) -> Message:
    """Read a message that ``encode_body`` wrote.

    Raises:
        MalformedMessageError: these bytes are no message.
        UnknownMessageError: written by a newer release; ``details["kind"]``.
    """
    _refuse_oversize(data)
    return _decode_message(data, "")


def to_jsonable(value: Any, *, arrays: bool = False) -> Any:
    """Plain dicts, lists, texts and numbers for ``json.dumps``; numbers that are not finite become None.

    An array becomes ``{"dtype", "shape", "minimum", "maximum", "finite"}`` (of its finite values), or nested
    lists if ``arrays``.  Complex arrays as lists get a last axis (real, imaginary).
    """

    def convert(item: Any) -> Any:
        if isinstance(item, np.ndarray):
            return _array_as_lists(item) if arrays else _array_summary(item)
        if isinstance(item, np.generic):
            return item.item()
        raise UsageError(f"a {type(item).__name__} cannot be written as JSON.")

    return _finite(msgspec.to_builtins(value, enc_hook=convert, str_keys=True))


def _limited(data: bytes, message: Message) -> bytes:
    if len(data) > MAXIMUM_BYTES:
        raise UsageError(
            f"a {type(message).__name__} of {len(data)} bytes cannot travel (limit {MAXIMUM_BYTES}).",
            "Split it.",
        )
    return data


def _refuse_oversize(data: bytes) -> None:
    if len(data) > MAXIMUM_BYTES:
        raise MalformedMessageError(f"a message of {len(data)} bytes (limit {MAXIMUM_BYTES}).", request_id="")


def _other_version(data: bytes) -> tuple[int | None, str]:
    """Version and request id of a frame of another layout, or None if it has no foreign version."""
    try:
        parts = _ANY_FRAME_DECODER.decode(data)
        version = msgspec.msgpack.decode(parts[0], type=int)
    except (*_GARBAGE, IndexError):
        return None, ""
    try:
        request_id = msgspec.msgpack.decode(parts[1], type=str)
    except (*_GARBAGE, IndexError):
        request_id = ""
    return (None if version == PROTOCOL_VERSION else version), request_id


def _decode_message(data: bytes | msgspec.Raw, request_id: str) -> Message:
    try:
        kind = _KIND_DECODER.decode(data).t
        decoder = _DECODERS.get(kind)
        if decoder is not None:
            return decoder.decode(data)
    except _GARBAGE as broken:
        raise MalformedMessageError(f"no message of ours: {broken}.", request_id=request_id) from None
    raise UnknownMessageError(
        f"message kind {kind[:80]!r} is not known here: the peer is newer.",
        "Run the same release on both sides.",
        kind=kind,
        request_id=request_id,
    )


def _array_as_lists(array: np.ndarray[Any, Any]) -> Any:
    if array.dtype.kind == "c":
        array = np.stack([array.real, array.imag], axis=-1)
    return array.tolist()


def _array_summary(array: np.ndarray[Any, Any]) -> dict[str, Any]:
    summary: dict[str, Any] = {"dtype": str(array.dtype), "shape": list(array.shape)}
    if array.dtype.kind != "c":
        good = array[np.isfinite(array)]
        summary["minimum"] = good.min().item() if good.size else None
        summary["maximum"] = good.max().item() if good.size else None
        summary["finite"] = int(good.size)
    return summary


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
