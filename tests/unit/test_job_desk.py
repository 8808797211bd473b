"""The job desk against a played gateway and the real journal writer, both in this process: what is in which
book decides what is done, and nothing is done twice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic_run import campaign

from actors.journal.reader import JournalReader
from actors.journal.schema import run_file
from actors.journal.writer import Writer
from actors.runtime import gateway_link
from actors.runtime.gateway_link import JobResult
from actors.runtime.job_desk import NEVER_ARRIVED, JobDesk, Order, Outcome
from protocols.errors import DeadlineError, PeerError, StaleEpochError, StorageError, UsageError
from protocols.files.state_directory import publish_endpoints
from protocols.links.reactor import Reactor, Waker
from protocols.links.server import CommandServer, Request
from protocols.links.streams import StreamServer
from protocols.messages.data import Channel, Chunk, EndOfStream, FrameLines
from protocols.messages.jobs import (
    Acknowledged,
    AcknowledgeJob,
    JobAnswer,
    JobState,
    ListUnacknowledged,
    Priority,
    QueryJob,
    SubmitJob,
    UnacknowledgedJobs,
)
from protocols.messages.recipes import Move, Recipe
from protocols.messages.records import AttemptEnded, JobDone, JobIssued, RecordBody, RunStarted
from tests.wire.link_servers import DEADLINE_S, eventually_on_loop, reacting, serving_commands

RUN = "r"
JOB = "r/d0000/a1"
EPOCH = 5
RECIPE = Move(x_m=1e-9, y_m=2e-9)


@dataclass
class Plan:
    """What the gateway makes of a job: so many chunks of which ``there`` can be had by now, and its end."""

    chunks: int = 1
    state: JobState = JobState.FINISHED
    reason: str = ""
    there: int | None = None


@dataclass
class PlayedGateway:
    """A gateway whose instrument is a plan.  Survives its servers, as a spool does."""

    state: Path
    epoch: int = EPOCH
    plans: dict[str, Plan] = field(default_factory=dict)
    known: dict[str, Recipe] = field(default_factory=dict)
    submitted: list[SubmitJob] = field(default_factory=list)
    acknowledged: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    full: int = 0
    """So many submissions are told to come again."""
    on_message: Callable[[Any], None] = lambda _message: None

    @contextmanager
    def serving(self) -> Iterator[Waker]:
        """Listen on new ports and say where."""
        with (
            CommandServer("tcp://127.0.0.1:0", "worker") as commands,
            StreamServer("tcp://127.0.0.1:0", self) as streams,
        ):
            reactor = Reactor()
            reactor.add_commands(commands, self._answer)
            reactor.add_streams(streams)
            publish_endpoints(
                self.state, "gateway", worker_pid=1, commands=commands.endpoint, data=streams.endpoint
            )
            with reacting(reactor) as waker:
                yield waker

    def plan(self, job_id: str) -> Plan:
        """What becomes of a job; by default one chunk and a good end."""
        return self.plans.setdefault(job_id, Plan())

    def read(self, job_id: str, seq: int) -> Chunk | EndOfStream | None:
        """As ``StreamSource`` says."""
        if job_id not in self.known:
            raise UsageError(f"there is no job {job_id}.")
        plan = self.plan(job_id)
        if seq < (plan.chunks if plan.there is None else plan.there):
            channel = Channel(name="z", unit="m", values=np.zeros((1, 1, 2), dtype=np.float32))
            return Chunk(
                job_id=job_id, seq=seq, body=FrameLines(rows=(seq,), channels=(channel,), time_s=0.0)
            )
        if seq < plan.chunks:
            return None
        return EndOfStream(
            job_id=job_id,
            last_seq=plan.chunks - 1,
            state=plan.state,
            reason=plan.reason,
            began_s=10.0,
            ended_s=12.0,
        )

    def _answer(self, request: Request) -> None:
        self.on_message(request.message)
        match request.message:
            case SubmitJob() as submit:
                self._submit(request, submit)
            case QueryJob(job_id=job_id):
                self.asked.append(job_id)
                if job_id in self.known:
                    request.reply(JobAnswer(job_id=job_id, state=self.plan(job_id).state))
                else:
                    request.refuse(UsageError(f"there is no job {job_id}."))
            case AcknowledgeJob(job_id=job_id):
                self.acknowledged.append(job_id)
                request.reply(Acknowledged(job_id=job_id))
            case ListUnacknowledged():
                left = [j for j in self.known if j not in self.acknowledged]
                request.reply(
                    UnacknowledgedJobs(
                        jobs=tuple(JobAnswer(job_id=j, state=self.plan(j).state) for j in left)
                    )
                )
            case _:
                request.refuse(UsageError(f"no {type(request.message).__name__} is expected here."))

    def _submit(self, request: Request, submit: SubmitJob) -> None:
        self.submitted.append(submit)
        plan = self.plan(submit.job_id)
        if submit.epoch != self.epoch:
            request.refuse(StaleEpochError(f"epoch {submit.epoch} does not own the tip."))
        elif self.full:
            self.full -= 1
            request.reply(
                JobAnswer(
                    job_id=submit.job_id, state=JobState.REFUSED, reason="queue full", retry_after_s=0.001
                )
            )
        elif plan.state is JobState.REFUSED:
            request.reply(JobAnswer(job_id=submit.job_id, state=plan.state, reason=plan.reason))
        else:
            state = JobState.RUNNING if submit.job_id not in self.known else plan.state
            self.known.setdefault(submit.job_id, submit.recipe)
            request.reply(JobAnswer(job_id=submit.job_id, state=state))


@dataclass
class Books:
    """A state directory with a journal, a gateway and a desk; what a test asks for."""

    state: Path
    gateway: PlayedGateway
    desk: JobDesk
    issues: int = 0
    results: int = 0
    heard: list[int] = field(default_factory=list)
    result_error: Exception | None = None

    async def write(self, *records: tuple[str, RecordBody]) -> None:
        """Put records into the journal, as an earlier life would have."""
        await self.desk.commit(RUN, *records)

    async def perform(
        self, job_id: str = JOB, epoch: int = EPOCH, deadline_s: float = 20.0, after: str = ""
    ) -> Outcome:
        """Order a job; counts how often an issue and a result were made."""

        def issue() -> JobIssued:
            self.issues += 1
            return issued(job_id, epoch)

        def result(order: JobIssued, job: JobResult) -> Any:
            self.results += 1
            if self.result_error is not None:
                raise self.result_error
            body = JobDone(job_id=order.job_id, began_s=job.end.began_s, ended_s=job.end.ended_s)
            return [(f"done:{job_id}", body)], {"chunks": [c.seq for c in job.chunks]}

        order = Order(RUN, job_id, epoch, deadline_s, Priority.CAMPAIGN, after)
        async with asyncio.timeout(DEADLINE_S):
            return await self.desk.perform(order, issue, result, lambda chunk: self.heard.append(chunk.seq))

    def keys(self) -> list[str]:
        """Keys of the journal after the run's first record."""
        return keys(self.state)[1:]

    def ended(self, job_id: str = JOB) -> AttemptEnded:
        """How the journal says that an attempt ended."""
        with JournalReader(run_file(self.state, RUN)) as reader:
            record = reader.get(f"ended:{job_id}")
        assert record is not None
        assert isinstance(record.body, AttemptEnded)
        return record.body


