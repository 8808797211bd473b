"""The worker as a whole, in this process, over fake electronics; the test is its guard."""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from fake_driver import FakeDriver, FakeElectronics
from gateway_parts import ENGAGE, FRAME, shipped_limits, sweep_at

from actors.gateway import worker as worker_module
from actors.gateway.internal import (
    AskEngage,
    AskPark,
    EngageAnswer,
    GuardBeat,
    Internal,
    InternalLink,
    LeaseNews,
    LeaseSeen,
    Leave,
    Parked,
    ParkOrder,
    Quiet,
    WorkerBeat,
    WorkerReady,
)
from actors.gateway.worker import Worker
from protocols.errors import DiskFullError, TunnelpilotError
from protocols.links.client import CommandClient
from protocols.messages.jobs import CHANGED_BY_OTHERS, FINAL_STATES, JobAnswer, JobState, QueryJob, SubmitJob
from protocols.messages.recipes import Indentation, Recipe

T = TypeVar("T")

PATIENCE_S = 10.0


def await_that(what: str, look: Callable[[], T | None]) -> T:
    """Look until it is true."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(0.002)
    raise AssertionError(f"awaited {what} for {PATIENCE_S} s")


class Bureau:
    """A worker in a thread, and a guard played by the test: it beats and grants, and parks when told to."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.electronics = FakeElectronics()
        monkeypatch.setattr(worker_module, "open_driver", lambda *_: FakeDriver(self.electronics, "worker"))
        ours, theirs = InternalLink.pair()
        options = argparse.Namespace(
            state=str(folder),
            limits=json.dumps(shipped_limits().flat()),
            driver="fake",
            driver_endpoint="",
            commands="tcp://127.0.0.1:0",
            data="tcp://127.0.0.1:0",
            link=theirs.detach(),
        )
        self.link = InternalLink(ours)
        self.worker = Worker(options)
        self.status: list[int] = []
        self.heard: list[Internal] = []
        self.dead = threading.Event()
        self.thread = threading.Thread(target=lambda: self.status.append(self.worker.run()))
        self.guard = threading.Thread(target=self._guard)
        self.thread.start()
        self.guard.start()
        ready = await_that("the worker", lambda: self.first(WorkerReady))
        self.client = CommandClient(ready.commands, "test", "worker")
        self.link.send(Parked(generation=0))
        self.link.send(LeaseNews(epoch=1, held=True))
        await_that("the lease", lambda: self.first(LeaseSeen))

    def first(self, kind: type[T]) -> T | None:
        """The first message of a kind."""
        return next((m for m in self.heard if isinstance(m, kind)), None)

    def submit(self, job_id: str, recipe: Recipe) -> JobAnswer:
        """Submit a job."""
        answer = self.client.request(SubmitJob(job_id=job_id, recipe=recipe, epoch=1, deadline_s=60.0), 5.0)
        assert isinstance(answer, JobAnswer)
        return answer

    def query(self, job_id: str) -> JobAnswer:
        """The state of a job."""
        answer = self.client.request(QueryJob(job_id=job_id), 5.0)
        assert isinstance(answer, JobAnswer)
        return answer

    def final(self, job_id: str) -> JobAnswer:
        """Wait for the end of a job."""

        def over() -> JobAnswer | None:
            answer = self.query(job_id)
            return answer if answer.state in FINAL_STATES else None

        return await_that(f"the end of {job_id}", over)

    def engage(self) -> None:
        """Bring the tip to the surface."""
        self.submit("t/engage/a1", ENGAGE)
        assert self.final("t/engage/a1").state is JobState.FINISHED

    def die(self) -> None:
        """The guard ends without a word."""
        self.dead.set()
        self.guard.join(PATIENCE_S)
        self.link.close()

    def close(self) -> None:
        """End everything."""
        self.electronics.release()
        if not self.dead.is_set():
            try:
                self.link.send(Leave())
            except TunnelpilotError:
                pass  # the worker has gone already
            self.thread.join(PATIENCE_S)
            self.die()
        self.thread.join(PATIENCE_S)
        self.client.close()
        assert not self.thread.is_alive()

    def _guard(self) -> None:
        beat_s = 0.0
        try:
            while not self.dead.is_set():
                if time.monotonic() > beat_s:
                    beat_s = time.monotonic() + 0.05
                    self.link.send(GuardBeat(epoch=1, held=True, latch_reason=""))
                message = self.link.receive(0.02)
                if message is None:
                    continue
                if not isinstance(message, WorkerBeat):
                    self.heard.append(message)
                if isinstance(message, AskEngage):
                    self.link.send(EngageAnswer(job_id=message.job_id, granted=True))
        except TunnelpilotError:
            pass  # the worker has ended


@pytest.fixture
def bureau(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bureau]:
    """A bureau of its own for each test."""
    opened = Bureau(tmp_path, monkeypatch)
    yield opened
    opened.close()


def test_a_worker_is_quiet_only_when_its_call_has_returned(bureau: Bureau) -> None:
    """Quiet comes with the end of the driver's call under way; the waiting job is discarded."""
    bureau.engage()
    bureau.electronics.hold_sweeps = True
    bureau.submit("t/d0001/a1", sweep_at())
    bureau.submit("t/d0002/a1", sweep_at())
    bureau.electronics.await_call("sweep")
    bureau.link.send(ParkOrder(generation=5, reason="test"))
    assert bureau.final("t/d0002/a1").state is JobState.DISCARDED
    assert bureau.first(Quiet) is None
    FakeDriver(bureau.electronics, "guard").withdraw()
    assert await_that("quiet", lambda: bureau.first(Quiet)).generation == 5
    assert bureau.final("t/d0001/a1").state is JobState.INTERRUPTED
    assert bureau.submit("t/d0003/a1", sweep_at()).state is JobState.REFUSED
    bureau.electronics.hold_sweeps = False
    bureau.link.send(Parked(generation=5))
    await_that("an open gate", lambda: not bureau.worker._gate.closed)
    bureau.submit("t/engage/a2", ENGAGE)
    assert bureau.final("t/engage/a2").state is JobState.FINISHED


