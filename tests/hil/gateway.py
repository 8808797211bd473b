"""The gateway as a laboratory runs it, guard and worker, over any driver; one job at a time."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from actors.scan_controller.assembly import FrameAssembler
from protocols.errors import TunnelpilotError
from protocols.files.limits_toml import Limits, limits_from_flat
from protocols.files.state_directory import read_endpoints
from protocols.links.stop import send_stop
from protocols.links.streams import AsyncStreamClient
from protocols.messages.control import AcknowledgeLatch, GuardStatus, ReleaseLease, WorkerQuery, WorkerStatus
from protocols.messages.data import Chunk, EndOfStream, FrameLines, InstrumentState, SweepData
from protocols.messages.jobs import FINAL_STATES, AcknowledgeJob, JobAnswer, JobState
from protocols.messages.recipes import Frame, Park, Recipe, Sweep
from tests.cluster.gateway_harness import Gateway, await_that, is_alive
from tests.hil.electronics import Electronics

LEASE_S = 10.0
RENEW_S = 2.0
PATIENCE_S = 30.0
"""Longest wait for anything but a measurement."""
GRACE_S = 60.0
"""A measurement may take so much longer than reckoned."""

Image = npt.NDArray[np.float64]


class LabGateway(Gateway):
    """A running gateway that holds its lease by itself while it waits."""

    def __init__(self, state: Path, electronics: Electronics, limits: Path) -> None:
        self.electronics = electronics
        self._jobs = 0
        self._renewed_s = 0.0
        self.seen_pids: set[int] = set()
        self._arguments = ("--driver", electronics.driver, "--limits", str(limits))
        super().__init__(state, electronics.endpoint, *self._arguments)

    def start(self, *arguments: str) -> None:
        """Start it and wait until it serves."""
        command = [
            *(sys.executable, "-m", "actors.console.stmgate", "--state", str(self.state)),
            *("--driver-endpoint", self.door, *(arguments or self._arguments)),
        ]
        self.process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE)
        self._drop_clients()
        self.seen_pids.add(self.process.pid)

        def serves() -> bool:
            if self.process.poll() is not None:
                raise AssertionError(f"stmgate ended with {self.process.returncode}: {self.errors().strip()}")
            found = read_endpoints(self.state, "gateway")
            return bool(found["pid"] == self.process.pid and found["worker_pid"])

        await_that("the gateway", serves, PATIENCE_S)
        self.seen_pids.add(self.worker_pid())

    # -- lease -----------------------------------------------------------------------------------------------

    def hold_lease(self) -> None:
        """Own the tip, and go on owning it."""
        if self.guard().owner:
            if time.monotonic() - self._renewed_s > RENEW_S:
                self.renew()
                self._renewed_s = time.monotonic()
            return
        self.acquire(LEASE_S)
        self._renewed_s = time.monotonic()

    def give_lease_back(self) -> None:
        """Nobody owns the tip, and it is parked."""
        if self.guard().owner:
            self.ask(ReleaseLease(epoch=self.epoch))
        self.parked()

    # -- jobs ------------------------------------------------------------------------------------------------

    def next_id(self, what: str) -> str:
        """An id that was never used."""
        self._jobs += 1
        return f"hil-{int(time.time() * 1e3):x}/{what}-{self._jobs:04d}/a1"

    def begin(self, recipe: Recipe, expected_s: float = 0.0) -> str:
        """Submit a job; its id."""
        self.hold_lease()
        job_id = self.next_id(type(recipe).__name__.lower())
        answer = self.submit(job_id, recipe, deadline_s=expected_s * 2.0 + GRACE_S)
        if answer.state is JobState.REFUSED:
            raise JobRefusedError(answer)
        return job_id

    def end_of(self, job_id: str, expected_s: float = 0.0) -> JobAnswer:
        """Wait for a job's final state, holding the lease."""

        def over() -> JobAnswer | None:
            answer = self.state_of(job_id)
            if answer.state in FINAL_STATES:
                return answer
            if time.monotonic() - self._renewed_s > RENEW_S:
                self.hold_lease()
            return None

        return await_that(f"the end of {job_id}", over, expected_s * 2.0 + GRACE_S)

    def outcome(self, recipe: Recipe, expected_s: float = 0.0) -> JobAnswer:
        """How a job ended, also one that was refused."""
        try:
            return self.end_of(self.begin(recipe, expected_s), expected_s)
        except JobRefusedError as refused:
            return refused.answer

    def carry_out(self, recipe: Recipe, expected_s: float = 0.0) -> tuple[list[Any], EndOfStream]:
        """Have a job carried out: its data, and its end.

        Raises:
            AssertionError: it did not finish; the text gives the gateway's reason.
        """
        job_id = self.begin(recipe, expected_s)
        answer = self.end_of(job_id, expected_s)
        assert answer.state is JobState.FINISHED, f"{job_id}: {answer.state.value}: {answer.reason}"
        *chunks, end = asyncio.run(self._received(job_id))
        assert isinstance(end, EndOfStream)
        self.ask(AcknowledgeJob(job_id=job_id, epoch=self.epoch))
        return [item.body for item in chunks if isinstance(item, Chunk)], end

    def topograph(self, frame: Frame, expected_s: float) -> tuple[Image, EndOfStream]:
        """A frame's z (m), shape (2, lines, pixels): forward and backward; every line is there."""
        assembler = FrameAssembler(frame)
        bodies, end = self.carry_out(frame, expected_s)
        for lines in bodies:
            assert isinstance(lines, FrameLines)
            assembler.add(lines)
        missing = assembler.progress.missing
        assert not missing, f"lines are missing: {missing[:5]}"
        z = next(image for image in assembler.images() if image.channel == "z")
        return np.asarray(z.values, dtype=np.float64), end

    def spectrum(self, sweep: Sweep, expected_s: float) -> SweepData:
        """One spectrum."""
        (body,), _ = self.carry_out(sweep, expected_s)
        assert isinstance(body, SweepData)
        return body

    async def _received(self, job_id: str) -> list[Any]:
        client = AsyncStreamClient(self.endpoint("data"), "qualification")
        try:
            return [item async for item in client.stream(job_id, credits=8)]
        finally:
            await client.close()

    # -- looking ---------------------------------------------------------------------------------------------

    def reading(self) -> InstrumentState:
        """What the guard reads from the electronics over its own connection, after this call began."""
        seen: list[float] = []

        def fresh() -> InstrumentState | None:
            state = self.guard().instrument
            if state is None:
                return None
            if not seen or state.time_s != seen[-1]:
                seen.append(state.time_s)
            return state if len(seen) > 2 else None  # the second may have been under way already

        return await_that("a new reading of the electronics", fresh, PATIENCE_S)

    def worker(self) -> WorkerStatus:
        """The worker's status."""
        status = self.ask(WorkerQuery())
        assert isinstance(status, WorkerStatus)
        return status

    def limits(self) -> Limits:
        """The limits as the gateway obeys them."""
        return limits_from_flat(self.worker().limits)

    def latched(self) -> GuardStatus:
        """Wait until the latch is shut and the tip is parked."""
        await_that("the latch", lambda: self.guard().latch == "latched", PATIENCE_S)
        return self.parked()

    def resume(self, pid: int) -> None:
        """Let a process that was stopped go on, if it still lives."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    # -- parking ---------------------------------------------------------------------------------------------

    def stop(self, reason: str) -> dict[str, Any]:
        """The emergency stop; the guard's answer with ``round_trip_s``."""
        return send_stop(self.endpoint("safety"), reason, 5.0)

    def park(self, reason: str) -> GuardStatus:
        """Park by a job, as a campaign does."""
        self.hold_lease()
        answer = self.outcome(Park(reason=reason))
        assert answer.state is JobState.FINISHED, answer
        return self.parked()

    def acknowledge(self) -> None:
        """A person has looked."""
        self.parked()
        self.ask(AcknowledgeLatch(who="qualification"))

    def close(self) -> None:
        """End it; the tip is parked and the electronics have their settings again."""
        try:
            self.seen_pids.add(self.worker_pid())
        except TunnelpilotError:
            pass  # it never came so far
        super().close()

    def survivors(self) -> list[int]:
        """Processes of this gateway that still live."""
        return [pid for pid in self.seen_pids if pid and is_alive(pid)]


class JobRefusedError(AssertionError):
    """The gateway refused a job at once."""

    def __init__(self, answer: JobAnswer) -> None:
        super().__init__(f"{answer.job_id} was refused: {answer.reason}")
        self.answer = answer
