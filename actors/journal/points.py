"""The measured points of a run, followed record by record.

A decision needs what came since the last one, not the run from its beginning: whoever asks again and again
keeps a ``PointLog`` and reads every record once, however long the run is.  Of a spectrum only place, scalar
and judgements are kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from actors.journal.reader import JournalReader
from protocols.messages.records import Label, SpectrumTaken, StoredRecord, Validity


@dataclass(frozen=True)
class PointEvent:
    """What a planner is told, in the order of the journal: a point appears, or is revoked.

    ``scalar`` is NaN where the spectrum gave no data: the place was tried.
    """

    seq: int
    job_id: str
    x_m: float
    y_m: float
    scalar: float
    revoked: bool


@dataclass(frozen=True)
class KnownPoint:
    """One spectrum without its curves, as it was judged last; ``scalar`` is the spectrum's own."""

    job_id: str
    window: int
    x_m: float
    y_m: float
    scalar: float
    valid: bool
    label: str = ""

    @property
    def counts(self) -> bool:
        """Whether it is data: valid, with a finite scalar."""
        return self.valid and math.isfinite(self.scalar)


class PointLog:
    """Follows the spectra of one window, or of all (None), in a journal that grows.

    The same up to a number whether it was followed in one step or in many: live planner and ``replay`` see
    the same.
    """

    def __init__(self, reader: JournalReader, window: int | None = None) -> None:
        self.reader = reader
        self._window = window
        self._points: dict[str, KnownPoint] = {}
        self.cursor = _opened(reader, window)
        """Number of the last record that has been read."""

    def advance(self, upto: int | None = None) -> list[PointEvent]:
        """Read on to record ``upto`` (the last one there is, if None): what a planner learns from it.

        Each spectrum appears once with its scalar (NaN if it is not valid: the place was tried); a later
        judgement revokes it, or brings it (back) with its scalar.  Nothing if all that was read before.
        """
        end = self.reader.last_seq() if upto is None else upto
        events: list[PointEvent] = []
        if end <= self.cursor:
            return events
        for record in self.reader.records(self.cursor, (SpectrumTaken, Validity, Label)):
            if record.seq > end:
                break
            event = self._take(record)
            if event is not None:
                events.append(event)
        self.cursor = end
        return events

    def points(self, window: int | None = None) -> Iterator[KnownPoint]:
        """Those (of one window) that count, in the order of the journal, as far as it has been read."""
        return (p for p in self._points.values() if p.counts and window in (None, p.window))

    def _take(self, record: StoredRecord) -> PointEvent | None:
        body = record.body
        if isinstance(body, SpectrumTaken):
            if body.job_id in self._points or self._window not in (None, body.window):
                return None
            point = KnownPoint(
                body.job_id, body.window, body.sample_x_m, body.sample_y_m, body.scalar, body.valid
            )
            self._points[body.job_id] = point
            return _event(record.seq, point, revoked=False)
        if not isinstance(body, Validity | Label) or (known := self._points.get(body.job_id)) is None:
            return None  # of another window
        if isinstance(body, Label):
            self._points[body.job_id] = replace(known, label=body.label)
            return None
        if known.valid == body.valid:
            return None  # it says nothing new
        self._points[body.job_id] = point = replace(known, valid=body.valid)
        return _event(record.seq, point, revoked=not body.valid)


def _event(seq: int, point: KnownPoint, revoked: bool) -> PointEvent:
    scalar = point.scalar if point.valid else math.nan
    return PointEvent(seq, point.job_id, point.x_m, point.y_m, scalar, revoked)


def _opened(reader: JournalReader, window: int | None) -> int:
    """Number of the record that opened a window: nothing of it lies before."""
    record = reader.get(f"window:{window}") if window is not None else None
    return record.seq if record is not None else 0
