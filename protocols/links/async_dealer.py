"""One DEALER on an event loop with its one receive task; shared by the asynchronous clients."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import zmq
import zmq.asyncio

from protocols.errors import LinkLostError
from protocols.links.sockets import connect_dealer

FAIR_SHARE = 64
"""Frames taken before the loop's other tasks get their turn; a ready ``recv`` does not yield by itself."""

POLL_MS = 100


class AsyncDealer:
    """Made in a coroutine.  ``on_frame`` gets each frame, ``on_failure`` the reason if receiving fails."""

    def __init__(
        self,
        endpoint: str,
        me: str,
        on_frame: Callable[[bytes], None],
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self._socket = zmq.asyncio.Context.instance().socket(zmq.DEALER)
        try:
            connect_dealer(self._socket, endpoint, me)
        except BaseException:
            self._socket.close()
            raise
        self._sending = asyncio.Lock()
        self._on_frame = on_frame
        self._on_failure = on_failure
        self._task = asyncio.get_running_loop().create_task(self._receive(), name=f"receive {endpoint}")
        self._task.add_done_callback(self._ended)

    async def send(self, data: bytes) -> None:
        """Send as soon as there is a connection; the caller bounds the wait.

        Raises:
            LinkLostError: the dealer was closed meanwhile.
        """
        async with self._sending:
            while not self.send_if_possible(data):
                await self._writable()

    async def try_send(self, data: bytes, timeout_s: float) -> bool:
        """Send; False if there was no connection for ``timeout_s``, or the dealer was closed."""
        try:
            async with asyncio.timeout(timeout_s):
                await self.send(data)
        except (TimeoutError, LinkLostError):
            return False
        return True

    def send_if_possible(self, data: bytes) -> bool:
        """Send now; False if there is no connection."""
        if self._socket.closed:
            return False
        sending = asyncio.ensure_future(self._socket.send(data, zmq.NOBLOCK))
        if sending.done():
            return sending.exception() is None
        sending.cancel()  # it was queued behind somebody who waits for a connection
        return False

    def close(self) -> asyncio.Task[None]:
        """Close the socket; returns the receive task, which is about to end."""
        self._task.cancel()
        self._socket.close()
        return self._task

    async def _writable(self) -> None:
        """Wait a moment for a connection."""
        if not self._socket.closed:
            try:
                await self._socket.poll(POLL_MS, zmq.POLLOUT)  # type: ignore[call-arg]  # the stub lacks it
                return
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if not self._socket.closed or task is None or task.cancelling():
                    raise
        raise LinkLostError("the connection was closed before the message was sent.")

    async def _receive(self) -> None:
        taken = 0
        while True:
            frames = await self._socket.recv_multipart()
            self._on_frame(frames[0] if len(frames) == 1 else b"")
            taken += 1
            if taken % FAIR_SHARE == 0:
                await asyncio.sleep(0)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            self._socket.close()
            self._on_failure(error)
