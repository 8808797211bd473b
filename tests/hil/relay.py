"""A relay between gateway and electronics' TCP ports, which can fall silent like a hung connection."""

from __future__ import annotations

import socket
import threading
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

BYTES = 1 << 16
LOOK_S = 0.05


class Relay:
    """Passes bytes on both ways, one client per port as the electronics have it, until told to hang."""

    def __init__(self, host: str, ports: Sequence[int]) -> None:
        self._ended = threading.Event()
        self._hung: set[int] = set()
        self._threads: list[threading.Thread] = []
        self._listeners = []
        for index, port in enumerate(ports):
            listener = socket.create_server(("127.0.0.1", 0))
            listener.settimeout(LOOK_S)
            self._listeners.append(listener)
            self._begin(self._accept, index, listener, (host, port))
        self.endpoint = "127.0.0.1:" + ",".join(str(one.getsockname()[1]) for one in self._listeners)

    def hang(self, *indices: int) -> None:
        """Nothing passes on these ports any more, and nobody is told."""
        self._hung |= set(indices)

    def flow(self) -> None:
        """Everything passes again."""
        self._hung.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        for thread in list(self._threads):
            thread.join(5.0)
        for listener in self._listeners:
            listener.close()

    def _begin(self, run: object, *arguments: object) -> None:
        thread = threading.Thread(target=run, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self, index: int, listener: socket.socket, target: tuple[str, int]) -> None:
        while not self._ended.is_set():
            try:
                client, _ = listener.accept()
            except TimeoutError:
                continue
            try:
                server = socket.create_connection(target, timeout=5.0)
            except OSError:
                client.close()
                continue
            gone = threading.Event()
            for one in (client, server):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                one.settimeout(LOOK_S)
            self._begin(self._pass_on, index, client, server, gone)
            self._begin(self._pass_on, index, server, client, gone)

    def _pass_on(self, index: int, source: socket.socket, sink: socket.socket, gone: threading.Event) -> None:
        with suppress(OSError):
            while not (self._ended.is_set() or gone.is_set()):
                if index in self._hung:
                    self._ended.wait(LOOK_S)
                    continue
                try:
                    data = source.recv(BYTES)
                except TimeoutError:
                    continue
                if not data:
                    break
                if index in self._hung:
                    continue  # what was under way is lost with the rest
                sink.sendall(data)
        gone.set()
        for one in (source, sink):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
