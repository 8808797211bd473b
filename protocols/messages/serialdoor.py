"""The simulated serial instruments' control: what tests and people may do to them beside their commands."""

from __future__ import annotations

from typing import Literal

import msgspec

from protocols.messages.base import Message


class SerialSimQuery(Message, frozen=True, kw_only=True):
    """Which instruments are there, and what is true?  Answered with SerialSimStatus."""


class SerialSimInstrument(msgspec.Struct, frozen=True, kw_only=True):
    """One simulated instrument."""

    name: str
    model: str
    port: str
    commands: int
    """Lines it was sent."""
    truth: dict[str, float]
    """Its quantities without noise (SI)."""


class SerialSimStatus(Message, frozen=True, kw_only=True):
    """Answer to everything here."""

    pid: int
    instruments: tuple[SerialSimInstrument, ...]


class SerialSimSet(Message, frozen=True, kw_only=True):
    """Change the world an instrument measures: "A" (K), "bath" (K), "broken A" (1 or 0) of a Lake Shore;
    "gain", "phase" (rad), "amplitude" (V), "frequency" (Hz) of an SR830."""

    instrument: str
    quantity: str
    value: float


class SerialSimFault(Message, frozen=True, kw_only=True):
    """The next ``count`` answers are wrong, as ``sim_hardware.serial_line.faults`` says."""

    instrument: str
    kind: Literal["late", "silent", "garbage", "cut", "terminator", "double", "split", "noise"]
    count: int = 1
    seconds: float = 2.0
