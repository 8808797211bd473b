"""The gateway as processes over the simulated microscope: kills, lease, stop, restarts.  Truth is the
simulator's log."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from gateway_harness import (
    LONG_SPECTRUM,
    PATIENCE_S,
    Gateway,
    Simulator,
    await_that,
    gateway,
    is_alive,
    kill,
)

from protocols.errors import (
    RefusedError,
    StaleEpochError,
    TunnelpilotError,
    UnknownMessageError,
    UsageError,
)
from protocols.links.client import CommandClient
from protocols.links.stop import send_stop
from protocols.links.streams import AsyncStreamClient
from protocols.messages import simdoor
from protocols.messages.control import (
    AcknowledgeLatch,
    AcquireLease,
    Ping,
    ReleaseLease,
    RenewLease,
    WorkerQuery,
)
from protocols.messages.data import Chunk, EndOfStream, FrameLines, InstrumentState, StreamMessage, SweepData
from protocols.messages.jobs import (
    AcknowledgeJob,
    CancelJob,
    ListUnacknowledged,
    Priority,
    QueryJob,
)
from protocols.messages.recipes import BiasFrames, Engage, Frame, Move, Park


@pytest.fixture(scope="module")
def sim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    """One simulated microscope for all tests: it outlives its gateways anyway."""
    running = Simulator(tmp_path_factory.mktemp("sim"), "--time-scale", "1")
    yield running
    running.close()


@pytest.fixture
def gate(sim: Simulator, tmp_path: Path) -> Iterator[Gateway]:
    """A gateway of its own for each test, the tip parked."""
    with gateway(tmp_path, sim.door) as running:
        yield running


def is_withdrawn(sim: Simulator) -> bool:
    """What the microscope itself says."""
    with CommandClient(sim.door, "test", "stmsim") as door:
        state = door.request(simdoor.SimReadState(), 2.0)
    assert isinstance(state, InstrumentState)
    return state.withdrawn and not state.feedback


def await_sweeping(sim: Simulator) -> None:
    """Wait until a sweep is under way."""
    with CommandClient(sim.door, "test", "stmsim") as door:
        await_that("a sweep", lambda: getattr(door.request(simdoor.SimReadState(), 2.0), "sweeping", False))


def test_jobs_run_once_and_are_answered_from_the_spool(gate: Gateway, sim: Simulator) -> None:
    """A repeated id is answered with its state and its truth entry stays the only one, also after a
    restart."""
    gate.acquire()
    gate.engage()
    gate.sweep("run/d0001/a1")
    assert gate.final("run/d0001/a1").state == "finished"
    assert gate.sweep("run/d0001/a1").state == "finished"
    with pytest.raises(UsageError, match="another recipe"):
        gate.sweep("run/d0001/a1", x_m=1e-9)
    kill(gate.worker_pid())
    gate.parked("worker")
    await_that("a new worker", lambda: gate.ask(WorkerQuery()))
    assert gate.sweep("run/d0001/a1").state == "finished"
    assert len([e for e in sim.truth("sweep_done") if e.job_id == "run/d0001/a1"]) == 1
    pending = gate.ask(ListUnacknowledged(run="run"))
    assert [a.job_id for a in pending.jobs] == ["run/d0001/a1"]
    gate.ask(AcknowledgeJob(job_id="run/d0001/a1", epoch=gate.epoch))
    assert gate.ask(ListUnacknowledged(run="run")).jobs == ()
    assert gate.sweep("run/d0001/a1").state == "finished"


FRAME = Frame(
    centre_x_m=0.0,
    centre_y_m=0.0,
    width_m=5e-9,
    height_m=5e-9,
    pixels=16,
    lines=16,
    bias_v=0.5,
    setpoint_a=5e-11,
    line_time_s=0.01,
)


async def receive(gate: Gateway, job_id: str, from_seq: int = 0) -> list[StreamMessage]:
    """Everything of a stream."""
    client = AsyncStreamClient(gate.endpoint("data"), "test")
    try:
        return [item async for item in client.stream(job_id, credits=4, from_seq=from_seq)]
    finally:
        await client.close()


def test_data_arrives_by_credited_streams(gate: Gateway) -> None:
    """A sweep is one chunk and an end; frames come in lines; a job without data has an end; old ones are read
    again."""
    gate.acquire()
    gate.engage("data/engage/a1")
    gate.submit("data/f0001/a1", BiasFrames(frame=FRAME, biases_v=(0.5, 0.4)))
    gate.sweep("data/d0001/a1")
    *lines, end = asyncio.run(receive(gate, "data/f0001/a1"))
    assert isinstance(end, EndOfStream)
    assert (end.state, end.last_seq) == ("finished", len(lines) - 1)
    bodies = [item.body for item in lines if isinstance(item, Chunk)]
    rows = [(b.image, row) for b in bodies if isinstance(b, FrameLines) for row in b.rows]
    assert sorted(rows) == [(image, row) for image in (0, 1) for row in range(16)]
    for _ in range(2):
        chunk, end = asyncio.run(receive(gate, "data/d0001/a1"))
        assert isinstance(chunk, Chunk)
        assert isinstance(chunk.body, SweepData)
        assert isinstance(end, EndOfStream)
        assert end.final is not None
        assert end.ended_s > end.began_s
        assert end.settle_s == 0.02
    (end,) = asyncio.run(receive(gate, "data/engage/a1"))
    assert isinstance(end, EndOfStream)
    assert end.state == "finished"
    kill(gate.worker_pid())
    gate.parked("worker")
    await_that("a new worker", lambda: gate.ask(WorkerQuery()))
    chunk, _ = asyncio.run(receive(gate, "data/d0001/a1"))
    assert isinstance(chunk, Chunk)
    *tail, _ = asyncio.run(receive(gate, "data/f0001/a1", from_seq=1))
    assert len(tail) == len(lines) - 1


def test_a_stop_in_mid_sweep_retracts_and_interrupts(gate: Gateway, sim: Simulator) -> None:
    """Stop: the retraction begins in the sweep; the running job is interrupted, the waiting one discarded."""
    gate.acquire()
    gate.engage()
    gate.sweep("stop/d0001/a1", spectrum=LONG_SPECTRUM)
    assert gate.sweep("stop/d0002/a1").state == "ready"
    await_sweeping(sim)
    mark = sim.mark()
    answer = send_stop(gate.endpoint("safety"), "hands off")
    assert answer["withdrawn"]
    entry = sim.since(mark, "retraction")[0]
    assert entry.detail["during"] == "sweep"
    interrupted = gate.final("stop/d0001/a1")
    assert interrupted.state == "interrupted"
    assert "hands off" in interrupted.reason
    discarded = gate.final("stop/d0002/a1")
    assert discarded.state == "discarded"
    assert discarded.reason.startswith("discarded: parked")
    status = gate.parked("operator")
    assert status.last_park_reason == "hands off"
    refused = gate.sweep("stop/d0003/a1")
    assert refused.state == "refused"
    assert "engage first" in refused.reason
    gate.engage("stop/engage/a2")


def test_a_killed_worker_is_replaced_over_a_parked_tip(gate: Gateway, sim: Simulator) -> None:
    """kill -9 of the worker in mid-sweep: withdrawn at once; its attempt is interrupted; the lease goes
    on."""
    gate.acquire()
    gate.engage("kw/engage/a1")
    gate.sweep("kw/d0001/a1", spectrum=LONG_SPECTRUM)
    await_sweeping(sim)
    old = gate.worker_pid()
    at = kill(old)
    gate.parked("worker")
    retraction = next(e for e in sim.truth("retraction") if e.monotonic_s > at)
    assert retraction.detail["during"] == "sweep"
    await_that("a new worker", lambda: gate.worker_pid() not in (0, old))
    assert gate.final("kw/d0001/a1").state == "interrupted"
    gate.renew()
    gate.engage("kw/engage/a2")
    gate.sweep("kw/d0001/a2")
    assert gate.final("kw/d0001/a2").state == "finished"


def test_a_killed_guard_leaves_a_parked_tip_and_no_worker(gate: Gateway, sim: Simulator) -> None:
    """kill -9 of the guard in mid-sweep: the worker withdraws at once, confirms, and ends; the next start is
    clean."""
    epoch = gate.acquire()
    gate.engage("kg/engage/a1")
    gate.sweep("kg/d0001/a1", spectrum=LONG_SPECTRUM)
    await_sweeping(sim)
    worker = gate.worker_pid()
    at = kill(gate.process.pid)
    gate.process.wait(5)
    await_that("the worker's end", lambda: not is_alive(worker))
    assert is_withdrawn(sim)
    retraction = next(e for e in sim.truth("retraction") if e.monotonic_s > at)
    assert retraction.detail["during"] == "sweep"
    gate.start()
    assert gate.final("kg/d0001/a1").state == "interrupted"
    with pytest.raises(StaleEpochError):
        gate.ask(RenewLease(epoch=epoch))
    assert gate.acquire() > epoch


def test_when_both_die_the_next_start_parks_first(gate: Gateway, sim: Simulator) -> None:
    """Both halves killed while engaged: the tip stays engaged, and the next start withdraws before it
    serves."""
    gate.acquire()
    gate.engage("kb/engage/a1")
    worker = gate.worker_pid()
    os.kill(worker, signal.SIGSTOP)  # it cannot park when its guard dies
    kill(gate.process.pid)
    gate.process.wait(5)
    kill(worker)
    await_that("the worker's end", lambda: not is_alive(worker))
    assert not is_withdrawn(sim)
    mark = sim.mark()
    gate.start()
    assert sim.since(mark, "retraction")
    gate.parked()
    assert is_withdrawn(sim)


def test_a_worker_that_hangs_is_noticed_by_its_silence(gate: Gateway, sim: Simulator) -> None:
    """A stopped worker falls silent: parked, killed, replaced."""
    gate.acquire()
    gate.engage("hang/engage/a1")
    old = gate.worker_pid()
    os.kill(old, signal.SIGSTOP)
    status = gate.parked("worker")
    assert "silent" in status.last_park_reason
    await_that("a new worker", lambda: gate.worker_pid() not in (0, old))
    assert not is_alive(old)


def test_a_worker_that_dies_again_and_again_is_given_up(gate: Gateway, sim: Simulator) -> None:
    """After three restarts within a minute the tip stays parked, an alarm stands, and a person's ack starts
    anew."""
    seen: set[int] = set()
    for _ in range(4):
        pid = await_that("a worker", lambda: gate.worker_pid() not in {0, *seen} and gate.worker_pid())
        seen.add(pid)
        kill(pid)
    alarm = await_that("the alarm", lambda: [a for a in gate.guard().alarms if a.startswith("worker:")])
    assert "4 times" in alarm[0]
    with pytest.raises(RefusedError, match="no worker"):
        gate.ask(AcquireLease(owner="test"))
    gate.parked()
    gate.ask(AcknowledgeLatch(who="test"))
    gate.acquire()


def test_an_expired_lease_parks_and_lets_a_new_owner_in(gate: Gateway, sim: Simulator) -> None:
    """Nobody renews: parked for that reason; the old epoch is refused, a higher one granted after the
    park."""
    first = gate.acquire(duration_s=0.5)
    gate.parked("lease")
    assert is_withdrawn(sim)
    with pytest.raises(StaleEpochError):
        gate.ask(RenewLease(epoch=first))
    second = gate.acquire()
    assert second > first
    with pytest.raises(StaleEpochError):
        gate.submit("lease/d0001/a1", Park(reason="stale"), epoch=first)
    with pytest.raises(RefusedError, match="owned"):
        gate.ask(AcquireLease(owner="another"))


def test_release_parks_unless_told_otherwise(gate: Gateway, sim: Simulator) -> None:
    """A lease given back parks; kept engaged, the tip is parked when nobody takes over in time."""
    gate.acquire(duration_s=0.5)
    gate.renew()
    gate.ask(ReleaseLease(epoch=gate.epoch, park=False))
    assert gate.guard().lease == "handover"
    gate.parked("lease")
    gate.acquire()
    gate.engage("release/engage/a1")
    done = gate.ask(ReleaseLease(epoch=gate.epoch))
    assert done.note == "parked"
    assert is_withdrawn(sim)


def test_sigterm_parks_then_ends(gate: Gateway, sim: Simulator) -> None:
    """SIGTERM in mid-sweep: withdrawn, both processes end, exit status 0; SIGHUP is ignored."""
    gate.acquire()
    gate.engage("term/engage/a1")
    gate.sweep("term/d0001/a1", spectrum=LONG_SPECTRUM)
    await_sweeping(sim)
    gate.process.send_signal(signal.SIGHUP)
    worker = gate.worker_pid()
    gate.process.send_signal(signal.SIGTERM)
    assert gate.process.wait(15) == 0
    assert is_withdrawn(sim)
    assert not is_alive(worker)


@pytest.fixture
def fragile(tmp_path: Path) -> Iterator[Simulator]:
    """A microscope that may be damaged."""
    running = Simulator(tmp_path / "fragile")
    yield running
    running.close()


def test_a_crash_latches_until_a_person_acknowledges(fragile: Simulator, tmp_path: Path) -> None:
    """A tip crash parks and latches; engage is refused with the reason, over a restart too, until ack."""
    with gateway(tmp_path / "state", fragile.door) as gate:
        crash_and_acknowledge(gate, fragile)


def crash_and_acknowledge(gate: Gateway, sim: Simulator) -> None:
    """The course of the test above."""
    gate.acquire()
    gate.engage("crash/engage/a1")
    with CommandClient(sim.door, "test", "stmsim") as door:
        door.request(simdoor.SimFault(kind="tip_crash"), 2.0)
    await_that("the latch", lambda: gate.guard().latch == "latched")
    assert gate.guard().latch_reason
    gate.parked()
    gate.submit("crash/engage/a2", Engage(bias_v=0.5, setpoint_a=5e-11))
    refused = gate.final("crash/engage/a2")  # by the worker at once, or by the guard when it is asked
    assert refused.state == "refused"
    assert "latched" in refused.reason
    kill(gate.process.pid)
    gate.process.wait(5)
    gate.start()
    assert gate.guard().latch == "latched"
    gate.parked()
    gate.ask(AcknowledgeLatch(who="test"))
    assert gate.guard().latch == "open"
    gate.acquire()
    gate.engage("crash/engage/a3")


def test_a_withdrawal_takes_back_an_engage_that_was_decided_before(
    fragile: Simulator, tmp_path: Path
) -> None:
    """An engage that carries the mark of before a person's withdrawal is refused and the tip stays withdrawn;
    one that was decided afterwards is carried out; a mark of an earlier guard counts for nothing."""
    with gateway(tmp_path / "state", fragile.door) as gate:
        gate.acquire()
        decided = gate.guard().withdrawal_mark
        send_stop(gate.endpoint("safety"), "a person withdraws")
        gate.parked()
        recipe = Engage(bias_v=0.5, setpoint_a=5e-11, settle_s=0.05, withdrawal_mark=decided)
        gate.submit("mark/engage/a1", recipe)
        refused = gate.final("mark/engage/a1")
        assert refused.state == "refused"
        assert "withdrawn by a person" in refused.reason
        gate.parked()
        now = gate.guard().withdrawal_mark
        assert now != decided
        gate.submit("mark/engage/a2", msgspec.structs.replace(recipe, withdrawal_mark=now))
        assert gate.final("mark/engage/a2").state == "finished"


def test_electronics_that_vanish_and_come_back(fragile: Simulator) -> None:
    """The microscope is killed while engaged: alarm and park; restarted elsewhere, it is found again."""
    with gateway(fragile.state, "") as gate:
        gate.acquire()
        gate.engage("back/engage/a1")
        kill(fragile.process.pid)
        fragile.process.wait(5)
        await_that("the alarm", lambda: [a for a in gate.guard().alarms if a.startswith("driver:")])
        fragile.start()
        gate.parked("driver")
        gate.acquire() if not gate.guard().owner else gate.renew()
        gate.engage("back/engage/a2")
        gate.sweep("back/d0001/a1")
        assert gate.final("back/d0001/a1").state == "finished"


def test_queue_priorities_cancel_and_deadline(gate: Gateway, sim: Simulator) -> None:
    """One running, one ready of each rank; more is 'queue full' and does not use up the id; the operator goes
    first."""
    gate.acquire()
    gate.engage("queue/engage/a1")
    gate.sweep("queue/d0001/a1", spectrum=LONG_SPECTRUM)
    assert gate.sweep("queue/d0002/a1").state == "ready"
    full = gate.sweep("queue/d0003/a1")
    assert full.state == "refused"
    assert full.reason == "queue full"
    assert full.retry_after_s is not None
    with pytest.raises(UsageError, match="no job"):
        gate.ask(QueryJob(job_id="queue/d0003/a1"))
    operator = gate.submit("queue/op1/a1", Move(x_m=2e-9, y_m=0.0), priority=Priority.OPERATOR)
    assert operator.state == "ready"
    mark = sim.mark()
    gate.ask(CancelJob(job_id="queue/d0001/a1", epoch=gate.epoch, reason="enough"))
    cancelled = gate.final("queue/d0001/a1")
    assert (cancelled.state, cancelled.reason) == ("interrupted", "cancelled: enough")
    assert gate.final("queue/op1/a1").state == "finished"
    assert gate.final("queue/d0002/a1").state == "finished"
    begun = [e.job_id for e in sim.since(mark, "begin_job")]
    assert begun == ["queue/op1/a1", "queue/d0002/a1"]
    assert not is_withdrawn(sim)
    gate.submit("queue/d0004/a1", Move(x_m=20e-9, y_m=0.0, speed_m_s=1e-9), deadline_s=0.3)
    overdue = gate.final("queue/d0004/a1")
    assert overdue.state == "outcome unknown"
    assert "deadline" in overdue.reason


def test_a_second_gateway_and_bad_options_are_told_what_to_do(
    gate: Gateway, sim: Simulator, tmp_path: Path
) -> None:
    """Second instance, port in use, bad limits file, unknown driver: exit status 2 and one clear sentence."""

    def run(state: Path, *arguments: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "actors.console.stmgate", "--state", str(state)]
        done = subprocess.run(
            [*command, "--driver-endpoint", sim.door, *arguments],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        return done.returncode, done.stderr

    status, text = run(tmp_path)
    assert status == 2
    assert f"pid {gate.process.pid}" in text
    other = tmp_path / "other"
    status, text = run(other, "--safety", gate.endpoint("safety"))
    assert status == 2
    assert "in use" in text
    broken = tmp_path / "broken.toml"
    broken.write_text('bias_min = "3nm"\nbias_mix = 1\n')
    status, text = run(other, "--limits", str(broken))
    assert status == 2
    assert "bias_mix" in text
    assert "bias_min" in text
    assert "allowed" in text
    status, text = run(other, "--driver", "nonesuch")
    assert status == 2
    assert "nonesuch" in text


def test_unknown_and_misplaced_messages_are_refused(gate: Gateway) -> None:
    """A message for the other half, or for nobody, is a clear refusal; the gateway goes on."""
    with pytest.raises(UnknownMessageError):
        gate.ask(WorkerQuery(), "safety")
    with pytest.raises(TunnelpilotError):
        gate.ask(AcquireLease(owner="x"), "commands")
    assert gate.ask(Ping(sent_s=1.0), "safety").sent_s == 1.0
    assert gate.guard().worker_alive


def test_no_spectrum_is_measured_that_could_not_be_kept(sim: Simulator, tmp_path: Path) -> None:
    """With the spool's quota used up a sweep is refused before it is measured, and goes on after acks."""
    from importlib import resources

    text = resources.files("actors.gateway").joinpath("limits", "simulator.toml").read_text()
    limits = tmp_path / "tight.toml"
    limits.write_text(text.replace("spool_quota_bytes = 2_000_000_000", "spool_quota_bytes = 100_000"))
    with gateway(tmp_path / "state", sim.door, "--limits", str(limits)) as gate:
        gate.acquire()
        gate.engage("full/engage/a1")
        long = LONG_SPECTRUM.__class__(
            **{
                **{f: getattr(LONG_SPECTRUM, f) for f in LONG_SPECTRUM.__struct_fields__},
                "points": 2000,
                "dwell_s": 1e-4,
            }
        )
        mark = sim.mark()
        gate.sweep("full/d0001/a1", spectrum=long)
        assert gate.final("full/d0001/a1").state == "finished"
        with pytest.raises(TunnelpilotError, match="spool") as refused:
            gate.sweep("full/d0002/a1", spectrum=long)
        assert refused.value.code == "disk-full"
        assert [e.job_id for e in sim.since(mark, "sweep_done")] == ["full/d0001/a1"]
        gate.ask(AcknowledgeJob(job_id="full/d0001/a1", epoch=gate.epoch))
        gate.sweep("full/d0002/a1", spectrum=long)
        assert gate.final("full/d0002/a1").state == "finished"
