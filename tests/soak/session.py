"""One session: processes, a small campaign, garbage on every port meanwhile, and what the books say then."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from tests.soak.bombardment import Bombardment
from tests.soak.subjects import PORTS, Subject, Watch

CAMPAIGN = Path(__file__).parent / "campaign.toml"


@dataclass
class Outcome:
    """What a session ended with; ``faults`` names all that was wrong."""

    subjects: list[Subject]
    ports: int
    sent: dict[str, int]
    spectra: int
    comparison: Comparison
    faults: list[str]


def campaign(points: int = 100_000) -> Campaign:
    """The campaign that runs meanwhile, with so many spectra at most."""
    read = parse_campaign(CAMPAIGN.read_text(encoding="utf-8"), str(CAMPAIGN))
    return msgspec.structs.replace(read, planner=msgspec.structs.replace(read.planner, points=points))


@contextmanager
def processes(state: Path) -> Iterator[Gateway]:
    """stmsim, journal writer and stmgate in one state directory."""
    made = campaign()
    scale = str(made.instrument.time_scale)
    sim = Simulator(state, "--sample", made.instrument.sample, "--time-scale", scale)
    writer = subprocess.Popen([sys.executable, "-m", "actors.journal.writer", "--state", str(state)])
    try:
        await_that("the journal writer", lambda: read_endpoints(state, "journal")["pid"] == writer.pid)
        with gateway(state, sim.door) as gate:
            yield gate
    finally:
        writer.send_signal(signal.SIGTERM)
        writer.wait(20)
        sim.close()


def under_garbage(state: Path, seconds: float, seed: int) -> Outcome:
    """A run by hand (no daemon) with the ports of stmgate, stmsim and the journal writer under garbage."""
    with processes(state) as gate:
        gate.acquire()
        watch = Watch(state, PORTS)
        shells = Bombardment(seconds, seed, watch.endpoints)
        try:
            with watch.probing():
                run = BlockingRun(state, gate, campaign(), go_on=lambda: not shells.over)
                asyncio.run(_carry_out(run))
                told = shells.result()
        finally:
            shells.close()
        subjects = watch.conclude()
    return judge(state, RUN, subjects, told)


async def _carry_out(run: BlockingRun) -> None:
    try:
        await run.run()
    finally:
        await run.close()


def judge(state: Path, run: str, subjects: list[Subject], told: dict[str, Any]) -> Outcome:
    """Look into the books; nothing writes them any more."""
    faults = [f"{subject.name}: {fault}" for subject in subjects for fault in subject.faults]
    faults += [f"attack: {fault}" for fault in told["faults"]]
    report = check_run(run_file(state, run))
    faults += [f"journal: {problem}" for problem in report.problems]
    comparison = compare([run_file(state, run)], read_truth(truth_path(state)), read_spool(state))
    faults += [f"books: {row.job_id}: {row.problem}" for row in comparison.problems]
    spectra = report.kinds.get("SpectrumTaken", 0)
    if not spectra:
        faults.append("not one spectrum was taken meanwhile")
    return Outcome(subjects, told["ports"], told["counts"], spectra, comparison, faults)
