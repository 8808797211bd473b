"""Messages of the Nanonis TCP protocol as bytes, and readers that find them in a stream cut anywhere.

A request is a header of 40 bytes and a body: the command's name (32 bytes, ASCII, filled up with NUL), the
body's size (int32), whether an answer is wanted (uint16), two unused bytes.  A response has the same header
with four unused zero bytes after the size.  On one connection messages follow each other without anything
between; answers come in the order of the requests, one for each that wanted one.

A reader takes bytes by ``feed`` and hands out messages by ``next_message`` until that says None.  It holds at
most one unfinished message beside what was fed last.  After nonsense nothing in the stream can be trusted:
the reader says so each time it is asked, and the connection must be closed.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections import deque
from typing import Generic, TypeVar

import msgspec

from protocols.errors import LinkLostError, MalformedMessageError, UsageError

HEADER_BYTES = 40
NAME_BYTES = 32

LARGEST_REQUEST = 4 * 2**20
"""Largest body of a request that a server reads, in bytes (tables for a piezo are far smaller)."""

LARGEST_RESPONSE = 128 * 2**20
"""Largest body of a response that a client reads, in bytes (a frame of 4096 x 4096 pixels has 64 MiB)."""

_REQUEST = struct.Struct(">32siHH")
_RESPONSE = struct.Struct(">32siI")
_TAKEN_FOR_TEXT = range(0x21, 0x7F)


class Request(msgspec.Struct, frozen=True):
    """What a client asks."""

    name: str
    """The command as the client wrote it: the response must repeat it letter for letter."""
    body: bytes = b""
    reply_wanted: bool = True


class Response(msgspec.Struct, frozen=True):
    """What the electronics answer."""

    name: str
    body: bytes


_Read = TypeVar("_Read", Request, Response)


def encode_request(name: str, body: bytes = b"", reply_wanted: bool = True) -> bytes:
    """A request for the wire, in one piece.

    Raises:
        UsageError: the name is empty, longer than 32 characters or not plain ASCII, or the body is too long.
    """
    _check_size(name, body, LARGEST_REQUEST)
    return _REQUEST.pack(_name_bytes(name), len(body), int(reply_wanted), 0) + body


def encode_response(name: str, body: bytes) -> bytes:
    """A response for the wire, in one piece: send it with one call, public clients read the header at once.

    Raises:
        UsageError: as ``encode_request``.
    """
    _check_size(name, body, LARGEST_RESPONSE)
    return _RESPONSE.pack(_name_bytes(name), len(body), 0) + body


class _Reader(ABC, Generic[_Read]):
    """What both readers share."""

    def __init__(self, largest: int) -> None:
        self._largest = largest
        self._bytes = bytearray()
        self._header: _Read | None = None
        self._size = 0
        self._broken: MalformedMessageError | None = None

    @property
    def waiting(self) -> int:
        """Bytes that were fed and not yet handed out."""
        return len(self._bytes) + (HEADER_BYTES if self._header else 0)

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Take bytes as they came from the connection; after nonsense they are thrown away."""
        if self._broken is None:
            self._bytes += data

    def next_message(self) -> _Read | None:
        """The next whole message, or None when more bytes are needed.

        Raises:
            MalformedMessageError: the stream holds no message here; it says so again at every further call.
        """
        if self._broken is not None:
            raise self._broken.with_traceback(None)
        if self._header is None:
            if len(self._bytes) < HEADER_BYTES:
                return None
            try:
                self._header, self._size = self._read_header(bytes(self._bytes[:HEADER_BYTES]))
            except MalformedMessageError as broken:
                self._broken = broken
                self._bytes.clear()
                raise
            del self._bytes[:HEADER_BYTES]
        if len(self._bytes) < self._size:
            return None
        with memoryview(self._bytes) as view:
            body = bytes(view[: self._size])
        del self._bytes[: self._size]
        message = msgspec.structs.replace(self._header, body=body)
        self._header = None
        return message

    def finish(self) -> None:
        """The peer has closed its side: no more bytes will come.

        Raises:
            LinkLostError: it did so within a message; the text says how much is missing.
        """
        if self._broken is not None or self.waiting == 0:
            return
        whole = HEADER_BYTES + (self._size if self._header else 0)
        what = f"the message {self._header.name}" if self._header else "a header"
        raise LinkLostError(
            f"the connection ended within {what}: {self.waiting} of {whole} bytes came.",
            "Connect again; whether the command was carried out is unknown.",
        )

    @abstractmethod
    def _read_header(self, header: bytes) -> tuple[_Read, int]: ...

    def _checked_size(self, name: str, size: int) -> int:
        if not 0 <= size <= self._largest:
            raise MalformedMessageError(
                f"{name}: a body of {size} bytes is announced (limit {self._largest}).", size=size, name=name
            )
        return size


