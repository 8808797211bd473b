"""Is a journal whole?  The file, every body, and what the records say of each other."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import apsw

from actors.journal.schema import FILE_NAME, job_of, open_for_reading
from protocols.errors import TunnelpilotError
from protocols.messages.base import Message
from protocols.messages.codec import decode_body
from protocols.messages.records import (
    AttemptEnded,
    Decision,
    DriftMeasured,
    FrameTaken,
    JobDone,
    JobIssued,
    Label,
    ModelState,
    RunStarted,
    SpectrumTaken,
    Validity,
    WindowClosed,
    WindowOpened,
)


@dataclass(frozen=True)
class IntegrityReport:
    """What was looked at and what is wrong; ``whole`` means nothing is."""

    path: Path
    records: int
    kinds: dict[str, int]
    problems: tuple[str, ...]

    @property
    def whole(self) -> bool:
        """No problem was found."""
        return not self.problems


def check_run(path: Path) -> IntegrityReport:
    """Check a run's journal (its file or directory): SQLite's own check, checksums, decoding, and order.

    Safe while the writer writes.
    """
    file = path / FILE_NAME if path.is_dir() else path
    walk = _Walk()
    try:
        connection = open_for_reading(file)
    except TunnelpilotError as trouble:
        return IntegrityReport(file, 0, {}, (str(trouble),))
    try:
        # one read transaction, so that all questions are about the same commit
        connection.execute("BEGIN")
        answers = [str(row[0]) for row in connection.execute("PRAGMA integrity_check")]
        walk.problems += [f"SQLite: {text}" for text in answers if text != "ok"]
        for row in connection.execute("SELECT seq, key, kind, job, sha256, body FROM records ORDER BY seq"):
            walk.take(*row)
        last = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'records'").get
        if (last or 0) != walk.last_seq:
            walk.problems.append(f"records up to {last} were committed, the last one here is {walk.last_seq}")
        connection.execute("COMMIT")
    except (apsw.Error, TunnelpilotError) as trouble:
        walk.problems.append(f"could not be read to the end: {trouble}")
    finally:
        connection.close()
    return IntegrityReport(file, walk.records, dict(sorted(walk.kinds.items())), tuple(walk.problems))


@dataclass
class _Walk:
    """Reads the records in order and remembers what later ones may refer to."""

    records: int = 0
    last_seq: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    issued: set[str] = field(default_factory=set)
    results: dict[str, int] = field(default_factory=dict)
    ended: dict[str, int] = field(default_factory=dict)
    decisions: dict[str, int] = field(default_factory=dict)
    models: set[int] = field(default_factory=set)
    windows: set[int] = field(default_factory=set)

    def take(self, seq: int, key: str, kind: str, job: str, digest: bytes, data: bytes) -> None:
        """Look at one record."""
        self.records += 1
        if seq != self.last_seq + 1:
            self.problem(seq, key, f"comes after {self.last_seq}: records are missing")
        self.last_seq = seq
        self.kinds[kind] += 1
        if hashlib.sha256(data).digest() != digest:
            self.problem(seq, key, "its checksum does not fit its content")
        try:
            body = decode_body(data)
        except TunnelpilotError as trouble:
            self.problem(seq, key, f"cannot be decoded: {trouble}")
            return
        if type(body).__name__ != kind or job_of(body) != job:
            found = f"{type(body).__name__} of {job_of(body)!r}"
            self.problem(seq, key, f"is filed as {kind} of {job!r} but is {found}")
        if (seq == 1) != isinstance(body, RunStarted):
            self.problem(seq, key, "the first record, and no other, must be RunStarted")
        self.relate(seq, key, body)

    def relate(self, seq: int, key: str, body: Message) -> None:
        """Check what ``body`` says of earlier records."""
        match body:
            case JobIssued():
                if body.job_id in self.issued:
                    self.problem(seq, key, f"job {body.job_id} is issued a second time")
                self.issued.add(body.job_id)
            case SpectrumTaken() | FrameTaken() | JobDone():
                self.finish(seq, key, body.job_id)
            case AttemptEnded():
                self.end(seq, key, body.job_id)
            case Label() | Validity():
                known = body.job_id in self.results
                self.need(seq, key, known, f"job {body.job_id} has no measurement before it")
            case DriftMeasured():
                for job in (body.frame_job, body.reference_job):
                    self.need(seq, key, job in self.results, f"frame {job} is not there before it")
            case WindowOpened():
                self.windows.add(body.index)
            case WindowClosed():
                self.need(seq, key, body.index in self.windows, f"window {body.index} was never opened")
            case ModelState():
                self.models.add(seq)
            case Decision():
                self.decide(seq, key, body)
            case _:
                pass  # stands for itself

    def end(self, seq: int, key: str, job_id: str) -> None:
        """A job ended without a result: it was issued, and has none."""
        self.need(seq, key, job_id in self.issued, f"job {job_id} was never issued")
        if job_id in self.results:
            self.problem(seq, key, f"job {job_id} has a result in record {self.results[job_id]}")
        self.ended.setdefault(job_id, seq)

    def finish(self, seq: int, key: str, job_id: str) -> None:
        """A job has a result: it was issued, and this is its only end."""
        self.need(seq, key, job_id in self.issued, f"job {job_id} was never issued")
        if job_id in self.results:
            self.problem(seq, key, f"job {job_id} has a result already, in record {self.results[job_id]}")
        if job_id in self.ended:
            self.problem(
                seq, key, f"job {job_id} was said to have ended without result ({self.ended[job_id]})"
            )
        self.results.setdefault(job_id, seq)

    def decide(self, seq: int, key: str, body: Decision) -> None:
        """A decision saw the past only, and names a model and pending decisions that exist."""
        self.need(seq, key, body.cursor < seq, f"its cursor {body.cursor} is not in its past")
        self.need(seq, key, body.window in self.windows, f"window {body.window} was never opened")
        if body.model_before:
            known = body.model_before in self.models
            self.need(seq, key, known, f"record {body.model_before} is no model state")
        for other in body.pending:
            self.need(seq, key, other in self.decisions, f"pending decision {other} is not there before it")
        if body.decision in self.decisions:
            self.problem(seq, key, f"decision {body.decision} is made a second time")
        self.decisions[body.decision] = seq

    def need(self, seq: int, key: str, condition: bool, otherwise: str) -> None:
        """Note a problem unless ``condition``."""
        if not condition:
            self.problem(seq, key, otherwise)

    def problem(self, seq: int, key: str, what: str) -> None:
        """Note a problem of one record."""
        self.problems.append(f"record {seq} ({key}): {what}")
