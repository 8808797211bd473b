"""A client of one command socket for an event loop; many requests may be outstanding."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from protocols.errors import TunnelpilotError, UsageError
from protocols.links.async_dealer import AsyncDealer
from protocols.links.dialogue import MAXIMUM_GREETINGS, Dialogue
from protocols.messages.base import Message

_Answer = Message | TunnelpilotError


class AsyncCommandClient:
    """Asks ``peer`` at ``endpoint``; greets by itself whenever that is needed.

    The socket is made by the first request, on the loop that runs it.  A server that was restarted at the
    same endpoint is found again; one that moved is found after ``reconnect``.  If the receive task dies,
    every waiting request and all later ones raise LinkLostError until ``reconnect``.
    """

    def __init__(self, endpoint: str, me: str, peer: str, *, maximum_outstanding: int = 256) -> None:
        self._dialogue = Dialogue(endpoint, me, peer)
        self._maximum = maximum_outstanding
        self._dealer: AsyncDealer | None = None
        self._greeting = asyncio.Lock()
        self._waiting: dict[str, asyncio.Future[_Answer]] = {}
        self._why_broken = ""

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
        """Counts: requests, answers, greetings, timeouts, strays, unreadable; and outstanding now."""
        return {**self._dialogue.counts, "outstanding": len(self._waiting)}

    async def request(self, message: Message, timeout_s: float) -> Message:
        """Send ``message`` and return the answer to it.

        Raises:
            DeadlineError: no answer within ``timeout_s`` seconds; ``details["sent"]`` says whether it left.
            LinkLostError: the link was closed, reconnected or failed meanwhile.
            TunnelpilotError: the server refused; the class belongs to the refusal's code, else RefusedError.
            UsageError: the client is closed, or ``maximum_outstanding`` requests wait already.
        """
        sent = False
        try:
            async with asyncio.timeout(timeout_s):
                for _ in range(MAXIMUM_GREETINGS):
                    dealer = await self._greet()
                    request_id, data = self._dialogue.request(message)
                    with self._await(request_id) as future:
                        await dealer.send(data)
                        sent = True
                        answer = await future
                    if not self._dialogue.forgotten(answer):
                        return self._dialogue.result(answer)
                    sent = False
        except TimeoutError:
            raise self._dialogue.late(message, timeout_s, sent=sent) from None
        raise self._dialogue.lost("the server does not remember our HELLO")

    def reconnect(self, endpoint: str) -> None:
        """Talk to ``endpoint`` from now on; requests that wait for the old one raise LinkLostError."""
        self._carry_out(self._dialogue.session.feed("reconnect"), f"reconnected to {endpoint}")
        self._dialogue.endpoint = endpoint

    async def close(self) -> None:
        """Close the socket and end its task; safe to repeat."""
        task = self._carry_out(self._dialogue.session.feed("close"), "closed")
        if task is not None:
            await asyncio.wait([task])

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _greet(self) -> AsyncDealer:
        """The open dealer of a session that is ready."""
        session = self._dialogue.session
        self._check_open()
        if session.state == "ready" and self._dealer is not None:
            return self._dealer
        async with self._greeting:
            self._check_open()
            self._carry_out(instructions := session.feed("need"), "")
            dealer = self._dealer
            if dealer is None:
                raise self._dialogue.lost("no socket")
            if "greet" not in instructions:
                return dealer
            request_id, data = self._dialogue.hello()
            try:
                with self._await(request_id) as future:
                    await dealer.send(data)
                    answer = await future
                self._dialogue.welcome(answer)
            finally:
                if session.state == "greeting":
                    session.feed("silence")
            return dealer

    def _check_open(self) -> None:
        state = self._dialogue.session.state
        if state == "closed":
            raise UsageError(f"the client of {self._dialogue.peer} is closed.")
        if state == "broken":
            raise self._dialogue.lost(self._why_broken)

    @contextmanager
    def _await(self, request_id: str) -> Iterator[asyncio.Future[_Answer]]:
        if len(self._waiting) >= self._maximum:
            raise UsageError(
                f"{len(self._waiting)} requests to {self._dialogue.peer} wait for an answer already.",
                "Wait for answers before asking more.",
            )
        future: asyncio.Future[_Answer] = asyncio.get_running_loop().create_future()
        self._waiting[request_id] = future
        try:
            yield future
        finally:
            del self._waiting[request_id]
            if future.done() and not future.cancelled():
                future.exception()  # seen: a failure while the frame was still being sent

    def _carry_out(self, instructions: tuple[str, ...], why: str) -> asyncio.Task[None] | None:
        if "open" in instructions:
            self._dealer = AsyncDealer(
                self._dialogue.endpoint, self._dialogue.me, self._on_frame, self._on_failure
            )
        if "fail" in instructions:
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(self._dialogue.lost(why))
        if "close" in instructions and self._dealer is not None:
            dealer, self._dealer = self._dealer, None
            return dealer.close()
        return None

    def _on_frame(self, data: bytes) -> None:
        answer = self._dialogue.read(data)
        if answer is None:
            return
        future = self._waiting.get(answer[0])
        if future is None or future.done():
            self._dialogue.counts["strays"] += 1
        else:
            future.set_result(answer[1])

    def _on_failure(self, error: BaseException) -> None:
        self._why_broken = f"its receive task died of {error!r}"
        if self._dialogue.session.can("failure"):
            self._carry_out(self._dialogue.session.feed("failure"), self._why_broken)