def keys(state: Path) -> list[str]:
    """Keys of the journal in order."""
    with JournalReader(run_file(state, RUN)) as reader:
        return [r.key for r in reader.records()]


def issued(job_id: str = JOB, epoch: int = EPOCH) -> JobIssued:
    """An order on record."""
    return JobIssued(job_id=job_id, recipe=RECIPE, epoch=epoch)


def started() -> RunStarted:
    """The first record of every run."""
    return RunStarted(
        run=RUN,
        campaign=campaign(),
        campaign_text="",
        seed=1,
        versions={},
        limits={},
        simulated=True,
        time_scale=1.0,
    )


@contextmanager
def journal(state: Path) -> Iterator[None]:
    """The real writer in a thread."""
    writer = Writer(state, reserve_bytes=0)
    try:
        with serving_commands(writer.answer) as server:
            publish_endpoints(state, "journal", commands=server.endpoint)
            yield
    finally:
        writer.close()


@pytest.fixture
def at_desk(tmp_path: Path) -> Iterator[Callable[[Callable[[Books], Coroutine[Any, Any, None]]], None]]:
    """Runs a coroutine with the books; the run exists and the gateway serves."""
    gateway = PlayedGateway(tmp_path)

    def run(session: Callable[[Books], Coroutine[Any, Any, None]], served: bool = True) -> None:
        async def whole() -> None:
            books = Books(tmp_path, gateway, JobDesk(tmp_path, "test"))
            try:
                await books.write(("run", started()))
                await session(books)
            finally:
                await books.desk.close()

        with journal(tmp_path):
            if served:
                with gateway.serving():
                    asyncio.run(whole())
            else:
                asyncio.run(whole())

    yield run


