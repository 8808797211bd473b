"""A synchronous client of one command socket, for use from one thread."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self

import zmq

from protocols.errors import LinkLostError, TunnelpilotError, UsageError
from protocols.links.dialogue import MAXIMUM_GREETINGS, Dialogue
from protocols.links.sockets import connect_dealer
from protocols.messages.base import Message
from protocols.messages.control import Hello


class CommandClient:
    """Asks ``peer`` at ``endpoint`` and waits for the answer; greets by itself whenever that is needed.

    A server that was restarted at the same endpoint is found again; one that moved is found after
    ``reconnect``.  Late answers to earlier requests are dropped and counted as ``strays``.
    """

    def __init__(self, endpoint: str, me: str, peer: str) -> None:
        self._dialogue = Dialogue(endpoint, me, peer)
        self._socket: zmq.Socket[bytes] | None = None
        self._thread: int | None = None

    @property
    def endpoint(self) -> str:
        """Where the server is looked for."""
        return self._dialogue.endpoint

    @property
    def capabilities(self) -> tuple[str, ...]:
        """What the server said it can do, in its last Welcome."""
        return self._dialogue.capabilities

    @property
    def statistics(self) -> dict[str, int]:
        """Counts: requests, answers, greetings, timeouts, strays, unreadable."""
        return dict(self._dialogue.counts)

    def request(self, message: Message, timeout_s: float) -> Message:
        """Send ``message`` and return the answer to it.

        Raises:
            DeadlineError: no answer within ``timeout_s`` seconds; ``details["sent"]`` says whether it left.
            TunnelpilotError: the server refused; the class belongs to the refusal's code, else RefusedError.
            UsageError: the client is closed, or used from a second thread.
        """
        self._check_use()
        deadline = time.monotonic() + timeout_s
        for _ in range(MAXIMUM_GREETINGS):
            self._greet(deadline, message, timeout_s)
            answer = self._exchange(self._dialogue.request(message), deadline, message, timeout_s)
            if not self._dialogue.forgotten(answer):
                return self._dialogue.result(answer)
        raise self._dialogue.lost("the server does not remember our HELLO")

    def reconnect(self, endpoint: str) -> None:
        """Talk to ``endpoint`` from now on."""
        self._carry_out(self._dialogue.session.feed("reconnect"))
        self._dialogue.endpoint = endpoint

    def close(self) -> None:
        """Close the socket; safe to repeat."""
        self._carry_out(self._dialogue.session.feed("close"))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_use(self) -> None:
        if self._dialogue.session.state == "closed":
            raise UsageError(f"the client of {self._dialogue.peer} is closed.")
        here = threading.get_ident()
        self._thread = here if self._thread is None else self._thread
        if self._thread != here:
            raise UsageError(
                f"the client of {self._dialogue.peer} is used from a second thread.",
                "Give each thread its own client.",
            )

    def _carry_out(self, instructions: tuple[str, ...]) -> None:
        if "open" in instructions:
            dialogue = self._dialogue
            self._socket = connect_dealer(
                zmq.Context.instance().socket(zmq.DEALER), dialogue.endpoint, dialogue.me
            )
        if "close" in instructions and self._socket is not None:
            self._socket.close()
            self._socket = None

    def _greet(self, deadline: float, message: Message, timeout_s: float) -> None:
        session = self._dialogue.session
        instructions = session.feed("need")
        try:
            self._carry_out(instructions)
            if "greet" in instructions:
                answer = self._exchange(self._dialogue.hello(), deadline, message, timeout_s, hello=True)
                self._dialogue.welcome(answer)
        finally:
            if session.state == "greeting":
                session.feed("silence")

    def _exchange(
        self,
        request: tuple[str, bytes],
        deadline: float,
        message: Message,
        timeout_s: float,
        *,
        hello: bool = False,
    ) -> Message | TunnelpilotError:
        """Send one frame and wait for the answer to it."""
        socket = self._open_socket()
        request_id, data = request
        awaited = Hello(peer=self._dialogue.me, protocol=0) if hello else message
        if not self._send(socket, data, deadline):
            raise self._dialogue.late(awaited, timeout_s, sent=False)
        while socket.poll(_milliseconds(deadline), zmq.POLLIN):
            answer = self._dialogue.read(socket.recv(zmq.NOBLOCK))
            if answer is not None and answer[0] == request_id:
                return answer[1]
            if answer is not None:
                self._dialogue.counts["strays"] += 1
        raise self._dialogue.late(awaited, timeout_s, sent=not hello)

    @staticmethod
    def _send(socket: zmq.Socket[bytes], data: bytes, deadline: float) -> bool:
        """Send once there is a connection; False if there was none until the deadline."""
        while socket.poll(_milliseconds(deadline), zmq.POLLOUT):
            try:
                socket.send(data, zmq.NOBLOCK)
            except zmq.Again:
                continue  # the connection broke between poll and send
            return True
        return False

    def _open_socket(self) -> zmq.Socket[bytes]:
        if self._socket is None:
            raise LinkLostError(f"no socket to {self._dialogue.peer} at {self._dialogue.endpoint}.")
        return self._socket


def _milliseconds(deadline: float) -> int:
    """Until the deadline, at least 0, rounded up."""
    return max(0, int((deadline - time.monotonic()) * 1000) + 1)
