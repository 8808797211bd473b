"""The gateway as processes over Nanonis TCP: jobs, stops, others at the instrument, kills, lent settings.

The electronics are the simulated microscope's Nanonis door; its truth log and a client on a port of its own
say what really happened.
"""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest
from gateway_harness import LONG_SPECTRUM, Gateway, Simulator, await_that, gateway, kill

from actors.gateway.drivers.nanonis.channel import Channel
from actors.gateway.drivers.nanonis.link import Link
from protocols.links.stop import send_stop
from protocols.links.streams import AsyncStreamClient
from protocols.messages.control import AcknowledgeLatch, ReleaseLease
from protocols.messages.data import Chunk, FrameLines
from protocols.messages.jobs import CHANGED_BY_OTHERS, CancelJob, JobState
from protocols.messages.recipes import Frame, Move, Park
from protocols.nanonis.conventions import FrameArea, frame_area, frame_arguments

FRAME = Frame(
    centre_x_m=0.0,
    centre_y_m=0.0,
    width_m=5e-9,
    height_m=5e-9,
    pixels=16,
    lines=8,
    bias_v=0.5,
    setpoint_a=5e-11,
    line_time_s=0.02,
)


THEIR_AREA = {"centre_x_m": 11e-9, "centre_y_m": -4e-9, "width_m": 37e-9, "height_m": 29e-9, "angle_rad": 0.3}


def free_ports(count: int) -> list[int]:
    """Ports that nobody uses at the moment."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


class Laboratory:
    """A simulated microscope with five Nanonis ports: four are ours, the fifth is somebody else's."""

    def __init__(self, state: Path) -> None:
        ports = free_ports(5)
        self.sim = Simulator(state, "--nanonis-ports", ",".join(map(str, ports)))
        self.address = f"127.0.0.1:{','.join(map(str, ports[:4]))}"
        self.other = Channel(Link("127.0.0.1", ports[4], "somebody else"))

    def read(self, command: str, **arguments: Any) -> dict[str, Any]:
        """What somebody else reads at the instrument."""
        return self.other.ask(command, **arguments)

    def settings(self) -> dict[str, Any]:
        """Everything that our work changes and does not own."""
        stems = ("Scan.Frame", "Scan.Buffer", "Scan.Speed", "Scan.Props", "FolMe.Speed", "SafeTip.OnOff")
        more = ("SafeTip.Props", "BiasSpectr.Props", "BiasSpectr.Timing", "BiasSpectr.Limits")
        self.other.ask("BiasSpectr.Open")
        found = {stem: self.read(f"{stem}Get") for stem in (*stems, *more, "BiasSpectr.AdvProps")}
        found["LockIn.ModAmp"] = self.read("LockIn.ModAmpGet", modulator_number=1)
        return {stem: {k: str(v) for k, v in values.items()} for stem, values in found.items()}

    def close(self) -> None:
        """End it."""
        self.other.link.close()
        self.sim.close()


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laboratory]:
    """One for all tests."""
    running = Laboratory(tmp_path_factory.mktemp("sim"))
    yield running
    running.close()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Laboratory]:
    """A laboratory whose gateway, or microscope, is killed."""
    running = Laboratory(tmp_path / "sim")
    yield running
    running.close()


