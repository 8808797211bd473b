"""Reading a run's journal: safe while the writer writes, and after it was killed.

A reader never blocks the writer and is never blocked by it.  Each query is short, so that the write-ahead
log can be emptied.  Spectra, labels and validity are queries here: the latest judgement at or before a cursor
wins.  Who asks again and again while a run grows follows its points with ``points.PointLog``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import apsw

from actors.journal.schema import FILE_NAME, open_for_reading
from protocols.errors import DataFormatError, StorageError, TunnelpilotError
from protocols.messages.base import Message
from protocols.messages.codec import decode_body
from protocols.messages.records import (
    AttemptEnded,
    Conclusion,
    Decision,
    FrameTaken,
    JobDone,
    JobIssued,
    Label,
    RunStarted,
    RunState,
    SpectrumTaken,
    StoredRecord,
    Validity,
)

M = TypeVar("M", bound=Message)

_PAGE = 256
"""Sequence numbers fetched at a time; bodies are read one by one."""


@dataclass(frozen=True)
class Measurement:
    """One spectrum with what was said of it up to the cursor.

    ``valid``: the latest judgement, or its own quality verdict if there is no later one.
    """

    seq: int
    wall_s: float
    spectrum: SpectrumTaken
    valid: bool
    validity: Validity | None
    label: Label | None

    @property
    def counts(self) -> bool:
        """Whether it is data for the planner: valid, with a finite scalar."""
        return self.valid and math.isfinite(self.spectrum.scalar)


@dataclass(frozen=True)
class JobHistory:
    """Everything on record about one job."""

    job_id: str
    records: tuple[StoredRecord, ...]
    decision: Decision | None
    issued: JobIssued | None
    result: SpectrumTaken | FrameTaken | JobDone | AttemptEnded | None
    labels: tuple[Label, ...]
    validity: tuple[Validity, ...]


@dataclass(frozen=True)
class RunSummary:
    """One line of ``stmctl runs``.  ``trouble`` says why a journal could not be read; else it is empty."""

    run: str
    path: Path
    state: str
    reason: str
    campaign: str
    started_s: float
    """Unix time of the first record; NaN if there is none."""
    updated_s: float
    """Unix time of the last record; NaN if there is none."""
    spectra: int
    outcome: str
    trouble: str = ""


class JournalReader:
    """Reads the journal of one run; ``path`` is its file or the run's directory.

    For one thread at a time.

    Raises:
        StorageError: there is no journal, or it cannot be opened.
        DataFormatError: the file is no journal, is damaged, or is of a newer version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path / FILE_NAME if path.is_dir() else path
        self._connection = open_for_reading(self.path)

    def __enter__(self) -> JournalReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file; a second time is harmless."""
        self._connection.close()

    def records(
        self, after: int = 0, kinds: tuple[type[Message], ...] = (), limit: int | None = None
    ) -> Iterator[StoredRecord]:
        """Records with ``seq > after`` in order, of these kinds (all, if none is named), at most ``limit``.

        Records committed while the iteration runs are seen if they are reached.
        """
        names = [k.__name__ for k in kinds]
        where = f" AND kind IN ({','.join('?' * len(names))})" if names else ""
        query = f"SELECT seq FROM records WHERE seq > ?{where} ORDER BY seq LIMIT ?"
        given = 0
        while limit is None or given < limit:
            page = _PAGE if limit is None else min(_PAGE, limit - given)
            seqs = [row[0] for row in self._rows(query, (after, *names, page))]
            for seq in seqs:
                record = self.at(seq)
                if record is not None:
                    yield record
            given += len(seqs)
            if len(seqs) < page:
                return
            after = seqs[-1]

    def at(self, seq: int) -> StoredRecord | None:
        """The record with this sequence number, or None."""
        return self._one("seq = ?", (seq,))

    def get(self, key: str) -> StoredRecord | None:
        """The record with this key, or None."""
        return self._one("key = ?", (key,))

    def last(self, kind: type[Message]) -> StoredRecord | None:
        """The latest record of a kind, or None."""
        return self._one("kind = ? ORDER BY seq DESC LIMIT 1", (kind.__name__,))

    def first(self, kind: type[Message]) -> StoredRecord | None:
        """The first record of a kind, or None."""
        return self._one("kind = ? ORDER BY seq LIMIT 1", (kind.__name__,))

    def last_seq(self) -> int:
        """The highest sequence number; 0 for an empty journal."""
        return int(self._rows("SELECT coalesce(max(seq), 0) FROM records")[0][0])

    def count(self, kind: type[Message] | None = None) -> int:
        """Number of records (of one kind), without reading their bodies."""
        if kind is None:
            return int(self._rows("SELECT count(*) FROM records")[0][0])
        return int(self._rows("SELECT count(*) FROM records WHERE kind = ?", (kind.__name__,))[0][0])

    def bodies(self, kind: type[M], after: int = 0) -> list[M]:
        """All bodies of one kind in order."""
        return [r.body for r in self.records(after, (kind,)) if isinstance(r.body, kind)]

    def started(self) -> RunStarted:
        """The run's first record.

        Raises:
            DataFormatError: the journal has none yet.
        """
        record = self.first(RunStarted)
        if record is None or not isinstance(record.body, RunStarted):
            raise DataFormatError(f"{self.path} holds no run yet.", "Wait until the run has started.")
        return record.body

    def spectra(
        self, window: int | None = None, upto: int | None = None, valid_only: bool = True
    ) -> list[Measurement]:
        """Spectra with ``seq <= upto`` (all, if None), in order, with the judgements known at that cursor.

        ``valid_only`` keeps those that count: valid by the latest judgement and with a finite scalar.
        """
        taken: dict[str, StoredRecord] = {}
        validity: dict[str, Validity] = {}
        labels: dict[str, Label] = {}
        for record in self.records(kinds=(SpectrumTaken, Validity, Label)):
            if upto is not None and record.seq > upto:
                break
            match record.body:
                case SpectrumTaken():
                    taken.setdefault(record.body.job_id, record)
                case Validity():
                    validity[record.body.job_id] = record.body
                case Label():
                    labels[record.body.job_id] = record.body
        found = [_measurement(r, validity, labels) for r in taken.values()]
        return [
            m
            for m in found
            if (window is None or m.spectrum.window == window) and (m.counts or not valid_only)
        ]

    def decision(self, decision: str) -> StoredRecord | None:
        """The Decision record of that id, or None."""
        return self._one("job = ? AND kind = 'Decision' LIMIT 1", (decision,))

    def job(self, job_id: str) -> JobHistory:
        """Everything on record about a job, oldest first; empty for a job nobody issued."""
        rows = self._rows("SELECT seq FROM records WHERE job = ? ORDER BY seq", (job_id,))
        records = [r for r in (self.at(row[0]) for row in rows) if r is not None]
        bodies = [r.body for r in records]
        issued = next((b for b in bodies if isinstance(b, JobIssued)), None)
        decision = None
        if issued is not None and issued.decision:
            why = self.decision(issued.decision)
            if why is not None and isinstance(why.body, Decision):
                decision = why.body
                records.insert(0, why)
        results = [b for b in bodies if isinstance(b, SpectrumTaken | FrameTaken | JobDone | AttemptEnded)]
        return JobHistory(
            job_id=job_id,
            records=tuple(sorted(records, key=lambda r: r.seq)),
            decision=decision,
            issued=issued,
            result=results[-1] if results else None,
            labels=tuple(b for b in bodies if isinstance(b, Label)),
            validity=tuple(b for b in bodies if isinstance(b, Validity)),
        )

    def summary(self) -> RunSummary:
        """State, campaign, times and number of spectra, without reading any array."""
        started, state, end = self.first(RunStarted), self.last(RunState), self.last(Conclusion)
        wall = self._rows("SELECT min(wall), max(wall) FROM records")[0]
        body = started.body if started is not None else None
        return RunSummary(
            run=body.run if isinstance(body, RunStarted) else self.path.parent.name,
            path=self.path,
            state=state.body.state if state is not None and isinstance(state.body, RunState) else "starting",
            reason=state.body.reason if state is not None and isinstance(state.body, RunState) else "",
            campaign=body.campaign.name if isinstance(body, RunStarted) else "",
            started_s=math.nan if wall[0] is None else float(wall[0]),
            updated_s=math.nan if wall[1] is None else float(wall[1]),
            spectra=self.count(SpectrumTaken),
            outcome=end.body.outcome if end is not None and isinstance(end.body, Conclusion) else "",
        )

    def _one(self, where: str, bindings: tuple[Any, ...]) -> StoredRecord | None:
        rows = self._rows(f"SELECT seq, key, actor, wall, body FROM records WHERE {where}", bindings)
        return self._stored(rows[0]) if rows else None

    def _rows(self, sql: str, bindings: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        try:
            return list(self._connection.execute(sql, tuple(bindings)))
        except apsw.CorruptError as trouble:
            raise DataFormatError(
                f"{self.path} is damaged: {trouble}.", "Restore the run's directory from a copy."
            ) from trouble
        except apsw.Error as trouble:
            raise StorageError(f"{self.path} could not be read: {trouble}.", "Look at the disk.") from trouble

    def _stored(self, row: tuple[Any, ...]) -> StoredRecord:
        seq, key, actor, wall, body = row
        try:
            message = decode_body(body)
        except TunnelpilotError as trouble:
            raise DataFormatError(
                f"record {seq} ({key}) of {self.path} cannot be read: {trouble}",
                "It was written by a newer Tunnelpilot, or the file is damaged.",
                seq=seq,
            ) from trouble
        return StoredRecord(seq=seq, key=key, actor=actor, wall_s=wall, body=message)  # type: ignore[arg-type]


def runs(state: Path) -> list[RunSummary]:
    """All runs below a state directory, newest first; one that cannot be read says why."""
    found: list[RunSummary] = []
    for path in sorted((state / "runs").glob(f"*/{FILE_NAME}")):
        try:
            with JournalReader(path) as reader:
                found.append(reader.summary())
        except TunnelpilotError as trouble:
            nan = math.nan
            found.append(
                RunSummary(path.parent.name, path, "unreadable", "", "", nan, nan, 0, "", str(trouble))
            )
    return sorted(found, key=lambda s: (math.isnan(s.started_s), -s.started_s, s.run))


def _measurement(
    record: StoredRecord, validity: dict[str, Validity], labels: dict[str, Label]
) -> Measurement:
    spectrum = record.body
    assert isinstance(spectrum, SpectrumTaken)  # the caller read this kind
    judgement = validity.get(spectrum.job_id)
    return Measurement(
        seq=record.seq,
        wall_s=record.wall_s,
        spectrum=spectrum,
        valid=spectrum.valid if judgement is None else judgement.valid,
        validity=judgement,
        label=labels.get(spectrum.job_id),
    )
