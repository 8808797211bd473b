"""Acts on one job after another with the worker's driver, step by step, inside the interlocks.

Every call that can move or switch something passes the gate; between calls a cancellation, a deadline or a
park is noticed.  Before and after each job the electronics are read back: what does not stand where the job
(or the one before it) left it was changed by somebody else, and the job fails with what changed.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog

from actors.gateway.approach import EngageProgress
from actors.gateway.between_jobs import LeftByLastJob, check_ready
from actors.gateway.gate import Gate
from actors.gateway.interlocks import check_against_state, check_recipe
from actors.gateway.job_kinds import act_on, kind_of
from actors.gateway.job_run import Apparatus, GuardLink, JobRun, Outcome
from actors.gateway.job_verdict import judge
from actors.gateway.queue import Job
from actors.gateway.tip_left_safe import leave_tip_safe
from protocols.errors import DriverError, TunnelpilotError
from protocols.files.limits_toml import Limits
from protocols.instrument.driver import Driver, DriverInfo
from protocols.messages.data import ChunkBody, InstrumentState
from protocols.messages.jobs import JobState
from protocols.messages.recipes import Park

log = structlog.get_logger(__name__)


class Executor:
    """Used by the job thread alone, except ``interrupt``, ``tip_parking`` and ``tip_parked``."""

    def __init__(
        self, driver: Callable[[], Driver], info: DriverInfo, limits: Limits, gate: Gate, guard: GuardLink
    ) -> None:
        self._apparatus = Apparatus(driver, info, limits, gate, guard)
        self._progress = EngageProgress(gate)
        self._left = LeftByLastJob()

    @property
    def last_state(self) -> InstrumentState | None:
        """The last reading of the electronics."""
        return self._apparatus.state

    @property
    def engage_state(self) -> str:
        """State name of the engage table."""
        return self._progress.state

    def tip_parking(self) -> None:
        """The guard withdraws the tip."""
        self._progress.tip_parking()

    def tip_parked(self) -> None:
        """The guard has confirmed the park."""
        self._progress.tip_parked()

    def interrupt(self) -> None:
        """Stop what runs in the electronics; from any thread.  The reason stands in the job."""
        try:
            self._apparatus.driver().stop()
        except (TunnelpilotError, OSError) as problem:
            log.warning("stop failed", problem=str(problem))

    def run(self, job: Job, emit: Callable[[ChunkBody], None]) -> Outcome:
        """Act on a job.  ``emit`` takes the lines of frames as they come; a sweep's data is in the
        outcome."""
        run = JobRun(self._apparatus, job)
        told = False
        try:
            state = self._apparatus.first_reading()
            self._check_before(run, state)
            self._apparatus.driver().begin_job(job.job_id, kind_of(job.recipe))
            told = True
            act_on(run, state, emit, self._progress)
            self._check_left_as_expected(run)
        except TunnelpilotError as problem:
            judge(run, problem, self._progress)
        except OSError as problem:
            broken = DriverError(f"the connection to the electronics broke: {problem}.")
            judge(run, broken, self._progress)
        if run.outcome.state is not JobState.FINISHED and run.acted:
            leave_tip_safe(run)
        self._read_final(run.outcome)
        if told:
            self._tell_end(job.job_id, run.outcome.state)
        self._left.remember(run)
        return run.outcome

    def _check_before(self, run: JobRun, state: InstrumentState) -> None:
        """Whether the job may begin with the electronics as they were just read."""
        run.tripped_before = state.tripped
        run.outcome.began_s = state.time_s
        limits, info, recipe = self._apparatus.limits, self._apparatus.info, run.job.recipe
        check_recipe(recipe, limits, info)
        check_ready(run, state, self._progress)
        self._left.check_undisturbed(run, state, self._progress)
        check_against_state(recipe, limits, info, state)
        run.check_cut()

    def _check_left_as_expected(self, run: JobRun) -> None:
        """Compare the electronics with how the job left them.

        Raises:
            ForeignChangeError: says what changed, from what to what.
        """
        parks = isinstance(run.job.recipe, Park)
        if not parks:
            run.go_on()
        found = self._apparatus.read()
        if not parks:
            run.require_as_expected(found)

    def _read_final(self, outcome: Outcome) -> None:
        try:
            final = self._apparatus.read()
        except (TunnelpilotError, OSError) as problem:
            log.warning("no final reading", problem=str(problem))
            return
        outcome.final = final
        outcome.ended_s = final.time_s

    def _tell_end(self, job_id: str, state: JobState) -> None:
        try:
            self._apparatus.driver().end_job(job_id, state.value)
        except (TunnelpilotError, OSError) as problem:
            log.warning("the electronics were not told of the end of a job", job=job_id, problem=str(problem))