def test_an_order_is_written_down_then_sent_then_its_result_kept_then_acknowledged(at_desk: Any) -> None:
    """Issue before submission, result before acknowledgement; the outcome tells state, number and times."""

    async def session(books: Books) -> None:
        seen: list[tuple[str, list[str]]] = []
        books.gateway.on_message = lambda m: seen.append((type(m).__name__, keys(books.state)[1:]))
        outcome = await books.perform()
        assert outcome == {
            "state": "finished",
            "job_id": JOB,
            "seq": 3,
            "reason": "",
            "began_s": 10.0,
            "ended_s": 12.0,
            "chunks": [0],
        }
        assert seen == [
            ("SubmitJob", [f"issued:{JOB}"]),
            ("AcknowledgeJob", [f"issued:{JOB}", f"done:{JOB}"]),
        ]
        (submit,) = books.gateway.submitted
        assert (submit.recipe, submit.epoch, submit.deadline_s) == (RECIPE, EPOCH, 20.0)

    at_desk(session)


def test_a_result_in_the_journal_is_the_answer(at_desk: Any) -> None:
    """What is measured is never submitted again; the spool is told once more that it may let go."""

    async def session(books: Books) -> None:
        first = await books.perform()
        again = await books.perform(epoch=EPOCH + 1)
        assert (again["state"], again["seq"]) == ("finished", first["seq"])
        assert len(books.gateway.submitted) == 1
        assert (books.issues, books.results) == (1, 1)
        assert books.gateway.acknowledged == [JOB, JOB]

    at_desk(session)


def test_an_end_in_the_journal_is_the_answer(at_desk: Any) -> None:
    """An attempt that is on record as ended stays ended, with its state and reason."""

    async def session(books: Books) -> None:
        end = AttemptEnded(job_id=JOB, state="interrupted", reason="the worker died")
        await books.write((f"issued:{JOB}", issued()), (f"ended:{JOB}", end))
        outcome = await books.perform()
        assert (outcome["state"], outcome["reason"]) == ("interrupted", "the worker died")
        assert books.gateway.submitted == []

    at_desk(session)


def test_an_old_order_that_never_arrived_is_discarded(at_desk: Any) -> None:
    """Issued under an earlier lease and unknown to the gateway: nobody can send it any more, so it ends as
    discarded and is never submitted."""

    async def session(books: Books) -> None:
        await books.write((f"issued:{JOB}", issued(epoch=EPOCH - 1)))
        outcome = await books.perform()
        assert (outcome["state"], outcome["reason"]) == ("discarded", NEVER_ARRIVED)
        assert (books.ended().state, books.ended().reason) == ("discarded", NEVER_ARRIVED)
        assert books.gateway.submitted == []
        assert books.gateway.asked == [JOB]
        assert (await books.perform())["seq"] == outcome["seq"]
        assert books.gateway.submitted == []

    at_desk(session)


def test_an_old_order_that_did_arrive_is_fetched(at_desk: Any) -> None:
    """Issued under an earlier lease and known to the gateway: its data come out of the spool."""

    async def session(books: Books) -> None:
        await books.write((f"issued:{JOB}", issued(epoch=EPOCH - 1)))
        books.gateway.known[JOB] = RECIPE
        outcome = await books.perform()
        assert (outcome["state"], outcome["chunks"]) == ("finished", [0])
        assert books.issues == 0
        assert books.keys() == [f"issued:{JOB}", f"done:{JOB}"]

    at_desk(session)


