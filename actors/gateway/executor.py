"""Acts on one job after another with the worker's driver, step by step, inside the interlocks.
Every call that can move or switch something passes the gate; between calls a cancellation, a deadline or a
park is noticed.  Before and after each job the electronics are read back: what does not stand where the job
(or the one before it) left it was changed by somebody else, and the job fails with what changed.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import msgspec
import structlog

from actors.gateway.foreign_changes import ForeignChangeError, changed_value, changes_since, running_in
from actors.gateway.gate import Gate, TipParkedError
from actors.gateway.interlocks import check_against_state, check_recipe
from actors.gateway.queue import Job
from protocols.errors import (
    DriverError,
    LatchedError,
    LimitError,
    RefusedError,
    TunnelpilotError,
    UsageError,
)
from protocols.files.limits_toml import Limits
from protocols.files.quantities import format_quantity
from protocols.instrument.driver import Driver, DriverInfo, FastTrip, SharedPanel
from protocols.messages.data import ChunkBody, InstrumentState
from protocols.messages.jobs import CHANGED_BY_OTHERS, JobState
from protocols.messages.recipes import (
    BiasFrames,
    Engage,
    Frame,
    Indentation,
    LockIn,
    Move,
    Park,
    Pulse,
    Recipe,
    ReferencePatch,
    Sweep,
)
from protocols.states.engage import ENGAGE_TABLE
from protocols.states.job import is_repeatable
from protocols.states.table import Machine

log = structlog.get_logger(__name__)

FEEDBACK_SLEW_V_S = 5.0
"""Fastest ramp of the bias with feedback on: the controller must be able to follow."""

SLICE_S = 0.25
"""Wall seconds: longer settling and travel is done in slices, so that a park or a cancellation is noticed."""

FOUND = 0.5
"""Fraction of the setpoint at which the surface counts as found."""

PARK_WITHIN_S = 30.0
"""A park job waits so long for the guard's confirmation."""

ORDER_WITHIN_S = 0.2
"""An order to park follows the withdrawal within this time, if it was the guard's."""

ANSWER_WITHIN_S = 2.0
"""The guard answers an engage within this time."""

STOPPED_WITHIN_S = 2.0
"""A sweep or scan that is stopped has ended within this time, or the tip is parked."""
LOOK_S = 0.01
"""Between two looks whether it has."""


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


class GuardLink(Protocol):
    """What the executor asks of the guard; the worker's link implements it."""

    def ask_park(self, reason: str, cause: str, latch: str = "") -> None:
        """Ask for a park, or a latch."""

    def ask_engage(self, job_id: str, withdrawal_mark: str, timeout_s: float) -> None:
        """Ask whether feedback may be switched on.

        Raises:
            TunnelpilotError: it may not; the class says why.
        """

    def engage_done(self, job_id: str) -> None:
        """The approach is over."""


