"""The ports of the Nanonis door: sockets and threads, nothing else.

Each port serves one client at a time and, on its connection, one request after the other; the ports work
side by side.  A second client of a port is connected by the operating system and waits unheard until the
first has left, as with the vendor's server.  A client that leaves within a long command frees the port at the
latest when somebody else wants it; what the command had begun goes on in the world.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence

import structlog

from protocols.errors import ConfigError, MalformedMessageError
from protocols.nanonis.framing import Request, RequestReader
from sim_hardware.nanonis.calls import ClientGoneError, Waiter

log = structlog.get_logger()

HOST = "127.0.0.1"
"""Nothing beyond this machine is served."""
RECEIVE_BYTES = 65536
SEND_TIMEOUT_S = 30.0
"""A client that takes no byte of an answer for so long has failed."""
LOOK_S = 0.1
"""Wall seconds between looks whether a waiting client is still there."""
BACKLOG = 8
MOST_PORTS = 8

Answer = Callable[[Request, Waiter], bytes]


class NanonisServer:
    """Several ports in front of one dispatcher."""

    def __init__(self, ports: Sequence[int], answer: Answer) -> None:
        self._ports: list[_Port] = []
        try:
            for port in ports:
                self._ports.append(_Port(port, answer))
        except BaseException:
            self.close()
            raise

    @property
    def ports(self) -> tuple[int, ...]:
        """The port numbers (real ones where 0 was asked for)."""
        return tuple(port.number for port in self._ports)

    @property
    def statistics(self) -> dict[str, int]:
        """Counts over all ports: connections, requests, malformed, lost (clients that left unanswered)."""
        total: Counter[str] = Counter()
        for port in self._ports:
            total.update(port.statistics)
        return dict(total)

    def start(self) -> None:
        """Begin to serve."""
        for port in self._ports:
            port.start()

    def close(self) -> None:
        """Stop serving; threads that wait for the world are told to stop waiting."""
        for port in self._ports:
            port.stop()
        for port in self._ports:
            port.join()


class _Port:
    """One listening socket and the thread that serves it."""

    def __init__(self, number: int, answer: Answer) -> None:
        self._answer = answer
        self.statistics: Counter[str] = Counter()
        self._stopped = threading.Event()
        self._listener = listen(number)
        self.number = int(self._listener.getsockname()[1])
        self._wake, self._waker = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, name=f"nanonis {self.number}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        if not self._stopped.is_set():
            self._stopped.set()
            self._waker.send(b"x")

    def join(self) -> None:
        if self._thread.is_alive():
            self._thread.join(10.0)
        for one in (self._listener, self._wake, self._waker):
            one.close()

    def _serve(self) -> None:
        while not self._stopped.is_set():
            readable, _, _ = select.select([self._listener, self._wake], [], [])
            if self._stopped.is_set():
                return
            if self._listener in readable:
                try:
                    connection, _ = self._listener.accept()
                except OSError:  # the client was gone before it was accepted
                    continue
                self.statistics["connections"] += 1
                with connection:
                    self._serve_client(connection)

    def _serve_client(self, connection: socket.socket) -> None:
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.settimeout(SEND_TIMEOUT_S)
            waiter = _ConnectionWaiter(connection, self._listener, self._stopped)
            reader = RequestReader()
            while not self._stopped.is_set():
                readable, _, _ = select.select([connection, self._wake], [], [])
                if connection not in readable:
                    return
                data = connection.recv(RECEIVE_BYTES)
                if not data:
                    return
                reader.feed(data)
                self._answer_all(connection, reader, waiter)
        except MalformedMessageError as nonsense:
            self.statistics["malformed"] += 1
            log.warning("nonsense", port=self.number, text=nonsense.text[:200])
        except (ClientGoneError, OSError) as gone:
            self.statistics["lost"] += 1
            log.info("client lost", port=self.number, why=str(gone))

    def _answer_all(self, connection: socket.socket, reader: RequestReader, waiter: Waiter) -> None:
        while (request := reader.next_message()) is not None:
            self.statistics["requests"] += 1
            reply = self._answer(request, waiter)
            if reply:
                connection.sendall(reply)
            if self._stopped.is_set():
                return


class _ConnectionWaiter:
    """Waits for an event of the world while it watches the connection."""

    def __init__(self, connection: socket.socket, listener: socket.socket, stopped: threading.Event) -> None:
        self._connection = connection
        self._listener = listener
        self._stopped = stopped

    def wait(self, event: threading.Event, timeout_s: float | None) -> bool:
        """As ``Waiter`` says."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left = LOOK_S if deadline is None else min(LOOK_S, deadline - time.monotonic())
            if event.wait(max(left, 0.0)):
                return True
            if self._stopped.is_set():
                raise ClientGoneError("the door closes")
            self._check_client()
            if deadline is not None and time.monotonic() >= deadline:
                return False

    def _check_client(self) -> None:
        """A client that only closed its sending side may still want the answer: it is gone when its
        connection is reset, or when it has closed and somebody else waits for the port."""
        poll = select.poll()
        poll.register(self._connection, select.POLLRDHUP)
        poll.register(self._listener, select.POLLIN)
        found = dict(poll.poll(0))
        flags = found.get(self._connection.fileno(), 0)
        if flags & (select.POLLERR | select.POLLHUP):
            raise ClientGoneError("connection reset")
        if flags & select.POLLRDHUP and self._listener.fileno() in found:
            raise ClientGoneError("connection closed, and another client waits")


def listen(port: int) -> socket.socket:
    """A listening socket on this machine's own address.

    Raises:
        ConfigError: the port cannot be had; the text names it.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, port))
        listener.listen(BACKLOG)
    except OSError as taken:
        with contextlib.suppress(OSError):
            listener.close()
        raise ConfigError(
            f"port {port} on {HOST} cannot be had: {taken.strerror}.",
            "Stop the program that uses it, or choose others with --nanonis-ports (0: any free one).",
        ) from None
    return listener


def parse_ports(text: str) -> tuple[int, ...]:
    """Ports from the command line: "6501-6504", "6501,6502", or "0" (any free one) as often as wanted.

    Raises:
        ConfigError: no numbers, beyond 65535, or more than eight.
    """
    ports: list[int] = []
    try:
        for part in text.split(","):
            first, _, last = part.strip().partition("-")
            ports += range(int(first), int(last or first) + 1)
    except ValueError:
        raise ConfigError(f"--nanonis-ports {text!r} is not like 6501-6504 or 6501,6502.") from None
    named = [port for port in ports if port]
    sensible = all(0 <= port < 65536 for port in ports) and len(set(named)) == len(named)
    if not 1 <= len(ports) <= MOST_PORTS or not sensible:
        raise ConfigError(f"--nanonis-ports {text!r}: one to eight different ports of 0 to 65535 are needed.")
    return tuple(ports)
