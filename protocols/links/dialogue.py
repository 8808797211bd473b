"""The client's half of request and answer, on bytes: numbering, matching, refusals turned into errors."""

from __future__ import annotations

import itertools
from collections import Counter

from protocols.errors import (
    ERROR_CLASSES,
    DeadlineError,
    LinkLostError,
    MalformedMessageError,
    PeerError,
    RefusedError,
    TunnelpilotError,
    UnknownMessageError,
    VersionError,
)
from protocols.messages.base import PROTOCOL_VERSION, Message
from protocols.messages.codec import decode, encode
from protocols.messages.control import Hello, Refusal, Welcome
from protocols.states.session import SESSION
from protocols.states.table import Machine

GREET_FIRST = "greet-first"
"""Code of the refusal by which a server that was started anew asks for a HELLO."""

BUSY = "busy"
"""Code of the refusal of a server that has too many unanswered requests."""

MAXIMUM_GREETINGS = 3
"""HELLOs within one request; more means that the server forgets us as fast as we greet."""


class Dialogue:
    """Request ids, session state and statistics of one client; no socket."""

    def __init__(self, endpoint: str, me: str, peer: str) -> None:
        self.endpoint = endpoint
        self.me = me
        self.peer = peer
        self.capabilities: tuple[str, ...] = ()
        """The server's, as of its last Welcome."""
        self.session = Machine(SESSION)
        self.counts: Counter[str] = Counter()
        self._numbers = itertools.count(1)

    def hello(self) -> tuple[str, bytes]:
        """Request id and frame of a HELLO."""
        self.counts["greetings"] += 1
        return self._number(Hello(peer=self.me, protocol=PROTOCOL_VERSION))

    def request(self, message: Message) -> tuple[str, bytes]:
        """Request id and frame of a request."""
        self.counts["requests"] += 1
        return self._number(message)

    def _number(self, message: Message) -> tuple[str, bytes]:
        request_id = str(next(self._numbers))
        return request_id, encode(message, request_id)

    def read(self, data: bytes) -> tuple[str, Message | TunnelpilotError] | None:
        """Request id and content of an answer; None (counted) if it says not even what it answers."""
        try:
            envelope = decode(data)
        except (MalformedMessageError, UnknownMessageError, VersionError) as unreadable:
            self.counts["unreadable"] += 1
            request_id = unreadable.details["request_id"]
            unreadable.details.update(peer=self.peer, endpoint=self.endpoint)
            return (request_id, unreadable) if request_id else None
        return envelope.request_id, envelope.message

    def welcome(self, answer: Message | TunnelpilotError) -> None:
        """Take the answer to a HELLO.

        Raises:
            TunnelpilotError: the server refused, speaks another version or answered something else.
        """
        if isinstance(answer, Welcome):
            self.session.feed("welcome")
            self.capabilities = answer.capabilities
            return
        self.session.feed("refusal")
        self.result(answer)
        raise PeerError(f"{self.peer} at {self.endpoint} answered HELLO with {type(answer).__name__}.")

    def forgotten(self, answer: Message | TunnelpilotError) -> bool:
        """Whether the server asks for a HELLO before it acts; it has not acted."""
        if isinstance(answer, Refusal) and answer.code == GREET_FIRST:
            self.session.feed("forgotten")
            return True
        return False

    def result(self, answer: Message | TunnelpilotError) -> Message:
        """The answer itself.

        Raises:
            TunnelpilotError: it was a refusal (class by its code, else RefusedError), or unreadable.
        """
        if isinstance(answer, TunnelpilotError):
            raise answer
        if isinstance(answer, Refusal):
            raise refusal_error(answer, self.peer, self.endpoint)
        self.counts["answers"] += 1
        return answer

    def late(self, message: Message, timeout_s: float, *, sent: bool) -> DeadlineError:
        """The error for a request that was not answered in time."""
        self.counts["timeouts"] += 1
        if self.session.state == "ready":
            self.session.feed("silence")
        return no_answer(self.peer, self.endpoint, type(message).__name__, timeout_s, sent=sent)

    def lost(self, why: str) -> LinkLostError:
        """The error for requests that can no longer be answered."""
        return LinkLostError(
            f"the link to {self.peer} at {self.endpoint} is gone: {why}.",
            "Reconnect; ask the peer what became of the request before repeating it.",
            peer=self.peer,
            endpoint=self.endpoint,
        )


def refusal_error(refusal: Refusal, peer: str, endpoint: str) -> TunnelpilotError:
    """A refusal as an exception; ``details`` hold ``refusal_code``, ``peer`` and ``endpoint``."""
    kind = ERROR_CLASSES.get(refusal.code, RefusedError)
    return kind(refusal.reason, refusal.advice, refusal_code=refusal.code, peer=peer, endpoint=endpoint)


def no_answer(peer: str, endpoint: str, awaited: str, timeout_s: float, *, sent: bool) -> DeadlineError:
    """No answer in time.  ``details["sent"]`` False: never sent, certainly not acted upon."""
    what = "the request was sent" if sent else "there was no connection, the request was never sent"
    return DeadlineError(
        f"no answer from {peer} at {endpoint} to {awaited} within {timeout_s:g} s ({what}).",
        f"Check that {peer} runs and listens there.",
        peer=peer,
        endpoint=endpoint,
        awaited=awaited,
        timeout_s=timeout_s,
        sent=sent,
    )