@pytest.fixture(scope="module")
def served(laboratory: Laboratory, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One gateway for the tests that leave it alive."""
    with gateway(tmp_path_factory.mktemp("gate"), laboratory.address, "--driver", "nanonis") as running:
        yield running


@pytest.fixture
def gate(served: Gateway) -> Iterator[Gateway]:
    """The gateway, ours; parked and given back at the end."""
    served.acquire()
    yield served
    if served.guard().latch_reason:
        served.ask(AcknowledgeLatch(who="test"))
    served.ask(ReleaseLease(epoch=served.epoch, park=True))
    served.parked()


def engaged(gate: Gateway) -> Gateway:
    """The gateway with its tip at the surface."""
    engaged.count += 1  # type: ignore[attr-defined]
    gate.engage(f"test/engage{engaged.count}/a1")  # type: ignore[attr-defined]
    return gate


engaged.count = 0  # type: ignore[attr-defined]


def run_frame(gate: Gateway, job: str) -> list[FrameLines]:
    """Scan, and collect its lines."""
    gate.submit(job, FRAME)

    async def collect() -> list[FrameLines]:
        async with AsyncStreamClient(gate.endpoint("data"), "test") as client:
            chunks = [item async for item in client.stream(job) if isinstance(item, Chunk)]
        return [chunk.body for chunk in chunks if isinstance(chunk.body, FrameLines)]

    return asyncio.run(collect())


def test_jobs_over_nanonis(gate: Gateway, laboratory: Laboratory) -> None:
    """Engage with SafeTip armed, sweep, frame, move, park; the truth knows them by their ids, and afterwards
    every setting is as it was found."""
    laboratory.other.ask("Scan.FrameSet", **frame_arguments(FrameArea(**THEIR_AREA)))
    laboratory.other.ask(
        "Scan.SpeedSet",
        forward_linear_speed_m_s=80e-9,
        backward_linear_speed_m_s=80e-9,
        forward_time_per_line_s=0.4625,
        backward_time_per_line_s=0.4625,
        keep_constant="linear speed",
        speed_ratio=1.0,
    )
    before, mark = laboratory.settings(), laboratory.sim.mark()
    engaged(gate)
    assert laboratory.read("SafeTip.OnOffGet") == {"status": True}
    gate.sweep("r1/d0001/a1", x_m=3e-9)
    assert gate.final("r1/d0001/a1").state == JobState.FINISHED
    lines = run_frame(gate, "r1/f0001/a1")
    assert gate.final("r1/f0001/a1").state == JobState.FINISHED
    assert [row for piece in lines for row in piece.rows] == list(range(8))
    area = frame_area(laboratory.read("Scan.FrameGet"))
    assert area.width_m == pytest.approx(5e-9, rel=1e-6)
    gate.submit("r1/m0001/a1", Move(x_m=1e-9, y_m=1e-9))
    assert gate.final("r1/m0001/a1").state == JobState.FINISHED
    done = {e.event: e.job_id for e in laboratory.sim.since(mark, "sweep_done", "frame_done")}
    assert done == {"sweep_done": "r1/d0001/a1", "frame_done": "r1/f0001/a1"}
    assert laboratory.settings() != before
    gate.submit("r1/park/a1", Park(reason="good night"))
    assert gate.final("r1/park/a1").state == JobState.FINISHED
    gate.parked()
    assert laboratory.settings() == before
    kept = [json.loads(p.read_bytes())["settings"] for p in (gate.state / "gateway").glob("nanonis_*.json")]
    assert {key for settings in kept for key in settings} <= {"LockIn.ModOnOff 1"}


def test_pixels_that_would_be_coerced_are_refused_at_once(gate: Gateway) -> None:
    """Multiples of 16 only: told when the job is submitted, with the next possible numbers."""
    answer = gate.submit("r2/f0002/a1", msgspec.structs.replace(FRAME, pixels=20))
    assert answer.state == JobState.REFUSED
    assert "Take 16 or 32" in answer.reason


def test_somebody_else_turns_the_bias(gate: Gateway, laboratory: Laboratory) -> None:
    """The next job fails with what changed, from what to what; the one after it works again."""
    engaged(gate)
    gate.sweep("r3/d0001/a1")
    assert gate.final("r3/d0001/a1").state == JobState.FINISHED
    laboratory.other.ask("Bias.Set", bias_v=0.4)
    gate.sweep("r3/d0002/a1")
    answer = gate.final("r3/d0002/a1")
    assert answer.state == JobState.FAILED
    assert answer.reason.startswith(CHANGED_BY_OTHERS)
    assert "bias is 400 mV instead of 500 mV" in answer.reason
    gate.sweep("r3/d0003/a1")
    assert gate.final("r3/d0003/a1").state == JobState.FINISHED


def test_somebody_else_switches_safetip_off(gate: Gateway, laboratory: Laboratory) -> None:
    """That is a change too, and it is armed again before work goes on."""
    engaged(gate)
    laboratory.other.ask("SafeTip.OnOffSet", status=False)
    gate.sweep("r4/d0001/a1")
    answer = gate.final("r4/d0001/a1")
    assert answer.state == JobState.FAILED
    assert "SafeTip is off" in answer.reason
    gate.sweep("r4/d0002/a1")
    assert gate.final("r4/d0002/a1").state == JobState.FINISHED
    assert laboratory.read("SafeTip.OnOffGet") == {"status": True}


def test_somebody_else_withdraws(gate: Gateway, laboratory: Laboratory) -> None:
    """The guard sees it and parks: the run will have to engage again."""
    engaged(gate)
    laboratory.other.ask("ZCtrl.Withdraw", wait=False, timeout_ms=-1)
    gate.parked("found-withdrawn")


def test_safetip_that_fires_latches(gate: Gateway, laboratory: Laboratory) -> None:
    """The electronics withdraw by themselves; the guard latches: a person has to look."""
    engaged(gate)
    laboratory.other.ask("SafeTip.PropsSet", auto_recovery=False, auto_pause_scan=False, threshold=1e-12)

    def latched() -> bool:
        status = gate.guard()
        return status.latch != "open" and "trip" in status.latch_reason and status.park == "parked"

    await_that("the latch", latched)
    laboratory.other.ask("SafeTip.PropsSet", auto_recovery=False, auto_pause_scan=False, threshold=5e-9)


def test_a_stop_in_mid_sweep(gate: Gateway, laboratory: Laboratory) -> None:
    """Withdrawn at once over the port of its own, though the sweep occupies the first port for 30 s."""
    engaged(gate)
    gate.sweep("r7/d0001/a1", spectrum=LONG_SPECTRUM)
    await_that("the sweep", lambda: laboratory.read("BiasSpectr.StatusGet")["status"])
    mark = laboratory.sim.mark()
    answer = send_stop(gate.endpoint("safety"), "test")
    assert answer["withdrawn"]
    gate.parked("operator")
    (retraction,) = [e for e in laboratory.sim.since(mark, "retraction") if e.detail["moved"]]
    assert retraction.detail["during"] == "sweep"
    final = gate.final("r7/d0001/a1")
    assert (final.state, final.reason) == (JobState.INTERRUPTED, "parked: test")


def test_a_cancelled_sweep_leaves_the_tip_engaged(gate: Gateway, laboratory: Laboratory) -> None:
    """Stopped over the worker's second port; feedback is on again."""
    engaged(gate)
    gate.sweep("r8/d0001/a1", spectrum=LONG_SPECTRUM)
    await_that("the sweep", lambda: laboratory.read("BiasSpectr.StatusGet")["status"])
    gate.ask(CancelJob(job_id="r8/d0001/a1", epoch=gate.epoch, reason="enough"))
    assert gate.final("r8/d0001/a1").state == JobState.INTERRUPTED
    assert laboratory.read("ZCtrl.OnOffGet") == {"status": True}
    gate.sweep("r8/d0002/a1")
    assert gate.final("r8/d0002/a1").state == JobState.FINISHED


def test_a_worker_killed_in_mid_sweep(gate: Gateway, laboratory: Laboratory) -> None:
    """The guard parks over its own ports and a new worker serves; settings are given back."""
    before = laboratory.settings()
    engaged(gate)
    gate.sweep("r9/d0001/a1", spectrum=LONG_SPECTRUM)
    await_that("the sweep", lambda: laboratory.read("BiasSpectr.StatusGet")["status"])
    old = gate.worker_pid()
    kill(old)
    gate.parked("worker")
    await_that("a new worker", lambda: gate.worker_pid() not in (0, old))
    assert laboratory.settings() == before
    gate.engage("test/engage/a2")
    gate.sweep("r9/d0002/a1")
    assert gate.final("r9/d0002/a1").state == JobState.FINISHED


def test_both_killed_and_started_again(tmp_path: Path, own: Laboratory) -> None:
    """Nobody is left to park: the next start does, and gives back what the dead had changed."""
    before = own.settings()
    with gateway(tmp_path, own.address, "--driver", "nanonis") as first:
        first.acquire()
        engaged(first)
        first.sweep("r10/d0001/a1")
        assert first.final("r10/d0001/a1").state == JobState.FINISHED
        worker = first.worker_pid()
        kill(first.process.pid)
        kill(worker)
        first.process.wait(10)
        assert own.read("ZCtrl.OnOffGet") == {"status": True}
        assert own.settings() != before
        first.start("--driver", "nanonis")
        first.parked("start")
        assert own.settings() == before
    assert not list((tmp_path / "gateway").glob("nanonis_*.json"))


def test_electronics_that_were_started_anew(tmp_path: Path, own: Laboratory) -> None:
    """The door dies and comes back on the same ports: guard and worker find it by themselves."""
    with gateway(tmp_path, own.address, "--driver", "nanonis") as gate:
        gate.acquire(3.0)
        gate.engage()
        own.sim.process.send_signal(signal.SIGKILL)
        own.sim.process.wait(10)
        await_that("the alarm", lambda: any("electronics" in a for a in gate.guard().alarms))
        own.sim.start()
        gate.parked()
        gate.acquire()
        gate.engage("test/engage/a2")
        gate.sweep("r11/d0001/a1")
        assert gate.final("r11/d0001/a1").state == JobState.FINISHED


def test_no_electronics_at_the_address_is_told(tmp_path: Path) -> None:
    """The gateway does not start, and says where nobody answers and what to look at."""
    ports = ",".join(map(str, free_ports(4)))
    with pytest.raises(AssertionError, match=r"no connection to 127\.0\.0\.1"):
        Gateway(tmp_path, f"127.0.0.1:{ports}", "--driver", "nanonis")