def test_an_order_of_this_lease_is_sent_again_as_it_was(at_desk: Any) -> None:
    """An actor died between issue and submission: the recipe on record is sent, no second one is made."""

    async def session(books: Books) -> None:
        other = Move(x_m=7e-9, y_m=7e-9)
        body = JobIssued(job_id=JOB, recipe=other, epoch=EPOCH)
        await books.write((f"issued:{JOB}", body))
        outcome = await books.perform()
        assert outcome["state"] == "finished"
        assert [s.recipe for s in books.gateway.submitted] == [other]
        assert books.issues == 0

    at_desk(session)


def test_the_same_order_said_at_the_same_time_is_done_once(at_desk: Any) -> None:
    """All who say it get the same outcome; one submission, one issue, one result."""

    async def session(books: Books) -> None:
        books.gateway.plans[JOB] = Plan(chunks=3, there=1)
        orders = [asyncio.ensure_future(books.perform()) for _ in range(2)]
        await eventually_on_loop(lambda: books.heard == [0])
        orders.append(asyncio.ensure_future(books.perform()))
        books.gateway.plans[JOB] = Plan(chunks=3)
        outcomes = await asyncio.gather(*orders)
        assert [(o["state"], o["seq"]) for o in outcomes] == [("finished", 3)] * 3
        assert len(books.gateway.submitted) == 1
        assert (books.issues, books.results) == (1, 1)
        assert books.heard == [0, 1, 2]

    at_desk(session)


def test_different_orders_do_not_wait_for_one_another(at_desk: Any) -> None:
    """While one job is under way another one is done."""

    async def session(books: Books) -> None:
        books.gateway.plans[JOB] = Plan(there=0)
        slow = asyncio.ensure_future(books.perform())
        await eventually_on_loop(lambda: JOB in books.gateway.known)
        assert (await books.perform("r/d0001/a1"))["state"] == "finished"
        assert not slow.done()
        books.gateway.plans[JOB] = Plan()
        assert (await slow)["state"] == "finished"

    at_desk(session)


def test_orders_in_lockstep_are_journaled_in_the_order_in_which_they_were_said(at_desk: Any) -> None:
    """What follows a job is sent after it and journaled after it, also if it is heard of first and would be
    done sooner."""

    async def session(books: Books) -> None:
        books.gateway.plans[JOB] = Plan(there=0)
        later = asyncio.ensure_future(books.perform("r/d0001/a1", after=JOB))
        first = asyncio.ensure_future(books.perform())
        await eventually_on_loop(lambda: "r/d0001/a1" in books.gateway.known)
        assert list(books.gateway.known)[:2] == [JOB, "r/d0001/a1"]
        assert not later.done()
        books.gateway.plans[JOB] = Plan()
        one, other = await first, await later
        assert one["seq"] < other["seq"]

    at_desk(session)


