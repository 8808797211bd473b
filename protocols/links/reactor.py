"""One thread's sockets, polled together; and the only way for other threads to reach that thread."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable

import zmq

from protocols.links.server import CommandServer, Request
from protocols.links.stream_server import StreamServer


class Waker:
    """Wakes a reactor.  ``wake`` may be called from any thread, any number of times, and never blocks."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._lock = threading.Lock()
        self._closed = False

    def fileno(self) -> int:
        """Readable once it was woken."""
        return self._reader.fileno()

    def wake(self) -> None:
        """End the present (or the next) wait of the reactor; after ``close`` it does nothing."""
        with self._lock:
            if self._closed:
                return
            try:
                self._writer.send(b"\0")
            except BlockingIOError:
                pass  # so many wake-ups are pending that one more makes no difference

    def clear(self) -> None:
        """Forget the wake-ups so far; for the reactor."""
        try:
            while self._reader.recv(4096):
                pass
        except BlockingIOError:
            pass

    def close(self) -> None:
        """Let go of the descriptors; safe to repeat."""
        with self._lock:
            self._closed = True
            self._reader.close()
            self._writer.close()


class Reactor:
    """Polls servers and wakers in the thread that calls ``run_once``; everything is added in that thread.

    Every wake-up also pumps the stream servers, so that a thread with new chunks only needs to call ``wake``.
    """

    def __init__(self) -> None:
        self._poller = zmq.Poller()
        self._commands: list[tuple[CommandServer, Callable[[Request], None]]] = []
        self._streams: list[StreamServer] = []
        self._wakers: list[tuple[Waker, Callable[[], None] | None]] = []
        self._again = False

    def add_commands(self, server: CommandServer, handler: Callable[[Request], None]) -> None:
        """``handler`` is called with each request."""
        self._poller.register(server.socket, zmq.POLLIN)
        self._commands.append((server, handler))

    def add_streams(self, server: StreamServer) -> None:
        """Its ``pump`` is called on each message and on each wake-up."""
        self._poller.register(server.socket, zmq.POLLIN)
        self._streams.append(server)

    def add_waker(self, waker: Waker, handler: Callable[[], None] | None = None) -> None:
        """``handler`` is called (once for all wake-ups so far) before the streams are pumped."""
        self._poller.register(waker.fileno(), zmq.POLLIN)
        self._wakers.append((waker, handler))

    def run_once(self, timeout_s: float) -> bool:
        """Wait up to ``timeout_s`` and serve what has come.  False: nothing had come.

        Errors of a handler pass through; the other sockets are served by the next call.
        """
        ready = dict(self._poll(0.0 if self._again else timeout_s))
        for waker, woken in self._wakers:
            if waker.fileno() in ready:
                waker.clear()
                if woken is not None:
                    woken()
        for server, handle in self._commands:
            if server.socket in ready:
                for request in server.receive():
                    handle(request)
        self._again = False
        for streams in self._streams:
            self._again |= streams.pump()
        return bool(ready)

    def _poll(self, timeout_s: float) -> list[tuple[object, int]]:
        return list(self._poller.poll(max(0, round(timeout_s * 1000))))
