"""After a job that went wrong: the tip is left with feedback on where we have set it, or it is parked."""

from __future__ import annotations

import time

from actors.gateway.foreign_changes import running_in
from actors.gateway.job_run import JobRun
from actors.gateway.tip_steps import require_set
from protocols.errors import TunnelpilotError
from protocols.files.quantities import format_quantity
from protocols.messages.data import InstrumentState
from protocols.messages.recipes import BiasFrames, Frame, Indentation, Recipe, ReferencePatch, Sweep

STOPPED_WITHIN_S = 2.0
"""A sweep or scan that is stopped has ended within this time, or the tip is parked."""
LOOK_S = 0.01
"""Between two looks whether it has."""


def leave_tip_safe(run: JobRun) -> None:
    """Stop what the job has left running, restore feedback if we know at what; if in doubt, ask for a park.

    Raises:
        TunnelpilotError: the guard cannot be asked.
    """
    if run.parked:
        return
    apparatus, job = run.apparatus, run.job
    try:
        state = apparatus.read()
        if state.tripped and not run.tripped_before:
            reason = f"job {job.job_id}: the electronics withdrew the tip by themselves"
            apparatus.guard.ask_park(reason, "job", latch="trip")
            return
        if _runs(job.recipe, state):
            state = _stop_what_runs(run)
        if state.withdrawn and not state.feedback:
            return
        least = apparatus.limits.min_feedback_bias - apparatus.limits.bias_tolerance
        busy = state.sweeping or _runs(job.recipe, state)
        if state.feedback and not state.withdrawn and abs(state.bias_v) >= least and not busy:
            return
        problem = f"feedback {state.feedback}, bias {format_quantity(state.bias_v, 'V')}"
        problem += "".join(f", {what}" for what in running_in(state))
        held = not state.feedback and not state.withdrawn and not state.tripped and not busy
        # Whether the tip shaper still runs does not show.
        if held and not isinstance(job.recipe, Indentation) and _restore_feedback(run):
            return
    except (TunnelpilotError, OSError) as failed:
        problem = str(failed)
    apparatus.guard.ask_park(f"job {job.job_id} left the tip in doubt: {problem}", "job")


def _stop_what_runs(run: JobRun) -> InstrumentState:
    """Stop the sweep or scan of a job that is over; the reading after it has ended, or does not end."""
    apparatus = run.apparatus
    apparatus.driver().stop()
    deadline = time.monotonic() + STOPPED_WITHIN_S
    state = apparatus.read()
    while _runs(run.job.recipe, state) and time.monotonic() < deadline:
        run.require_open()
        # The electronics do not tell when they have stopped: it can only be read.
        time.sleep(LOOK_S)
        state = apparatus.read()
    return state


def _restore_feedback(run: JobRun) -> bool:
    """Feedback on again, at bias and setpoint that we set and read back now; False if we know none."""
    apparatus = run.apparatus
    bias, setpoint = run.expected.bias_v, run.expected.setpoint_a
    if bias is None or setpoint is None or abs(bias) < apparatus.limits.min_feedback_bias:
        return False
    with run.acting():
        apparatus.driver().set_bias(bias, apparatus.limits.bias_slew)
        apparatus.driver().set_setpoint(setpoint)
    require_set(run, bias, setpoint)
    with run.acting():
        apparatus.driver().set_feedback(True)
    return apparatus.read().feedback


def _runs(recipe: Recipe, state: InstrumentState) -> bool:
    """Whether what such a job starts in the electronics runs there."""
    if isinstance(recipe, Frame | BiasFrames | ReferencePatch):
        return state.scanning
    return isinstance(recipe, Sweep) and state.sweeping
