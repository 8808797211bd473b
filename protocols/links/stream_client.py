"""The receiving side of credited streams, for an event loop."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter, deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from protocols.errors import (
    DeadlineError,
    LinkLostError,
    MalformedMessageError,
    TunnelpilotError,
    UnknownMessageError,
    UsageError,
    VersionError,
)
from protocols.links.async_dealer import AsyncDealer
from protocols.links.dialogue import refusal_error
from protocols.links.stream_server import NO_STREAM
from protocols.messages.codec import decode, encode
from protocols.messages.control import Refusal
from protocols.messages.data import Chunk, CloseStream, EndOfStream, GrantCredit, OpenStream, StreamMessage
from protocols.states.credit import CreditError, Receiver

MAXIMUM_VIOLATIONS = 3
"""Breaches of the rules of credit in a row, each answered by opening the stream again, before giving up."""


@dataclass
class _Inbound:
    """One stream: what has come, and what is to be done about it."""

    job_id: str
    receiver: Receiver
    opening: str = ""
    inbox: deque[StreamMessage] = field(default_factory=deque)
    """At most a window of chunks and the end: the receiver's accounting sees to that."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    heard_s: float = field(default_factory=time.monotonic)
    reopen: bool = True
    failure: TunnelpilotError | None = None
    violations: int = 0