def test_what_somebody_else_changed_discards_the_waiting_job(bureau: Bureau) -> None:
    """Nothing more is done after a change by others before a person could see it: the job that waits ends
    unacted, with the reason; a later one is acted on."""
    bureau.engage()
    bureau.electronics.hold_sweeps = True
    bureau.submit("t/d0001/a1", sweep_at())
    bureau.submit("t/d0002/a1", sweep_at(x_m=5e-9))
    bureau.electronics.await_call("sweep")
    bureau.electronics.setpoint_a = 3e-10
    bureau.electronics.release()
    changed = bureau.final("t/d0001/a1")
    assert changed.state is JobState.FAILED
    assert changed.reason.startswith(CHANGED_BY_OTHERS)
    waiting = bureau.final("t/d0002/a1")
    assert waiting.state is JobState.INTERRUPTED
    assert changed.reason in waiting.reason
    assert bureau.electronics.x_m == 0.0
    bureau.submit("t/d0003/a1", sweep_at(x_m=5e-9))
    assert bureau.final("t/d0003/a1").state is JobState.FINISHED


def test_a_worker_without_a_guard_parks_and_ends(bureau: Bureau) -> None:
    """The guard's end of the link closes in mid-sweep: withdrawn, verified, at rest, ended with status 0."""
    bureau.engage()
    bureau.electronics.hold_sweeps = True
    bureau.submit("t/d0001/a1", sweep_at())
    bureau.electronics.await_call("sweep")
    bureau.die()
    bureau.thread.join(PATIENCE_S)
    assert bureau.status == [0]
    assert bureau.electronics.withdrawn
    assert not bureau.electronics.feedback
    assert bureau.electronics.bias_v == shipped_limits().rest_bias
    names = bureau.electronics.names()
    assert names.index("withdraw") < names.index("stop") < len(names) - 1


def test_a_result_that_finds_no_room_is_not_finished(bureau: Bureau) -> None:
    """The commit fails: the job failed and says so; nothing is half stored; with room, work goes on."""
    bureau.engage()
    database = bureau.worker._spool._db
    bureau.electronics.hold_sweeps = True
    bureau.submit("t/d0001/a1", sweep_at(points=50_000, dwell_s=1e-4))
    bureau.electronics.await_call("sweep")
    database.pragma("max_page_count", int(database.pragma("page_count")))
    bureau.electronics.release()
    answer = bureau.final("t/d0001/a1")
    assert answer.state is JobState.FAILED
    assert "could not be written" in answer.reason
    assert bureau.worker._spool.stored_bytes == 0
    database.pragma("max_page_count", 1_000_000)
    bureau.submit("t/d0002/a1", sweep_at())
    assert bureau.final("t/d0002/a1").state is JobState.FINISHED
    stored = bureau.worker._spool.answer("t/d0001/a1")
    assert stored is not None
    assert stored.state is JobState.FAILED


def test_lines_of_a_frame_are_seen_while_it_runs(bureau: Bureau) -> None:
    """Three of four lines can be read before the frame has ended, its end only after the commit."""
    bureau.engage()
    bureau.electronics.hold_sweeps = True
    bureau.submit("t/f0001/a1", FRAME)
    await_that("three lines", lambda: bureau.worker._desk.read("t/f0001/a1", 2))
    assert bureau.worker._desk.read("t/f0001/a1", 3) is None
    bureau.electronics.release()
    assert bureau.final("t/f0001/a1").state is JobState.FINISHED
    assert bureau.worker._desk.read("t/f0001/a1", 4) is not None


def test_an_unrepeatable_job_that_fails_is_told_to_be_unknown(bureau: Bureau) -> None:
    """The electronics broke off in the middle of an indentation."""
    bureau.engage()
    bureau.electronics.refuse = {"indent": 1}
    bureau.submit("t/i0001/a1", Indentation(depth_m=1e-10, bias_v=0.1, dwell_s=0.01))
    assert bureau.final("t/i0001/a1").state is JobState.OUTCOME_UNKNOWN
    assert bureau.electronics.feedback


def test_a_signal_has_the_guard_park_first(bureau: Bureau) -> None:
    """SIGTERM to the worker alone: it asks for a park, and ends once that is confirmed."""
    bureau.worker.ask_to_leave("SIGTERM")
    asked = await_that("the question", lambda: bureau.first(AskPark))
    assert asked.cause == "signal"
    bureau.link.send(ParkOrder(generation=2, reason="SIGTERM"))
    bureau.link.send(Parked(generation=2))
    bureau.thread.join(PATIENCE_S)
    assert bureau.status == [0]


def test_an_intent_that_cannot_be_written_is_not_acted_on(bureau: Bureau) -> None:
    """No room for the intent: the submission is refused and the id stays free."""
    bureau.engage()
    database = bureau.worker._spool._db
    database.pragma("max_page_count", int(database.pragma("page_count")))
    moves = bureau.electronics.names().count("move")
    refused = 0
    for k in range(200):  # the last page has room for some
        try:
            bureau.submit(f"t/d{k:04d}/a1", sweep_at(x_m=1.0))
        except DiskFullError:
            refused += 1
            break
    assert refused == 1
    with pytest.raises(TunnelpilotError):
        bureau.submit("t/m0001/a1", sweep_at(x_m=1e-9))
    assert bureau.electronics.names().count("move") == moves
