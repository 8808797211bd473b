"""One session: processes, a small campaign, garbage on every port meanwhile, and what the books say then."""

from __future__ import annotations

import asyncio
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from actors.journal.comparison import Comparison, compare
from actors.journal.integrity import check_run
from actors.journal.schema import run_file
from protocols.files.campaign_toml import parse_campaign
from protocols.files.state_directory import read_endpoints
from protocols.files.truth_log import read_truth, truth_path
from protocols.messages.campaign import Campaign
from tests.bench.blocking_loop import RUN, BlockingRun
from tests.chaos.verdict import read_spool
from tests.cluster.gateway_harness import Gateway, Simulator, await_that, gateway
from tests.soak.bombardment import NANONIS, OCCUPIED, OURS, Bombardment, Told, targets
from tests.soak.good_client import GoodClient
from tests.soak.subjects import PORTS, SPARE, SPARE_DOOR, Subject, Watch, nanonis_endpoints

CAMPAIGN = Path(__file__).parent / "campaign.toml"
ANY_FOUR = "0,0,0,0"
SPARE_MEMORY = 8 * 2**30
"""Address space of the spare microscope: no wish for billions of points takes all memory of this computer."""


@dataclass
class Outcome:
    """What a session ended with; ``faults`` names all that was wrong."""

    subjects: list[Subject]
    ports: int
    sent: dict[str, int]
    spectra: int
    comparison: Comparison
    round_trips_s: list[float]
    """Of the good client on a port of its own."""
    starved_s: float
    """The longest that the test's own process was kept waiting: above some tenths of a second the computer is
    busy with other things, and the gateway's halves rightly lose patience with each other."""
    served_s: list[float]
    """Until an honest client had its answer on an attacked port, from before it connected."""
    faults: list[str]


def campaign(points: int = 100_000) -> Campaign:
    """The campaign that runs meanwhile, with so many spectra at most."""
    read = parse_campaign(CAMPAIGN.read_text(encoding="utf-8"), str(CAMPAIGN))
    return msgspec.structs.replace(read, planner=msgspec.structs.replace(read.planner, points=points))


@contextmanager
def processes(state: Path) -> Iterator[Gateway]:
    """stmsim, journal writer and stmgate, which drives it over its Nanonis door, in one state directory."""
    made = campaign()
    scale = str(made.instrument.time_scale)
    more = ("--time-scale", scale, "--nanonis-ports", ANY_FOUR)
    sim = Simulator(state, "--sample", made.instrument.sample, *more)
    writer = subprocess.Popen([sys.executable, "-m", "actors.journal.writer", "--state", str(state)])
    try:
        await_that("the journal writer", lambda: read_endpoints(state, "journal")["pid"] == writer.pid)
        ports = read_endpoints(state, "sim")["nanonis_ports"]
        address = f"127.0.0.1:{','.join(map(str, ports))}"
        with gateway(state, address, "--driver", "nanonis") as gate:
            yield gate
    finally:
        writer.send_signal(signal.SIGTERM)
        writer.wait(20)
        sim.close()


@contextmanager
def spare_microscope(state: Path) -> Iterator[Path]:
    """A second stmsim, whose Nanonis ports serve anybody; its state directory."""
    sim = Simulator(state / SPARE, "--time-scale", "5", "--nanonis-ports", ANY_FOUR)
    try:
        resource.prlimit(sim.process.pid, resource.RLIMIT_AS, (SPARE_MEMORY, SPARE_MEMORY))
        yield state / SPARE
    finally:
        sim.close()


class Siege:
    """The bombardment of everything that listens, and the good client in the middle of it."""

    def __init__(
        self, state: Path, watch: Watch, seconds: float, seed: int, others: Sequence[str] = ()
    ) -> None:
        held, stream = nanonis_endpoints(state)
        served, other_stream = nanonis_endpoints(state / SPARE)
        watch.hold("guard", held)
        watch.hold("worker", held)
        aims = [
            *targets(OURS, watch.endpoints),
            *targets(OCCUPIED, [*held, *stream, *other_stream]),
            *targets(NANONIS, served[:-1]),
            *others,
        ]
        self._shells = Bombardment(seconds, seed, aims)
        self._good = GoodClient(seconds, served[-1])

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self._shells.over

    def result(self) -> tuple[Told, list[float]]:
        """Wait for its end; what was sent, and the good client's round trips (s)."""
        try:
            told = self._shells.result()
            round_trips, faults = self._good.result()
        finally:
            self.close()
        told.faults += faults
        return told, round_trips

    def close(self) -> None:
        """End it if it still goes on."""
        self._shells.close()
        self._good.close()


def under_garbage(state: Path, seconds: float, seed: int) -> Outcome:
    """A run by hand (no daemon) with the ports of stmgate, stmsim and the journal writer under garbage."""
    with spare_microscope(state), processes(state) as gate:
        gate.acquire()
        watch = Watch(state, (*PORTS, SPARE_DOOR))
        siege = Siege(state, watch, seconds, seed)
        try:
            with watch.probing():
                run = BlockingRun(state, gate, campaign(), go_on=lambda: not siege.over)
                asyncio.run(_carry_out(run))
                found = siege.result()
        finally:
            siege.close()
        subjects = watch.conclude()
    return judge(state, RUN, watch, subjects, found)


async def _carry_out(run: BlockingRun) -> None:
    try:
        await run.run()
    finally:
        await run.close()


def judge(
    state: Path, run: str, watch: Watch, subjects: list[Subject], found: tuple[Told, list[float]]
) -> Outcome:
    """Look into the books; nothing writes them any more."""
    told, round_trips = found
    faults = [f"{subject.name}: {fault}" for subject in subjects for fault in subject.faults]
    faults += [f"attack: {fault}" for fault in told.faults]
    report = check_run(run_file(state, run))
    faults += [f"journal: {problem}" for problem in report.problems]
    comparison = compare([run_file(state, run)], read_truth(truth_path(state)), read_spool(state))
    faults += [f"books: {row.job_id}: {row.problem}" for row in comparison.problems]
    spectra = report.kinds.get("SpectrumTaken", 0)
    if not spectra:
        faults.append("not one spectrum was taken meanwhile")
    return Outcome(
        subjects=subjects,
        ports=told.ports,
        sent=dict(told.counts),
        spectra=spectra,
        comparison=comparison,
        round_trips_s=round_trips,
        starved_s=watch.starved_s,
        served_s=told.served_s,
        faults=faults,
    )
