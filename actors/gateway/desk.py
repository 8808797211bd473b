"""The worker's answers: what becomes of each submission, question, cancellation and acknowledgement.

Used by the worker's main thread alone; it meets the job thread in the queue and in the spool.
"""

from __future__ import annotations

import math
import os
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

import msgspec
import structlog

from actors.gateway.executor import Executor
from actors.gateway.interlocks import check_recipe, duration_s
from actors.gateway.queue import Job, JobQueue
from actors.gateway.spool import Spool, estimated_bytes, recipe_digest
from protocols.errors import (
    DiskFullError,
    LatchedError,
    LimitError,
    StaleEpochError,
    StorageError,
    TunnelpilotError,
    UnknownMessageError,
    UsageError,
)
from protocols.files.limits_toml import Limits
from protocols.instrument.driver import DriverInfo
from protocols.messages.base import Message
from protocols.messages.control import WorkerQuery, WorkerStatus
from protocols.messages.data import Chunk, EndOfStream
from protocols.messages.jobs import (
    Acknowledged,
    AcknowledgeJob,
    CancelJob,
    JobAnswer,
    JobState,
    ListUnacknowledged,
    QueryJob,
    SubmitJob,
    UnacknowledgedJobs,
)
from protocols.messages.recipes import Engage, Park

log = structlog.get_logger(__name__)

LONGEST_ID = 200
REMEMBERED_ENDS = 4
"""Jobs that ended most recently whose chunks are still in memory."""

LEAST_RETRY_S = 0.05


class Ownership(Protocol):
    """What the guard has said of the lease."""

    epoch: int
    held: bool
    latch_reason: str


