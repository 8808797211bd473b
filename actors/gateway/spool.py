"""The worker's spool: ids, intents and results on disk until the journal has them.

SQLite in WAL mode with ``synchronous=FULL`` through apsw (whose bundled SQLite is free of the WAL-reset
race), one writing connection.  When ``commit`` has returned, the fsync has.  The same connection is used from
the worker's two threads, one at a time.

A measurement is finished when the transaction that holds its last chunk and its final state has been
committed.  The data is kept until the journal acknowledges it; the id is remembered for 30 days more, so that
a repeated id is answered and never acted on again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import apsw

from actors.gateway.spool_reserve import SpoolReserve
from protocols.errors import DiskFullError, StorageError
from protocols.messages.codec import decode_body, encode_body
from protocols.messages.data import Chunk, EndOfStream
from protocols.messages.jobs import FINAL_STATES, JobAnswer, JobState
from protocols.messages.recipes import BiasFrames, Frame, Recipe, ReferencePatch, Sweep
from protocols.states.job import after_restart

REMEMBERED_S = 30 * 86400.0
"""Acknowledged ids are forgotten after this time."""

CHANNELS = 4
"""Channels of a sweep, for the estimate of a result's size; frames have two less."""

_SCHEMA = """
create table if not exists jobs(
    id text primary key,
    state text not null,
    reason text not null default '',
    limit_name text not null default '',
    recipe blob not null,
    digest blob not null,
    epoch integer not null,
    accepted_s real not null,
    ended_s real,
    acknowledged_s real,
    end blob
) strict;
create index if not exists jobs_by_state on jobs(state);
create index if not exists jobs_unacknowledged on jobs(acknowledged_s) where acknowledged_s is null;
create table if not exists chunks(
    job text not null references jobs(id) on delete cascade,
    seq integer not null,
    body blob not null,
    primary key(job, seq)
) strict, without rowid;
"""

_DISK_TROUBLE = (apsw.FullError, apsw.IOError, apsw.CantOpenError)


@dataclass(frozen=True)
class StoredJob:
    """A job as the spool knows it."""

    answer: JobAnswer
    recipe: Recipe
    digest: bytes
    acknowledged: bool


def recipe_digest(recipe: Recipe) -> bytes:
    """Says whether a repeated id means the same thing."""
    return hashlib.sha256(encode_body(recipe)).digest()


def estimated_bytes(recipe: Recipe) -> int:
    """Generous size of the result of a recipe on disk."""
    overhead = 4096
    match recipe:
        case Sweep():
            s = recipe.spectrum
            return overhead + 8 * s.points * (1 + CHANNELS * s.repeats * (2 if s.backward else 1))
        case Frame():
            return overhead + _frame_bytes(recipe)
        case ReferencePatch():
            return overhead + _frame_bytes(recipe.frame)
        case BiasFrames():
            return overhead + _frame_bytes(recipe.frame) * len(recipe.biases_v)
        case _:
            return overhead


def _frame_bytes(frame: Frame) -> int:
    return frame.lines * (512 + 4 * 2 * frame.pixels * (CHANNELS - 1))


