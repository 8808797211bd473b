"""Handshake, lease, stop, latch and status: what keeps the tip safe."""

from __future__ import annotations

from protocols.messages.base import Message
from protocols.messages.data import InstrumentState


class Hello(Message, frozen=True, kw_only=True):
    """First message on every command link: who speaks, which protocol version, what it can do."""

    peer: str
    protocol: int
    capabilities: tuple[str, ...] = ()


class Welcome(Message, frozen=True, kw_only=True):
    """Answer to Hello."""

    peer: str
    protocol: int
    capabilities: tuple[str, ...] = ()
    pid: int = 0


class Refusal(Message, frozen=True, kw_only=True):
    """The peer understood and says no.  ``code`` is stable (see protocols.errors), ``reason`` for people."""

    code: str
    reason: str
    advice: str = ""


class Done(Message, frozen=True, kw_only=True):
    """Plain success."""

    note: str = ""


class Ping(Message, frozen=True, kw_only=True):
    """Heartbeat; answered with Pong."""

    sent_s: float = 0.0


class Pong(Message, frozen=True, kw_only=True):
    """Answer to Ping, with the same ``sent_s``."""

    sent_s: float = 0.0


class AcquireLease(Message, frozen=True, kw_only=True):
    """Ask the guard for ownership of the tip.  Admitted after release, or expiry and park."""

    owner: str
    duration_s: float = 2.0


class LeaseGranted(Message, frozen=True, kw_only=True):
    """The new owner's epoch: higher than every earlier one, also after restarts."""

    epoch: int
    duration_s: float


class RenewLease(Message, frozen=True, kw_only=True):
    """Sent by the daemon's supervisor alone, and only while its control loop made progress."""

    epoch: int


class ReleaseLease(Message, frozen=True, kw_only=True):
    """Give ownership back; the guard parks first when ``park`` (the default)."""

    epoch: int
    park: bool = True


class Stop(Message, frozen=True, kw_only=True):
    """Emergency: park now.  ``sent_monotonic_s`` is the sender's system-wide monotonic clock."""

    reason: str
    sent_monotonic_s: float = 0.0


class StopAnswer(Message, frozen=True, kw_only=True):
    """Sent when the driver's withdraw has returned: the retraction has begun."""

    withdrawn: bool
    detail: str
    took_s: float


class AcknowledgeLatch(Message, frozen=True, kw_only=True):
    """``stmctl ack``: a person has looked; the latch opens."""

    who: str


class GuardQuery(Message, frozen=True, kw_only=True):
    """Ask the guard for its status."""


class GuardStatus(Message, frozen=True, kw_only=True):
    """The guard's view.  ``park`` and ``latch`` are state names of the tables in protocols.states."""

    pid: int
    worker_pid: int
    worker_alive: bool
    epoch: int
    owner: str
    lease_left_s: float
    park: str
    latch: str
    latch_reason: str
    last_park_reason: str
    instrument: InstrumentState | None
    alarms: tuple[str, ...] = ()
    trips: int = 0
    commands_endpoint: str = ""
    data_endpoint: str = ""
    last_park_cause: str = ""
    """What kind of reason: "start", "operator", "lease", "released", "worker", "signal", "job", "trip",
    "crash", "z-end", "no-surface", "driver", "found-engaged", "found-withdrawn".  A run may engage again by
    itself only after "start", "lease", "released", "worker" and "signal"."""
    lease: str = ""
    """State name of the lease table."""
    withdrawal_mark: str = ""
    """Another one after every withdrawal that a person ordered, and after a restart of the guard."""


class WorkerQuery(Message, frozen=True, kw_only=True):
    """Ask the worker for its status."""


class WorkerStatus(Message, frozen=True, kw_only=True):
    """The worker's view: queue, spool, counters, and what the limits allow."""

    pid: int
    running: str
    ready: str
    spool_unacknowledged: int
    spool_bytes: int
    free_bytes: int
    jobs_finished: int
    jobs_refused: int
    jobs_discarded: int
    streams_open: int
    messages_malformed: int
    time_scale: float
    simulated: bool
    instrument: InstrumentState | None
    limits: dict[str, float]
    preamplifier_rail_a: float = 1e-8
    """Where the measured current saturates."""