class Executor:
    """Used by the job thread alone, except ``interrupt``, ``tip_parking`` and ``tip_parked``."""

    def __init__(
        self, driver: Callable[[], Driver], info: DriverInfo, limits: Limits, gate: Gate, guard: GuardLink
    ) -> None:
        self._driver = driver
        self._info = info
        self._limits = limits
        self._gate = gate
        self._guard = guard
        self._engage = Machine(ENGAGE_TABLE)
        self._engage_lock = threading.Lock()
        self._state: InstrumentState | None = None
        self._acted = self._tripped_before = False
        self._generation = 0
        self._expected = Expected()
        self._outcome = Outcome(JobState.FAILED)
        self._left: InstrumentState | None = None
        self._left_generation = -1
        self._disturbed = False
        self._armed: Driver | None = None
        """The driver that knows of the fast trip: one that replaces it does not."""
        self._modulation: LockIn | None = None
        """What the lock-in was switched on with; another job's bias was not checked with it."""

    @property
    def last_state(self) -> InstrumentState | None:
        """The last reading of the electronics."""
        return self._state

    @property
    def engage_state(self) -> str:
        """State name of the engage table."""
        return self._engage.state

    @property
    def slice_s(self) -> float:
        """Instrument seconds that pass during a slice."""
        return SLICE_S * self._info.time_scale

    def tip_parking(self) -> None:
        """The guard withdraws the tip."""
        with self._engage_lock:
            if self._engage.can("park"):
                self._engage.feed("park")

    def tip_parked(self) -> None:
        """The guard has confirmed the park."""
        with self._engage_lock:
            if self._engage.can("parked"):
                self._engage.feed("parked")

    def interrupt(self) -> None:
        """Stop what runs in the electronics; from any thread.  The reason stands in the job."""
        try:
            self._driver().stop()
        except (TunnelpilotError, OSError) as problem:
            log.warning("stop failed", problem=str(problem))

    def run(self, job: Job, emit: Callable[[ChunkBody], None]) -> Outcome:
        """Act on a job.  ``emit`` takes the lines of frames as they come; a sweep's data is in the
        outcome."""
        self._acted = self._tripped_before = False
        self._generation = self._gate.generation
        self._expected = Expected()
        self._outcome = outcome = Outcome(JobState.FINISHED)
        told = False
        try:
            state = self._first_reading()
            self._tripped_before = state.tripped
            outcome.began_s = state.time_s
            check_recipe(job.recipe, self._limits, self._info)
            self._check_ready(job, state)
            self._check_undisturbed(job, state)
            check_against_state(job.recipe, self._limits, self._info, state)
            self._check_cut(job)
            self._driver().begin_job(job.job_id, kind_of(job.recipe))
            told = True
            self._act(job, state, emit)
            self._check_left_as_expected(job)
        except TunnelpilotError as problem:
            self._judge(job, problem)
        except OSError as problem:
            self._judge(job, DriverError(f"the connection to the electronics broke: {problem}."))
        if outcome.state is not JobState.FINISHED and self._acted:
            self._leave_tip_safe(job)
        self._read_final()
        if told:
            self._tell_end(job.job_id, outcome.state)
        self._remember_how_left(job)
        return outcome

    # Steps that all jobs share

    def _read(self) -> InstrumentState:
        self._state = self._driver().state()
        return self._state

    def _first_reading(self) -> InstrumentState:
        """As ``_read``, but the electronics may have been started anew since the last job: asked twice."""
        try:
            return self._read()
        except DriverError as problem:
            log.warning("the electronics are asked again", problem=str(problem))
            return self._read()

    def _read_final(self) -> None:
        try:
            final = self._read()
        except (TunnelpilotError, OSError) as problem:
            log.warning("no final reading", problem=str(problem))
            return
        self._outcome.final = final
        self._outcome.ended_s = final.time_s

    def _tell_end(self, job_id: str, state: JobState) -> None:
        try:
            self._driver().end_job(job_id, state.value)
        except (TunnelpilotError, OSError) as problem:
            log.warning("the electronics were not told of the end of a job", job=job_id, problem=str(problem))

    def _check_cut(self, job: Job) -> None:
        if job.cut:
            raise JobCutError(job.cut)

    def _go_on(self, job: Job) -> None:
        """Between steps."""
        self._gate.require_open(self._generation)
        self._check_cut(job)

    def _check_ready(self, job: Job, state: InstrumentState) -> None:
        """Whether the tip is where this kind of job needs it."""
        if isinstance(job.recipe, Park):
            return
        self._gate.require_open(self._generation)
        if state.scanning or state.sweeping:
            # What was ours has been stopped: somebody else's would move the tip, or turn its bias, under us.
            raise ForeignChangeError.of("since the last job", running_in(state))
        if isinstance(job.recipe, Engage):
            if not state.withdrawn and not state.feedback:
                raise RefusedError("feedback is off but the tip is not withdrawn: park first.")
            return
        if state.withdrawn or self._engage.state != "engaged":
            raise RefusedError("parked: engage first.")
        if not state.feedback:
            raise ForeignChangeError(
                f"{CHANGED_BY_OTHERS}: feedback was found off though nobody of ours switched it off.",
                "Park, then engage.",
            )

    def _check_undisturbed(self, job: Job, state: InstrumentState) -> None:
        """Whether everything is as the job before left it; told once, then what is found counts.

        Raises:
            ForeignChangeError: says what changed, from what to what.
        """
        if isinstance(job.recipe, Park) or state.withdrawn or self._engage.state != "engaged":
            return
        driver, changed = self._driver(), []
        if self._left is not None and self._left_generation == self._generation:
            changed += changes_since(self._left, state, self._limits)
        if isinstance(driver, SharedPanel) and not self._disturbed:
            changed += driver.foreign_changes()
        if changed:
            self._left, self._disturbed = None, True
            raise ForeignChangeError.of("since the last job", changed)
        if isinstance(driver, FastTrip) and (self._disturbed or driver is not self._armed):
            with self._gate.acting(self._generation):
                self._arm(driver)
        self._disturbed = False

    def _arm(self, driver: Driver) -> None:
        """Have electronics that can do so withdraw by themselves when the current is too high."""
        if isinstance(driver, FastTrip):
            driver.arm_trip(self._limits.trip_current)
        self._armed = driver

    def _remember_how_left(self, job: Job) -> None:
        """The next job compares with it; after one that went wrong the electronics may still be at it."""
        finished = self._outcome.state is JobState.FINISHED and not isinstance(job.recipe, Park)
        self._left = self._outcome.final if finished else None
        self._left_generation = self._generation

    def _judge(self, job: Job, problem: TunnelpilotError) -> None:
        """The final state of a job that did not go well."""
        outcome = self._outcome
        if isinstance(problem, DriverError):
            self._await_order_of_withdrawal()
        if self._gate.parked_since(self._generation) and not isinstance(job.recipe, Park):
            reason = f"parked: {self._gate.reason}"
            outcome.state = JobState.INTERRUPTED
        elif job.cut:
            reason = job.cut
            outcome.state = JobState.FAILED if job.cut_kind == "deadline" else JobState.INTERRUPTED
        elif isinstance(problem, LimitError | RefusedError | LatchedError) and not self._acted:
            reason = str(problem)
            outcome.state = JobState.REFUSED
            outcome.limit = str(problem.details.get("limit", ""))
        elif isinstance(problem, TipParkedError):
            reason = str(problem)
            outcome.state = JobState.INTERRUPTED
        else:
            reason = str(problem)
            outcome.state = JobState.FAILED
            outcome.limit = str(problem.details.get("limit", ""))
        outcome.disturbed = isinstance(problem, ForeignChangeError) and outcome.state is JobState.FAILED
        if self._acted and not is_repeatable(job.recipe) and outcome.state is not JobState.REFUSED:
            outcome.state = JobState.OUTCOME_UNKNOWN
        outcome.reason = reason
        log.warning("job ended badly", job=job.job_id, state=outcome.state.value, reason=reason)

    def _await_order_of_withdrawal(self) -> None:
        """A withdrawal reaches the electronics before its order reaches us: see whether it made the call
        fail."""
        try:
            withdrawn = self._read().withdrawn or not self._state_is_engaged()
        except (TunnelpilotError, OSError):
            return
        if withdrawn and self._engage.state != "withdrawn":
            self._gate.wait_parked(self._generation, ORDER_WITHIN_S)

    def _state_is_engaged(self) -> bool:
        return self._state is not None and self._state.feedback

    def _check_left_as_expected(self, job: Job) -> None:
        """Compare the electronics with how the job left them.

        Raises:
            ForeignChangeError: says what changed, from what to what.
        """
        self._go_on(job) if not isinstance(job.recipe, Park) else None
        found = self._read()
        if not isinstance(job.recipe, Park):
            self._require_as_expected(found)

    def _require_as_expected(self, found: InstrumentState) -> None:
        """Compare a reading with how the job has left the electronics so far.

        Raises:
            ForeignChangeError: says what changed, from what to what.
        """
        expected, limits = self._expected, self._limits
        changed = []
        if found.withdrawn:
            changed.append("the tip is withdrawn")
        if found.feedback != expected.feedback:
            changed.append(f"feedback is {'on' if found.feedback else 'off'}")
        for name, want, have, tolerance, unit in (
            ("bias", expected.bias_v, found.bias_v, limits.bias_tolerance, "V"),
            (
                "setpoint",
                expected.setpoint_a,
                found.setpoint_a,
                limits.setpoint_tolerance * (expected.setpoint_a or 0.0),
                "A",
            ),
            ("x", expected.x_m, found.x_m, limits.position_tolerance, "m"),
            ("y", expected.y_m, found.y_m, limits.position_tolerance, "m"),
        ):
            if want is not None and not abs(have - want) <= tolerance:
                changed.append(changed_value(name, have, want, unit))
        if changed:
            raise ForeignChangeError.of("during the job", changed)

    def _leave_tip_safe(self, job: Job) -> None:
        """After a job that went wrong: feedback on where we have set it, or parked."""
        if self._gate.parked_since(self._generation):
            return
        try:
            state = self._read()
            if state.tripped and not self._tripped_before:
                reason = f"job {job.job_id}: the electronics withdrew the tip by themselves"
                self._guard.ask_park(reason, "job", latch="trip")
                return
            if _runs(job.recipe, state):
                state = self._stop_what_runs(job.recipe)
            if state.withdrawn and not state.feedback:
                return
            least = self._limits.min_feedback_bias - self._limits.bias_tolerance
            busy = state.sweeping or _runs(job.recipe, state)
            if state.feedback and not state.withdrawn and abs(state.bias_v) >= least and not busy:
                return
            problem = f"feedback {state.feedback}, bias {format_quantity(state.bias_v, 'V')}"
            problem += "".join(f", {what}" for what in running_in(state))
            held = not state.feedback and not state.withdrawn and not state.tripped and not busy
            # Whether the tip shaper still runs does not show.
            if held and not isinstance(job.recipe, Indentation) and self._restore_feedback():
                return
        except (TunnelpilotError, OSError) as failed:
            problem = str(failed)
        self._guard.ask_park(f"job {job.job_id} left the tip in doubt: {problem}", "job")

    def _stop_what_runs(self, recipe: Recipe) -> InstrumentState:
        """Stop the sweep or scan of a job that is over; the reading after it has ended, or does not end."""
        self._driver().stop()
        deadline = time.monotonic() + STOPPED_WITHIN_S
        state = self._read()
        while _runs(recipe, state) and time.monotonic() < deadline:
            self._gate.require_open(self._generation)
            time.sleep(LOOK_S)
            state = self._read()
        return state

    def _restore_feedback(self) -> bool:
        """Feedback on again, at bias and setpoint that we set and read back now; False if we know none."""
        bias, setpoint = self._expected.bias_v, self._expected.setpoint_a
        if bias is None or setpoint is None or abs(bias) < self._limits.min_feedback_bias:
            return False
        with self._gate.acting(self._generation):
            self._driver().set_bias(bias, self._limits.bias_slew)
            self._driver().set_setpoint(setpoint)
        self._require_set(bias, setpoint)
        with self._gate.acting(self._generation):
            self._driver().set_feedback(True)
        return self._read().feedback

    def _require_set(self, bias_v: float, setpoint_a: float) -> None:
        """Bias and setpoint read back as they were set.

        Raises:
            DriverError: they do not.
        """
        found = self._read()
        off = abs(found.bias_v - bias_v) > self._limits.bias_tolerance
        if off or abs(found.setpoint_a - setpoint_a) > self._limits.setpoint_tolerance * setpoint_a:
            raise DriverError(
                f"bias and setpoint were set to {format_quantity(bias_v, 'V')}, "
                f"{format_quantity(setpoint_a, 'A')} and read back as {format_quantity(found.bias_v, 'V')}, "
                f"{format_quantity(found.setpoint_a, 'A')}."
            )

    def _go_to_bias(self, job: Job, bias_v: float, setpoint_a: float, state: InstrumentState) -> None:
        """Bias and setpoint with the tip tunneling; another polarity with feedback off in between."""
        driver, limits = self._driver(), self._limits
        self._go_on(job)
        self._acted = True
        self._expected.bias_v, self._expected.setpoint_a = bias_v, setpoint_a
        if state.feedback and state.bias_v * bias_v <= 0.0:
            with self._gate.acting(self._generation):
                driver.set_feedback(False)
                driver.set_bias(bias_v, limits.bias_slew)
                driver.set_setpoint(setpoint_a)
            self._require_set(bias_v, setpoint_a)
            with self._gate.acting(self._generation):
                driver.set_feedback(True)
            return
        with self._gate.acting(self._generation):
            driver.set_bias(bias_v, min(limits.bias_slew, FEEDBACK_SLEW_V_S))
        with self._gate.acting(self._generation):
            driver.set_setpoint(setpoint_a)

    def _travel(
        self, job: Job, x_m: float, y_m: float, speed_m_s: float, state: InstrumentState
    ) -> InstrumentState:
        """Move in slices; the outcome's travel time grows.  The reading at the end."""
        length = math.hypot(x_m - state.x_m, y_m - state.y_m)
        slices = max(1, math.ceil(length / speed_m_s / max(self.slice_s, 1e-9)))
        for k in range(1, slices + 1):
            self._go_on(job)
            share = k / slices
            with self._gate.acting(self._generation):
                self._acted = True
                self._driver().move(
                    state.x_m + share * (x_m - state.x_m) if k < slices else x_m,
                    state.y_m + share * (y_m - state.y_m) if k < slices else y_m,
                    speed_m_s,
                )
        arrived = self._read()
        self._outcome.travel_s += arrived.time_s - state.time_s
        self._expected.x_m, self._expected.y_m = x_m, y_m
        return arrived

    def _settle(self, job: Job, seconds: float) -> None:
        left = seconds
        while left > 0.0:
            self._go_on(job)
            part = min(left, self.slice_s)
            self._driver().settle(part)
            left -= part
        self._outcome.settle_s += seconds

    # One kind of job after the other

    def _act(self, job: Job, state: InstrumentState, emit: Callable[[ChunkBody], None]) -> None:
        match job.recipe:
            case Sweep() as recipe:
                self._sweep(job, recipe, state)
            case Frame() as frame:
                self._frames(job, frame, (frame.bias_v,), state, emit)
            case ReferencePatch() as recipe:
                self._frames(job, recipe.frame, (recipe.frame.bias_v,), state, emit)
            case BiasFrames() as recipe:
                self._frames(job, recipe.frame, recipe.biases_v, state, emit)
            case Move() as recipe:
                self._keep(state)
                self._travel(job, recipe.x_m, recipe.y_m, recipe.speed_m_s or self._limits.tip_speed, state)
            case Pulse() as recipe:
                self._keep(state)
                with self._gate.acting(self._generation):
                    self._acted = True
                    self._driver().pulse(recipe.bias_v, recipe.width_s, recipe.hold_z)
            case Indentation() as recipe:
                self._keep(state)
                with self._gate.acting(self._generation):
                    self._acted = True
                    self._driver().indent(recipe.depth_m, recipe.bias_v, recipe.dwell_s)
            case Engage() as recipe:
                self._engage_tip(job, recipe, state)
            case Park() as recipe:
                self._park(recipe)

    def _keep(self, state: InstrumentState) -> None:
        """The job is to leave bias and setpoint as they are."""
        self._expected.bias_v, self._expected.setpoint_a = state.bias_v, state.setpoint_a

    def _end_modulation(self, state: InstrumentState) -> None:
        """Lock-in off, if it is on."""
        if state.lockin_on:
            with self._gate.acting(self._generation):
                self._driver().set_lockin(None)

    def _sweep(self, job: Job, recipe: Sweep, state: InstrumentState) -> None:
        spectrum = recipe.spectrum
        self._keep(state)
        arrived = self._travel(job, recipe.x_m, recipe.y_m, self._limits.tip_speed, state)
        self._require_as_expected(arrived)
        if spectrum.lockin is None or spectrum.lockin != self._modulation:
            self._end_modulation(arrived)
        self._go_to_bias(job, spectrum.stabilise_bias_v, spectrum.stabilise_current_a, arrived)
        with self._gate.acting(self._generation):
            self._driver().set_lockin(spectrum.lockin)
        self._modulation = spectrum.lockin
        self._settle(job, spectrum.settle_s)
        self._go_on(job)
        with self._gate.acting(self._generation):
            data = self._driver().sweep(spectrum)
        self._go_on(job)
        self._outcome.chunks.append(data)

    def _frames(
        self,
        job: Job,
        frame: Frame,
        biases_v: tuple[float, ...],
        state: InstrumentState,
        emit: Callable[[ChunkBody], None],
    ) -> None:
        self._keep(state)
        self._end_modulation(state)
        for image, bias_v in enumerate(biases_v):
            found = self._read()
            self._require_as_expected(found)
            self._go_to_bias(job, bias_v, frame.setpoint_a, found)
            recipe = msgspec.structs.replace(frame, bias_v=bias_v)
            rows: set[int] = set()
            lines = self._driver().frame(recipe)
            try:
                while True:
                    self._go_on(job)
                    with self._gate.acting(self._generation):
                        piece = next(lines, None)
                    if piece is None:
                        break
                    rows.update(piece.rows)
                    emit(msgspec.structs.replace(piece, image=image))
            finally:
                close = getattr(lines, "close", None)
                if close is not None:
                    close()
            self._go_on(job)
            if len(rows) != frame.lines:
                raise DriverError(f"the frame ended after {len(rows)} of {frame.lines} lines.")

    def _engage_tip(self, job: Job, recipe: Engage, state: InstrumentState) -> None:
        driver, limits = self._driver(), self._limits
        if not state.withdrawn:  # tunneling already: only bias and setpoint are new
            self._keep(state)
            self._end_modulation(state)
            self._go_to_bias(job, recipe.bias_v, recipe.setpoint_a, state)
            self._settle(job, recipe.settle_s)
            return
        self._step_engage("request")
        try:
            with self._gate.acting(self._generation):
                self._acted = True
                driver.set_lockin(None)
                driver.set_bias(recipe.bias_v, limits.bias_slew)
                driver.set_setpoint(recipe.setpoint_a)
                self._arm(driver)
            self._expected.bias_v, self._expected.setpoint_a = recipe.bias_v, recipe.setpoint_a
            self._step_engage("done")
            self._require_set(recipe.bias_v, recipe.setpoint_a)
            self._go_on(job)
            self._step_engage("good")
            self._guard.ask_engage(job.job_id, recipe.withdrawal_mark, ANSWER_WITHIN_S)
            self._step_engage("granted")
            with self._gate.acting(self._generation):
                driver.set_feedback(True)
            self._approach(job, recipe)
            self._settle(job, recipe.settle_s)
            self._step_engage("good")
            self._guard.engage_done(job.job_id)
        except TunnelpilotError as problem:
            self._give_up_engage(job, problem)
            raise

    def _approach(self, job: Job, recipe: Engage) -> None:
        """Wait until the tunneling current is there."""
        began = self._read().time_s
        while True:
            self._go_on(job)
            state = self._read()
            if state.feedback and not state.withdrawn and abs(state.current_a) >= FOUND * recipe.setpoint_a:
                self._step_engage("current")
                return
            if state.time_s - began > self._limits.engage_time_max:
                reason = (
                    f"no surface within {format_quantity(self._limits.engage_time_max, 's')}: |I| = "
                    f"{format_quantity(abs(state.current_a), 'A')} at z = {format_quantity(state.z_m, 'm')}; "
                    "it needs the coarse motor"
                )
                self._step_engage("no-surface")
                self._guard.ask_park(reason, "no-surface", latch="no-surface")
                raise DriverError(reason)
            self._driver().settle(min(0.02 * self._info.time_scale, self.slice_s))

    def _give_up_engage(self, job: Job, problem: TunnelpilotError) -> None:
        with self._engage_lock:
            refused = self._engage.state == "asking" and not self._gate.parked_since(self._generation)
            event = "refused" if refused else "failed"
            instructions = self._engage.feed(event) if self._engage.can(event) else ()
        self._guard.engage_done(job.job_id)
        if refused:
            self._acted = False  # the tip never left its withdrawn position
        if "ask-park" in instructions:
            self._guard.ask_park(f"engage {job.job_id} failed: {problem.text}", "job")

    def _step_engage(self, event: str) -> None:
        """Feed the engage table.

        Raises:
            TipParkedError: a park came in between.
        """
        with self._engage_lock:
            self._gate.require_open(self._generation)
            self._engage.feed(event)

    def _park(self, recipe: Park) -> None:
        before = self._gate.generation
        self._guard.ask_park(recipe.reason, "job")
        deadline = time.monotonic() + PARK_WITHIN_S
        while self._gate.generation == before:
            if time.monotonic() > deadline:
                raise DriverError(f"the guard did not begin to park within {PARK_WITHIN_S:g} s.")
            time.sleep(0.001)
        if not self._gate.wait_open(max(0.0, deadline - time.monotonic())):
            raise DriverError(f"the park was not confirmed within {PARK_WITHIN_S:g} s.")


def _runs(recipe: Recipe, state: InstrumentState) -> bool:
    """Whether what such a job starts in the electronics runs there."""
    if isinstance(recipe, Frame | BiasFrames | ReferencePatch):
        return state.scanning
    return isinstance(recipe, Sweep) and state.sweeping


def kind_of(recipe: Recipe) -> str:
    """Name of a kind of job, as in the truth log and in answers."""
    return _KINDS[type(recipe)]


_KINDS: dict[type, str] = {
    Sweep: "sweep",
    Frame: "frame",
    BiasFrames: "bias frames",
    ReferencePatch: "reference patch",
    Move: "move",
    Pulse: "pulse",
    Indentation: "indentation",
    Engage: "engage",
    Park: "park",
}
