"""One connection to one port: requests with a deadline, and connecting anew after anything went wrong.

On a connection requests are answered one after the other, so there is never more than one under way here;
other threads wait for their turn, within their own deadline.  After a time-out, a reset or nonsense the
connection is dropped, and the next request opens a new one.  The electronics may reset the first exchange
after a client gave up in the middle of a command, so such a connection is tried with a harmless question
before anything is entrusted to it.

What is lost on the way is not sent again by itself, unless ``repeat`` says that carrying it out twice is the
same as once: the command may have been carried out.
"""

from __future__ import annotations

import select
import socket
import threading
import time
import weakref
from dataclasses import dataclass

import structlog

from protocols.errors import DriverError, LinkLostError, MalformedMessageError
from protocols.nanonis.framing import ClientConnection

log = structlog.get_logger(__name__)

CONNECT_S = 1.0
"""Longest wait for a connection."""

TRIAL = "Bias.Get"
"""What a connection is tried with after the one before it broke."""
TRIAL_S = 0.5
TRIALS = 3

YIELD_S = 0.3
"""A request that goes before all others waits so long for the one under way: a reading of signals."""

RECEIVE_BYTES = 1 << 18
UNKNOWN = "Whether it was carried out is unknown."
SEE = "See whether the Nanonis software runs and its TCP interface is on."


@dataclass(frozen=True)
class Heard:
    """The last answer on a link, for errors."""

    command: str
    size: int
    at_s: float

    def __str__(self) -> str:
        return f"{self.command} ({self.size} bytes) {time.monotonic() - self.at_s:.1f} s ago"