class Desk:
    """Everything the worker's command socket serves, and the source of its streams."""

    def __init__(
        self,
        spool: Spool,
        queue: JobQueue,
        executor: Executor,
        limits: Limits,
        info: DriverInfo,
        ownership: Ownership,
        tip_parking: Callable[[], bool],
    ) -> None:
        self._spool, self._queue, self._executor = spool, queue, executor
        self._limits, self._info, self._ownership = limits, info, ownership
        self._tip_parking = tip_parking
        self._recent: OrderedDict[str, Job] = OrderedDict()
        self._unsaved: OrderedDict[str, tuple[EndOfStream, str]] = OrderedDict()
        self.settled = True
        """Whether the jobs of a dead predecessor have their final states on disk."""
        self.counts = {"finished": 0, "refused": 0, "discarded": 0}
        self.statistics: Callable[[], tuple[int, int]] = lambda: (0, 0)
        """Streams open, and malformed messages."""

    def answer(self, message: Message) -> Message:
        """The answer to one message.

        Raises:
            TunnelpilotError: goes back as a refusal.
        """
        match message:
            case SubmitJob():
                return self._submit(message)
            case QueryJob():
                return self._query(message.job_id)
            case CancelJob():
                return self._cancel(message)
            case AcknowledgeJob():
                return self._acknowledge(message)
            case ListUnacknowledged():
                return UnacknowledgedJobs(jobs=self._spool.unacknowledged(message.run))
            case WorkerQuery():
                return self._status()
            case _:
                kind = type(message).__name__
                raise UnknownMessageError(f"the worker has nothing to do with a {kind}.", kind=kind)

    # Streams

    def read(self, job_id: str, seq: int) -> Chunk | EndOfStream | None:
        """Chunk ``seq`` of a job, its end, or None while there is none yet.

        Raises:
            UsageError: there is no such job.
            StorageError: its data was acknowledged and is gone.
        """
        job = self._queue.find(job_id) or self._recent.get(job_id)
        if job is not None:
            if seq < len(job.chunks):
                return job.chunks[seq]
            return None if job.end is None else _end_at(job.end, seq)
        end = self._unsaved[job_id][0] if job_id in self._unsaved else self._spool.end(job_id)
        if end is None:
            found = self._spool.find(job_id)
            if found is None:
                raise UsageError(f"there is no job {job_id}.", "Submit it first.")
            return None
        if seq > end.last_seq:
            return _end_at(end, seq)
        chunk = self._spool.chunk(job_id, seq)
        if chunk is None:
            raise StorageError(f"the data of {job_id} was acknowledged and is gone.", "It is in the journal.")
        return chunk

    def ended(self, job: Job, end: EndOfStream) -> None:
        """A job has its end on disk (or could not be written: see ``not_saved``); readers may see it."""
        self._recent[job.job_id] = job
        while len(self._recent) > REMEMBERED_ENDS:
            self._recent.popitem(last=False)
        job.end = end
        key = {JobState.FINISHED: "finished", JobState.REFUSED: "refused", JobState.DISCARDED: "discarded"}
        if end.state in key:
            self.counts[key[end.state]] += 1

    def not_saved(self, end: EndOfStream, limit: str) -> None:
        """The end of a job could not be written; it is tried again before anything new is accepted."""
        self._unsaved[end.job_id] = (end, limit)

    # Keeping the waiting jobs honest

    def discard_waiting(self, reason: str) -> None:
        """Give every waiting job its end."""
        for job in self._queue.take_all_ready():
            self._end_waiting(job, "park", f"discarded: {reason}")

    def look_at_deadlines(self, now_s: float) -> None:
        """Discard waiting jobs whose deadline has passed, and cut the running one."""
        for job in self._queue.ready:
            if job.overdue(now_s) and self._queue.take_ready(job.job_id) is not None:
                self._end_waiting(job, "deadline", "discarded: its deadline passed while it waited")
        running = self._queue.running
        if running is not None and running.overdue(now_s) and not running.cut and running.end is None:
            running.cut_kind = "deadline"
            running.cut = "its deadline passed while it was acted on"
            self._executor.interrupt()

    def settle(self) -> None:
        """Write the ends that could not be written before.

        Raises:
            StorageError: they still cannot.
        """
        if not self.settled:
            for found in self._spool.settle_after_restart():
                log.warning("job of a dead worker", job=found.job_id, state=found.state.value)
            self.settled = True
        while self._unsaved:
            job_id, (end, limit) = next(iter(self._unsaved.items()))
            self._spool.finish(end, [], limit)
            del self._unsaved[job_id]

    # One kind of message after the other

    def _submit(self, message: SubmitJob) -> JobAnswer:
        self._require_epoch(message.epoch)
        _require_id(message.job_id)
        known = self._known(message)
        if known is not None:
            return known
        if not self._ownership.held:
            raise StaleEpochError("nobody holds the lease.", "Acquire it, then submit again.")
        if not (math.isfinite(message.deadline_s) and message.deadline_s > 0.0):
            raise UsageError(f"a deadline of {message.deadline_s} s makes no sense.")
        place = self._queue.place_for(message.priority)
        if place == "full":
            return JobAnswer(
                job_id=message.job_id,
                state=JobState.REFUSED,
                reason="queue full",
                retry_after_s=self._retry_after_s(),
            )
        self.settle()
        try:
            self._check(message)
            if not isinstance(message.recipe, Park):
                self._spool.require_room(estimated_bytes(message.recipe) + self._promised_bytes())
        except DiskFullError:
            raise  # the id is not used up: it could not even be written down
        except TunnelpilotError as problem:
            return self._refuse(message, problem)
        job = Job(
            job_id=message.job_id,
            recipe=message.recipe,
            epoch=message.epoch,
            priority=message.priority,
            deadline_s=time.monotonic() + message.deadline_s,
        )
        job.machine.feed("accept")
        state = JobState.READY
        if place == "running":
            job.machine.feed("start")
            job.intent_written = True
            state = JobState.RUNNING
        self._spool.accept(job.job_id, job.recipe, job.epoch, state)
        self._queue.put(job)
        return JobAnswer(job_id=job.job_id, state=state)

    def _check(self, message: SubmitJob) -> None:
        if isinstance(message.recipe, Engage) and self._ownership.latch_reason:
            raise LatchedError(
                f"the tip is latched parked: {self._ownership.latch_reason}.", "Look at it, then stmctl ack."
            )
        check_recipe(message.recipe, self._limits, self._info)
        if isinstance(message.recipe, Engage | Park):
            return
        ahead = (self._queue.running, *self._queue.ready)
        engaging = any(job is not None and isinstance(job.recipe, Engage) for job in ahead)
        if not engaging and (self._tip_parking() or self._executor.engage_state != "engaged"):
            raise UsageError("parked: engage first.")

    def _known(self, message: SubmitJob) -> JobAnswer | None:
        """The answer to a repeated id."""
        job = self._queue.find(message.job_id)
        if job is not None:
            same = job.recipe == message.recipe
            answer = JobAnswer(job_id=job.job_id, state=job.state)
        else:
            found = self._spool.find(message.job_id)
            if found is None:
                return None
            same = found.digest == recipe_digest(message.recipe)
            answer = self._query(message.job_id)
        if not same:
            raise UsageError(
                f"the id {message.job_id} was used for another recipe.", "Every attempt has an id of its own."
            )
        return answer

    def _refuse(self, message: SubmitJob, problem: TunnelpilotError) -> JobAnswer:
        limit = str(problem.details.get("limit", "")) if isinstance(problem, LimitError) else ""
        self._spool.refuse(message.job_id, message.recipe, message.epoch, str(problem), limit)
        self.counts["refused"] += 1
        log.warning("job refused", job=message.job_id, reason=str(problem), limit=limit)
        return JobAnswer(job_id=message.job_id, state=JobState.REFUSED, reason=str(problem), limit=limit)

    def _query(self, job_id: str) -> JobAnswer:
        job = self._queue.find(job_id)
        if job is not None and job.end is None:
            return JobAnswer(job_id=job_id, state=job.state)
        if job_id in self._unsaved:
            end, limit = self._unsaved[job_id]
            return JobAnswer(job_id=job_id, state=end.state, reason=end.reason, limit=limit)
        found = self._spool.answer(job_id)
        if found is None:
            raise UsageError(
                f"there is no job {job_id}.", "It never arrived here, or was forgotten long ago."
            )
        return found

    def _cancel(self, message: CancelJob) -> JobAnswer:
        self._require_epoch(message.epoch)
        waiting = self._queue.take_ready(message.job_id)
        if waiting is not None:
            self._end_waiting(waiting, "cancel", f"cancelled: {message.reason}")
            return self._query(message.job_id)
        running = self._queue.running
        if (
            running is not None
            and running.job_id == message.job_id
            and running.end is None
            and not running.cut
        ):
            running.cut_kind = "cancel"
            running.cut = f"cancelled: {message.reason}"
            self._executor.interrupt()
        return self._query(message.job_id)

    def _acknowledge(self, message: AcknowledgeJob) -> Acknowledged:
        self._require_epoch(message.epoch)
        if message.job_id in self._unsaved:
            self.settle()
        if not self._spool.acknowledge(message.job_id):
            state = self._query(message.job_id).state
            raise UsageError(f"job {message.job_id} is {state.value}: there is nothing to acknowledge yet.")
        self._recent.pop(message.job_id, None)
        return Acknowledged(job_id=message.job_id)

    def _status(self) -> WorkerStatus:
        running = self._queue.running
        streams, malformed = self.statistics()
        return WorkerStatus(
            pid=os.getpid(),
            running=running.job_id if running else "",
            ready=", ".join(job.job_id for job in self._queue.ready),
            spool_unacknowledged=self._spool.unacknowledged_count(),
            spool_bytes=self._spool.stored_bytes,
            free_bytes=self._spool.free_bytes(),
            jobs_finished=self.counts["finished"],
            jobs_refused=self.counts["refused"],
            jobs_discarded=self.counts["discarded"],
            streams_open=streams,
            messages_malformed=malformed,
            time_scale=self._info.time_scale,
            simulated=self._info.simulated,
            instrument=self._executor.last_state,
            limits=self._limits.flat(),
            preamplifier_rail_a=self._info.preamplifier_rail_a,
        )

    # Details

    def _require_epoch(self, epoch: int) -> None:
        if epoch != self._ownership.epoch:
            raise StaleEpochError(
                f"epoch {epoch} does not own the tip (the present one is {self._ownership.epoch}).",
                "Acquire the lease again.",
            )

    def _end_waiting(self, job: Job, event: str, reason: str) -> None:
        job.machine.feed(event)
        end = EndOfStream(job_id=job.job_id, last_seq=-1, state=job.state, reason=reason)
        try:
            self._spool.finish(end, [])
        except StorageError as problem:
            log.error("the end of a waiting job could not be written", job=job.job_id, problem=str(problem))
            self.not_saved(end, "")
        log.info("waiting job ended", job=job.job_id, state=job.state.value, reason=reason)
        self.ended(job, end)

    def _promised_bytes(self) -> int:
        """What the jobs before it may still write."""
        ahead = (self._queue.running, *self._queue.ready)
        return sum(estimated_bytes(job.recipe) for job in ahead if job is not None)

    def _retry_after_s(self) -> float:
        running = self._queue.running
        if running is None:
            return LEAST_RETRY_S
        passed = time.monotonic() - running.began_monotonic_s if running.began_monotonic_s else 0.0
        left = duration_s(running.recipe, self._limits) / self._info.time_scale - passed
        return max(LEAST_RETRY_S, left)


def _require_id(job_id: str) -> None:
    if not job_id or len(job_id) > LONGEST_ID or not job_id.isprintable():
        raise UsageError(f"{job_id[:40]!r} is no job id.", "Write run/decision/attempt.")


def _end_at(end: EndOfStream, seq: int) -> EndOfStream:
    """The end for a reader who needs chunk ``seq``: an interrupted job may have lost lines that were already
    read."""
    return end if seq == end.last_seq + 1 else msgspec.structs.replace(end, last_seq=seq - 1)
