"""The loop that everybody writes first: plan, submit, wait, check, commit, fit, one after the other.

Gateway, journal, planner, quality check and simulated microscope are those of the real run; what is missing
is that anything happens while the tip measures.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from actors.analysis.scalarizers import scalar_of
from actors.dkl_planner.planner import Planner, Proposal
from actors.journal.client import JournalClient
from actors.journal.reader import JournalReader
from actors.journal.schema import run_file
from actors.journal.window_candidates import window_candidates
from actors.scan_controller.assembly import FrameAssembler, frame_taken
from actors.scan_controller.survey import SpeedLimit, plan_survey
from actors.spectroscopy_acquirer.quality import check_spectrum
from protocols.files.state_directory import read_endpoints
from protocols.links.streams import AsyncStreamClient
from protocols.messages.campaign import Campaign
from protocols.messages.data import Chunk, EndOfStream, FrameLines, SweepData
from protocols.messages.jobs import AcknowledgeJob, JobState
from protocols.messages.recipes import Engage, Frame, Recipe, Sweep
from protocols.messages.records import (
    Decision,
    JobDone,
    JobIssued,
    ModelState,
    Record,
    RecordBody,
    RunStarted,
    SpectrumTaken,
    Transform,
    WindowClosed,
    WindowOpened,
)
from tests.cluster.gateway_harness import Gateway, Simulator, await_that

RUN = "blocking"
ME = "blocking"
TIP_SPEED_M_S = 2e-6


def _always() -> bool:
    return True


class BlockingRun:
    """One window, one spectrum after the other, for as long as ``go_on`` says so."""

    def __init__(
        self,
        state: Path,
        gate: Gateway,
        campaign: Campaign,
        text: str = "",
        go_on: Callable[[], bool] = _always,
    ) -> None:
        self.state, self.gate, self.campaign, self.text = state, gate, campaign, text
        self.go_on = go_on
        self.taken = 0
        self.journal = JournalClient(state, ME)
        self.streams = AsyncStreamClient(gate.endpoint("data"), ME)

    async def run(self) -> None:
        """Survey, then as many spectra as the campaign allows."""
        started = RunStarted(
            run=RUN,
            campaign=self.campaign,
            campaign_text=self.text,
            seed=self.campaign.seed,
            versions={},
            limits={},
            simulated=True,
            time_scale=self.campaign.instrument.time_scale,
        )
        width = self.campaign.zoom.widths_m[0]
        window = WindowOpened(
            index=0,
            centre_x_m=0.0,
            centre_y_m=0.0,
            width_m=width,
            height_m=width,
            angle_rad=0.0,
            chosen_because="the campaign says so",
        )
        await self.commit(("started", started), ("window:0", window))
        await self.engage()
        await self.survey(plan_survey(window, self.campaign.imaging, SpeedLimit(tip_speed_m_s=TIP_SPEED_M_S)))
        with JournalReader(run_file(self.state, RUN)) as reader:
            candidates = window_candidates(reader, started, window)
        planner = Planner(self.campaign.planner, candidates, self.campaign.seed)
        while self.taken < self.campaign.planner.points and self.go_on():
            await self.point(planner, self.taken)
            self.taken += 1
        closed = WindowClosed(
            index=0, reason="all points taken", best_job="", best_x_m=0.0, best_y_m=0.0, best_scalar=0.0
        )
        await self.commit(("closed:0", closed))

    async def close(self) -> None:
        """Close the links."""
        await self.journal.close()
        await self.streams.close()

    async def engage(self) -> None:
        """Down to the surface."""
        job = f"{RUN}/engage-1/a1"
        imaging = self.campaign.imaging
        recipe = Engage(bias_v=imaging.bias_v, setpoint_a=imaging.setpoint_a, settle_s=0.05)
        _, end = await self.do(job, recipe)
        await self.commit((f"done:{job}", JobDone(job_id=job, began_s=end.began_s, ended_s=end.ended_s)))
        self.acknowledge(job)

    async def survey(self, frame: Frame) -> None:
        """Take the frame and commit it."""
        job = f"{RUN}/w00-survey/a1"
        assembler = FrameAssembler(frame)
        chunks, end = await self.do(job, frame)
        for chunk in chunks:
            assert isinstance(chunk.body, FrameLines)
            assembler.add(chunk.body)
        taken = frame_taken(job, 0, frame, assembler, Transform(), (end.began_s, end.ended_s), ("good", ""))
        await self.commit((f"frame:{job}", taken))
        self.acknowledge(job)

    async def point(self, planner: Planner, index: int) -> None:
        """Plan, measure, check, commit, tell the planner."""
        name = f"d{index:04d}"
        chosen = planner.propose([], index)
        await self.commit(
            (f"decision:{name}", self.decision(name, index, chosen)),
            (f"model:{name}", ModelState(decision=name, window=0, arrays=planner.state())),
        )
        job = f"{RUN}/{name}/a1"
        spectrum = self.campaign.spectrum
        recipe = Sweep(x_m=chosen.x_m, y_m=chosen.y_m, spectrum=spectrum)
        (chunk,), end = await self.do(job, recipe, name)
        data = chunk.body
        assert isinstance(data, SweepData)
        quality = check_spectrum(data, spectrum)
        scalar = scalar_of(data, self.campaign.scalar).value
        taken = SpectrumTaken(
            job_id=job,
            decision=name,
            window=0,
            sample_x_m=chosen.x_m,
            sample_y_m=chosen.y_m,
            piezo_x_m=data.x_m,
            piezo_y_m=data.y_m,
            recipe=spectrum,
            data=data,
            scalar=scalar,
            valid=quality.valid,
            quality=quality.failed,
            began_s=end.began_s,
            ended_s=end.ended_s,
        )
        await self.commit((f"spectrum:{job}", taken))
        self.acknowledge(job)
        planner.observe(job, chosen.x_m, chosen.y_m, scalar if quality.valid else float("nan"))

    async def do(self, job: str, recipe: Recipe, decision: str = "") -> tuple[list[Chunk], EndOfStream]:
        """Journal the intent, submit, receive everything."""
        issued = JobIssued(job_id=job, recipe=recipe, epoch=self.gate.epoch, decision=decision, window=0)
        await self.commit((f"issued:{job}", issued))
        self.gate.submit(job, recipe)
        chunks: list[Chunk] = []
        async for item in self.streams.stream(job, credits=16):
            if isinstance(item, EndOfStream):
                if item.state != JobState.FINISHED:
                    raise RuntimeError(f"{job}: {item.state}, {item.reason}")
                self.gate.renew()
                return chunks, item
            chunks.append(item)
        raise RuntimeError(f"{job}: its stream has no end")

    def acknowledge(self, job: str) -> None:
        """The journal has it."""
        self.gate.ask(AcknowledgeJob(job_id=job, epoch=self.gate.epoch))

    async def commit(self, *records: tuple[str, RecordBody]) -> None:
        """One transaction."""
        await self.journal.commit(RUN, [Record(key=key, actor=ME, body=body) for key, body in records])

    def decision(self, name: str, index: int, chosen: Proposal) -> Decision:
        """What was chosen, as a record."""
        return Decision(
            decision=name,
            window=0,
            index=index,
            cursor=0,
            observed=index,
            pending=(),
            seed=self.campaign.seed,
            model_before=0,
            candidate=chosen.candidate,
            x_m=chosen.x_m,
            y_m=chosen.y_m,
            kind=chosen.kind,
            acquisition=chosen.acquisition,
            mean=chosen.mean,
            std=chosen.std,
            beta=chosen.beta,
            reason=chosen.reason,
            alternatives=chosen.alternatives,
            seconds=chosen.seconds,
        )


def run_blocking(state: Path, campaign: Campaign, text: str) -> float:
    """Start microscope, gateway and journal writer in ``state``, run, end them; wall seconds of the run."""
    scale = str(campaign.instrument.time_scale)
    sim = Simulator(state, "--sample", campaign.instrument.sample, "--time-scale", scale)
    writer = subprocess.Popen([sys.executable, "-m", "actors.journal.writer", "--state", str(state)])
    gate: Gateway | None = None
    try:
        await_that("the journal writer", lambda: read_endpoints(state, "journal")["pid"] == writer.pid)
        gate = Gateway(state, sim.door)
        gate.acquire()
        began = time.monotonic()
        asyncio.run(_run(BlockingRun(state, gate, campaign, text)))
        return time.monotonic() - began
    finally:
        if gate is not None:
            gate.close()
        os.kill(writer.pid, signal.SIGTERM)
        writer.wait(20)
        sim.close()


async def _run(loop: BlockingRun) -> None:
    try:
        await loop.run()
    finally:
        await loop.close()