class Spool:
    """Open (or make) the spool at ``path``.

    Raises:
        StorageError: the file cannot be opened or is damaged.
    """

    def __init__(self, path: Path, quota_bytes: float, reserve_bytes: float) -> None:
        self.path = path
        self.quota_bytes = quota_bytes
        self.reserve_bytes = reserve_bytes
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._db = apsw.Connection(str(path))
            self._db.set_busy_timeout(2000)
            self._db.pragma("journal_mode", "wal")
            self._db.pragma("synchronous", "full")
            self._db.pragma("foreign_keys", True)
            self._db.pragma("wal_autocheckpoint", 256)
            verdict = self._db.pragma("quick_check")
            if verdict != "ok":
                raise StorageError(
                    f"the spool {path} is damaged: {verdict}.",
                    "Move it away and start again.",
                    path=str(path),
                )
            with self._db:
                self._db.execute(_SCHEMA)
        except apsw.Error as problem:
            raise StorageError(
                f"the spool {path} cannot be opened: {problem}.",
                "If it is damaged, move it away and start again.",
                path=str(path),
            ) from problem
        self._stored_bytes = cast(int, self._one("select coalesce(sum(length(body)), 0) from chunks") or 0)
        self.reserve = SpoolReserve(path.with_suffix(".reserve"))
        with contextlib.suppress(OSError):  # before the next measurement it is asked for again
            self.reserve.make()

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    # What a restart finds

    def settle_after_restart(self) -> tuple[JobAnswer, ...]:
        """Give every job that a dead worker left without an outcome its final state, and say which.

        Waiting jobs were never acted on.  Running ones were interrupted or, where that cannot be repeated
        (move, pulse, indentation), have an unknown outcome.
        """
        with self._transaction():
            rows = self._all(
                "select id, state, recipe from jobs where state in (?, ?)",
                (JobState.READY.value, JobState.RUNNING.value),
            )
            for job_id, state, recipe in rows:
                final = after_restart(JobState(state), cast(Recipe, decode_body(recipe)))
                reason = {
                    JobState.DISCARDED: "discarded: the worker was started again before it began",
                    JobState.INTERRUPTED: "interrupted: the worker died while it ran",
                    JobState.OUTCOME_UNKNOWN: "the worker died while it ran; look before it is repeated",
                }[final]
                self._write_end(self._end_of(job_id, final, reason), "")
        return tuple(
            answer for job_id, _, _ in rows if (answer := self.answer(cast(str, job_id))) is not None
        )

    def prune(self, now_s: float | None = None) -> int:
        """Forget ids that were acknowledged more than 30 days ago; returns how many."""
        horizon = (time.time() if now_s is None else now_s) - REMEMBERED_S
        with self._transaction():
            self._db.execute("delete from jobs where acknowledged_s < ?", (horizon,))
            return self._db.changes()

    # Writing

    def accept(self, job_id: str, recipe: Recipe, epoch: int, state: JobState) -> None:
        """Write down that a job was accepted: READY, or RUNNING when it starts at once (its intent)."""
        with self._transaction():
            self._db.execute(
                "insert into jobs(id, state, recipe, digest, epoch, accepted_s) values (?, ?, ?, ?, ?, ?)",
                (job_id, state.value, encode_body(recipe), recipe_digest(recipe), epoch, time.time()),
            )

    def refuse(self, job_id: str, recipe: Recipe, epoch: int, reason: str, limit: str) -> None:
        """Write down a refusal that ends the id."""
        with self._transaction():
            self._db.execute(
                "insert into jobs(id, state, recipe, digest, epoch, accepted_s) values (?, ?, ?, ?, ?, ?)",
                (
                    job_id,
                    JobState.REFUSED.value,
                    encode_body(recipe),
                    recipe_digest(recipe),
                    epoch,
                    time.time(),
                ),
            )
            self._write_end(
                EndOfStream(job_id=job_id, last_seq=-1, state=JobState.REFUSED, reason=reason), limit
            )

    def begin(self, job_id: str) -> None:
        """The intent: from here on a restart says that it was under way."""
        with self._transaction():
            self._mark_running(job_id)

    def store_chunks(self, chunks: list[tuple[int, str, bytes]]) -> None:
        """Store (seq, job, encoded Chunk) while a frame runs."""
        with self._transaction():
            self._write_chunks(chunks)

    def finish(
        self,
        end: EndOfStream,
        chunks: list[tuple[int, str, bytes]],
        limit: str = "",
        next_job: str | None = None,
    ) -> None:
        """Write the last chunks and the final state, and the intent of the next job, in one commit.

        On a full disk the reserve is given up for it.

        Raises:
            StorageError: it could not be written all the same.
        """
        try:
            self._finish(end, chunks, limit, next_job)
        except DiskFullError:
            if not self.reserve.give_up():
                raise
            self._finish(end, chunks, limit, next_job)

    def _finish(
        self, end: EndOfStream, chunks: list[tuple[int, str, bytes]], limit: str, next_job: str | None
    ) -> None:
        with self._transaction():
            self._write_chunks(chunks)
            self._write_end(end, limit)
            if next_job is not None:
                self._mark_running(next_job)

    def acknowledge(self, job_id: str) -> bool:
        """The journal has it: let go of the data, keep the id.  False: no such finished job."""
        with self._transaction():
            freed = self._one("select coalesce(sum(length(body)), 0) from chunks where job = ?", (job_id,))
            finals = tuple(state.value for state in FINAL_STATES)
            marks = ",".join("?" * len(finals))
            self._db.execute(
                "update jobs set acknowledged_s = coalesce(acknowledged_s, ?) "
                f"where id = ? and state in ({marks})",
                (time.time(), job_id, *finals),
            )
            if not self._db.changes():
                return False
            self._db.execute("delete from chunks where job = ?", (job_id,))
            self._stored_bytes -= cast(int, freed or 0)
        return True

    # Reading

    def find(self, job_id: str) -> StoredJob | None:
        """What is known of an id."""
        with self._lock:
            rows = self._all(
                "select state, reason, limit_name, recipe, digest, acknowledged_s from jobs where id = ?",
                (job_id,),
            )
        if not rows:
            return None
        state, reason, limit, recipe, digest, acknowledged = rows[0]
        return StoredJob(
            answer=JobAnswer(job_id=job_id, state=JobState(state), reason=reason, limit=limit),
            recipe=cast(Recipe, decode_body(recipe)),
            digest=digest,
            acknowledged=acknowledged is not None,
        )

    def answer(self, job_id: str) -> JobAnswer | None:
        """The state of an id."""
        found = self.find(job_id)
        return found.answer if found else None

    def chunk(self, job_id: str, seq: int) -> Chunk | None:
        """One stored chunk."""
        with self._lock:
            body = self._one("select body from chunks where job = ? and seq = ?", (job_id, seq))
        return None if body is None else cast(Chunk, decode_body(cast(bytes, body)))

    def end(self, job_id: str) -> EndOfStream | None:
        """The end of a job's stream, once it has a final state."""
        with self._lock:
            body = self._one("select end from jobs where id = ?", (job_id,))
        return None if body is None else cast(EndOfStream, decode_body(cast(bytes, body)))

    def unacknowledged(self, run: str = "") -> tuple[JobAnswer, ...]:
        """Jobs with a final state that the journal has not acknowledged; of one run, or all."""
        finals = tuple(state.value for state in FINAL_STATES)
        marks = ",".join("?" * len(finals))
        with self._lock:
            rows = self._all(
                "select id, state, reason, limit_name from jobs where acknowledged_s is null "
                f"and state in ({marks}) order by accepted_s, rowid",
                finals,
            )
        return tuple(
            JobAnswer(job_id=job_id, state=JobState(state), reason=reason, limit=limit)
            for job_id, state, reason, limit in rows
            if not run or job_id.startswith(f"{run}/")
        )

    def unacknowledged_count(self) -> int:
        """How many jobs have a final state that the journal has not acknowledged."""
        finals = tuple(state.value for state in FINAL_STATES)
        marks = ",".join("?" * len(finals))
        with self._lock:
            found = self._one(
                f"select count(*) from jobs where acknowledged_s is null and state in ({marks})", finals
            )
        return cast(int, found)

    # Room

    @property
    def stored_bytes(self) -> int:
        """Bytes of results kept."""
        return self._stored_bytes

    def free_bytes(self) -> int:
        """Free bytes of the file system."""
        found = os.statvfs(self.path.parent)
        return found.f_bavail * found.f_frsize

    def require_room(self, needed_bytes: int) -> None:
        """Refuse to measure what could not be kept.

        Raises:
            DiskFullError: names what is free and what is needed.
        """
        if self._stored_bytes + needed_bytes > self.quota_bytes:
            raise DiskFullError(
                f"the spool holds {self._stored_bytes} bytes of results that no journal has acknowledged; "
                f"the next needs up to {needed_bytes}, the quota is {self.quota_bytes:.0f}.",
                "See that the journal writer runs and acknowledges, or raise spool_quota_bytes.",
                limit="spool_quota_bytes",
            )
        free = self.free_bytes()
        needed_bytes += self.reserve.missing_bytes
        if free < self.reserve_bytes + needed_bytes:
            raise self._no_room(free, needed_bytes)
        try:
            self.reserve.make()
        except OSError as none_left:
            raise self._no_room(self.free_bytes(), needed_bytes) from none_left

    def _no_room(self, free: int, needed_bytes: int) -> DiskFullError:
        return DiskFullError(
            f"the file system of {self.path.parent} has {free} bytes free; the next result needs up to "
            f"{needed_bytes} and {self.reserve_bytes:.0f} must remain.",
            "Make room.",
            limit="disk_reserve_bytes",
        )

    # Inside a transaction

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        stored = self._stored_bytes
        with self._lock:
            try:
                self._db.execute("begin immediate")
                try:
                    yield
                except BaseException:
                    if self._db.in_transaction:
                        self._db.execute("rollback")
                    raise
                self._db.execute("commit")
            except _DISK_TROUBLE as problem:
                self._roll_back(stored)
                raise DiskFullError(
                    f"the spool {self.path} could not be written: {problem}.",
                    "Make room.",
                    path=str(self.path),
                ) from problem
            except apsw.ConstraintError as problem:
                self._roll_back(stored)
                raise StorageError(f"the spool {self.path} has this id already: {problem}.") from problem
            except apsw.Error as problem:
                self._roll_back(stored)
                raise StorageError(f"the spool {self.path} could not be written: {problem}.") from problem

    def _roll_back(self, stored: int) -> None:
        self._stored_bytes = stored
        if self._db.in_transaction:
            try:
                self._db.execute("rollback")
            except apsw.Error:
                pass  # SQLite has rolled back by itself after the error that brought us here

    def _mark_running(self, job_id: str) -> None:
        self._db.execute(
            "update jobs set state = ? where id = ? and state = ?",
            (JobState.RUNNING.value, job_id, JobState.READY.value),
        )

    def _write_chunks(self, chunks: list[tuple[int, str, bytes]]) -> None:
        if chunks:
            self._db.executemany("insert into chunks(seq, job, body) values (?, ?, ?)", chunks)
            self._stored_bytes += sum(len(body) for _, _, body in chunks)

    def _write_end(self, end: EndOfStream, limit: str) -> None:
        self._db.execute(
            "update jobs set state = ?, reason = ?, limit_name = ?, ended_s = ?, end = ? where id = ?",
            (end.state.value, end.reason, limit, time.time(), encode_body(end), end.job_id),
        )

    def _end_of(self, job_id: str, state: JobState, reason: str) -> EndOfStream:
        last = self._one("select coalesce(max(seq), -1) from chunks where job = ?", (job_id,))
        return EndOfStream(job_id=job_id, last_seq=cast(int, last), state=state, reason=reason)

    def _one(self, sql: str, bindings: tuple[Any, ...] = ()) -> object:
        return self._db.execute(sql, bindings).get

    def _all(self, sql: str, bindings: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        return list(self._db.execute(sql, bindings))