class AsyncStreamClient:
    """Receives streams from the data socket at ``endpoint``, several jobs at a time over one connection.

    After a lost connection, or a server restarted at the same endpoint, each stream is opened again from the
    next number that it needs; after ``reconnect`` too.  No chunk is lost or doubled.
    """

    def __init__(self, endpoint: str, me: str) -> None:
        self.endpoint = endpoint
        self._me = me
        self._dealer: AsyncDealer | None = None
        self._closed = False
        self._numbers = itertools.count(1)
        self._openings: dict[str, _Inbound] = {}
        self._inbounds: dict[str, _Inbound] = {}
        self._counts: Counter[str] = Counter()

    @property
    def statistics(self) -> dict[str, int]:
        """Counts: openings, chunks, ends, strays, unreadable, violations; and open streams now."""
        return {**self._counts, "open": len(self._inbounds)}

    async def stream(
        self, job_id: str, credits: int = 8, silence_timeout_s: float = 5.0, from_seq: int = 0
    ) -> AsyncIterator[StreamMessage]:
        """Yield the chunks of a job from ``from_seq`` on, then its EndOfStream.

        ``credits`` bounds the chunks under way and waiting together.  A job that gives no chunk is waited for
        as long as its server gives signs of life.

        Raises:
            DeadlineError: nothing at all was heard for ``silence_timeout_s``.
            CreditError: the server breaks the rules of credit again and again.
            TunnelpilotError: the server refused, for example because it knows no such job.
            UsageError: the client is closed, or streams this job already.
        """
        if self._closed:
            raise UsageError("the stream client is closed.")
        if job_id in self._inbounds:
            raise UsageError(f"the stream of {job_id} is being received already.")
        inbound = self._inbounds[job_id] = _Inbound(job_id, Receiver(credits, from_seq))
        try:
            while True:
                while inbound.inbox:
                    item = inbound.inbox.popleft()
                    yield item
                    if isinstance(item, EndOfStream):
                        return
                    await self._consumed(inbound)
                await self._wait(inbound, silence_timeout_s)
        finally:
            self._forget(inbound)

    def reconnect(self, endpoint: str) -> None:
        """Talk to ``endpoint`` from now on; the streams under way go on from there."""
        self.endpoint = endpoint
        if self._dealer is not None:
            self._dealer.close()
            self._dealer = None
        for inbound in self._inbounds.values():
            inbound.reopen = True
            inbound.changed.set()

    async def close(self) -> None:
        """Close the socket; streams under way raise LinkLostError.  Safe to repeat."""
        self._closed = True
        self._fail(LinkLostError(f"the stream client of {self.endpoint} was closed."))
        if self._dealer is not None:
            dealer, self._dealer = self._dealer, None
            await asyncio.wait([dealer.close()])

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _wait(self, inbound: _Inbound, silence_timeout_s: float) -> None:
        """Until something is in the inbox; gives signs of life, and opens the stream again if need be."""
        since = time.monotonic()
        tick_s = silence_timeout_s / 4
        while not inbound.inbox:
            inbound.changed.clear()
            if inbound.failure is not None:
                raise inbound.failure
            if time.monotonic() - max(since, inbound.heard_s) > silence_timeout_s:
                raise self._silence(inbound, silence_timeout_s)
            if inbound.reopen and not await self._open(inbound, tick_s):
                continue
            try:
                async with asyncio.timeout(tick_s):
                    await inbound.changed.wait()
            except TimeoutError:
                inbound.reopen = True

    async def _open(self, inbound: _Inbound, timeout_s: float) -> bool:
        self._openings.pop(inbound.opening, None)
        inbound.opening = str(next(self._numbers))
        self._openings[inbound.opening] = inbound
        inbound.reopen = False
        from_seq, credits = inbound.receiver.opened()
        self._counts["openings"] += 1
        message = OpenStream(job_id=inbound.job_id, from_seq=from_seq, credits=credits)
        sent = await self._connected().try_send(encode(message, inbound.opening), timeout_s)
        inbound.reopen = inbound.reopen or not sent
        return sent

    async def _consumed(self, inbound: _Inbound) -> None:
        credits = inbound.receiver.consumed()
        if credits == 0 or inbound.reopen or inbound.failure is not None:
            return
        message = GrantCredit(job_id=inbound.job_id, credits=credits)
        if not await self._connected().try_send(encode(message, inbound.opening), 0.1):
            inbound.reopen = True

    def _connected(self) -> AsyncDealer:
        if self._closed:
            raise LinkLostError(f"the stream client of {self.endpoint} was closed.")
        if self._dealer is None:
            self._dealer = AsyncDealer(self.endpoint, self._me, self._on_frame, self._on_failure)
        return self._dealer

    def _on_frame(self, data: bytes) -> None:
        try:
            envelope = decode(data)
        except (MalformedMessageError, UnknownMessageError, VersionError) as error:
            self._counts["unreadable"] += 1
            inbound = self._openings.get(str(error.details["request_id"]))
            if inbound is not None:
                inbound.failure = error
                inbound.changed.set()
            return
        inbound = self._openings.get(envelope.request_id)
        if inbound is None:
            self._counts["strays"] += 1
            return
        inbound.heard_s = time.monotonic()
        try:
            match envelope.message:
                case Chunk() as chunk:
                    inbound.receiver.received(chunk.seq)
                    self._keep(inbound, chunk, "chunks")
                case EndOfStream() as end:
                    inbound.receiver.end(end.last_seq)
                    self._keep(inbound, end, "ends")
                case Refusal(code=code) if code == NO_STREAM:
                    inbound.reopen = True
                    inbound.changed.set()
                case Refusal() as refusal:
                    inbound.failure = refusal_error(refusal, "data socket", self.endpoint)
                    inbound.changed.set()
        except CreditError as error:
            self._violated(inbound, error)

    def _keep(self, inbound: _Inbound, item: StreamMessage, count: str) -> None:
        self._counts[count] += 1
        inbound.violations = 0
        inbound.inbox.append(item)
        inbound.changed.set()

    def _violated(self, inbound: _Inbound, error: CreditError) -> None:
        """Open the stream again at the number it needs; what still comes of this opening is a stray."""
        self._counts["violations"] += 1
        inbound.violations += 1
        self._openings.pop(inbound.opening, None)
        inbound.reopen = True
        if inbound.violations > MAXIMUM_VIOLATIONS:
            inbound.failure = error
        inbound.changed.set()

    def _on_failure(self, error: BaseException) -> None:
        self._dealer = None
        self._fail(LinkLostError(f"receiving from {self.endpoint} failed: {error!r}.", "Reconnect."))

    def _fail(self, error: TunnelpilotError) -> None:
        for inbound in self._inbounds.values():
            inbound.failure = error
            inbound.changed.set()

    def _forget(self, inbound: _Inbound) -> None:
        self._openings.pop(inbound.opening, None)
        del self._inbounds[inbound.job_id]
        if not inbound.receiver.ended and self._dealer is not None:
            self._dealer.send_if_possible(encode(CloseStream(job_id=inbound.job_id), inbound.opening))

    def _silence(self, inbound: _Inbound, silence_timeout_s: float) -> DeadlineError:
        return DeadlineError(
            f"nothing was heard from the data socket {self.endpoint} about {inbound.job_id} "
            f"for {silence_timeout_s:g} s (last chunk: {inbound.receiver.next_seq - 1}).",
            "Check that the gateway's worker runs and listens there; reconnect if it moved.",
            endpoint=self.endpoint,
            awaited=f"stream {inbound.job_id}",
            timeout_s=silence_timeout_s,
            next_seq=inbound.receiver.next_seq,
        )
