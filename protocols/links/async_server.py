"""A command server for an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

import structlog
import zmq
import zmq.asyncio

from protocols.errors import TunnelpilotError
from protocols.links.async_dealer import FAIR_SHARE
from protocols.links.desk import Desk, Incoming, Outgoing, refusal_of
from protocols.links.sockets import bind_router
from protocols.messages.base import Message

_log = structlog.get_logger(__name__)

Handler = Callable[[Message, str], Awaitable[Message]]
"""Gets a request and the name of its sender, returns the answer; a TunnelpilotError becomes a Refusal."""


class AsyncCommandServer:
    """Answers requests with ``handler``, at most ``maximum_unanswered`` at a time (more are refused as busy).

    ``start`` it in a coroutine of the loop that is to serve it; ``.endpoint`` then tells the real port.
    """

    def __init__(
        self,
        endpoint: str,
        name: str,
        handler: Handler,
        capabilities: tuple[str, ...] = (),
        *,
        maximum_unanswered: int = 64,
    ) -> None:
        self.endpoint = endpoint
        self._desk = Desk(name, capabilities, maximum_unanswered)
        self._handler = handler
        self._socket: zmq.asyncio.Socket | None = None
        self._receiving: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def statistics(self) -> dict[str, int]:
        """Counts as of ``CommandServer.statistics``."""
        return self._desk.statistics

    async def start(self) -> None:
        """Listen.

        Raises:
            ConfigError: somebody listens there already, or it is beyond this computer.
        """
        socket = zmq.asyncio.Context.instance().socket(zmq.ROUTER)
        self.endpoint = bind_router(socket, self.endpoint)
        self._socket = socket
        self._receiving = asyncio.create_task(self._receive(socket), name=f"serve {self.endpoint}")

    async def serve_forever(self) -> None:
        """Wait until the server is closed; raises what its receive task died of, if it dies."""
        if self._receiving is not None:
            done, _ = await asyncio.wait([self._receiving])
            for task in done:
                if not task.cancelled():
                    task.result()

    async def close(self) -> None:
        """Stop listening and cancel unfinished handlers; safe to repeat."""
        tasks = [*self._tasks, *([self._receiving] if self._receiving else [])]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if self._socket is not None:
            self._socket.close()
        self._socket = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _receive(self, socket: zmq.asyncio.Socket) -> None:
        taken = 0
        while True:
            outcome = self._desk.receive(await socket.recv_multipart())
            if isinstance(outcome, Incoming):
                task = asyncio.create_task(self._handle(socket, outcome))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            elif outcome is not None:
                await self._send(socket, outcome)
            taken += 1
            if taken % FAIR_SHARE == 0:
                await asyncio.sleep(0)

    async def _handle(self, socket: zmq.asyncio.Socket, incoming: Incoming) -> None:
        try:
            outgoing = self._desk.answer(incoming, await self._handler(incoming.message, incoming.peer))
        except TunnelpilotError as error:
            outgoing = self._desk.answer(incoming, refusal_of(error))
        except Exception as error:  # noqa: BLE001  (whatever it was, its client gets an answer)
            _log.exception("request failed", kind=type(incoming.message).__name__, peer=incoming.peer)
            text = f"{self._desk.name} failed at {type(incoming.message).__name__}: {error!r}."
            failure = TunnelpilotError(text, "This is a mistake of ours; its log has the details.")
            outgoing = self._desk.answer(incoming, refusal_of(failure))
        await self._send(socket, outgoing)

    async def _send(self, socket: zmq.asyncio.Socket, outgoing: Outgoing) -> None:
        try:
            await socket.send_multipart([outgoing.identity, outgoing.data], zmq.NOBLOCK)
        except zmq.ZMQError as failed:
            if failed.errno not in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                raise
            self._desk.counts["undeliverable"] += 1
