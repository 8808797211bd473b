"""What the journal says of the auxiliary instruments: figures for ``stmctl show``, rows for the export."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from actors.journal.reader import JournalReader
from protocols.messages.auxiliary import AuxiliaryConnected, AuxiliaryReading, AuxiliaryValue
from protocols.messages.records import RunState, StoredRecord

WAITING = "waiting"
"""That state of the run table."""


class QuantityData(msgspec.Struct, frozen=True, kw_only=True):
    """One channel over a run, in the SI unit ``unit``."""

    quantity: str
    unit: str
    readings: int
    last: float
    minimum: float
    maximum: float
    mean: float


class AuxiliaryData(msgspec.Struct, frozen=True, kw_only=True):
    """One instrument over a run."""

    instrument: str
    model: str
    identity: str
    port: str
    settings: dict[str, float]
    connections: int
    """How often it was found."""
    readings: int
    """In the journal."""
    last_wall_s: float | None
    quantities: tuple[QuantityData, ...]


class _Figures:
    """Folds the values of one channel."""

    def __init__(self, first: AuxiliaryValue) -> None:
        self.quantity, self.unit = first.quantity, first.unit
        self.count, self.total = 0, 0.0
        self.last, self.low, self.high = math.nan, math.inf, -math.inf

    def take(self, value: float) -> None:
        self.count += 1
        self.total += value
        self.last, self.low, self.high = value, min(self.low, value), max(self.high, value)

    def data(self) -> QuantityData:
        return QuantityData(
            quantity=self.quantity,
            unit=self.unit,
            readings=self.count,
            last=self.last,
            minimum=self.low,
            maximum=self.high,
            mean=self.total / self.count,
        )


def auxiliary_data(reader: JournalReader) -> tuple[AuxiliaryData, ...]:
    """Every instrument that was found or read in the run, by name."""
    connected: dict[str, list[AuxiliaryConnected]] = {}
    figures: dict[str, dict[str, _Figures]] = {}
    counts: dict[str, int] = {}
    last_s: dict[str, float] = {}
    for record in reader.records(kinds=(AuxiliaryConnected, AuxiliaryReading)):
        body = record.body
        if isinstance(body, AuxiliaryConnected):
            connected.setdefault(body.instrument, []).append(body)
        elif isinstance(body, AuxiliaryReading):
            name = body.instrument
            counts[name] = counts.get(name, 0) + 1
            last_s[name] = body.wall_s
            for value in body.values:
                found = figures.setdefault(name, {})
                found.setdefault(value.quantity, _Figures(value)).take(value.value)
    return tuple(
        _data(name, connected.get(name, []), figures.get(name, {}), counts.get(name, 0), last_s.get(name))
        for name in sorted({*connected, *counts})
    )


def auxiliary_rows(reader: JournalReader) -> Iterator[Sequence[Any]]:
    """(wall_s, instrument, quantity, value, unit, note) of every value on record, in order."""
    for record in reader.records(kinds=(AuxiliaryReading,)):
        body = record.body
        if isinstance(body, AuxiliaryReading):
            for value in body.values:
                yield body.wall_s, body.instrument, value.quantity, value.value, value.unit, body.note


def waited_s(states: Sequence[StoredRecord]) -> float:
    """Wall seconds that the run has waited for auxiliary instruments, without a wait that still lasts."""
    total, since_s = 0.0, math.nan
    for record in states:
        if not isinstance(record.body, RunState):
            continue
        if not math.isnan(since_s):
            total += max(record.wall_s - since_s, 0.0)
        since_s = record.wall_s if record.body.state == WAITING else math.nan
    return total


def _data(
    name: str,
    connected: Sequence[AuxiliaryConnected],
    figures: dict[str, _Figures],
    readings: int,
    last_wall_s: float | None,
) -> AuxiliaryData:
    latest = connected[-1] if connected else None
    return AuxiliaryData(
        instrument=name,
        model=latest.model if latest else "",
        identity=latest.identity if latest else "",
        port=latest.port if latest else "",
        settings=dict(latest.settings) if latest else {},
        connections=len(connected),
        readings=readings,
        last_wall_s=last_wall_s,
        quantities=tuple(f.data() for f in figures.values()),
    )
