"""From an intention to a journaled result, exactly once: issue, submit, receive, commit, acknowledge.

Every step looks into the journal first, so the whole may be said again after any death: of the actor that
does it, of the writer, of the gateway or of the daemon.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from actors.journal.client import JournalClient
from actors.journal.reader import JournalReader
from actors.journal.schema import run_file
from actors.runtime.gateway_link import GatewayLink, JobResult
from protocols.errors import StorageError
from protocols.messages.data import Chunk, EndOfStream
from protocols.messages.jobs import JobState, Priority
from protocols.messages.records import AttemptEnded, JobIssued, Record, RecordBody, RunStarted

JOURNAL_DEADLINE_S = 60.0
RESULT_KEYS = ("spectrum", "frame", "done", "ended")
NEVER_ARRIVED = "the order never reached the gateway"

FOLLOWED_S = 60.0
"""Longest wait for the job before, where the order matters."""
REMEMBERED_TURNS = 64

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Order:
    """One attempt: its id, under which lease, how long it may take (wall s), on whose behalf."""

    run: str
    job_id: str
    epoch: int
    deadline_s: float
    priority: Priority = Priority.CAMPAIGN
    after: str = ""
    """Lockstep: it reaches the gateway, and its result the journal, after this job's (Ray does not keep the
    order of calls)."""


Outcome = dict[str, Any]
"""What a shell answers to the run loop: "state" (a final job state), "job_id", "seq", "reason"."""


class _Turn:
    """How far a job is, for the one that follows it."""

    def __init__(self) -> None:
        self.previous: _Turn | None = None
        self.accepted = asyncio.Event()
        self.over = asyncio.Event()

    async def before(self) -> None:
        """Wait until the job before this one is journaled, or has failed."""
        if self.previous is not None:
            await self.previous.wait_for(self.previous.over)
            self.previous = None

    @staticmethod
    async def wait_for(event: asyncio.Event) -> None:
        """Wait, but not for ever: the job may be one of a desk that died."""
        try:
            async with asyncio.timeout(FOLLOWED_S):
                await event.wait()
        except TimeoutError:
            log.warning("the job before was not heard of", waited_s=FOLLOWED_S)


class JobDesk:
    """Does orders for one actor; ``me`` is its name in journal and logs.  For one event loop."""

    def __init__(self, state: Path, me: str) -> None:
        self.state, self.me = state, me
        self.journal = JournalClient(state, me, JOURNAL_DEADLINE_S)
        self.gateway = GatewayLink(state, me)
        self._readers: dict[str, JournalReader] = {}
        self._started: dict[str, RunStarted] = {}
        self._under_way: dict[str, asyncio.Lock] = {}
        self._turns: dict[str, _Turn] = {}

    async def close(self) -> None:
        """Close every link and file; safe to repeat."""
        await self.journal.close()
        await self.gateway.close()
        self.forget()

    def forget(self) -> None:
        """Close the journals that were read."""
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()
        self._started.clear()

    def reader(self, run: str) -> JournalReader:
        """The journal of a run, opened once; the one of another run is closed."""
        if run not in self._readers:
            self.forget()
            self._readers[run] = JournalReader(run_file(self.state, run))
        return self._readers[run]

    def started(self, run: str) -> RunStarted:
        """How the run began: campaign, limits, time scale."""
        if run not in self._started:
            reader = self.reader(run)
            self._started[run] = reader.started()
        return self._started[run]

    async def commit(self, run: str, *records: tuple[str, RecordBody]) -> tuple[int, ...]:
        """Commit (key, body) pairs in one transaction; their sequence numbers."""
        return await self.journal.commit(
            run, [Record(key=key, actor=self.me, body=body) for key, body in records]
        )

    def settled(self, order: Order) -> Outcome | None:
        """What the journal says of the job, if it is over."""
        reader = self.reader(order.run)
        for kind in RESULT_KEYS:
            record = reader.get(f"{kind}:{order.job_id}")
            if record is None:
                continue
            if isinstance(record.body, AttemptEnded):
                return _outcome(record.body.state, order.job_id, record.seq, record.body.reason)
            return _outcome(JobState.FINISHED, order.job_id, record.seq, "")
        return None

    async def perform(
        self,
        order: Order,
        issue: Callable[[], JobIssued],
        result: Callable[[JobIssued, JobResult], tuple[Sequence[tuple[str, RecordBody]], Outcome]],
        on_chunk: Callable[[Chunk], None] | None = None,
    ) -> Outcome:
        """Do one order to its end.

        Args:
            order: which attempt.
            issue: makes the record that is written before the command is sent; not called if the journal
                has it already (the recipe on record is used then).
            result: makes the records of a finished job (the first one is the result) and additions to the
                outcome.  Called in a thread: it may compute.
            on_chunk: hears every chunk as it comes.

        Raises:
            StaleEpochError: the lease is lost.
            DiskFullError, StorageError: nothing was measured, or its result waits in the spool.
            DeadlineError: gateway or journal did not answer in time; saying the order again is safe.
        """
        async with self._alone(order.job_id):
            done = self.settled(order)
            if done is not None:
                await self.gateway.acknowledge(order.job_id, order.epoch)
                return done
            async with self._in_turn(order) as turn:
                issued = await self._issue(order, issue)
                if issued.epoch != order.epoch and await self.gateway.query(order.job_id) is None:
                    # Of an earlier owner, who can no longer send it: this is final.
                    return await self._end(order, JobState.DISCARDED, NEVER_ARRIVED)
                job = await self.gateway.run_job(
                    order.job_id,
                    issued.recipe,
                    order.epoch,
                    order.deadline_s,
                    order.priority,
                    on_chunk,
                    turn.accepted.set,
                )
                await turn.before()
                return await self._conclude(order, issued, job, result)

    async def _conclude(
        self,
        order: Order,
        issued: JobIssued,
        job: JobResult,
        result: Callable[[JobIssued, JobResult], tuple[Sequence[tuple[str, RecordBody]], Outcome]],
    ) -> Outcome:
        """Journal how it ended, and let the gateway forget it."""
        if job.end.state != JobState.FINISHED:
            return await self._end(order, job.end.state, job.end.reason)
        records, additions = await asyncio.to_thread(result, issued, job)
        seqs = await self.commit(order.run, *records)
        await self.gateway.acknowledge(order.job_id, order.epoch)
        outcome = _outcome(JobState.FINISHED, order.job_id, seqs[0], "")
        return {**outcome, **_times(job.end), **additions}

    async def _issue(self, order: Order, issue: Callable[[], JobIssued]) -> JobIssued:
        key = f"issued:{order.job_id}"
        known = self.reader(order.run).get(key)
        if known is not None:
            if not isinstance(known.body, JobIssued):
                raise StorageError(f"record {key} of run {order.run} is no JobIssued.")
            return known.body
        body = issue()
        await self.commit(order.run, (key, body))
        return body

    async def _end(self, order: Order, state: JobState, reason: str) -> Outcome:
        body = AttemptEnded(job_id=order.job_id, state=state.value, reason=reason)
        (seq,) = await self.commit(order.run, (f"ended:{order.job_id}", body))
        await self.gateway.acknowledge(order.job_id, order.epoch)
        log.info("attempt ended", job=order.job_id, state=state.value, reason=reason)
        return _outcome(state, order.job_id, seq, reason)

    @contextlib.asynccontextmanager
    async def _in_turn(self, order: Order) -> AsyncIterator[_Turn]:
        """Wait until the job that this one follows was accepted by the gateway or has failed."""
        turn = self._turn_of(order.job_id)
        if order.after:
            turn.previous = self._turn_of(order.after)
            await turn.previous.wait_for(turn.previous.accepted)
        try:
            yield turn
        finally:
            turn.accepted.set()
            turn.over.set()

    def _turn_of(self, job_id: str) -> _Turn:
        turn = self._turns.setdefault(job_id, _Turn())
        while len(self._turns) > REMEMBERED_TURNS:
            self._turns.pop(next(iter(self._turns)))
        return turn

    @contextlib.asynccontextmanager
    async def _alone(self, job_id: str) -> AsyncIterator[None]:
        """The same order said twice at a time is done once."""
        lock = self._under_way.setdefault(job_id, asyncio.Lock())
        try:
            async with lock:
                yield
        finally:
            if not lock.locked():
                self._under_way.pop(job_id, None)


def _outcome(state: str, job_id: str, seq: int, reason: str) -> Outcome:
    return {"state": str(state), "job_id": job_id, "seq": seq, "reason": reason}


def _times(end: EndOfStream) -> Outcome:
    return {"began_s": end.began_s, "ended_s": end.ended_s}
