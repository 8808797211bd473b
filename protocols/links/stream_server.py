"""The sending side of credited streams: it asks its source for a chunk only when a receiver has room for it.

Each opening carries a request id of its own, which every chunk of it repeats: chunks of an earlier opening
can be told from those of the present one.  Opening a stream again (also as a sign of life, while a job gives
no chunk) is answered at once with Done and replaces the earlier opening of that job by that receiver.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self

import zmq

from protocols.errors import (
    MalformedMessageError,
    TunnelpilotError,
    UnknownMessageError,
    UsageError,
    VersionError,
)
from protocols.links.desk import refusal_of
from protocols.links.dialogue import BUSY
from protocols.links.sockets import bind_router, split_routed
from protocols.messages.base import Message
from protocols.messages.codec import decode, encode
from protocols.messages.control import Done, Ping, Pong, Refusal
from protocols.messages.data import Chunk, CloseStream, EndOfStream, GrantCredit, OpenStream
from protocols.states.credit import CreditError, Sender

NO_STREAM = "no-stream"
"""Code of the refusal of a credit for a stream that is not open (any more): open it again."""

BATCH = 256
"""Messages received, and chunks sent per stream, in one pump."""

ABANDONED_AFTER_S = 120.0
"""A stream whose receiver was silent for so long is forgotten; the receiver may open it again."""

SILENT_AFTER_S = 10.0
"""A stream whose receiver was silent for so long makes room for another if all are taken."""

_COUNTS = (
    "messages",
    "malformed",
    "unknown",
    "version",
    "opened",
    "resumed",
    "refused",
    "chunks",
    "ends",
    "closed",
    "abandoned",
    "undeliverable",
)


class StreamSource(Protocol):
    """Where the chunks are kept.  It must be able to give any chunk again until its job is acknowledged."""

    def read(self, job_id: str, seq: int) -> Chunk | EndOfStream | None:
        """Chunk ``seq`` of a job; None while there is none yet; the end if ``seq`` is one past the last.

        Raises:
            TunnelpilotError: there is no such job; the receiver gets it as a refusal.
        """


@dataclass
class _Stream:
    identity: bytes
    request_id: str
    job_id: str
    sender: Sender
    heard_s: float = field(default_factory=time.monotonic)


class StreamServer:
    """Serves streams at ``endpoint``; call ``pump`` when the socket is readable and when the source has more.

    It holds no queue of chunks.  ``maximum_streams`` bounds the streams open at a time.

    Raises:
        ConfigError: somebody listens there already, or it is beyond this computer.
    """

    def __init__(self, endpoint: str, source: StreamSource, *, maximum_streams: int = 64) -> None:
        self._source = source
        self._maximum = maximum_streams
        self._streams: dict[tuple[bytes, str], _Stream] = {}
        self._counts: Counter[str] = Counter(dict.fromkeys(_COUNTS, 0))
        self.socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.ROUTER)
        self.endpoint = bind_router(self.socket, endpoint)

    @property
    def statistics(self) -> dict[str, int]:
        """Counts: messages, malformed, unknown, version, opened, resumed, refused, chunks, ends, closed,
        abandoned, undeliverable; and open, the streams open now."""
        return {**self._counts, "open": len(self._streams)}

    def pump(self) -> bool:
        """Take what has come, send what may be sent, without waiting.  True: call again, there is more."""
        more = self._receive_all()
        for key, stream in list(self._streams.items()):
            if time.monotonic() - stream.heard_s > ABANDONED_AFTER_S:
                self._forget(key, "abandoned")
            elif stream.sender.may_send:
                more |= self._send_chunks(key, stream)
        return more

    def close(self) -> None:
        """Stop listening; receivers find out by silence.  Safe to repeat."""
        self._streams.clear()
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _receive_all(self) -> bool:
        for _ in range(BATCH):
            try:
                frames = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return False
            self._counts["messages"] += 1
            self._receive(frames)
        return True

    def _receive(self, frames: list[bytes]) -> None:
        try:
            identity, data = split_routed(frames)
            envelope = decode(data)
        except (MalformedMessageError, UnknownMessageError, VersionError) as error:
            self._counts[_unreadable(error)] += 1
            if request_id := error.details["request_id"]:
                self._send(frames[0], request_id, refusal_of(error))
            return
        request_id = envelope.request_id
        match envelope.message:
            case OpenStream() as asked:
                self._open(identity, request_id, asked)
            case GrantCredit(job_id=job_id, credits=credits):
                self._grant(identity, request_id, job_id, credits)
            case CloseStream(job_id=job_id):
                self._forget((identity, job_id), "closed")
            case Ping(sent_s=sent_s):
                self._send(identity, request_id, Pong(sent_s=sent_s))
            case other:
                kind = type(other).__name__
                self._refuse(identity, request_id, UsageError(f"a data socket does not serve {kind}."))

    def _open(self, identity: bytes, request_id: str, asked: OpenStream) -> None:
        key = (identity, asked.job_id)
        known = self._streams.pop(key, None)
        if len(self._streams) >= self._maximum:
            self._drop_silent()
        if len(self._streams) >= self._maximum:
            refusal = Refusal(
                code=BUSY, reason=f"{len(self._streams)} streams are open.", advice="Ask later."
            )
            self._counts["refused"] += 1
            self._send(identity, request_id, refusal)
            return
        try:
            sender = Sender(asked.from_seq, asked.credits)
        except CreditError as error:
            self._refuse(identity, request_id, error)
            return
        self._counts["opened" if known is None else "resumed"] += 1
        if self._send(identity, request_id, Done(note="open")):
            self._streams[key] = _Stream(identity, request_id, asked.job_id, sender)

    def _grant(self, identity: bytes, request_id: str, job_id: str, credits: int) -> None:
        stream = self._streams.get((identity, job_id))
        if stream is None or stream.request_id != request_id:
            refusal = Refusal(
                code=NO_STREAM, reason=f"no stream of {job_id} is open.", advice="Open it again."
            )
            self._send(identity, request_id, refusal)
            return
        stream.heard_s = time.monotonic()
        try:
            stream.sender.granted(credits)
        except CreditError as error:
            self._forget((identity, job_id), "closed")
            self._refuse(identity, request_id, error)

    def _send_chunks(self, key: tuple[bytes, str], stream: _Stream) -> bool:
        """Send while there is credit and data; True if it stopped only to let the others have their turn."""
        try:
            for _ in range(BATCH):
                item = self._source.read(stream.job_id, stream.sender.next_seq)
                if item is None:
                    return False
                if not self._send_item(key, stream, item):
                    return False
                if not stream.sender.may_send:
                    return False
        except TunnelpilotError as error:
            self._forget(key, "closed")
            self._refuse(stream.identity, stream.request_id, error)
            return False
        return True

    def _send_item(self, key: tuple[bytes, str], stream: _Stream, item: Chunk | EndOfStream) -> bool:
        """Book, then send; False if the stream is over."""
        if isinstance(item, EndOfStream):
            stream.sender.finished(item.last_seq)
            self._forget(key, "ends")  # a reader that misses the end opens the stream again
            self._send(stream.identity, stream.request_id, item)
            return False
        stream.sender.sent(item.seq)
        self._counts["chunks"] += 1
        if not self._send(stream.identity, stream.request_id, item):
            self._forget(key, "closed")
            return False
        return True

    def _forget(self, key: tuple[bytes, str], why: str) -> None:
        if self._streams.pop(key, None) is not None:
            self._counts[why] += 1

    def _drop_silent(self) -> None:
        """Make room: a receiver that waits opens its stream again every second or so."""
        key = min(self._streams, key=lambda k: self._streams[k].heard_s)
        if time.monotonic() - self._streams[key].heard_s > SILENT_AFTER_S:
            self._forget(key, "abandoned")

    def _refuse(self, identity: bytes, request_id: str, error: TunnelpilotError) -> None:
        self._counts["refused"] += 1
        self._send(identity, request_id, refusal_of(error))

    def _send(self, identity: bytes, request_id: str, message: Message) -> bool:
        """False (counted) if the receiver is gone or its connection full: it will open the stream again."""
        try:
            self.socket.send_multipart([identity, encode(message, request_id)], zmq.NOBLOCK)
        except zmq.ZMQError as failed:
            if failed.errno not in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                raise
            self._counts["undeliverable"] += 1
            return False
        return True


def _unreadable(error: TunnelpilotError) -> str:
    if isinstance(error, UnknownMessageError):
        return "unknown"
    return "version" if isinstance(error, VersionError) else "malformed"
