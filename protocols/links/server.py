"""A synchronous command server, for use from one thread."""

from __future__ import annotations

from types import TracebackType
from typing import Self

import zmq

from protocols.errors import TunnelpilotError, UsageError
from protocols.links.desk import Desk, Incoming, Outgoing, refusal_of
from protocols.links.sockets import bind_router
from protocols.messages.base import Message

BATCH = 256
"""Messages handled in one go, so that a flood on one socket does not starve the others."""


class Request:
    """One request; answer it exactly once, from the server's thread, now or later."""

    def __init__(self, server: CommandServer, incoming: Incoming) -> None:
        self._server = server
        self._incoming = incoming
        self._answered = False

    @property
    def message(self) -> Message:
        """What is asked."""
        return self._incoming.message

    @property
    def peer(self) -> str:
        """Who asks, as in its HELLO; empty for a Stop without one."""
        return self._incoming.peer

    def reply(self, message: Message) -> None:
        """Answer.  A client that has vanished is counted as undeliverable, nothing else.

        Raises:
            UsageError: it was answered before, or the message cannot travel (then it is still open).
        """
        if self._answered:
            raise UsageError(f"a {type(self.message).__name__} of {self.peer} was answered twice.")
        self._server.answer(self._incoming, message)
        self._answered = True

    def refuse(self, error: TunnelpilotError) -> None:
        """Answer with a Refusal that carries the error's code, text and advice."""
        self.reply(refusal_of(error))


class CommandServer:
    """Listens at ``endpoint`` (port 0: any free one; ``.endpoint`` tells the real one).

    HELLO and Ping are answered inside; what is unreadable, unknown or too much is refused and counted.

    Raises:
        ConfigError: somebody listens there already, or it is beyond this computer.
    """

    def __init__(
        self,
        endpoint: str,
        name: str,
        capabilities: tuple[str, ...] = (),
        *,
        maximum_unanswered: int = 64,
    ) -> None:
        self._desk = Desk(name, capabilities, maximum_unanswered)
        self.socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.ROUTER)
        self.endpoint = bind_router(self.socket, endpoint)

    @property
    def statistics(self) -> dict[str, int]:
        """Counts: messages, malformed, unknown, version, ungreeted, busy, answered, refused, undeliverable,
        greetings, pings; and unanswered, how many wait now."""
        return self._desk.statistics

    def poll(self, timeout_s: float) -> list[Request]:
        """Wait up to ``timeout_s`` for messages and return the requests among them (possibly none)."""
        if not self.socket.poll(max(0, round(timeout_s * 1000))):
            return []
        return self.receive()

    def receive(self) -> list[Request]:
        """The requests that have come, without waiting; at most ``BATCH`` messages are looked at."""
        requests = []
        for _ in range(BATCH):
            try:
                frames = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            outcome = self._desk.receive(frames)
            if isinstance(outcome, Incoming):
                requests.append(Request(self, outcome))
            elif outcome is not None:
                self._send(outcome)
        return requests

    def answer(self, incoming: Incoming, message: Message) -> None:
        """For ``Request``."""
        self._send(self._desk.answer(incoming, message))

    def close(self) -> None:
        """Stop listening; safe to repeat."""
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _send(self, outgoing: Outgoing) -> None:
        try:
            self.socket.send_multipart([outgoing.identity, outgoing.data], zmq.NOBLOCK)
        except zmq.ZMQError as failed:
            if failed.errno not in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                raise
            self._desk.counts["undeliverable"] += 1
