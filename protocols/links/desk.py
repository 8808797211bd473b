"""The server's half of request and answer, on bytes: what each frame deserves, and the books about it."""

from __future__ import annotations

import os
from collections import Counter, OrderedDict
from dataclasses import dataclass

from protocols.errors import (
    MalformedMessageError,
    TunnelpilotError,
    UnknownMessageError,
    VersionError,
)
from protocols.links.dialogue import BUSY, GREET_FIRST
from protocols.links.sockets import split_routed
from protocols.messages.base import PROTOCOL_VERSION, Message
from protocols.messages.codec import decode, encode
from protocols.messages.control import Hello, Ping, Pong, Refusal, Stop, Welcome

MAXIMUM_PEERS = 4096
"""Greeted peers remembered; the one heard least recently is forgotten and asked to greet again."""

_COUNTS = (
    "messages",
    "malformed",
    "unknown",
    "version",
    "ungreeted",
    "busy",
    "answered",
    "refused",
    "undeliverable",
    "greetings",
    "pings",
)


@dataclass(frozen=True)
class Incoming:
    """A request to be answered."""

    identity: bytes
    request_id: str
    peer: str
    message: Message


@dataclass(frozen=True)
class Outgoing:
    """A frame for one connection."""

    identity: bytes
    data: bytes


class Desk:
    """Judges frames for one server: greets, answers pings, refuses what is unreadable or too much.

    At most ``maximum_unanswered`` requests are let in at a time; a Stop is always let in, and needs no HELLO.
    """

    def __init__(self, name: str, capabilities: tuple[str, ...], maximum_unanswered: int) -> None:
        self.name = name
        self.capabilities = capabilities
        self.maximum_unanswered = maximum_unanswered
        self.unanswered = 0
        self.counts: Counter[str] = Counter(dict.fromkeys(_COUNTS, 0))
        self._peers: OrderedDict[bytes, str] = OrderedDict()

    @property
    def statistics(self) -> dict[str, int]:
        """All counts since the start, and how many requests wait for an answer now."""
        return {**self.counts, "unanswered": self.unanswered}

    def receive(self, frames: list[bytes]) -> Incoming | Outgoing | None:
        """What to do about a message: handle it, send this back at once, or nothing (it is counted)."""
        self.counts["messages"] += 1
        identity = frames[0]
        try:
            _, data = split_routed(frames)
            envelope = decode(data)
        except MalformedMessageError as error:
            self.counts["malformed"] += 1
            return self._unreadable(identity, error)
        except UnknownMessageError as error:
            self.counts["unknown"] += 1
            return self._unreadable(identity, error)
        except VersionError as error:
            self.counts["version"] += 1
            return self._unreadable(identity, error)
        match envelope.message:
            case Hello() as hello:
                return self._greet(identity, envelope.request_id, hello)
            case Ping(sent_s=sent_s):
                self.counts["pings"] += 1
                return Outgoing(identity, encode(Pong(sent_s=sent_s), envelope.request_id))
            case message:
                return self._admit(identity, envelope.request_id, message)

    def answer(self, request: Incoming, answer: Message) -> Outgoing:
        """Close the books on a request.

        Raises:
            UsageError: the answer cannot travel; the request is still open.
        """
        data = encode(answer, request.request_id)
        self.unanswered -= 1
        self.counts["refused" if isinstance(answer, Refusal) else "answered"] += 1
        return Outgoing(request.identity, data)

    def _greet(self, identity: bytes, request_id: str, hello: Hello) -> Outgoing:
        if hello.protocol != PROTOCOL_VERSION:
            self.counts["version"] += 1
            reason = f"{self.name} speaks protocol {PROTOCOL_VERSION}, {hello.peer} speaks {hello.protocol}."
            refusal = Refusal(
                code=VersionError.code, reason=reason, advice="Run the same release on both sides."
            )
            return Outgoing(identity, encode(refusal, request_id))
        self.counts["greetings"] += 1
        self._peers[identity] = hello.peer
        self._peers.move_to_end(identity)
        if len(self._peers) > MAXIMUM_PEERS:
            self._peers.popitem(last=False)
        welcome = Welcome(
            peer=self.name, protocol=PROTOCOL_VERSION, capabilities=self.capabilities, pid=os.getpid()
        )
        return Outgoing(identity, encode(welcome, request_id))

    def _admit(self, identity: bytes, request_id: str, message: Message) -> Incoming | Outgoing:
        peer = self._peers.get(identity)
        urgent = isinstance(message, Stop)
        if peer is not None:
            self._peers.move_to_end(identity)
        elif not urgent:
            self.counts["ungreeted"] += 1
            refusal = Refusal(
                code=GREET_FIRST, reason=f"{self.name} does not know you.", advice="Send HELLO."
            )
            return Outgoing(identity, encode(refusal, request_id))
        if self.unanswered >= self.maximum_unanswered and not urgent:
            self.counts["busy"] += 1
            reason = f"{self.name} has {self.unanswered} unanswered requests already."
            refusal = Refusal(code=BUSY, reason=reason, advice="Ask again in a moment.")
            return Outgoing(identity, encode(refusal, request_id))
        self.unanswered += 1
        return Incoming(identity, request_id, peer or "", message)

    def _unreadable(self, identity: bytes, error: TunnelpilotError) -> Outgoing | None:
        request_id = str(error.details["request_id"])
        if not request_id:
            return None
        return Outgoing(identity, encode(refusal_of(error), request_id))


def refusal_of(error: TunnelpilotError) -> Refusal:
    """An error as a message."""
    return Refusal(code=error.code, reason=error.text, advice=error.advice)