class Link:
    """One port.  ``purpose`` is for errors and logs.  Used from any thread."""

    def __init__(self, host: str, port: int, purpose: str) -> None:
        self.host, self.port, self.purpose = host, port, purpose
        self._turn = threading.Lock()
        self._socket: socket.socket | None = None
        self._protocol = ClientConnection()
        self._suspect = False
        self._closed = False
        self._go_before = ""
        """What waits for its turn and goes before everything else."""
        self._occupied_by = ""
        self._occupied_s = 0.0
        self._occupied_urgency = 0
        self._heard: Heard | None = None
        self.connections = 0
        """How often it connected."""

    def __str__(self) -> str:
        return f"{self.host}:{self.port} ({self.purpose})"

    @property
    def free(self) -> bool:
        """Whether a request would be sent at once, on a connection in which nothing went wrong."""
        return not (self._turn.locked() or self._suspect or self._closed)

    @property
    def in_doubt(self) -> bool:
        """Whether nobody uses it and its last connection broke: a question would show how it is now."""
        return self._suspect and not (self._turn.locked() or self._closed)

    @property
    def held(self) -> bool:
        """Whether it is connected, as far as that shows without a question: nobody else is served there."""
        found = self._socket
        return self._turn.locked() or (found is not None and not _is_over(found))

    def exchange(
        self, command: str, body: bytes, deadline_s: float, *, repeat: bool = False, urgency: int = 0
    ) -> bytes:
        """Send a request and wait for its answer's body, at most ``deadline_s`` altogether.

        ``urgency``: a less urgent request under way that is not answered soon is given up for it.

        Raises:
            DriverError: what was awaited, from whom, for how long, the last answer before, what to do.
                ``details["outcome"]`` is "not sent" or "unknown".
        """
        began = time.monotonic()
        until = began + deadline_s
        if not self._take_turn(command, until, urgency):
            raise DriverError(
                f"{command} waited for {deadline_s:g} s at {self}: it is busy with {self._occupied_by} since "
                f"{time.monotonic() - self._occupied_s:.1f} s.",
                "Stop what runs, over another port.",
                **self._details(command, deadline_s, "not sent"),
            )
        try:
            self._occupied_by, self._occupied_s, self._occupied_urgency = command, began, urgency
            return self._exchange(command, body, began, until, repeat)
        finally:
            self._turn.release()

    def close(self) -> None:
        """Drop the connection, for good; a request under way in another thread fails."""
        self._closed = True
        found = self._socket
        if found is not None:
            _shut(found)
        if self._turn.acquire(timeout=CONNECT_S):
            try:
                self._drop()
            finally:
                self._turn.release()

    # -- one request -----------------------------------------------------------------------------------------

    def _take_turn(self, command: str, until: float, urgency: int) -> bool:
        """Have the turn; whoever has it, is less urgent and gets no answer is interrupted."""
        left = max(until - time.monotonic(), 0.0)
        if self._turn.acquire(timeout=min(YIELD_S, left) if urgency else left):
            return True
        if self._occupied_urgency >= urgency:
            return self._turn.acquire(timeout=max(until - time.monotonic(), 0.0))
        self._go_before = command
        try:
            found = self._socket
            if found is not None:
                _shut(found)
            return self._turn.acquire(timeout=max(until - time.monotonic(), 0.0))
        finally:
            self._go_before = ""

    def _exchange(self, command: str, body: bytes, began: float, until: float, repeat: bool) -> bytes:
        for attempt in range(1, TRIALS + 1):
            self._connect(command, until, trial=not repeat)
            try:
                return self._ask(command, body, began, until)
            except _BrokenError as broken:
                self._drop(suspect=True)
                first = self._go_before
                if not first and repeat and attempt < TRIALS and time.monotonic() < until:
                    log.info("asked again", command=command, link=str(self), why=str(broken))
                    continue
                why = f"it gave way to {first}" if first else str(broken)
                raise DriverError(
                    f"the connection to {self} was lost while an answer to {command} was awaited, after "
                    f"{time.monotonic() - began:.2f} s: {why}; the last answer: {self._heard or 'none'}.",
                    f"{UNKNOWN} {SEE}",
                    **self._details(command, time.monotonic() - began, "unknown"),
                ) from None
        raise AssertionError("unreachable")

    def _ask(self, command: str, body: bytes, began: float, until: float) -> bytes:
        """One exchange on the present connection.

        Raises:
            _BrokenError: the connection broke.
            DriverError: no answer in time.
        """
        connection = self._socket
        assert connection is not None
        try:
            connection.settimeout(max(until - time.monotonic(), 1e-3))
            connection.sendall(self._protocol.send(command, body))
            while True:
                response = self._protocol.next_response()
                if response is not None:
                    self._heard = Heard(command, len(response.body), time.monotonic())
                    self._suspect = False
                    if self._protocol.surplus:  # answers and questions are not in step
                        self._drop(suspect=True)
                    return response.body
                left = until - time.monotonic()
                if left <= 0.0:
                    raise TimeoutError
                connection.settimeout(left)
                data = connection.recv(RECEIVE_BYTES)
                if not data:
                    self._protocol.finish()
                    raise _BrokenError("it was closed by the other side")
                self._protocol.feed(data)
        except TimeoutError:
            self._drop(suspect=True)
            waited = time.monotonic() - began
            raise DriverError(
                f"awaited an answer to {command} from {self} for {waited:.2f} s; the last answer: "
                f"{self._heard or 'none'}.",
                f"{UNKNOWN} {SEE} A port serves one client: see that no other uses it.",
                **self._details(command, waited, "unknown"),
            ) from None
        except (LinkLostError, MalformedMessageError) as broken:
            raise _BrokenError(broken.text) from None
        except OSError as broken:
            raise _BrokenError(broken.strerror or str(broken)) from None

    # -- connecting ------------------------------------------------------------------------------------------

    def _connect(self, command: str, until: float, trial: bool) -> None:
        """Have a connection that can be trusted; one after a broken one is tried if ``trial``.

        Raises:
            DriverError: there is none; the command was not sent.
        """
        if self._socket is not None and _is_over(self._socket):
            self._drop()
        if self._socket is not None:
            return
        last: object = ""
        for _ in range(TRIALS):
            self._open(command, until)
            if not (self._suspect and trial):
                return
            try:
                self._ask(TRIAL, b"", time.monotonic(), min(until, time.monotonic() + TRIAL_S))
            except _BrokenError as broken:
                self._drop(suspect=True)
                last = broken
            except DriverError as silent:
                last = silent
                break  # busy with what was given up: the same again would not help
            else:
                return
        raise DriverError(
            f"{command} was not sent: {self} does not serve again after a broken connection: {last}",
            "It may still be busy; wait, or stop what runs over another port.",
            **self._details(command, 0.0, "not sent"),
        )

    def _open(self, command: str, until: float) -> None:
        if self._closed:
            raise DriverError(f"{command} was not sent: {self} was closed.", outcome="not sent")
        patience = max(min(CONNECT_S, until - time.monotonic()), 1e-3)
        try:
            fresh = socket.create_connection((self.host, self.port), timeout=patience)
        except OSError as refused:
            raise DriverError(
                f"{command} was not sent: no connection to {self} within {patience:.1f} s: "
                f"{refused.strerror or refused}.",
                SEE,
                **self._details(command, patience, "not sent"),
            ) from None
        fresh.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _watch_over(fresh)
        _claim(self)
        self._socket, self._protocol = fresh, ClientConnection()
        self.connections += 1
        if self._closed:
            self._drop()
            raise DriverError(f"{command} was not sent: {self} was closed.", outcome="not sent")

    def _drop(self, suspect: bool = False) -> None:
        self._suspect = self._suspect or suspect
        found, self._socket = self._socket, None
        if found is not None:
            found.close()

    def _details(self, command: str, waited_s: float, outcome: str) -> dict[str, object]:
        return {
            "awaited": command,
            "address": f"{self.host}:{self.port}",
            "waited_s": waited_s,
            "last": str(self._heard or ""),
            "outcome": outcome,
        }


class _BrokenError(Exception):
    """A connection broke within an exchange."""


_claims: dict[tuple[str, int], weakref.ref[Link]] = {}
_claims_lock = threading.Lock()


def _claim(link: Link) -> None:
    """A port serves one client: another connection of this process to the same port is ended.

    That happens when a driver is replaced because the old one hangs: whoever waits there is woken.  Its link
    may take the port back when it is used again.
    """
    key = (link.host, link.port)
    with _claims_lock:
        holder = _claims.get(key)
        before = holder() if holder is not None else None
        _claims[key] = weakref.ref(link)
    found = before._socket if before is not None and before is not link else None
    if before is None or found is None:
        return
    log.warning("a port is taken over from an older connection", link=str(link), busy=before._turn.locked())
    link._suspect = link._suspect or before._turn.locked()
    _shut(found)


def _shut(connection: socket.socket) -> None:
    """End a connection so that a thread that waits on it wakes."""
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # it is over already


def _is_over(connection: socket.socket) -> bool:
    """Whether an idle connection was closed by the other side, or says something nobody asked for."""
    try:
        readable, _, _ = select.select([connection], [], [], 0)
    except (OSError, ValueError):
        return True
    return bool(readable)


def _watch_over(connection: socket.socket) -> None:
    """Have the system notice a peer that is gone without a word, also while nothing is sent."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 2), ("TCP_KEEPINTVL", 1), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, option):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
