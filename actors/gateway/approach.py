"""Bringing the tip to the surface: the engage table, and the job that walks through it.

Feedback is switched on only after bias and setpoint have read back as set and the guard has granted it.
"""

from __future__ import annotations

import threading

from actors.gateway.gate import Gate
from actors.gateway.job_run import JobRun
from actors.gateway.tip_steps import end_modulation, go_to_bias, require_set, settle
from protocols.errors import DriverError, TunnelpilotError
from protocols.files.quantities import format_quantity
from protocols.messages.data import InstrumentState
from protocols.messages.recipes import Engage
from protocols.states.engage import ENGAGE_TABLE
from protocols.states.table import Machine

FOUND = 0.5
"""Fraction of the setpoint at which the surface counts as found."""

ANSWER_WITHIN_S = 2.0
"""The guard answers an engage within this time."""


class EngageProgress:
    """Where the tip stands between withdrawn and engaged; from any thread."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._machine = Machine(ENGAGE_TABLE)
        self._lock = threading.Lock()

    @property
    def state(self) -> str:
        """State name of the engage table."""
        return self._machine.state

    def step(self, event: str, generation: int) -> None:
        """Feed the engage table.  ``generation``: the gate's when the job began.

        Raises:
            TipParkedError: a park came in between.
        """
        with self._lock:
            self._gate.require_open(generation)
            self._machine.feed(event)

    def give_up(self, generation: int) -> tuple[bool, tuple[str, ...]]:
        """The job failed: whether the guard had refused it, and the table's instructions."""
        with self._lock:
            refused = self._machine.state == "asking" and not self._gate.parked_since(generation)
            event = "refused" if refused else "failed"
            return refused, self._machine.feed(event) if self._machine.can(event) else ()

    def tip_parking(self) -> None:
        """The guard withdraws the tip."""
        self._feed_if_possible("park")

    def tip_parked(self) -> None:
        """The guard has confirmed the park."""
        self._feed_if_possible("parked")

    def _feed_if_possible(self, event: str) -> None:
        with self._lock:
            if self._machine.can(event):
                self._machine.feed(event)


def engage_tip(run: JobRun, recipe: Engage, state: InstrumentState, progress: EngageProgress) -> None:
    """Bring the tip to the surface; a tip that tunnels already gets bias and setpoint only.

    Raises:
        RefusedError, LatchedError: the guard does not grant it.
        DriverError: no surface, or the electronics refuse.
        TipParkedError, JobCutError: the job ends here.
    """
    driver, guard = run.apparatus.driver(), run.apparatus.guard
    if not state.withdrawn:  # tunneling already: only bias and setpoint are new
        run.keep(state)
        end_modulation(run, state)
        go_to_bias(run, recipe.bias_v, recipe.setpoint_a, state)
        settle(run, recipe.settle_s)
        return
    progress.step("request", run.generation)
    try:
        with run.acting():
            run.acted = True
            driver.set_lockin(None)
            driver.set_bias(recipe.bias_v, run.apparatus.limits.bias_slew)
            driver.set_setpoint(recipe.setpoint_a)
            run.apparatus.arm(driver)
        run.expected.bias_v, run.expected.setpoint_a = recipe.bias_v, recipe.setpoint_a
        progress.step("done", run.generation)
        require_set(run, recipe.bias_v, recipe.setpoint_a)
        run.go_on()
        progress.step("good", run.generation)
        guard.ask_engage(run.job.job_id, recipe.withdrawal_mark, ANSWER_WITHIN_S)
        progress.step("granted", run.generation)
        with run.acting():
            driver.set_feedback(True)
        _await_current(run, recipe, progress)
        settle(run, recipe.settle_s)
        progress.step("good", run.generation)
        guard.engage_done(run.job.job_id)
    except TunnelpilotError as problem:
        _give_up(run, problem, progress)
        raise


def _await_current(run: JobRun, recipe: Engage, progress: EngageProgress) -> None:
    """Wait until the tunneling current is there."""
    apparatus = run.apparatus
    longest_s = apparatus.limits.engage_time_max
    began = apparatus.read().time_s
    while True:
        run.go_on()
        state = apparatus.read()
        if state.feedback and not state.withdrawn and abs(state.current_a) >= FOUND * recipe.setpoint_a:
            progress.step("current", run.generation)
            return
        if state.time_s - began > longest_s:
            reason = (
                f"no surface within {format_quantity(longest_s, 's')}: |I| = "
                f"{format_quantity(abs(state.current_a), 'A')} at z = {format_quantity(state.z_m, 'm')}; "
                "it needs the coarse motor"
            )
            progress.step("no-surface", run.generation)
            apparatus.guard.ask_park(reason, "no-surface", latch="no-surface")
            raise DriverError(reason)
        apparatus.driver().settle(min(0.02 * apparatus.info.time_scale, apparatus.slice_s))


def _give_up(run: JobRun, problem: TunnelpilotError, progress: EngageProgress) -> None:
    refused, instructions = progress.give_up(run.generation)
    run.apparatus.guard.engage_done(run.job.job_id)
    if refused:
        run.acted = False  # the tip never left its withdrawn position
    if "ask-park" in instructions:
        run.apparatus.guard.ask_park(f"engage {run.job.job_id} failed: {problem.text}", "job")