class RequestReader(_Reader[Request]):
    """The server's reader.  Unused bytes are not looked at, and any flag but 0 asks for an answer."""

    def __init__(self, largest: int = LARGEST_REQUEST) -> None:
        super().__init__(largest)

    def _read_header(self, header: bytes) -> tuple[Request, int]:
        raw, size, flag, _unused = _REQUEST.unpack(header)
        name = _name_from(raw)
        return Request(name, b"", flag != 0), self._checked_size(name, size)


class ResponseReader(_Reader[Response]):
    """The client's reader.  Unused bytes must be zero, as the electronics always send them."""

    def __init__(self, largest: int = LARGEST_RESPONSE) -> None:
        super().__init__(largest)

    def _read_header(self, header: bytes) -> tuple[Response, int]:
        raw, size, unused = _RESPONSE.unpack(header)
        name = _name_from(raw)
        if unused:
            raise MalformedMessageError(
                f"{name}: the unused bytes of the header hold {unused:#010x}, not zero."
            )
        return Response(name, b""), self._checked_size(name, size)


class ClientConnection:
    """The client's side of one connection: what was asked and not yet answered, in order.

    The electronics work on one request after the other, so a second request waits behind a long one: stop
    commands belong on a connection of their own.
    """

    def __init__(self, largest: int = LARGEST_RESPONSE) -> None:
        self._reader = ResponseReader(largest)
        self._awaited: deque[str] = deque()

    @property
    def awaited(self) -> tuple[str, ...]:
        """Commands whose answers are outstanding, oldest first."""
        return tuple(self._awaited)

    @property
    def surplus(self) -> int:
        """Bytes that came and belong to no answer handed out so far."""
        return self._reader.waiting

    def send(self, name: str, body: bytes = b"", reply_wanted: bool = True) -> bytes:
        """The bytes to send for this request.

        Raises:
            UsageError: as ``encode_request``.
        """
        data = encode_request(name, body, reply_wanted)
        if reply_wanted:
            self._awaited.append(name)
        return data

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Take bytes as they came from the connection."""
        self._reader.feed(data)

    def next_response(self) -> Response | None:
        """The next answer, or None when more bytes are needed.

        Raises:
            MalformedMessageError: no message, or an answer to something else than the oldest open request:
                the connection must be closed.
        """
        response = self._reader.next_message()
        if response is None:
            return None
        awaited = self._awaited[0] if self._awaited else None
        if response.name != awaited:
            raise MalformedMessageError(
                f"an answer to {response.name} came while {awaited or 'nothing'} was awaited.",
                "Close the connection and open it anew.",
                awaited=awaited,
                name=response.name,
            )
        self._awaited.popleft()
        return response

    def finish(self) -> None:
        """The peer has closed the connection.

        Raises:
            LinkLostError: within a message, or while answers were awaited.
        """
        self._reader.finish()
        if self._awaited:
            raise LinkLostError(
                f"the connection ended while an answer to {self._awaited[0]} was awaited.",
                "Connect again; whether the command was carried out is unknown.",
                awaited=self.awaited,
            )


def _check_size(name: str, body: bytes, largest: int) -> None:
    if len(body) > largest:
        raise UsageError(f"{name}: a body of {len(body)} bytes cannot be sent (limit {largest}).")


def _name_bytes(name: str) -> bytes:
    raw = name.encode("ascii", "replace")
    if not 0 < len(raw) <= NAME_BYTES or not name.isascii() or not all(b in _TAKEN_FOR_TEXT for b in raw):
        raise UsageError(f"{name!r} is no name of a command: 1 to {NAME_BYTES} characters of plain ASCII.")
    return raw


def _name_from(raw: bytes) -> str:
    name = raw.rstrip(b"\0")
    if not name or not all(byte in _TAKEN_FOR_TEXT for byte in name):
        raise MalformedMessageError(f"no name of a command: {raw[:NAME_BYTES]!r}.", raw=raw)
    return name.decode("ascii")