def test_a_stream_that_is_lost_in_the_middle_goes_on(at_desk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gateway is replaced while a job's chunks come: from the new one, on other ports, come those that
    are missing, and every chunk is heard once."""
    monkeypatch.setattr(gateway_link, "SILENCE_S", 0.4)

    async def session(books: Books) -> None:
        books.gateway.plans[JOB] = Plan(chunks=6, there=3)
        with books.gateway.serving():
            order = asyncio.ensure_future(books.perform())
            await eventually_on_loop(lambda: books.heard == [0, 1, 2])
        books.gateway.plans[JOB] = Plan(chunks=6)
        with books.gateway.serving():
            outcome = await order
        assert (outcome["state"], outcome["chunks"]) == ("finished", [0, 1, 2, 3, 4, 5])
        assert books.heard == [0, 1, 2, 3, 4, 5]
        assert {s.job_id for s in books.gateway.submitted} == {JOB}
        assert {s.recipe for s in books.gateway.submitted} == {RECIPE}
        assert books.keys() == [f"issued:{JOB}", f"done:{JOB}"]
        assert books.desk.gateway.retries >= 1

    at_desk(session, served=False)


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (JobState.REFUSED, "parked: engage first."),
        (JobState.FAILED, "the current was not reached"),
        (JobState.DISCARDED, "discarded: parked (lease)"),
        (JobState.INTERRUPTED, "cancelled: pause now"),
        (JobState.OUTCOME_UNKNOWN, "the worker died"),
    ],
)
def test_a_bad_end_is_written_down(at_desk: Any, state: JobState, reason: str) -> None:
    """An attempt without a result is on record with the gateway's state and reason, and acknowledged; no
    result is made of what came before."""

    async def session(books: Books) -> None:
        books.gateway.plans[JOB] = Plan(chunks=2, state=state, reason=reason)
        outcome = await books.perform()
        assert (outcome["state"], outcome["reason"], outcome["job_id"]) == (state.value, reason, JOB)
        assert (books.ended().state, books.ended().reason) == (state.value, reason)
        assert books.results == 0
        assert books.gateway.acknowledged == [JOB]

    at_desk(session)


def test_a_full_queue_is_asked_again(at_desk: Any) -> None:
    """Told to come again, the desk does, under the same id."""

    async def session(books: Books) -> None:
        books.gateway.full = 3
        assert (await books.perform())["state"] == "finished"
        assert [s.job_id for s in books.gateway.submitted] == [JOB] * 4

    at_desk(session)


def test_a_lost_lease_leaves_the_attempt_open(at_desk: Any) -> None:
    """The gateway refuses the epoch: an error for the caller, and nothing is said to have ended, because the
    next owner may find it in the spool."""

    async def session(books: Books) -> None:
        books.gateway.epoch = EPOCH + 1
        with pytest.raises(StaleEpochError):
            await books.perform()
        assert books.keys() == [f"issued:{JOB}"]
        assert books.gateway.acknowledged == []

    at_desk(session)


def test_a_result_that_cannot_be_made_stays_in_the_spool(at_desk: Any) -> None:
    """Data that the caller cannot read are an error; neither committed nor acknowledged, and the order can be
    said again."""

    async def session(books: Books) -> None:
        books.result_error = PeerError("nonsense came.")
        with pytest.raises(PeerError, match="nonsense"):
            await books.perform()
        assert books.gateway.acknowledged == []
        assert books.keys() == [f"issued:{JOB}"]
        books.result_error = None
        outcome = await books.perform()
        assert (outcome["state"], outcome["chunks"]) == ("finished", [0])

    at_desk(session)


def test_a_gateway_that_comes_late_is_waited_for(at_desk: Any) -> None:
    """No gateway yet: the order is on record and is done as soon as there is one."""

    async def session(books: Books) -> None:
        order = asyncio.ensure_future(books.perform())
        await eventually_on_loop(lambda: books.desk.gateway.retries > 0)
        assert books.keys() == [f"issued:{JOB}"]
        with books.gateway.serving():
            assert (await order)["state"] == "finished"

    at_desk(session, served=False)


def test_a_gateway_that_never_comes_is_an_error_that_says_so(at_desk: Any) -> None:
    """After twice the job's own deadline: who waited, how long, for which job, and what was last heard."""

    async def session(books: Books) -> None:
        with pytest.raises(DeadlineError, match=rf"{JOB}; last: no gateway has run"):
            await books.perform(deadline_s=0.1)
        assert books.keys() == [f"issued:{JOB}"]

    at_desk(session, served=False)


def test_a_record_that_is_no_order_is_noticed(at_desk: Any) -> None:
    """A key that holds something else is a damaged journal, not an order."""

    async def session(books: Books) -> None:
        await books.write((f"issued:{JOB}", AttemptEnded(job_id=JOB, state="failed", reason="")))
        with pytest.raises(StorageError, match="no JobIssued"):
            await books.perform()
        assert books.gateway.submitted == []

    at_desk(session)


def test_a_desk_can_be_closed_twice_and_another_one_reads_on(at_desk: Any) -> None:
    """What one desk has done is settled for the next."""

    async def session(books: Books) -> None:
        await books.perform()
        await books.desk.close()
        await books.desk.close()
        books.desk = JobDesk(books.state, "another")
        assert books.desk.settled(Order(RUN, "r/d0001/a1", EPOCH, 1.0)) is None
        settled = books.desk.settled(Order(RUN, JOB, EPOCH, 1.0))
        assert settled == {"state": "finished", "job_id": JOB, "seq": 3, "reason": ""}

    at_desk(session)
