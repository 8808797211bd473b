"""The worker's answers: epochs, repeated ids, refusals, streams, acknowledgements, and what a full disk
does."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from gateway_parts import ENGAGE, Bench, sweep_at

from actors.gateway.desk import Desk
from actors.gateway.queue import Job, JobQueue
from actors.gateway.spool import Spool
from protocols.errors import DiskFullError, StaleEpochError, StorageError, UnknownMessageError, UsageError
from protocols.messages.control import GuardQuery, WorkerQuery, WorkerStatus
from protocols.messages.data import Chunk, EndOfStream
from protocols.messages.jobs import (
    AcknowledgeJob,
    CancelJob,
    JobAnswer,
    JobState,
    ListUnacknowledged,
    Priority,
    QueryJob,
    SubmitJob,
)
from protocols.messages.recipes import Move, Park, Recipe


@dataclass
class Owner:
    """What the guard has said of the lease."""

    epoch: int = 7
    held: bool = True
    latch_reason: str = ""


class Office:
    """A desk over a real spool and queue; the tip is engaged and nobody acts on the jobs."""

    def __init__(self, folder: Path) -> None:
        self.bench = Bench()
        self.bench.engage()
        self.spool = Spool(folder / "spool.db", 1e9, 0)
        self.queue = JobQueue()
        self.owner = Owner()
        self.parking = False
        self.desk = Desk(
            self.spool,
            self.queue,
            self.bench.executor,
            self.bench.limits,
            self.bench.electronics.info,
            self.owner,
            lambda: self.parking,
        )

    def submit(self, job_id: str, recipe: Recipe | None = None, **changes: Any) -> JobAnswer:
        """Submit a job."""
        fields: dict[str, Any] = {"epoch": 7, "deadline_s": 60.0, **changes}
        answer = self.desk.answer(SubmitJob(job_id=job_id, recipe=recipe or sweep_at(), **fields))
        assert isinstance(answer, JobAnswer)
        return answer

    def query(self, job_id: str) -> JobAnswer:
        """The state of a job."""
        answer = self.desk.answer(QueryJob(job_id=job_id))
        assert isinstance(answer, JobAnswer)
        return answer

    def end_running(self, state: JobState = JobState.FINISHED) -> Job:
        """What the job thread does at the end of a job, without data."""
        job = self.queue.running
        assert job is not None
        end = EndOfStream(job_id=job.job_id, last_seq=-1, state=state)
        self.queue.advance()
        self.spool.finish(end, [])
        self.desk.ended(job, end)
        return job


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    """An office of its own for each test."""
    opened = Office(tmp_path)
    yield opened
    opened.spool.close()


def test_stale_and_missing_owners_are_refused(office: Office) -> None:
    """Another epoch may not submit, cancel or acknowledge; without a lease nothing new is taken."""
    for message in (
        SubmitJob(job_id="r/a/a1", recipe=sweep_at(), epoch=6, deadline_s=1.0),
        CancelJob(job_id="r/a/a1", epoch=6, reason="x"),
        AcknowledgeJob(job_id="r/a/a1", epoch=8),
    ):
        with pytest.raises(StaleEpochError):
            office.desk.answer(message)
    office.owner.held = False
    with pytest.raises(StaleEpochError, match="lease"):
        office.submit("r/a/a1")


def test_a_repeated_id_is_answered_and_never_queued_again(office: Office) -> None:
    """Running, ready and finished jobs answer a repetition with their state; another recipe is refused."""
    assert office.submit("r/a/a1").state is JobState.RUNNING
    assert office.submit("r/b/a1").state is JobState.READY
    assert office.submit("r/a/a1").state is JobState.RUNNING
    assert office.submit("r/b/a1").state is JobState.READY
    with pytest.raises(UsageError, match="another recipe"):
        office.submit("r/b/a1", sweep_at(x_m=1e-9))
    office.end_running()
    assert office.submit("r/a/a1").state is JobState.FINISHED
    office.owner.held = False
    assert office.submit("r/a/a1").state is JobState.FINISHED


def test_what_breaks_a_limit_is_refused_for_good(office: Office) -> None:
    """The answer names the limit; the id is used up; its stream has an end."""
    answer = office.submit("r/a/a1", sweep_at(x_m=1.0))
    assert (answer.state, answer.limit) == (JobState.REFUSED, "x_max")
    assert answer.retry_after_s is None
    assert office.query("r/a/a1").state is JobState.REFUSED
    end = office.desk.read("r/a/a1", 0)
    assert isinstance(end, EndOfStream)
    assert end.state is JobState.REFUSED


def test_a_full_queue_asks_to_come_again(office: Office) -> None:
    """The hint is in wall time, and the id is free."""
    office.submit("r/a/a1")
    office.submit("r/b/a1")
    answer = office.submit("r/c/a1")
    assert (answer.reason, answer.limit) == ("queue full", "")
    assert answer.retry_after_s is not None
    assert answer.retry_after_s > 0
    with pytest.raises(UsageError):
        office.query("r/c/a1")
    office.end_running()
    assert office.submit("r/c/a1").state is JobState.READY


def test_parked_and_latched_are_refused(office: Office) -> None:
    """Jobs need an engaged tip or an engage before them; an engage needs an open latch; a park always
    goes."""
    office.parking = True
    assert "engage first" in office.submit("r/a/a1").reason
    office.owner.latch_reason = "trip: boom"
    assert "boom" in office.submit("r/e/a1", ENGAGE).reason
    office.owner.latch_reason = ""
    assert office.submit("r/e/a2", ENGAGE).state is JobState.RUNNING
    assert office.submit("r/a/a2").state is JobState.READY
    assert office.submit("r/p/a1", Park(reason="x"), priority=Priority.OPERATOR).state is JobState.READY


def test_waiting_jobs_are_discarded_by_a_park(office: Office) -> None:
    """Each has its end, on disk and for its reader."""
    office.submit("r/a/a1")
    office.submit("r/b/a1")
    office.submit("r/o/a1", Move(x_m=0, y_m=0), priority=Priority.OPERATOR)
    office.desk.discard_waiting("parked (test)")
    for job_id in ("r/b/a1", "r/o/a1"):
        assert office.query(job_id).state is JobState.DISCARDED
        assert office.query(job_id).reason == "discarded: parked (test)"
        end = office.desk.read(job_id, 0)
        assert isinstance(end, EndOfStream)
    assert office.query("r/a/a1").state is JobState.RUNNING


def test_deadlines(office: Office) -> None:
    """A waiting job whose deadline has passed is discarded; a running one is cut and the electronics
    stopped."""
    office.submit("r/a/a1", deadline_s=1.0)
    office.submit("r/b/a1", deadline_s=1.0)
    office.desk.look_at_deadlines(time.monotonic() + 2.0)
    assert office.query("r/b/a1").state is JobState.DISCARDED
    running = office.queue.running
    assert running is not None
    assert running.cut_kind == "deadline"
    assert office.bench.electronics.names() == ["stop"]
    office.desk.look_at_deadlines(time.monotonic() + 3.0)
    assert office.bench.electronics.names() == ["stop"]


@pytest.mark.parametrize("deadline", [0.0, -1.0, float("nan"), float("inf")])
def test_senseless_requests(office: Office, deadline: float) -> None:
    """Deadlines and ids must make sense; unknown jobs and messages are told so."""
    with pytest.raises(UsageError):
        office.submit("r/a/a1", deadline_s=deadline)
    for job_id in ("", "x" * 300, "a\nb"):
        with pytest.raises(UsageError):
            office.submit(job_id)
    with pytest.raises(UsageError, match="no job"):
        office.query("r/z/a1")
    with pytest.raises(UsageError):
        office.desk.read("r/z/a1", 0)
    with pytest.raises(UnknownMessageError):
        office.desk.answer(GuardQuery())


def test_cancel(office: Office) -> None:
    """A waiting job is discarded, a running one cut; a job that is over is only told about."""
    office.submit("r/a/a1")
    office.submit("r/b/a1")
    cancelled = office.desk.answer(CancelJob(job_id="r/b/a1", epoch=7, reason="enough"))
    assert isinstance(cancelled, JobAnswer)
    assert (cancelled.state, cancelled.reason) == (JobState.DISCARDED, "cancelled: enough")
    office.desk.answer(CancelJob(job_id="r/a/a1", epoch=7, reason="enough"))
    running = office.queue.running
    assert running is not None
    assert running.cut == "cancelled: enough"
    office.end_running()
    again = office.desk.answer(CancelJob(job_id="r/a/a1", epoch=7, reason="enough"))
    assert isinstance(again, JobAnswer)
    assert again.state is JobState.FINISHED


def test_acknowledgements(office: Office) -> None:
    """Only what is over can be acknowledged; afterwards the data is gone and the job no longer listed."""
    office.submit("r/a/a1")
    with pytest.raises(UsageError, match="nothing to acknowledge"):
        office.desk.answer(AcknowledgeJob(job_id="r/a/a1", epoch=7))
    office.end_running()
    listed = office.desk.answer(ListUnacknowledged(run="r"))
    assert [j.job_id for j in listed.jobs] == ["r/a/a1"]  # type: ignore[attr-defined]
    office.desk.answer(AcknowledgeJob(job_id="r/a/a1", epoch=7))
    listed = office.desk.answer(ListUnacknowledged())
    assert listed.jobs == ()  # type: ignore[attr-defined]


def test_a_full_spool_refuses_before_measuring(office: Office) -> None:
    """The room of the jobs before it counts too; the id is not used up."""
    office.spool.quota_bytes = 8_000.0
    office.submit("r/a/a1")
    with pytest.raises(DiskFullError):
        office.submit("r/b/a1")
    office.spool.quota_bytes = 1e9
    assert office.submit("r/b/a1").state is JobState.READY


def test_an_end_that_could_not_be_written_is_written_before_anything_new(office: Office) -> None:
    """Until then the job answers with it from memory."""
    office.submit("r/a/a1")
    end = EndOfStream(job_id="r/a/a1", last_seq=-1, state=JobState.FAILED, reason="no room")
    office.queue.advance()
    office.desk.not_saved(end, "")
    assert office.query("r/a/a1").reason == "no room"
    assert office.desk.read("r/a/a1", 0) == end
    office.submit("r/b/a1")
    assert office.spool.end("r/a/a1") == end


def test_streams_of_running_and_finished_jobs(office: Office) -> None:
    """A running job has nothing yet; the end follows the last chunk; acknowledged data is told to be gone."""
    office.submit("r/a/a1")
    assert office.desk.read("r/a/a1", 0) is None
    job = office.queue.running
    assert job is not None
    outcome = office.bench.run(sweep_at())
    chunk = Chunk(job_id="r/a/a1", seq=0, body=outcome.chunks[0])
    job.chunks = [chunk]
    assert office.desk.read("r/a/a1", 0) is chunk
    assert office.desk.read("r/a/a1", 1) is None
    from protocols.messages.codec import encode_body

    end = EndOfStream(job_id="r/a/a1", last_seq=0, state=JobState.FINISHED)
    office.queue.advance()
    assert office.desk.read("r/a/a1", 1) is None  # its end is being written
    office.spool.finish(end, [(0, "r/a/a1", encode_body(chunk))])
    again = office.desk.read("r/a/a1", 0)
    assert isinstance(again, Chunk)
    assert office.desk.read("r/a/a1", 1) == end
    office.desk.answer(AcknowledgeJob(job_id="r/a/a1", epoch=7))
    with pytest.raises(StorageError, match="acknowledged"):
        office.desk.read("r/a/a1", 0)
    assert office.desk.read("r/a/a1", 1) == end


def test_the_end_of_an_interrupted_frame_fits_every_reader(office: Office) -> None:
    """A reader who got lines that the spool lost when the worker died is given the end where he is."""
    office.spool.accept("r/f/a1", sweep_at(), 7, JobState.RUNNING)
    office.spool.settle_after_restart()
    end = office.desk.read("r/f/a1", 5)
    assert isinstance(end, EndOfStream)
    assert (end.last_seq, end.state) == (4, JobState.INTERRUPTED)


def test_status(office: Office) -> None:
    """Counters, queue and limits."""
    office.submit("r/a/a1")
    office.submit("r/b/a1")
    office.submit("r/c/a1", sweep_at(x_m=1.0), priority=Priority.OPERATOR)
    status = office.desk.answer(WorkerQuery())
    assert isinstance(status, WorkerStatus)
    assert (status.running, status.ready, status.jobs_refused) == ("r/a/a1", "r/b/a1", 1)
    assert status.limits["setpoint_max"] == office.bench.limits.setpoint_max
