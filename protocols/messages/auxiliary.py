"""Auxiliary instruments: what is journaled of them, and what the daemon asks the process that reads them.

Readings are numbered in that process's life and kept in a ring; who asks late has missed some, and is told
how many.  ``wall_s`` are Unix times, ``at_s`` the system-wide monotonic clock.
"""

from __future__ import annotations

import msgspec

from protocols.messages.base import Message
from protocols.messages.campaign import AuxiliarySection


class AuxiliaryValue(msgspec.Struct, frozen=True, kw_only=True):
    """One number that an instrument gave: ``quantity`` is the channel's name ("A", "x"), ``unit`` is SI."""

    quantity: str
    value: float
    unit: str


class AuxiliaryReading(Message, frozen=True, kw_only=True):
    """What an instrument said at one time; every value was checked for its range."""

    instrument: str
    """Name in the campaign."""
    wall_s: float
    values: tuple[AuxiliaryValue, ...]
    note: str = ""
    """What the instrument itself reports of the reading: "input overload"."""


class AuxiliaryConnected(Message, frozen=True, kw_only=True):
    """An instrument was found, has said who it is, and was set; also after every time it had been lost."""

    instrument: str
    model: str
    identity: str
    """Its answer to ``*IDN?``."""
    port: str
    settings: dict[str, float]
    """What the campaign has set, as read back (SI)."""
    wall_s: float


class NumberedReading(msgspec.Struct, frozen=True, kw_only=True):
    """A reading in the ring."""

    number: int
    at_s: float
    reading: AuxiliaryReading


class AuxiliaryHealth(msgspec.Struct, frozen=True, kw_only=True):
    """How an instrument does."""

    name: str
    model: str
    state: str
    """"connecting" (never answered yet), "answers" or "silent"."""
    reason: str = ""
    """Why it is not "answers": port, command, how long, last reading."""
    port: str = ""
    connected: AuxiliaryConnected | None = None
    last: AuxiliaryReading | None = None
    readings: int = 0
    failures: int = 0
    """Readings that failed."""
    connections: int = 0
    strays: int = 0
    """Bytes that came when none were expected, and were thrown away."""


class SetUpAuxiliary(Message, frozen=True, kw_only=True):
    """Read these instruments and no others; answered with Done.  Said again it changes nothing."""

    instruments: tuple[AuxiliarySection, ...]


class AuxiliaryQuery(Message, frozen=True, kw_only=True):
    """Ask for readings with a number above ``after``; answered with AuxiliaryNews at once."""

    after: int = 0
    limit: int = 500


class AuxiliaryNews(Message, frozen=True, kw_only=True):
    """Answer to AuxiliaryQuery."""

    pid: int
    readings: tuple[NumberedReading, ...]
    next: int
    """Ask with ``after = next``."""
    waiting: int
    """Readings in the ring that were not sent yet."""
    bound: int
    most_waiting: int
    dropped: int
    """Readings that left the ring before anybody asked for them, in all."""
    instruments: tuple[AuxiliaryHealth, ...]
