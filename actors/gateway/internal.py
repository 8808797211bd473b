"""What guard and worker say to each other, over a socket pair that the guard made before it started the
worker.

The pair belongs to these two processes alone: when one of them ends, in whatever way, the kernel closes its
end and the other reads the end of file at once.  A peer that lives but says nothing for ``SILENCE_S`` counts
as gone.
"""

from __future__ import annotations

import select
import socket
import time
from typing import TypeAlias

import msgspec

from protocols.errors import LinkLostError

BEAT_S = 0.05
"""Time between heartbeats, both ways."""

SILENCE_S = 0.5
"""A peer that was not heard for this long is taken for dead."""

MAXIMUM_BYTES = 65536


class _Internal(msgspec.Struct, frozen=True, kw_only=True, tag_field="t", tag=True):
    """Base of the internal messages."""


class GuardBeat(_Internal, frozen=True, kw_only=True):
    """The guard lives; who owns the tip, and the latch's reason ("" when open)."""

    epoch: int
    held: bool
    latch_reason: str


class LeaseNews(_Internal, frozen=True, kw_only=True):
    """The lease changed hands; answered with LeaseSeen before the new owner is told."""

    epoch: int
    held: bool


class ParkOrder(_Internal, frozen=True, kw_only=True):
    """The tip is being withdrawn: act no more, and say Quiet when no call to the electronics is under way."""

    generation: int
    reason: str


class Parked(_Internal, frozen=True, kw_only=True):
    """The park is confirmed; jobs may act again (only an engage makes sense)."""

    generation: int


class EngageAnswer(_Internal, frozen=True, kw_only=True):
    """Whether feedback may be switched on now; ``code`` as in protocols.errors when not."""

    job_id: str
    granted: bool
    code: str = ""
    reason: str = ""


class Leave(_Internal, frozen=True, kw_only=True):
    """The guard is going: the tip is parked, end."""


class WorkerReady(_Internal, frozen=True, kw_only=True):
    """The worker serves its sockets."""

    commands: str
    data: str


class WorkerBeat(_Internal, frozen=True, kw_only=True):
    """The worker lives; ``stalled_s``: how long its main loop has made no progress."""

    running: str
    stalled_s: float


class Quiet(_Internal, frozen=True, kw_only=True):
    """Nothing of the worker's acts on the electronics since this park order."""

    generation: int


class LeaseSeen(_Internal, frozen=True, kw_only=True):
    """Answer to LeaseNews."""

    epoch: int
    held: bool


class AskPark(_Internal, frozen=True, kw_only=True):
    """Please park.  ``cause`` as in GuardStatus.last_park_cause; ``latch``: a latch cause, or ""."""

    reason: str
    cause: str
    latch: str = ""


class AskEngage(_Internal, frozen=True, kw_only=True):
    """Bias and setpoint are set and read back: may feedback be switched on?"""

    job_id: str
    withdrawal_mark: str = ""


class EngageDone(_Internal, frozen=True, kw_only=True):
    """The approach is over (engaged, or given up): Z is watched as usual from now on."""

    job_id: str


Internal: TypeAlias = (
    GuardBeat
    | LeaseNews
    | ParkOrder
    | Parked
    | EngageAnswer
    | Leave
    | WorkerReady
    | WorkerBeat
    | Quiet
    | LeaseSeen
    | AskPark
    | AskEngage
    | EngageDone
)

_ENCODER = msgspec.msgpack.Encoder()
_DECODER: msgspec.msgpack.Decoder[Internal] = msgspec.msgpack.Decoder(Internal)


class InternalLink:
    """One end of the pair.  ``send`` may be called from any thread, ``receive`` from one."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._socket = end
        self._poll = select.poll()
        self._poll.register(end, select.POLLIN)
        self.last_heard_s = time.monotonic()
        self.polls_since_heard = 0

    @staticmethod
    def pair() -> tuple[socket.socket, socket.socket]:
        """Two connected ends that keep message boundaries."""
        return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def send(self, message: Internal) -> None:
        """Send without waiting.

        Raises:
            LinkLostError: the peer is gone, or has read nothing for so long that its buffer is full.
        """
        try:
            self._socket.send(_ENCODER.encode(message))
        except OSError as problem:
            raise LinkLostError(
                f"the other half of the gateway is gone or reads nothing: {problem}."
            ) from problem

    def receive(self, timeout_s: float) -> Internal | None:
        """The next message, or None after ``timeout_s``.

        Raises:
            LinkLostError: the peer has ended.
        """
        if not self._poll.poll(timeout_s * 1000.0):
            self.polls_since_heard += 1
            return None
        try:
            data = self._socket.recv(MAXIMUM_BYTES)
        except BlockingIOError:
            return None
        except OSError as problem:
            raise LinkLostError(f"the other half of the gateway is gone: {problem}.") from problem
        if not data:
            raise LinkLostError("the other half of the gateway has ended.")
        self.last_heard_s = time.monotonic()
        self.polls_since_heard = 0
        return _DECODER.decode(data)

    def silent_for_s(self) -> float:
        """Seconds since the peer was last heard, 0 while we ourselves have hardly listened.

        A process that was itself not scheduled for a while must not take its own absence for the peer's.
        """
        return time.monotonic() - self.last_heard_s if self.polls_since_heard >= 5 else 0.0

    def close(self) -> None:
        """Close this end; the peer reads the end of file."""
        self._socket.close()
