"""One job on its way: what it acts with, how far it has come, how it must leave the electronics.

``Apparatus`` is the same for all jobs; a ``JobRun`` belongs to one of them.  The job thread alone uses both,
except that the last reading is looked at from others.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from actors.gateway.foreign_changes import ForeignChangeError, changed_values
from actors.gateway.gate import Gate
from actors.gateway.queue import Job
from protocols.errors import DriverError, UsageError
from protocols.files.limits_toml import Limits
from protocols.instrument.driver import Driver, DriverInfo, FastTrip
from protocols.messages.data import ChunkBody, InstrumentState
from protocols.messages.jobs import JobState
from protocols.messages.recipes import LockIn

log = structlog.get_logger(__name__)

SLICE_S = 0.25
"""Wall seconds: longer settling and travel is done in slices, so that a park or a cancellation is noticed."""


class JobCutError(UsageError):
    """The job is to stop: cancelled, or past its deadline."""

    code = "cut"


@dataclass
class Outcome:
    """How a job went; ``state`` is final, FINISHED only once it is committed."""

    state: JobState
    reason: str = ""
    limit: str = ""
    chunks: list[ChunkBody] = field(default_factory=list)
    began_s: float = 0.0
    ended_s: float = 0.0
    travel_s: float = 0.0
    settle_s: float = 0.0
    final: InstrumentState | None = None
    disturbed: bool = False
    """Somebody else changed the electronics: nothing more is to be done before a person has looked."""


@dataclass
class Expected:
    """How the electronics must read back after a job; None: whatever."""

    bias_v: float | None = None
    setpoint_a: float | None = None
    x_m: float | None = None
    y_m: float | None = None
    feedback: bool = True

    def differences(self, found: InstrumentState, limits: Limits) -> list[str]:
        """What a reading shows otherwise than it must be, in words; empty if nothing."""
        changed = []
        if found.withdrawn:
            changed.append("the tip is withdrawn")
        if found.feedback != self.feedback:
            changed.append(f"feedback is {'on' if found.feedback else 'off'}")
        setpoint_tolerance_a = limits.setpoint_tolerance * (self.setpoint_a or 0.0)
        return changed + changed_values(
            ("bias", self.bias_v, found.bias_v, limits.bias_tolerance, "V"),
            ("setpoint", self.setpoint_a, found.setpoint_a, setpoint_tolerance_a, "A"),
            ("x", self.x_m, found.x_m, limits.position_tolerance, "m"),
            ("y", self.y_m, found.y_m, limits.position_tolerance, "m"),
        )


class GuardLink(Protocol):
    """What jobs ask of the guard; the worker's link implements it."""

    def ask_park(self, reason: str, cause: str, latch: str = "") -> None:
        """Ask for a park, or a latch."""

    def ask_engage(self, job_id: str, withdrawal_mark: str, timeout_s: float) -> None:
        """Ask whether feedback may be switched on.

        Raises:
            TunnelpilotError: it may not; the class says why.
        """

    def engage_done(self, job_id: str) -> None:
        """The approach is over."""


@dataclass
class Apparatus:
    """What every job acts with, and what is known of it from one job to the next."""

    driver: Callable[[], Driver]
    """Gives the present driver: it is replaced when nothing answers any more."""
    info: DriverInfo
    limits: Limits
    gate: Gate
    guard: GuardLink
    state: InstrumentState | None = None
    """The last reading of the electronics."""
    armed: Driver | None = None
    """The driver that knows of the fast trip: one that replaces it does not."""
    modulation: LockIn | None = None
    """What the lock-in was switched on with; another job's bias was not checked with it."""

    @property
    def slice_s(self) -> float:
        """Instrument seconds that pass during a slice."""
        return SLICE_S * self.info.time_scale

    def read(self) -> InstrumentState:
        """Read the electronics.

        Raises:
            DriverError, OSError: they do not answer.
        """
        self.state = self.driver().state()
        return self.state

    def first_reading(self) -> InstrumentState:
        """As ``read``, but the electronics may have been started anew since the last job: asked twice."""
        try:
            return self.read()
        except DriverError as problem:
            log.warning("the electronics are asked again", problem=str(problem))
            return self.read()

    def arm(self, driver: Driver) -> None:
        """Have electronics that can do so withdraw by themselves when the current is too high."""
        if isinstance(driver, FastTrip):
            driver.arm_trip(self.limits.trip_current)
        self.armed = driver


class JobRun:
    """One job that is acted on.  Its generation is the gate's when it began: a park since then ends it."""

    def __init__(self, apparatus: Apparatus, job: Job) -> None:
        self.apparatus = apparatus
        self.job = job
        self.generation = apparatus.gate.generation
        self.expected = Expected()
        self.outcome = Outcome(JobState.FINISHED)
        self.acted = False
        """Something may have been moved or switched: the tip has to be looked after if the job goes wrong."""
        self.tripped_before = False
        """The electronics said so before the job began: it is no news."""

    @property
    def parked(self) -> bool:
        """Whether the tip was (or is being) parked since the job began."""
        return self.apparatus.gate.parked_since(self.generation)

    def acting(self) -> AbstractContextManager[None]:
        """Around each call that can move or switch something.

        Raises:
            TipParkedError: on entry; the tip was parked meanwhile.
        """
        return self.apparatus.gate.acting(self.generation)

    def require_open(self) -> None:
        """Refuse to go on after a park.

        Raises:
            TipParkedError: the tip was parked meanwhile.
        """
        self.apparatus.gate.require_open(self.generation)

    def check_cut(self) -> None:
        """Notice a cancellation or a deadline.

        Raises:
            JobCutError: the job is to stop; the text says why.
        """
        if self.job.cut:
            raise JobCutError(self.job.cut)

    def go_on(self) -> None:
        """Between steps.

        Raises:
            TipParkedError: the tip was parked meanwhile.
            JobCutError: the job is to stop.
        """
        self.require_open()
        self.check_cut()

    def keep(self, state: InstrumentState) -> None:
        """The job is to leave bias and setpoint as they are."""
        self.expected.bias_v, self.expected.setpoint_a = state.bias_v, state.setpoint_a

    def require_as_expected(self, found: InstrumentState) -> None:
        """Compare a reading with how the job has left the electronics so far.

        Raises:
            ForeignChangeError: says what changed, from what to what.
        """
        changed = self.expected.differences(found, self.apparatus.limits)
        if changed:
            raise ForeignChangeError.of("during the job", changed)
